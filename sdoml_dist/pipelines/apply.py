"""A trained network applied to a dataset: what a worker does with a shard of the dataset that is made.

The result is a dataset like any other, on the slots of the one that the network is applied to: chunked Zarr, a status for every
frame, the keywords of the frame that it was made of, and where it comes from.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sdoml_dist.errors import SdomlError, UsageError
from sdoml_dist.experiments import APPLICATIONS
from sdoml_dist.plan import Plan, Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Period, Store
from sdoml_dist.recipe_sources import NetworkConfig
from sdoml_dist.solar.geometry import grid_keywords
from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL, PRODUCTS
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.solar.translation import reference_reach_s, reference_times
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.store.made import Shard, ShardTask, made_recipes
from sdoml_dist.store.reader import Opened
from sdoml_dist.store.template import group_path
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.samples import Samples, open_pinned

logger = logging.getLogger(__name__)

# Columns that say where a frame was made, not what it shows.
_OWN = ("SOURCE_ID", "CALIBRATION")
# PyTorch, and a shard that is written.
_PYTORCH_BYTES = 1_000_000_000
# Threads that read the next images while the network works on these.
_THREADS = 2


class Applied(Protocol):
    """A trained network that can be applied to a dataset.

    Attributes
    ----------
    hash : str
        SHA-256 of the weights, 16 hexadecimal digits.
    inputs : tuple of str
        Channels that it sees, in order.
    before : tuple of str
        Channels that it sees, after these, as they were when the same longitudes faced Earth one synodic rotation before.
    outputs : dict of str to str
        Channels that it makes, in order, and their units. A channel is one of a product.
    pixels : int
        Side of the images.
    radius_arcsec : float
        Solar radius on their grid.
    binned : bool
        Whether it was trained on images that were binned to that side, so that larger ones are binned for it.
    settings : dict
        What else its results depend on, as plain data.
    """

    hash: str
    inputs: tuple[str, ...]
    before: tuple[str, ...]
    outputs: dict[str, str]
    pixels: int
    radius_arcsec: float
    binned: bool
    settings: dict[str, Any]

    def memory_bytes(self, batch: int) -> int:
        """Return the memory that it takes for some images at once, besides PyTorch and the images."""

    def run(self, images: np.ndarray, headers: list[dict[str, Any]]) -> np.ndarray:
        """Return what it makes of some images.

        Parameters
        ----------
        images : numpy.ndarray
            Physical units, shape (B, inputs and those before, Y, X), NaN where there is no data.
        headers : list of dict
            Keywords of the first input of each image, with TIME, the slot as ``datetime64[ns]``.

        Returns
        -------
        numpy.ndarray
            Physical units, float32, shape (B, outputs, Y, X), NaN where there is no data.
        """


def application(folder: str | Path, device: str | torch.device = "cpu") -> Applied:
    """Return the network of a checkpoint, ready to be applied.

    Parameters
    ----------
    folder : path
        Checkpoint, or a run, whose best by validation is taken.
    device : str
        Where it computes.

    Raises
    ------
    UsageError
        If it is no checkpoint, or its experiment does not say how its networks are applied.
    """
    place = checkpoints.chosen(folder).absolute()
    name = checkpoints.about(place).get("experiment")
    if name not in APPLICATIONS:
        raise UsageError(
            f"{place} is a checkpoint of {name!r}, whose networks make no images of images.",
            f"Networks of {', '.join(sorted(APPLICATIONS))} can be applied to a dataset.",
            "Use 'sdoml forecast'." if name == "emergence-forecast" else "",
        )
    module, _, attribute = APPLICATIONS[name].partition(":")
    make: Callable[[Path, str | torch.device], Applied] = getattr(importlib.import_module(module), attribute)
    applied = make(place, device)
    for channel, unit in applied.outputs.items():
        known = PRODUCTS[PRODUCT_OF_CHANNEL[channel]].channels[channel].unit
        if known != unit:
            raise UsageError(f"The network makes {channel} in {unit}, but a dataset has it in {known}.")
    return applied


def input_samples(applied: Applied, store: Store, version: str | None) -> tuple[Samples, list[Opened]]:
    """Return the samples of a dataset that have all inputs, and its products, the first input's first.

    Raises
    ------
    UsageError
        If the dataset lacks an input, or its images or the Sun on them have another size than those of the training.
    """
    samples = Samples.find(store, applied.inputs, version=version)
    samples.refuse_other_radius(applied.radius_arcsec)
    opened = {one.name: one for one in open_pinned(samples.store, samples.snapshot, applied.inputs)}
    if samples.pixels % applied.pixels or (samples.pixels != applied.pixels and not applied.binned):
        raise UsageError(
            f"The network was trained on images of {applied.pixels} pixels, those of {store.url} have {samples.pixels}.",
            "What it knows of the Sun is on that scale.",
            "Build the dataset on the other grid.",
        )
    return samples, [opened[name] for name in dict.fromkeys(place.product for place in samples.places)]


def samples_before(applied: Applied, samples: Samples) -> tuple[Samples, Samples | None]:
    """Return those samples that have all that is seen of a rotation before, and these, row by row; None if nothing is.

    Raises
    ------
    UsageError
        If the dataset lacks a channel, or no sample has them.
    """
    if not applied.before:
        return samples, None
    earlier = Samples.find(samples.store, applied.before, version=samples.snapshot)
    reach_s = reference_reach_s(int(earlier.settings["cadence_s"]))
    rows = earlier.nearest(reference_times(samples.times, front=True), reach_s)
    there = np.flatnonzero(rows >= 0)
    if not there.size:
        raise UsageError(
            f"None of the {len(samples)} times has {', '.join(applied.before)} one rotation before.",
            f"The times begin at {samples.times[0]} and end at {samples.times[-1]}; a rotation is 27.3 days.",
            "Use a dataset that covers more than a rotation.",
        )
    return samples.take(there), earlier.take(rows[there])


def worker_bytes(applied: Applied, samples: Samples, earlier: Samples | None, batch: int) -> int:
    """Return the memory of a worker that applies a network to samples."""
    groups = [samples] if earlier is None else [samples, earlier]
    reading = sum(_loader(group, applied.pixels).memory_bytes(batch) for group in groups)
    return _PYTORCH_BYTES + reading + applied.memory_bytes(batch)


def _loader(samples: Samples, pixels: int) -> Loader:
    return Loader(samples, None, pixels, threads=_THREADS, prefetch=1)


def output_recipes(
    applied: Applied, experiment: str, samples: Samples, opened: list[Opened], output: Store, shard_slots: int | None
) -> list[Recipe]:
    """Return what describes the dataset that is made."""
    periods = [one.recipe.period for one in opened]
    grid = opened[0].recipe.grid
    source = NetworkConfig(
        kind="network", experiment=experiment, checkpoint=applied.hash, url=samples.store.url, snapshot=samples.snapshot,
        channels=applied.inputs, pixels=applied.pixels, settings=applied.settings,
    )  # fmt: skip
    period = Period(start=min(one.start for one in periods), end=max(one.end for one in periods))
    return made_recipes(
        output, tuple(applied.outputs), source, name=experiment, period=period,
        cadence_s=int(samples.settings["cadence_s"]), pixels=applied.pixels, solar_radius_arcsec=grid.solar_radius_arcsec,
        shard_slots=shard_slots,
    )  # fmt: skip


def all_slots(recipe: Recipe) -> np.ndarray:
    """Return the times of all slots of a period, ``datetime64[ns]`` UTC."""
    spans = Plan(recipe).years().items()
    return np.concatenate([slot_times(year, recipe.cadence, start, stop) for year, (start, stop) in spans])


class ShardApplier:
    """Apply a network to shards; made once per worker.

    Parameters
    ----------
    folder : str
        Checkpoint.
    store : Store
        The dataset.
    version : str
        Its snapshot.
    recipes : dict of str to Recipe
        Of the dataset that is made, by product.
    device : str
        Where the network computes.
    batch : int
        Images that go through it at once.
    """

    def __init__(
        self, folder: str, store: Store, version: str, recipes: dict[str, Recipe], device: str, batch: int = 1
    ) -> None:
        self.applied, self.recipes = application(folder, device), recipes
        samples, self.opened = input_samples(self.applied, store, version)
        self.samples, self.earlier = samples_before(self.applied, samples)
        self.batch = batch
        self.experiment = checkpoints.about(folder)["experiment"]
        self._columns = lru_cache(maxsize=2)(self._read_columns)

    def make(self, task: ShardTask) -> Iterator[Shard]:
        """Yield a shard for every unit of a task."""
        clock = time.perf_counter()
        cadence = next(iter(self.recipes.values())).cadence
        times = slot_times(task.year, cadence)[task.slots]
        rows = np.minimum(np.searchsorted(self.samples.times, times), len(self.samples) - 1)
        there = self.samples.times[rows] == times
        headers = [self._keywords(row) if found else {} for row, found in zip(rows, there, strict=True)]
        outputs = tuple(self.applied.outputs)
        pixels = self.applied.pixels
        images = np.full((len(outputs), task.slots.size, pixels, pixels), np.nan, np.float32)
        status = np.array(
            [int(FrameStatus.OK) if found else self._why(time) for found, time in zip(there, times, strict=True)]
        )
        details: dict[int, str] = {}
        places = np.flatnonzero(there)
        done = 0
        for inputs in self._read(rows[places]):
            at = places[done : done + len(inputs)]
            done += at.size
            told = [headers[place] | {"TIME": times[place]} for place in at]
            for chosen, made in self._run(inputs, told):
                if isinstance(made, Exception):
                    code, why = FrameStatus.FAILED_UNEXPECTED, f"{type(made).__name__}: {made}"
                    if isinstance(made, SdomlError):
                        code, why = FrameStatus.FAILED_NO_DATA, made.what
                    status[at[chosen]] = int(code)
                    details |= dict.fromkeys(at[chosen].tolist(), why)
                    continue
                images[:, at[chosen]] = made.swapaxes(0, 1)
                empty = at[chosen][~np.isfinite(made).any(axis=(2, 3)).all(axis=1)]
                status[empty] = int(FrameStatus.FAILED_NO_DATA)
                details |= dict.fromkeys(empty.tolist(), "the network made an image without a valid pixel")
        ok = status == int(FrameStatus.OK)
        seconds = (time.perf_counter() - clock) / len(task.units)
        for product, unit in task.units:
            names = self.recipes[product].bundle(unit.bundle).channels
            keywords, texts = self._frames(product, unit, headers, rows, times, status, details)
            values = images[[outputs.index(name) for name in names]]
            codes = np.repeat(status.astype(np.uint8)[:, None], len(names), axis=1)
            yield Shard(product, unit, task.slots, values if ok.any() else None, codes, keywords, texts, seconds)

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of some samples, a batch at a time; threads read the next ones while the network works on these."""
        if not rows.size:
            return
        groups = [self.samples] if self.earlier is None else [self.samples, self.earlier]
        with contextlib.ExitStack() as stack:
            streams = []
            for group in groups:
                loader = _loader(group.take(rows), self.applied.pixels)
                streams.append(stack.enter_context(contextlib.closing(loader.validation(self.batch))))
            for parts in zip(*streams, strict=True):
                yield np.concatenate([part["physical"].numpy() for part in parts], axis=1)

    def _run(
        self, inputs: np.ndarray, headers: list[dict[str, Any]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray | Exception]]:
        """Yield which of some images became what; if one of them cannot be used, the others are made by themselves."""
        chosen = np.arange(len(inputs))
        try:
            yield chosen, self.applied.run(inputs, headers)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, SdomlError) as error:
            if chosen.size == 1:
                logger.exception("the network failed at %s", headers[0]["TIME"])
                yield chosen, error
                return
            for one in chosen:
                for _, made in self._run(inputs[one : one + 1], headers[one : one + 1]):
                    yield chosen[one : one + 1], made

    def _keywords(self, row: int) -> dict[str, Any]:
        """Return the stored columns of a sample's first input."""
        first, columns = self._columns(int(self.samples.years[row, 0]))
        found = {name: values[int(self.samples.slots[row, 0]) - first].item() for name, values in columns.items()}
        if self.samples.pixels != self.applied.pixels:
            radius = self.opened[0].recipe.grid.solar_radius_arcsec
            found |= grid_keywords(self.applied.pixels, radius, found["RSUN_OBS"])
        return found

    def _read_columns(self, year: int) -> tuple[int, dict[str, np.ndarray]]:
        """Return the first slot of a year that is used, and the first input's columns from there on."""
        used = self.samples.slots[self.samples.years[:, 0] == year, 0]
        first, stop = int(used.min()), int(used.max()) + 1
        group, column = self.opened[0].group[f"{group_path(year)}/keywords"], self.samples.places[0].column
        names = [name for name in self.opened[0].recipe.contents.keywords if name not in _OWN]
        return first, {name: np.asarray(group[name][first:stop, column]) for name in names}

    def _record(self, row: int) -> dict[str, Any]:
        """Return the record of a sample's first input: where it is from, and its whole header."""
        year, slot = int(self.samples.years[row, 0]), int(self.samples.slots[row, 0])
        bundle = self.opened[0].recipe.contents.bundle_of(self.samples.channels[0]).name
        text = str(self.opened[0].group[f"{group_path(year)}/headers/{bundle}"][slot])
        found: dict[str, Any] = json.loads(text) if text else {}
        return found

    def _why(self, time: np.datetime64) -> int:
        """Return what became of the first input that is not there at a slot."""
        for channel, place in zip(self.samples.channels, self.samples.places, strict=True):
            if place.cadence_s != int(self.samples.settings["cadence_s"]):
                continue
            opened = next(one for one in self.opened if one.name == place.product)
            year = int(str(time)[:4])
            start, stop = Plan(opened.recipe).years().get(year, (0, 0))
            slot = int((time - np.datetime64(f"{year}-01-01", "ns")) // np.timedelta64(place.cadence_s, "s"))
            if start <= slot < stop:
                column = opened.recipe.channels.index(channel)
                code = int(np.asarray(opened.group[f"{group_path(year)}/status"][slot, column]))
                if code not in (int(FrameStatus.OK), int(FrameStatus.PENDING)):
                    return code
        return int(FrameStatus.MISSING_NO_FRAME)

    def _frames(
        self, product: str, unit: Unit, headers: list[dict[str, Any]], rows: np.ndarray, times: np.ndarray,
        status: np.ndarray, details: dict[int, str],
    ) -> tuple[dict[str, np.ndarray], list[str]]:  # fmt: skip
        """Return columns and records of frames."""
        recipe = self.recipes[product]
        names, specs = recipe.bundle(unit.bundle).channels, recipe.contents.keywords
        keywords = {name: np.full((times.size, len(names)), spec.fill, spec.dtype) for name, spec in specs.items()}
        texts = []
        for place, header in enumerate(headers):
            if not header:
                code = FrameStatus(int(status[place]))
                what = "an input, or one of a rotation before," if self.earlier is not None else "an input"
                told: dict[str, Any] = {"source": None, "detail": f"{what} is not there: {code.label}"}
                texts.append(json.dumps(told, separators=(",", ":")))
                continue
            for name in header.keys() & specs.keys():
                keywords[name][place] = header[name]
            inputs = self._record(int(rows[place]))
            observed = self.samples.observed[rows[place]].astype("datetime64[ms]").astype(str).tolist()
            source = f"{self.samples.store.url}@{self.samples.snapshot}/{'+'.join(self.applied.inputs)}/{times[place]}"
            keywords["SOURCE_ID"][place] = FrameRecord(
                unit.bundle, times[place], source, state=self.applied.hash
            ).source_id
            record: dict[str, Any] = {
                "source": source,
                "header": inputs.get("header") or {name: value for name, value in header.items() if value == value},
                "made": {
                    "experiment": self.experiment, "checkpoint": self.applied.hash, "dataset": self.samples.store.url,
                    "snapshot": self.samples.snapshot, "inputs": dict(zip(self.samples.channels, observed, strict=True)),
                    "input_source": inputs.get("source"),
                    "settings": self.applied.settings,
                },
            }  # fmt: skip
            if self.earlier is not None:
                seen = self.earlier.observed[rows[place]].astype("datetime64[ms]").astype(str).tolist()
                record["made"]["before"] = dict(zip(self.earlier.channels, seen, strict=True))
            if place in details:
                record["detail"] = details[place]
            texts.append(json.dumps(record, separators=(",", ":")))
        return keywords, texts
