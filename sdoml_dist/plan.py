"""The plan: a recipe resolved into units of work, each exactly one shard of one channel. Pure and deterministic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sdoml_dist.recipe import Recipe, canonical_json
from sdoml_dist.solar.times import slot_index, slot_times, year_slots

# Figures that benchmarks/pipeline.py prints, on one core of an AMD EPYC: seconds for one frame from compressed
# bytes to the written shard, by source pixels; and the size of a stored image over its raw size.
_SECONDS_PER_SOURCE_PIXEL = 6.2e-9
_SECONDS_PER_STORED_BYTE = 5e-9
_COMPRESSED_FRACTION = 0.85
_WORKER_BASE_BYTES = 450 * 2**20
_SOURCE_BYTES_PER_PIXEL = 0.8


@dataclass(frozen=True, order=True)
class Unit:
    """One shard of one bundle's channels: what one worker does and writes in one piece.

    Attributes
    ----------
    year, shard : int
        Year group and index of the shard in it.
    bundle : str
        Name of the bundle; for AIA that of the channel.
    start, stop : int
        Slots of the year that belong to the recipe's period.
    """

    year: int
    shard: int
    bundle: str
    start: int
    stop: int

    @property
    def unit_id(self) -> str:
        """Readable identity, for example ``2011/045/171A``."""
        return f"{self.year}/{self.shard:03d}/{self.bundle}"


@dataclass(frozen=True)
class Estimate:
    """What a plan will take."""

    units: int
    frames: int
    raw_bytes: int
    stored_bytes: int
    objects: int
    source_bytes: int
    memory_per_actor_bytes: int
    core_hours: float


@dataclass(frozen=True)
class Plan:
    """A recipe resolved."""

    recipe: Recipe

    @property
    def plan_id(self) -> str:
        """SHA-256 over identity and period, 16 hexadecimal digits."""
        text = canonical_json([self.recipe.identity(), self.recipe.period.model_dump()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def years(self) -> dict[int, tuple[int, int]]:
        """Return the slots [start, stop) of the period in each year."""
        first_year, first = slot_index(self.recipe.period.first, self.recipe.cadence, round_up=True)
        last_year, last = slot_index(self.recipe.period.last, self.recipe.cadence, round_up=True)
        spans = {}
        for year in range(first_year, last_year + 1):
            start = first if year == first_year else 0
            stop = last if year == last_year else year_slots(year, self.recipe.cadence)
            if start < stop:
                spans[year] = (start, stop)
        return spans

    def units(self) -> Iterator[Unit]:
        """Yield all units in order of time."""
        size = self.recipe.shard_slots
        for year, (start, stop) in self.years().items():
            for shard in range(start // size, -(-stop // size)):
                for bundle in self.recipe.bundles:
                    yield Unit(year, shard, bundle.name, max(start, shard * size), min(stop, (shard + 1) * size))

    @property
    def slots(self) -> int:
        """Number of time slots."""
        return sum(stop - start for start, stop in self.years().values())

    @property
    def source_pixels(self) -> int:
        """Pixels per axis of the source frames; 0 where the source has numbers."""
        if self.recipe.contents.kind == "series":
            return 0
        shape = self.recipe.settings.expected_shape
        return shape[0] if shape else 4096

    def estimate(self) -> Estimate:
        """Estimate frames, bytes, objects, memory and time."""
        recipe = self.recipe
        size = recipe.shard_slots
        shards = sum(-(-stop // size) - start // size for start, stop in self.years().values())
        bundles = recipe.bundles
        units = shards * len(bundles)
        frames = self.slots * len(recipe.channels)
        files = self.slots * sum(len(bundle.segments) for bundle in bundles)
        image_bytes = 4 * (recipe.grid.pixels**2 if recipe.contents.kind == "images" else 1)
        source_pixels = self.source_pixels**2
        widest = max(len(bundle.channels) for bundle in bundles)
        segments = max(len(bundle.segments) for bundle in bundles)
        # The blocks of the shards, one's compressed chunks and joined object; a frame's files as bytes, integers, floats.
        memory = _WORKER_BASE_BYTES + (2 + widest) * size * image_bytes + 10 * segments * source_pixels
        seconds = files * source_pixels * _SECONDS_PER_SOURCE_PIXEL + frames * image_bytes * _SECONDS_PER_STORED_BYTE
        return Estimate(
            units=units,
            frames=frames,
            raw_bytes=frames * image_bytes,
            stored_bytes=int(frames * image_bytes * _COMPRESSED_FRACTION),
            objects=sum(shards * (2 * len(bundle.channels) + 1) for bundle in bundles),
            source_bytes=int(files * source_pixels * _SOURCE_BYTES_PER_PIXEL),
            memory_per_actor_bytes=recipe.resources.memory_per_actor or memory,
            core_hours=seconds / 3600,
        )

    def summary(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "plan_id": self.plan_id,
            "fingerprint": self.recipe.fingerprint,
            "name": self.recipe.name,
            "product": self.recipe.product,
            "period": self.recipe.period.model_dump(),
            "cadence_s": self.recipe.cadence,
            "channels": list(self.recipe.channels),
            "slots": self.slots,
            **asdict(self.estimate()),
        }


def unit_times(unit: Unit, cadence_s: int) -> np.ndarray:
    """Return the slot times of a unit, ``datetime64[ns]`` UTC, shape (slots,)."""
    return slot_times(unit.year, cadence_s, unit.start, unit.stop)
