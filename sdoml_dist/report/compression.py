"""How small latents make a dataset: Table 1 of Brown et al. 2022 ("Learning the solar latent space") for any dataset.

The table is arithmetic. Of N samples of D numbers, each of 4 bytes, there remain the network and N latents of Z numbers::

    % of the original = 100 (model bytes + 4 N Z) / (4 N D)

Its "MB" are MiB (2^20 bytes), and it has N = 317 566 samples of D = 12 x 128 x 128 numbers: 238 174.5 / 0.75, and every entry
of its column of latents. Latents give images back with an error that the table does not mention; it is no figure of lossless
compression, and one of lossy compression only together with that error.

:func:`measured` takes the sizes of files instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.catalog import Catalog, open_catalog
from sdoml_dist.store.reader import as_store, open_products
from sdoml_dist.store.storage import join, sidecar_filesystem

MIB = 2**20
PAPER_SAMPLES = 317_566
"""Samples of Table 1, from its sizes."""
PAPER_LATENTS = (256, 512, 1024, 2048)
"""Rows of Table 1."""
_FLOAT = 4
_COUNTER = 8
# Table 2 of the paper: filters and kernel of the eight convolutions, whose maps end at 4 x 4 pixels.
_CONVOLUTIONS = ((64, 4), (128, 4), (256, 4), (512, 4), (512, 4), (512, 3), (512, 3), (512, 3))
_FEATURES = 512 * 4 * 4
# Images of 256 and 512 pixels, which the paper has not, pass one and two stages more, as in sdoml_dist.models.sigma_vae.
_STEMS = {128: (), 256: ((32, 4),), 512: ((32, 4), (32, 4))}
_WEIGHTS = "model.safetensors"


def sigma_vae_parameters(latent: int, channels: int = 12, size: int = 128) -> int:
    """Return the number of parameters of a sigma-VAE with one sigma: Table 2 of the paper.

    Raises
    ------
    UsageError
        If there is no network for images of this size.
    """
    parameters, normalised = _counts(channels, size)
    # To mean, to log-variance, from latent: weights and biases; and sigma.
    return parameters + 2 * normalised + 3 * _FEATURES * latent + 2 * latent + _FEATURES + 1


def sigma_vae_bytes(latent: int, channels: int = 12, size: int = 128) -> int:
    """Return the bytes of its weights and buffers: float32, and an int64 counter per normalisation.

    The paper has 131.1, 155.3, 203.3 and 299.3 MiB; the last three are files of ``torch.save``, with about 0.03 MiB of names.
    Sizes are linear in the latent one, so that the first cannot be of the same kind.
    """
    _, normalised = _counts(channels, size)
    layers = 2 * (len(_CONVOLUTIONS) + len(_STEMS[size])) - 1
    return _FLOAT * (sigma_vae_parameters(latent, channels, size) + 2 * normalised) + _COUNTER * layers


def _counts(channels: int, size: int) -> tuple[int, int]:
    """Return the parameters of all convolutions, and how many maps are normalised; encoder and decoder."""
    if size not in _STEMS:
        raise UsageError(
            f"There is no network for images of {size} pixels.", hint=f"Sizes: {', '.join(map(str, _STEMS))}."
        )
    parameters = normalised = 0
    inputs = channels
    for index, (filters, kernel) in enumerate((*_STEMS[size], *_CONVOLUTIONS)):
        parameters += 2 * inputs * filters * kernel**2 + filters + inputs
        # The decoder's last convolution gives images, which are not normalised.
        normalised += filters + (inputs if index else 0)
        inputs = filters
    return parameters, normalised


@dataclass(frozen=True)
class CompressionRow:
    """A row of Table 1.

    Attributes
    ----------
    latent : int
        Numbers per sample.
    model_bytes, latent_bytes, original_bytes : int
        Network, latents of all samples, images of all samples.
    """

    latent: int
    model_bytes: int
    latent_bytes: int
    original_bytes: int

    @property
    def percent(self) -> float:
        """Network and latents in percent of the images."""
        return 100 * (self.model_bytes + self.latent_bytes) / self.original_bytes

    def as_data(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"percent": self.percent}


def compression_rows(
    latents: Sequence[int] = PAPER_LATENTS, *, samples: int = PAPER_SAMPLES, channels: int = 12, size: int = 128,
    model_bytes: Mapping[int, int] | None = None,
) -> list[CompressionRow]:  # fmt: skip
    """Compute Table 1.

    Parameters
    ----------
    latents : sequence of int
        A row for each.
    samples : int
        N; by default the paper's.
    channels, size : int
        Of the images that the network takes.
    model_bytes : mapping of int to int, optional
        Size of the network by latent size, of any network; by default that of the sigma-VAE.

    Raises
    ------
    UsageError
        If a number is not positive, or there is no sigma-VAE for this size.
    """
    if min([samples, channels, size, *latents]) < 1:
        raise UsageError(
            f"Sizes are at least 1: {samples} samples, {channels} channels, {size} pixels, latents {latents}."
        )
    missing = [latent for latent in latents if model_bytes is not None and latent not in model_bytes]
    if missing:
        raise UsageError(f"model_bytes has no network of latent size {missing[0]}.")
    return [
        CompressionRow(
            latent, sigma_vae_bytes(latent, channels, size) if model_bytes is None else model_bytes[latent],
            _FLOAT * samples * latent, _FLOAT * samples * channels * size**2,
        )
        for latent in latents
    ]  # fmt: skip


def compression_text(rows: Sequence[CompressionRow]) -> str:
    """Return the table for people, in the units of the paper."""
    lines = [f"{'latent':>8}  {'model MiB':>10}  {'latents MiB':>12}  {'% of original':>13}"]
    for row in rows:
        model, latents = row.model_bytes / MIB, row.latent_bytes / MIB
        lines.append(f"{row.latent:>8}  {model:>10,.1f}  {latents:>12,.1f}  {row.percent:>13.2f}")
    if rows:
        lines.append(f"original  {rows[0].original_bytes / MIB:,.1f} MiB as float32")
    return "\n".join(lines)


@dataclass(frozen=True)
class Measured:
    """Sizes of real files.

    Attributes
    ----------
    samples : int
        Slots that have a latent.
    latent, channels, size : int
        Numbers per sample; channels and pixels per side of the images that the encoder takes.
    model_bytes : int
        File of the weights.
    latent_bytes : int
        Files of the catalog.
    raw_bytes : int
        Images of these samples as float32, as the encoder takes them.
    stored_bytes : int
        The dataset's repository as it lies on disk: all channels and slots in it, at their own size, and older versions.
    """

    samples: int
    latent: int
    channels: int
    size: int
    model_bytes: int
    latent_bytes: int
    raw_bytes: int
    stored_bytes: int

    @property
    def percent_of_raw(self) -> float:
        """Network and latents in percent of the images; NaN without samples."""
        return 100 * (self.model_bytes + self.latent_bytes) / self.raw_bytes if self.raw_bytes else float("nan")

    @property
    def percent_of_stored(self) -> float:
        """Network and latents in percent of the repository."""
        return 100 * (self.model_bytes + self.latent_bytes) / self.stored_bytes if self.stored_bytes else float("nan")

    def as_data(self) -> dict[str, Any]:
        """Return plain data; None for a percentage of nothing."""
        shares = {
            "percent_of_raw": self.percent_of_raw if self.raw_bytes else None,
            "percent_of_stored": self.percent_of_stored if self.stored_bytes else None,
        }
        return asdict(self) | shares

    def text(self) -> str:
        """Return a table for people."""
        images = f"{self.channels} x {self.size} x {self.size}"
        rows = (
            ("model", self.model_bytes, "file of weights"),
            ("latents", self.latent_bytes, f"{self.samples:,} x {self.latent}, catalog on disk"),
            (
                "images",
                self.raw_bytes,
                f"{self.samples:,} x {images}, float32; model and latents: {self.percent_of_raw:.2f} %",
            ),
            ("dataset", self.stored_bytes, f"repository on disk; model and latents: {self.percent_of_stored:.2f} %"),
        )
        return "\n".join(f"{name:>8}  {size / MIB:>12,.3f} MiB  {what}" for name, size, what in rows)


def measured(
    catalog: Catalog | str | Store, checkpoint: str | Path, *, dataset: str | Store | None = None, size: int | None = None,
    **options: Any,
) -> Measured:  # fmt: skip
    """Measure the files of a catalog, of its encoder and of its dataset.

    Parameters
    ----------
    catalog : Catalog or str
        All of it should be opened: its files are counted whole.
    checkpoint : str or pathlib.Path
        File of weights, or a folder of ``sdoml train`` with one.
    dataset : str, optional
        By default the address that the catalog names, for a dataset that was moved.
    size : int, optional
        Side of the images that the encoder takes, by default that of the dataset.
    **options
        Options of the stores.

    Raises
    ------
    StoreError
        If there is no catalog or dataset, or the dataset has not the catalog's version.
    UsageError
        If the checkpoint is none, or channels are not images.
    """
    opened = catalog if isinstance(catalog, Catalog) else open_catalog(catalog, **options)
    weights = Path(checkpoint) / _WEIGHTS if Path(checkpoint).is_dir() else Path(checkpoint)
    if not weights.is_file():
        raise UsageError(f"There are no weights at {checkpoint}.", "", f"Give a file, or a folder with {_WEIGHTS}.")
    info = opened.info
    store = as_store(info.dataset if dataset is None else dataset, **options)
    recipes = [one.recipe for one in open_products(store, info.snapshot, channels=info.channels)]
    if any(recipe.contents.kind != "images" for recipe in recipes):
        raise UsageError("Channels with a number per slot have no size to compare with.", "", "Use those of images.")
    side = max(recipe.grid.pixels for recipe in recipes) if size is None else size
    filesystem, sidecar = sidecar_filesystem(store)
    samples, channels = opened.accounting()["ok"], len(info.channels)
    return Measured(
        samples, info.latent, channels, side, weights.stat().st_size, opened.stored_bytes,
        _FLOAT * samples * channels * side**2, int(filesystem.du(join(sidecar.rsplit("/", 1)[0], "icechunk"))),
    )  # fmt: skip


@dataclass(frozen=True)
class DatasetReport:
    """Table 1 for a dataset: as published, by arithmetic, and by files.

    Attributes
    ----------
    samples, channels, size : int
        Times at which all channels have an image, channels, and pixels per side that the network takes.
    rows : tuple of CompressionRow
        By arithmetic.
    frames, raw_bytes, stored_bytes : int
        Frames of all products with images, as float32 at their stored size, and the repository on disk, which keeps every bit.
    files : Measured or None
        Of a catalog and its network.
    """

    samples: int
    channels: int
    size: int
    rows: tuple[CompressionRow, ...]
    frames: int
    raw_bytes: int
    stored_bytes: int
    files: Measured | None

    def as_data(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "samples": self.samples, "channels": self.channels, "size": self.size,
            "arithmetic": [row.as_data() for row in self.rows], "published": [row.as_data() for row in compression_rows()],
            "lossless": {"frames": self.frames, "raw_bytes": self.raw_bytes, "stored_bytes": self.stored_bytes},
            "files": None if self.files is None else self.files.as_data(),
        }  # fmt: skip

    def text(self) -> str:
        """Return the tables for people."""
        share = 100 * self.stored_bytes / self.raw_bytes if self.raw_bytes else float("nan")
        parts = [
            f"Published: {PAPER_SAMPLES:,} samples of 12 x 128 x 128", compression_text(compression_rows()), "",
            f"This dataset by arithmetic: {self.samples:,} samples of {self.channels} x {self.size} x {self.size}",
            compression_text(self.rows), "",
            f"Lossless: {self.frames:,} frames are {self.raw_bytes / MIB:,.1f} MiB as float32 and "
            f"{self.stored_bytes / MIB:,.1f} MiB in the repository, {share:.1f} %",
            "Latents give images back with an error; 'sdoml evaluate' measures it.",
        ]  # fmt: skip
        if self.files is not None:
            parts += ["", "By files:", self.files.text()]
        return "\n".join(parts)


def dataset_report(
    dataset: Store, *, version: str | None = None, channels: Sequence[str] | None = None, size: int = 128,
    latents: Sequence[int] = PAPER_LATENTS, catalog: Store | None = None, checkpoint: str | Path | None = None,
) -> DatasetReport:  # fmt: skip
    """Compute Table 1 for a dataset.

    Parameters
    ----------
    dataset : Store
        The dataset.
    version : str, optional
        Tag or snapshot.
    channels : sequence of str, optional
        By default all that have images.
    size : int
        Pixels per side that the network takes.
    latents : sequence of int
        A row for each.
    catalog, checkpoint : optional
        Latents and the network that made them, to measure files; both or none.

    Raises
    ------
    UsageError
        If there are no images, or one of `catalog` and `checkpoint` is missing.
    """
    from sdoml_dist.store.reader import accounting
    from sdoml_dist.training.samples import Samples

    if (catalog is None) != (checkpoint is None):
        raise UsageError("Files are measured of a catalog and its network together.", "", "Give both or none.")
    opened = [one for one in open_products(dataset, version) if one.recipe.contents.kind == "images"]
    names = tuple(name for one in opened for name in one.recipe.channels if channels is None or name in channels)
    if not names or (channels is not None and set(channels) - set(names)):
        raise UsageError(f"{dataset.url} has no images of {', '.join(channels or ['any channel'])}.")
    samples = Samples.find(dataset, names, version=version)
    frames = raw = 0
    for one in opened:
        good = int(accounting(dataset, version, product=one.name).loc["all", "ok"])
        frames, raw = frames + good, raw + _FLOAT * good * one.recipe.grid.pixels**2
    filesystem, sidecar = sidecar_filesystem(dataset)
    files = None
    if catalog is not None and checkpoint is not None:
        from sdoml_dist.training.checkpoint import about, chosen

        place = chosen(checkpoint)
        files = measured(
            open_catalog(catalog), place, dataset=dataset, size=int(about(place)["config"]["network"]["size"])
        )
    return DatasetReport(
        len(samples), len(names), size, tuple(compression_rows(latents, samples=len(samples), channels=len(names), size=size)),
        frames, raw, int(filesystem.du(join(sidecar.rsplit("/", 1)[0], "icechunk"))), files,
    )  # fmt: skip
