"""Whole discs without noise, and the published table of denoising: noise levels, likeness to the stack, filters beside.

Scores are those of Park et al. 2020, of pixels limited to 100 G and, where a magnetogram is compared with its stack, within the
published patch at the middle of the disc: Pearson's correlation; relative error of the unsigned flux, sum |G| / sum |T| - 1;
normalised mean square error, sum (G - T)^2 / sum T^2; peak signal-to-noise ratio over the range of 200 G.

A U-Net normalises by all of its patch, so that a place's result depends on where the patch lies, wide overlaps or not. It is
evaluated at the middle patch alone, and refused for discs that are larger than a patch.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, median_filter

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.denoising import Denoising
from sdoml_dist.experiments.denoising_patches import grid_mu
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.denoising import patch_picture
from sdoml_dist.solar.blending import blended
from sdoml_dist.solar.magnetogram_noise import CENTRE, LIMB, noise_at
from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL, PRODUCTS
from sdoml_dist.solar.seams import Seams, seams
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.reading import Reader

SCORES = ("noise centre", "noise limb", "CC", "RE", "NMSE", "PSNR", "strong slope", "strong change")
"""Columns: levels in gauss; the published scores against the stack; of pixels with more than 300 G before, the factor by which
they are larger afterwards, and the mean absolute change over the mean."""
_NONE = float("nan")
PUBLISHED = {
    "published 45 s": (8.66, _NONE, 0.88, 0.529, 0.31, 28.53, _NONE, _NONE),
    "published M1": (3.21, _NONE, 0.94, 0.001, 0.12, 32.62, _NONE, _NONE),
    "published stack": (3.21, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE),
    "published median": (4.57, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE),
    "published Gaussian": (4.27, _NONE, 0.95, _NONE, _NONE, 33.53, _NONE, _NONE),
    "published bilateral": (4.36, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE),
    "published disc, 45 s": (9.1, 10.7, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE),
    "published disc, M1": (3.4, 4.5, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE),
    "published disc, M2": (3.9, 4.9, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE),
}  # fmt: skip
"""Published figures: the patch at the middle of the disc of 736 magnetograms of December 2013, and whole discs."""
STRONG_GAUSS = 300.0
_RANGE_GAUSS = 100.0
OVERLAP = 64
"""Pixels that neighbouring patches share, a quarter of them."""
_PATCHES_AT_ONCE = 8
# Per pixel of a patch, of which the published network takes 1660 and a narrower one less; per pixel of a disc the result and
# sums in double precision.
_BYTES_PER_PIXEL, _DISC_BYTES = 1_800, 32
_PICTURED = 3


class Denoiser:
    """A trained network that is applied to whole discs by overlapping patches; see :class:`sdoml_dist.pipelines.apply.Applied`.

    Parameters
    ----------
    folder : path
        Its checkpoint.
    device : str or torch.device
        Where it computes.
    discs : bool
        Whether whole discs are to be made, not just patches.

    Raises
    ------
    UsageError
        If the folder is no checkpoint of this experiment; or, for discs, if it is a U-Net of patches that are smaller.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu", *, discs: bool = True) -> None:
        about = checkpoints.about(folder)
        if about.get("experiment") != "denoising":
            raise UsageError(f"{folder} is a checkpoint of {about.get('experiment')!r}, not of 'denoising'.")
        self.experiment = Denoising({"config": about["config"], "prepared": about["prepared"]})
        network = self.experiment.models()["generator"]
        player = checkpoints.EMA if (Path(folder) / f"{checkpoints.EMA}.safetensors").is_file() else "generator"
        checkpoints.load_model(folder, network, player)
        self.hash = checkpoints.model_hash(folder, player)
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        config = self.experiment.config
        field = config.data.field
        self.inputs, self.before = (field,), ()
        self.outputs = {field: PRODUCTS[PRODUCT_OF_CHANNEL[field]].channels[field].unit}
        self.size, self.pixels = config.data.size, int(self.experiment.prepared["pixels"])
        self.radius_arcsec = float(self.experiment.prepared["solar_radius_arcsec"])
        # Binning takes noise away: another network would be needed.
        self.binned = False
        self.of_discs = config.network.generator != "unet" or self.size >= self.pixels
        if discs and not self.of_discs:
            raise UsageError(
                f"The U-Net of {folder} was trained on patches of {self.size} pixels, its discs have {self.pixels}.",
                "It normalises by all of its patch: a disc would depend on where its patches lie.",
                "Train with --set network.generator=shallow; 'sdoml evaluate' looks at the middle patch of a U-Net.",
            )
        self.settings = {
            "method": config.network.method, "patch": self.size, "overlap": self.size * OVERLAP // 256, "step": about["step"]
        }  # fmt: skip

    def memory_bytes(self, batch: int) -> int:
        """Return the memory that weights, some patches in the network and the sums over the discs take."""
        weights = sum(one.numel() * one.element_size() for one in self.network.parameters())
        patches = _PATCHES_AT_ONCE * _BYTES_PER_PIXEL // self.experiment.config.network.narrowing * self.size**2
        return 2 * weights + patches + batch * _DISC_BYTES * self.pixels**2

    def run(self, images: np.ndarray, headers: list[dict[str, Any]]) -> np.ndarray:
        """Return magnetograms without noise, gauss.

        Parameters
        ----------
        images : numpy.ndarray
            Shape (B, 1, Y, X), gauss, NaN off the disc.
        headers : list of dict
            Keywords of each; not used.
        """
        return np.stack([self.disc(image[0])[None] for image in images])

    def disc(self, image: np.ndarray) -> np.ndarray:
        """Return one magnetogram without noise, shape (Y, X)."""
        return blended(image, self.size, self.settings["overlap"], self.patches, _PATCHES_AT_ONCE)

    def middle(self, image: np.ndarray) -> np.ndarray:
        """Return the patch at the middle of a magnetogram without noise, shape (Y, X), NaN around it."""
        made = np.full_like(image, np.nan)
        low = (image.shape[0] - self.size) // 2
        there = (slice(low, low + self.size),) * 2
        made[there] = self.patches(image[there][None])[0]
        return made

    def patches(self, field: np.ndarray) -> np.ndarray:
        """Return patches without noise, shape (B, S, S)."""
        return self.experiment.denoise(self.network, field, self.device)


