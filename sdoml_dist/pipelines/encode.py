"""From images to latent vectors: what a worker does with a unit of a latent catalog."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.latent_space import LatentSpaceConfig, find_samples, make_network
from sdoml_dist.models.sigma_vae import SigmaVAE
from sdoml_dist.models.transforms import ChannelTransforms
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.catalog import CatalogUnit, CatalogWriter, catalog_units
from sdoml_dist.store.catalog_schema import CatalogInfo
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.samples import Samples

MODEL = "sigma-VAE"


class Trained:
    """A trained network with everything that it was trained with; with averaged weights where the checkpoint has them.

    Parameters
    ----------
    folder : path
        Its checkpoint.
    device : str or torch.device
        Where it computes.

    Raises
    ------
    UsageError
        If the folder is no checkpoint of this experiment, or its weights are of another network.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        about = checkpoints.about(folder)
        if about.get("experiment") != "latent-space":
            raise UsageError(f"{folder} is a checkpoint of {about.get('experiment')!r}, not of 'latent-space'.")
        self.config = LatentSpaceConfig.model_validate(about["config"])
        self.transforms = ChannelTransforms.from_dict(about["prepared"]["transforms"])
        player = checkpoints.EMA if (Path(folder) / f"{checkpoints.EMA}.safetensors").is_file() else "model"
        self.hash = checkpoints.model_hash(folder, player)
        self.about = about
        self.network: SigmaVAE = make_network(self.config)
        checkpoints.load_model(folder, self.network, player)
        self.device = torch.device(device)
        self.network.eval().to(self.device)

    @torch.no_grad()
    def encode(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return means and logarithms of the variances of network inputs, shape (B, Z), float32."""
        mean, log_variance = self.network.encode(inputs.to(self.device, non_blocking=True))
        return mean.float().cpu().numpy(), log_variance.float().cpu().numpy()

    @torch.no_grad()
    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Return images in physical units, shape (B, C, size, size), float32."""
        drawn = self.network.decode(torch.from_numpy(np.asarray(latents, np.float32)).to(self.device))
        images: np.ndarray = np.asarray(self.transforms.to_physical(drawn.float().cpu().numpy()), np.float32)
        return images

    @torch.no_grad()
    def draw(self, number: int, seed: int = 0) -> np.ndarray:
        """Return suns drawn from the prior, in physical units, shape (number, C, size, size), float32."""
        generator = torch.Generator(self.device).manual_seed(seed)
        latents = torch.randn((number, self.config.network.latent), generator=generator, device=self.device)
        return self.decode(latents.cpu().numpy())


def encoding_samples(trained: Trained, store: Store, version: str | None) -> tuple[Samples, np.ndarray]:
    """Return the samples of a dataset that a network can encode, and every time of their grid.

    Channels, grid and tolerance are those of the training; the dataset may be another one.
    """
    data = trained.config.data.model_copy(update={"store": store, "version": version})
    samples = find_samples(data)
    step = np.timedelta64(int(samples.settings["cadence_s"]), "s").astype("timedelta64[ns]")
    return samples, np.arange(samples.times[0], samples.times[-1] + step, step)


def catalog_info(trained: Trained, samples: Samples, rows: int, dtype: str, log_variance: bool) -> CatalogInfo:
    """Return what a catalog says it was made of."""
    products = tuple(dict.fromkeys(place.product for place in samples.places))
    return CatalogInfo.model_validate(
        {
            "dataset": samples.store.url, "snapshot": samples.snapshot, "channels": samples.channels,
            "products": products, "checkpoint": trained.hash, "model": MODEL, "latent": trained.config.network.latent,
            "dtype": dtype, "log_variance": log_variance, "transform": trained.transforms.to_dict(),
            "settings": {"rows": rows, "size": trained.config.network.size, **samples.settings},
        }
    )  # fmt: skip


class UnitEncoder:
    """Encode units of a catalog; made once per worker.

    Parameters
    ----------
    folder : str
        Checkpoint.
    store : Store
        The dataset.
    version : str
        Its snapshot.
    catalog : Store
        Where the catalog is.
    rows : int
        Slots per unit.
    dtype : str
        Of the latents: ``float32`` or ``float16``.
    log_variance : bool
        Whether to keep the logarithm of the variance.
    device : str
        Where the network computes.
    batch : int, optional
        Images that go through it at once; by default 16, on a GPU 64.
    threads : int
        Threads that read, two batches ahead of the network.
    """

    def __init__(
        self, folder: str, store: Store, version: str, catalog: Store, rows: int, dtype: str, log_variance: bool,
        device: str, batch: int | None = None, threads: int = 4,
    ) -> None:  # fmt: skip
        self.trained = Trained(folder, device)
        self.samples, self.times = encoding_samples(self.trained, store, version)
        self.units = {unit.name: unit for unit in catalog_units(self.times, rows)}
        info = catalog_info(self.trained, self.samples, rows, dtype, log_variance)
        self.writer, self.threads = CatalogWriter(catalog, info), threads
        self.batch = batch or (64 if self.trained.device.type == "cuda" else 16)

    def encode(self, name: str) -> dict[str, Any]:
        """Encode a unit, write its file, and return what was done.

        Returns
        -------
        dict
            ``unit``; ``status``, the code of each slot, shape (rows,), uint8; ``bytes`` of the file; ``phases``, seconds of
            waiting for images (``source``), of the network (``compute``) and of writing (``write``).
        """
        unit: CatalogUnit = self.units[name]
        times = self.times[unit.start : unit.stop]
        rows = np.searchsorted(self.samples.times, times)
        rows = np.minimum(rows, len(self.samples) - 1)
        there = self.samples.times[rows] == times
        latent, phases = self.writer.info.latent, {"source": 0.0, "compute": 0.0}
        means = np.zeros((times.size, latent), np.float32)
        log_variances = np.zeros((times.size, latent), np.float32)
        if there.any():
            loader = Loader(
                self.samples.take(rows[there]), self.trained.transforms, self.trained.config.network.size,
                threads=self.threads, prefetch=2, pin=self.trained.device.type == "cuda",
            )  # fmt: skip
            done = 0
            places = np.flatnonzero(there)
            mark = time.perf_counter()
            for batch in loader.validation(self.batch):
                came = time.perf_counter()
                at = places[done : done + batch["inputs"].shape[0]]
                means[at], log_variances[at] = self.trained.encode(batch["inputs"])
                done += at.size
                phases["source"] += came - mark
                mark = time.perf_counter()
                phases["compute"] += mark - came
        status = np.where(there, int(FrameStatus.OK), int(FrameStatus.MISSING_NO_FRAME)).astype(np.uint8)
        keep = log_variances if self.writer.info.log_variance else None
        mark = time.perf_counter()
        size = self.writer.write(unit.name, times, means, keep, status=status)
        phases["write"] = time.perf_counter() - mark
        return {"unit": name, "status": status, "bytes": size, "phases": phases}
