"""Suns for tests of image translation: rendered ones, pairs in memory, and a dataset of them written without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sdoml_dist.experiments.far_side import FarSide
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_sources import NetworkConfig
from sdoml_dist.solar.geometry import FIELD_ARCSEC
from sdoml_dist.solar.orbit import Observer
from sdoml_dist.solar.photosphere import PhotosphereModel
from sdoml_dist.solar.scene import SunModel
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.made import Output, Shard, made_recipes, nominal_frames, slot_period, write_shard

SIZE = 64
CHANNELS = ("304A", "193A", "171A", "M_720s", "Ic_720s")


def write_dataset(
    folder: Path, times: np.ndarray, missing: int | None, *, cadence_s: int = 86400, radius_arcsec: float = 976.0
) -> str:
    """Write suns with bright blobs on bipoles, by default one a day; 304 Angstrom is missing on one of them."""
    url = str(folder / "d")
    source = NetworkConfig(
        kind="network", experiment="test", checkpoint="0123456789abcdef", url="none", snapshot="S", channels=("304A",),
        pixels=SIZE,
    )  # fmt: skip
    recipes = made_recipes(
        Store(url=url), CHANNELS, source, name="suns", period=slot_period(times, cadence_s), cadence_s=cadence_s, pixels=SIZE,
        solar_radius_arcsec=radius_arcsec, shard_slots=1,
    )  # fmt: skip
    output = Output(recipes)
    suns, receipts = blobs(times.size), []
    for task in output.tasks(times):
        slots = slot_times(task.year, cadence_s)[task.slots]
        planes = dict(zip(CHANNELS, suns[np.searchsorted(times, slots)].swapaxes(0, 1), strict=True))
        for product, unit in task.units:
            recipe = output.recipes[product]
            names = recipe.bundle(unit.bundle).channels
            lost = missing is not None and names == ("304A",) and slots[0] == times[missing]
            code = FrameStatus.MISSING_NO_FRAME if lost else FrameStatus.OK
            status = np.full((task.slots.size, len(names)), int(code), np.uint8)
            keywords, texts = nominal_frames(
                recipe, unit, task.slots, status[:, 0] == int(FrameStatus.OK), {"by": "a test"}
            )
            values = None if lost else np.stack([planes[name] for name in names])
            shard = Shard(product, unit, task.slots, values, status, keywords, texts)
            receipts.append((product, write_shard(output.fork_bytes, recipe, shard)))
    output.commit(receipts)
    output.finish()
    return url


def blobs(number: int) -> np.ndarray:
    """Return suns, shape (number, channels, SIZE, SIZE)."""
    rng = np.random.default_rng(11)
    j, i = np.mgrid[:SIZE, :SIZE]
    off = np.hypot(j - 31.5, i - 31.5) > 25.4
    images = np.empty((number, len(CHANNELS), SIZE, SIZE), np.float32)
    for place in range(number):
        field, bright = np.zeros((SIZE, SIZE)), rng.uniform(38, 42, (SIZE, SIZE))
        for _ in range(3):
            y, x, size = rng.uniform(18, 46), rng.uniform(18, 46), rng.uniform(2, 5)
            for offset, sign in ((-3, 1), (3, -1)):
                blob = np.exp(-((j - y) ** 2 + (i - x - offset) ** 2) / size**2)
                field += sign * 150 * size * blob
                bright += 30 * size * blob
        planes = [bright, 2 * bright, 3 * bright, np.where(off, np.nan, field)]
        planes.append(np.where(off, np.nan, 5e4 * (1 - np.abs(field) / 2000)))
        images[place] = planes
    return images


class Rows(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.times)


class MemoryPairs:
    """Samples that are in memory, with the methods of Pairs."""

    def __init__(self, experiment: FarSide, physical: np.ndarray, times: np.ndarray) -> None:
        self.experiment, self.values = experiment, physical
        labels = experiment.config.data.split.labels(times)
        self.samples = Rows(
            shards=np.arange(times.size), labels=labels, times=times, describe=dict, snapshot="rendered",
            store=SimpleNamespace(url="rendered"),
            counts=lambda: {str(name): int((labels == name).sum()) for name in np.unique(labels)},
        )  # fmt: skip

    def part(self, label: str) -> MemoryPairs:
        chosen = self.samples.labels == label
        return MemoryPairs(self.experiment, self.values[chosen], self.samples.times[chosen])

    def read(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        inputs, target, mask = (torch.from_numpy(one) for one in self.experiment.encode(self.values[rows]))
        return {"inputs": inputs, "target": target, "mask": mask, "index": torch.from_numpy(rows)}

    def physical(self, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.values[rows]
        return found

    def steps(
        self, order: Any, start: int, stop: int, mine: tuple[int, ...]
    ) -> Iterator[list[dict[str, torch.Tensor]]]:
        for step in range(start, stop):
            yield [self.read(order.micro(*order.position(step), number)) for number in mine]

    def validation(self, micro_batch: int, rank: int, world: int) -> Iterator[dict[str, torch.Tensor]]:
        for first in range(rank * micro_batch, len(self.values), world * micro_batch):
            yield self.read(np.arange(first, min(first + micro_batch, len(self.values))))


def rendered(times: np.ndarray, channels: tuple[str, ...], seen_from: list[Observer] | None = None) -> np.ndarray:
    """Return what a perfect pipeline makes of the simulated Sun: EUV images and the field, the mean of 2 x 2 points."""
    fine = 2 * SIZE
    step = FIELD_ARCSEC / 976 / fine
    first = -(fine - 1) / 2 * step
    affine = (first, step, 0.0, first, 0.0, step)
    sun, photosphere = SunModel(0), PhotosphereModel(0)
    images = np.empty((times.size, len(channels) + 1, SIZE, SIZE), np.float32)
    for place, time in enumerate(times):
        who = None if seen_from is None else seen_from[place]
        planes = [sun.render(name, time, (fine, fine), affine, who) for name in channels]
        planes.append(photosphere.vector_field(time, (fine, fine), affine, who)[2])
        images[place] = np.stack(planes).reshape(-1, SIZE, 2, SIZE, 2).mean((2, 4))
    return images


def rendered_channels(times: np.ndarray, channels: tuple[str, ...]) -> np.ndarray:
    """Return the same of any channels: AIA's, the field's components, M_720s and Ic_720s; NaN off the disc, as HMI's are."""
    fine = 2 * SIZE
    step = FIELD_ARCSEC / 976 / fine
    first = -(fine - 1) / 2 * step
    affine = (first, step, 0.0, first, 0.0, step)
    sun, photosphere = SunModel(0), PhotosphereModel(0)
    images = np.empty((times.size, len(channels), SIZE, SIZE), np.float32)
    for place, time in enumerate(times):
        west, north, outward = photosphere.vector_field(time, (fine, fine), affine)
        planes = {"Bx": west, "By": north, "Bz": outward, "M_720s": outward}
        if "Ic_720s" in channels:
            bright = photosphere.continuum(time, (fine, fine), affine)
            planes["Ic_720s"] = np.where(bright > 0, bright, np.float32(np.nan))
        planes |= {name: sun.render(name, time, (fine, fine), affine) for name in channels if name not in planes}
        fine_images = np.stack([planes[name] for name in channels])
        images[place] = fine_images.reshape(-1, SIZE, 2, SIZE, 2).mean((2, 4))
    return images