def bilateral(image: np.ndarray, spatial: float = 1.0, tonal: float = 30.0, reach: int = 2) -> np.ndarray:
    """Return an image filtered by Tomasi & Manduchi 1998: weights fall with distance and with difference of value.

    Parameters
    ----------
    image : numpy.ndarray
        Shape (y, x), without NaN.
    spatial, tonal : float
        Widths in pixels and in the units of the image.
    reach : int
        Pixels on each side that count.
    """
    padded = np.pad(image, reach, mode="reflect")
    total, weights = np.zeros(image.shape), np.zeros(image.shape)
    height, width = image.shape
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            other = padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            weight = np.exp(-(dy**2 + dx**2) / (2 * spatial**2) - (other - image) ** 2 / (2 * tonal**2))
            total += weight * other
            weights += weight
    return np.asarray(total / weights, np.float32)


FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "median 3x3": lambda image: np.asarray(median_filter(image, 3)),
    "Gaussian 1 px": lambda image: np.asarray(gaussian_filter(image, 1.0)),
    "bilateral": bilateral,
}
"""Baselines; the widths behind the published figures are not given."""


def scores(
    made: np.ndarray, before: np.ndarray, target: np.ndarray | None, mu: np.ndarray, size: int
) -> tuple[float, ...]:
    """Return the scores of one magnetogram, NaN where there is none.

    Parameters
    ----------
    made, before : numpy.ndarray
        After and before, gauss, shape (Y, X), NaN off the disc.
    target : numpy.ndarray or None
        The stack.
    mu : numpy.ndarray
        Cosine of the heliocentric angle.
    size : int
        Side of the patch at the middle in which they are compared.
    """
    found = []
    for place in (CENTRE, LIMB):
        try:
            found.append(noise_at(made, mu, place).sigma)
        except ValueError:
            found.append(_NONE)
    if target is None:
        found += [_NONE] * 4
    else:
        low = (made.shape[0] - size) // 2
        middle = (slice(low, low + size),) * 2
        left, right = (np.clip(image[middle], -_RANGE_GAUSS, _RANGE_GAUSS).astype(float) for image in (made, target))
        there = np.isfinite(left) & np.isfinite(right)
        left, right = left[there], right[there]
        square = float(np.mean((left - right) ** 2))
        peak = float(20 * np.log10(2 * _RANGE_GAUSS / np.sqrt(square))) if square > 0 else float("inf")
        found += [
            float(np.corrcoef(left, right)[0, 1]), float(np.abs(left).sum() / np.abs(right).sum() - 1),
            float(np.sum((left - right) ** 2) / np.sum(right**2)), peak,
        ]  # fmt: skip
    strong = np.isfinite(made) & (np.abs(np.nan_to_num(before)) > STRONG_GAUSS)
    if not strong.any():
        return (*found, _NONE, _NONE)
    old, new = before[strong].astype(float), made[strong].astype(float)
    return (*found, float(old @ new / (old @ old)), float(np.abs(new - old).mean() / np.abs(old).mean()))


