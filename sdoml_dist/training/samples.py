"""Which samples there are: for each time of a grid, the nearest good observation of every channel.

Only tables over (time, channel) are read, never an image. What is found is pinned to the snapshot of the dataset that it was
found in, so that it stays the same while the dataset grows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import Period, Store, canonical_json, parse_duration
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.align import nearest_good
from sdoml_dist.store.reader import Opened, as_store, open_products
from sdoml_dist.store.splits import NONE
from sdoml_dist.store.template import NOT_A_TIME, group_path
from sdoml_dist.training.parts import Split, Whole

_NOTHING = np.datetime64("NaT", "ns")


@dataclass(frozen=True)
class Place:
    """Where the values of a channel are.

    Attributes
    ----------
    product : str
        Group of the dataset.
    column : int
        Of the channel in the product's tables.
    cadence_s, shard_slots : int
        Of the product.
    pixels : int
        Side of its images; 0 for a channel with a number per slot.
    radius_arcsec : float
        Solar radius on their grid; 0 as well.
    """

    product: str
    column: int
    cadence_s: int
    shard_slots: int
    pixels: int
    radius_arcsec: float = 0.0


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a dataset at a snapshot.

    Attributes
    ----------
    store : Store
        The dataset.
    snapshot : str
        Its version.
    channels : tuple of str
        Channels in the order asked for.
    places : tuple of Place
        Where each of them is.
    times : numpy.ndarray
        Time of each sample on the grid, ``datetime64[ns]`` UTC, shape (samples,), ascending.
    years, slots : numpy.ndarray
        Year and slot in it of the observation taken, int16 and int32, shape (samples, channels); -1 for none.
    observed : numpy.ndarray
        When it was observed, ``datetime64[ns]`` UTC, shape (samples, channels); NaT for none.
    labels : numpy.ndarray
        Part that each sample belongs to, shape (samples,); empty for none.
    settings : dict
        What they were chosen by, as plain data.
    """

    store: Store
    snapshot: str
    channels: tuple[str, ...]
    places: tuple[Place, ...]
    times: np.ndarray
    years: np.ndarray
    slots: np.ndarray
    observed: np.ndarray
    labels: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(
        cls, url: str | Store, channels: Sequence[str], *, version: str | None = None, cadence: str | int | None = None,
        tolerance: str | int | None = None, require: Literal["all", "any"] = "all",
        split: Split | None = None, period: tuple[str, str] | None = None,
        allow_mixed_calibrations: bool = False, **options: Any,
    ) -> Samples:  # fmt: skip
        """Find the samples of a dataset.

        Parameters
        ----------
        url, version, **options
            As in :func:`sdoml_dist.open_dataset`.
        channels : sequence of str
            Channels of any products, in the order wanted.
        cadence, tolerance
            As in :func:`sdoml_dist.open_dataset`: spacing of the grid, by default the coarsest of the products, and largest
            distance of an observation from it, by default half the cadence of grid or product, whichever is larger.
        require : {"all", "any"}
            Whether a sample needs all of its channels, or one.
        split : Whole, Months or Blocks, optional
            How samples are parted; by default all are in ``train``. A sample whose time and observations are not all
            in the same part is in none, so that no observation is in two parts.
        period : tuple of str, optional
            Start and end (exclusive) of the grid, UTC; by default the whole dataset.
        allow_mixed_calibrations : bool
            Whether frames of one product may have been made by several calibrations.

        Raises
        ------
        StoreError
            If there is no dataset or no such version.
        UsageError
            If a channel is unknown, frames do not fit together, or no sample is left.
        """
        if not channels or len(set(channels)) != len(channels):
            raise UsageError(f"Channels must be named, and once each: {', '.join(channels) or 'there is none'}.")
        store, split = as_store(url, **options), split or Whole()
        opened = open_pinned(store, version, channels)
        if cadence is None:
            step = max(one.recipe.cadence for one in opened)
        else:
            step = parse_duration(cadence)
        reach = None if tolerance is None else parse_duration(tolerance)
        grid = _grid(opened, step, period)
        places: dict[str, Place] = {}
        found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for one in opened:
            limit = max(step, one.recipe.cadence) / 2 if reach is None else reach
            names = [name for name in one.recipe.channels if name in channels]
            used: set[int] = set()
            tables = _Tables(one)
            for name in names:
                places[name] = _place(one, name)
                found[name], calibrations = tables.nearest(grid, places[name].column, limit)
                used |= calibrations
            if len(used) > 1 and not allow_mixed_calibrations:
                raise UsageError(
                    f"Frames of {one.name} were made by {len(used)} calibrations: {', '.join(map(str, sorted(used)))}.",
                    "A network would learn the difference between them.",
                    f"Bring them to one ('sdoml reprocess {store.url} --product {one.name}'), choose a period that has "
                    "one, or allow mixed calibrations.",
                )
        _check_grids(opened)
        years, slots, observed = (np.stack([found[name][part] for name in channels], axis=1) for part in range(3))
        there = slots >= 0
        kept = there.all(axis=1) if require == "all" else there.any(axis=1)
        if not kept.any():
            counts = ", ".join(f"{name} {number}" for name, number in zip(channels, there.sum(axis=0), strict=True))
            raise UsageError(
                f"No sample is left of {grid.size} times: {require} of {', '.join(channels)} required.",
                f"Times with an observation: {counts}.",
                "See 'sdoml status', lengthen the period or the tolerance, or require 'any'.",
            )
        settings = {
            "cadence_s": step, "tolerance_s": reach, "require": require, "split": split.model_dump(mode="json"),
            "period": None if period is None else list(period),
        }  # fmt: skip
        labels = _labels(split, grid[kept], observed[kept])
        return cls(
            store, opened[0].session.snapshot_id, tuple(channels), tuple(places[name] for name in channels), grid[kept],
            years[kept].astype(np.int16), slots[kept].astype(np.int32), observed[kept], labels, settings,
        )  # fmt: skip

    def __len__(self) -> int:
        return int(self.times.size)

    def nearest(self, times: np.ndarray, reach_s: int) -> np.ndarray:
        """Return the rows nearest to some times, ``datetime64[ns]``, int, shape (times,); -1 where none is within reach."""
        return nearest_good(times, self.times, np.ones(len(self), bool), reach_s)

    def refuse_other_radius(self, radius_arcsec: float) -> None:
        """Refuse images on whose grid the Sun has another radius; raises `UsageError`."""
        other = sorted({place.radius_arcsec for place in self.places if place.pixels} - {radius_arcsec})
        if other:
            raise UsageError(
                f"The Sun of {self.store.url} has a radius of {other[0]:g} arcsec on its grid, not {radius_arcsec:g}.",
                "Discs, limbs and fluxes would be taken where they are not.",
                f"Build the dataset with grid.solar_radius_arcsec: {radius_arcsec:g}.",
            )

    @property
    def images(self) -> tuple[int, ...]:
        """Positions of the channels that have images."""
        return tuple(index for index, place in enumerate(self.places) if place.pixels)

    @property
    def series(self) -> tuple[int, ...]:
        """Positions of the channels that have a number per slot."""
        return tuple(index for index, place in enumerate(self.places) if not place.pixels)

    @property
    def pixels(self) -> int:
        """Side of the images, 0 if no channel has any."""
        return max(place.pixels for place in self.places)

    @property
    def shards(self) -> np.ndarray:
        """The stored shard around each sample's time, as a number, shape (samples,).

        Of the product that most channels belong to; samples with one number are read from the same objects.
        """
        products = [place.product for place in self.places if place.pixels == self.pixels]
        most = max(products, key=products.count)
        place = next(place for place in self.places if place.product == most)
        year = self.times.astype("datetime64[Y]")
        slot = (self.times - year.astype("datetime64[ns]")) // np.timedelta64(place.cadence_s, "s")
        return year.astype(np.int64) * 1_000_000 + slot // place.shard_slots

    def part(self, label: str) -> Samples:
        """Return the samples of one part.

        Raises
        ------
        UsageError
            If it has none.
        """
        chosen = np.flatnonzero(self.labels == label)
        if not chosen.size or label == NONE:
            there = ", ".join(f"{name or 'no part'} {number}" for name, number in self.counts().items())
            raise UsageError(
                f"No sample is in part {label!r}.", f"There are: {there}.", "Correct the split, or lengthen the period."
            )
        return self.take(chosen)

    def take(self, rows: np.ndarray) -> Samples:
        """Return some of the samples, in the order given."""
        cut = {name: getattr(self, name)[rows] for name in ("times", "years", "slots", "observed", "labels")}
        return replace(self, **cut)

    def counts(self) -> dict[str, int]:
        """Return the number of samples by part."""
        names, numbers = np.unique(self.labels, return_counts=True)
        return {str(name): int(number) for name, number in zip(names, numbers, strict=True)}

    def digest(self) -> str:
        """Return a hash of what is read, in which order: 16 hexadecimal digits."""
        code = hashlib.sha256(canonical_json([self.snapshot, self.channels]).encode())
        for array in (self.times, self.years, self.slots):
            code.update(np.ascontiguousarray(array).tobytes())
        return code.hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Return where the samples come from, as plain data for a checkpoint."""
        return {
            "url": self.store.url, "snapshot": self.snapshot, "channels": list(self.channels), **self.settings,
            "samples": len(self), "parts": self.counts(), "digest": self.digest(),
            "first": str(self.times[0]), "last": str(self.times[-1]),
        }  # fmt: skip


# Icechunk's threads do not survive a fork: a child would wait for them for ever.
_opened_by: int | None = None


def open_pinned(store: Store, version: str | None, channels: Sequence[str]) -> list[Opened]:
    """Open the products that hold some channels; refuse in a process forked from one that has done so.

    Raises
    ------
    UsageError
        If this process was forked, or a channel is unknown.
    """
    global _opened_by
    if _opened_by not in (None, os.getpid()):
        raise UsageError(
            "This process was forked from one that had opened a dataset.",
            "The threads that read from storage do not survive a fork; reading would hang.",
            "Start workers with 'spawn' or 'forkserver' (multiprocessing.get_context), or with Ray.",
        )
    _opened_by = os.getpid()
    return open_products(store, version, channels=channels)


def _grid(opened: list[Opened], step_s: int, period: tuple[str, str] | None) -> np.ndarray:
    """Return the times of the grid, as :func:`sdoml_dist.store.align.align` makes it."""
    first = min(one.recipe.period.first for one in opened)
    last = max(one.recipe.period.last for one in opened)
    step = np.timedelta64(step_s, "s").astype("timedelta64[ns]")
    day = first.astype("datetime64[D]").astype("datetime64[ns]")
    grid = np.arange(day + -(-(first - day) // step) * step, last, step)
    if period is not None:
        asked = Period.model_validate({"start": period[0], "end": period[1]})
        grid = grid[(grid >= asked.first) & (grid < asked.last)]
    if not grid.size:
        raise UsageError(
            f"No sample is left: the dataset covers {first} to {last} (UTC), the period asked for is {period}."
        )
    return grid


def _place(opened: Opened, name: str) -> Place:
    recipe = opened.recipe
    grid = (recipe.grid.pixels, recipe.grid.solar_radius_arcsec) if recipe.contents.kind == "images" else (0, 0.0)
    return Place(opened.name, recipe.channels.index(name), recipe.cadence, recipe.shard_slots, *grid)


def _check_grids(opened: list[Opened]) -> None:
    """Refuse images whose pixels do not lie on each other."""
    scales = {
        one.name: (one.recipe.grid.pixels, one.recipe.grid.solar_radius_arcsec)
        for one in opened
        if one.recipe.contents.kind == "images"
    }
    if len(set(scales.values())) > 1:
        raise UsageError(
            "The images do not lie on each other: "
            + ", ".join(f"{name} {size} pixels, radius {radius:g} arcsec" for name, (size, radius) in scales.items()),
            "A network would see other places in every channel.",
            "Choose channels of products with the same grid.",
        )


class _Tables:
    """The tables of a product over all its years, one after the other."""

    def __init__(self, opened: Opened) -> None:
        groups, times, years, slots = [], [], [], []
        for year, (start, stop) in Plan(opened.recipe).years().items():
            groups.append((opened.group[group_path(year)], start, stop))
            times.append(slot_times(year, opened.recipe.cadence, start, stop))
            years.append(np.full(stop - start, year))
            slots.append(np.arange(start, stop))
        self._groups = groups
        self.times, self.years, self.slots = (np.concatenate(parts) for parts in (times, years, slots))
        self.status = self._read("status")
        seen = self._read("keywords/T_OBS")
        self.seen = None if seen is None else np.where(seen == NOT_A_TIME, _NOTHING, seen.astype("datetime64[ns]"))
        known: Any = opened.group.attrs.get("calibrations", {})
        self.calibration = self._read("keywords/CALIBRATION") if len(known) > 1 else None

    def _read(self, path: str) -> Any:
        if path not in self._groups[0][0]:
            return None
        return np.concatenate([np.asarray(group[path][start:stop]) for group, start, stop in self._groups])

    def nearest(
        self, grid: np.ndarray, column: int, tolerance_s: float
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], set[int]]:
        """Return year, slot and time of the nearest good observations of a channel, and their calibrations."""
        when = self.times if self.seen is None else self.seen[:, column]
        rows = nearest_good(grid, when, self.status[:, column] == int(FrameStatus.OK), tolerance_s)
        there, safe = rows >= 0, np.maximum(rows, 0)
        taken = (
            np.where(there, self.years[safe], -1), np.where(there, self.slots[safe], -1),
            np.where(there, when[safe], _NOTHING),
        )  # fmt: skip
        if self.calibration is None:
            return taken, set()
        return taken, set(np.unique(self.calibration[rows[there], column]).tolist())


def _labels(split: Split, times: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the part of each sample: that of its time, unless an observation lies in another."""
    labels = split.labels(times).astype(str)
    for seen in observed.T:
        there = ~np.isnat(seen)
        same = np.ones(times.size, bool)
        same[there] = split.labels(seen[there]).astype(str) == labels[there]
        labels[~same] = NONE
    result: np.ndarray = labels
    return result