def evaluate(
    checkpoint: Path, output: Path, *, store: Store | None = None, version: str | None = None, part: str = "test",
    most: int | None = None,
) -> str:  # fmt: skip
    """Evaluate a checkpoint on whole discs: the published layout, filters and published figures beside.

    Parameters
    ----------
    checkpoint : pathlib.Path
        Its folder.
    output : pathlib.Path
        Where files go: ``table.csv``, ``table.md``, ``about.json``, ``patches.png``.
    store, version : optional
        Another dataset, and its version; by default that of the training.
    part : str
        Which samples: ``train``, ``validation`` or ``test`` of the training's split.
    most : int, optional
        At most so many magnetograms, evenly over the time.

    Returns
    -------
    str
        The table for a terminal, and the names of the files.
    """
    denoiser = Denoiser(checkpoint, "cuda" if torch.cuda.is_available() else "cpu", discs=False)
    denoise = denoiser.disc if denoiser.of_discs else denoiser.middle
    experiment = denoiser.experiment
    samples = experiment.samples
    if store is not None or version is not None:
        data = experiment.config.data.model_copy(
            update={"store": store or experiment.config.data.store, "version": version}
        )
        samples = type(experiment)(
            {"config": experiment.config.model_copy(update={"data": data}).model_dump(mode="json"),
             "prepared": experiment.prepared | {"snapshot": version}}
        ).samples  # fmt: skip
    chosen = samples.part(part)
    rows = np.arange(len(chosen))
    if most is not None:
        rows = np.unique(np.linspace(0, rows.size - 1, min(most, rows.size)).astype(int))
    reader, pixels = Reader(chosen), chosen.pixels
    mu = grid_mu(pixels, experiment.prepared["solar_radius_arcsec"])
    size = min(denoiser.size, pixels)
    found: dict[str, list[tuple[float, ...]]] = {}
    seen: Seams | None = None
    pictures: dict[str, list[np.ndarray]] = {}
    for row in rows:
        images = [reader.image(int(row), channel) for channel in range(len(chosen.channels))]
        before, target = images[0], images[1] if len(images) > 1 else None
        assert before is not None
        made = {"45 s": before, experiment.config.network.method: denoise(before)}
        if denoiser.of_discs and not found:
            seen = _seams(denoiser, made[experiment.config.network.method] - before)
        for name, smooth in FILTERS.items():
            made[name] = np.where(np.isfinite(before), smooth(np.nan_to_num(before)), np.float32(np.nan))
        if target is not None:
            made["stack"] = target
        for name, image in made.items():
            found.setdefault(name, []).append(scores(image, before, None if name == "stack" else target, mu, size))
            if len(pictures.setdefault(name, [])) < _PICTURED:
                low = (pixels - size) // 2
                pictures[name].append(image[low : low + size, low : low + size])
    table = {
        name: tuple(_mean([line[k] for line in lines]) for k in range(len(SCORES))) for name, lines in found.items()
    }
    output.mkdir(parents=True, exist_ok=True)
    patch_picture(output / "patches.png", {name: np.stack(some) for name, some in pictures.items()}, 50.0)
    about = {
        "checkpoint": str(checkpoint), "weights": denoiser.hash, "settings": denoiser.settings, "part": part,
        "magnetograms": int(rows.size), "samples": chosen.describe(), "scores": table,
        "seams": None if seen is None else asdict(seen),
    }  # fmt: skip
    write_atomic(output / "about.json", json.dumps(about, indent=1).encode())
    title = f"{experiment.config.name}: {rows.size} magnetograms, part {part}"
    if not denoiser.of_discs:
        title += ", the middle patch alone"
    if seen is not None:
        title += (
            f"; jumps at borders of patches {100 * seen.excess:+.1f} +- {100 * seen.error:.1f} % of those elsewhere"
        )
    return _write(table | PUBLISHED, title, output)


def _seams(denoiser: Denoiser, change: np.ndarray) -> Seams | None:
    """Return the seams of a disc, None for one that is a single patch."""
    try:
        return seams(change, denoiser.size, denoiser.settings["overlap"])
    except ValueError:
        return None


def _mean(values: list[float]) -> float:
    there = [value for value in values if np.isfinite(value)]
    return float(np.mean(there)) if there else _NONE


def _write(rows: dict[str, tuple[float, ...]], title: str, output: Path) -> str:
    """Write the table's files and return it for a terminal."""
    cells = [["", *SCORES]] + [
        [name, *(f"{value:.3f}" if np.isfinite(value) else "-" for value in values)] for name, values in rows.items()
    ]
    rule = ["---", *["---:"] * len(SCORES)]
    lines = ["| " + " | ".join(line) + " |" for line in [cells[0], rule, *cells[1:]]]
    write_atomic(output / "table.md", "\n".join([f"# {title}", "", *lines, ""]).encode())
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [["row", "score", "value"], *([name, score, repr(value)] for name, values in rows.items()
                                      for score, value in zip(SCORES, values, strict=True))]
    )  # fmt: skip
    write_atomic(output / "table.csv", out.getvalue().encode())
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    told = [
        "  ".join(f"{c:<{w}}" if k == 0 else f"{c:>{w}}" for k, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return "\n".join([title, *told, f"{output}: table.csv, table.md, about.json, patches.png", ""])
