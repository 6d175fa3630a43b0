"""The plan: a recipe resolved into units of work, each exactly one shard of one channel. Pure and deterministic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import canonical_json
from sdoml_dist.solar.times import slot_index, slot_times, year_slots

# Size of a stored image over its raw size; the field of HMI ends at the limb, and NaN takes no room. Series: with the
# JSON of each slot. By benchmarks/pipeline.py and the simulator.
_STORED_FRACTION = {"aia": 0.85, "hmi": 0.42, "hmi_720s": 0.42, "hmi_45s": 0.42, "hmi_stack": 0.42, "eve": 0.9,
                    "eve_diodes": 0.9}  # fmt: skip
# A worker without frames: interpreter, Ray, compiled kernels.
_WORKER_BASE_BYTES = 450 * 2**20
# Bytes of a compressed file per source pixel (of HMI 32-bit integers, the field with much noise), and of an hour of
# EVE's lines.
_SOURCE_BYTES_PER_PIXEL = {"aia": 0.8, "hmi": 1.1, "hmi_720s": 1.4, "hmi_45s": 1.4, "hmi_stack": 1.4}
_SERIES_FILE_BYTES = 30_000
# What the driver does for a unit, one after the other: receipt, share of the commit (benchmarks/scale.py).
_DRIVER_UNIT_S = 0.02
# Turning a magnetogram to another time and adding it, per pixel of the grid, on the reference machine.
_STACK_PIXEL_S = 6e-8
# Ray keeps the rest for its object store unless it is told otherwise.
_RAY_MEMORY_SHARE = 0.7
# As in the template: arrays over (time, channel) have chunks of this many shards.
_SHARDS_PER_TABLE_CHUNK = 16
_MOMENTS = 5


@dataclass(frozen=True)
class Speed:
    """How long the parts of the work take on one core; the defaults are what `sdoml doctor --measure` found on an AMD EPYC.

    Attributes
    ----------
    image_frame_s : float
        A frame of one segment, whatever its size: header, keywords. Seconds.
    image_pixel_s : float
        Per source pixel: decode and calibrate. Seconds.
    vector_pixel_s : float
        Per source pixel of an HMI vector record, its four segments together. Seconds.
    series_file_s : float
        An hourly file of EVE: read and average. Seconds.
    write_byte_s : float
        Per raw byte of a stored image: statistics, compression, shard. Seconds.
    cpu : str
        Model of the processor.
    measured : str
        Date of the measurement, UTC; empty for the reference.
    """

    image_frame_s: float = 0.0127
    image_pixel_s: float = 4.2e-9
    vector_pixel_s: float = 8e-8
    series_file_s: float = 0.06
    write_byte_s: float = 6.2e-9
    cpu: str = "AMD EPYC"
    measured: str = ""

    @property
    def origin(self) -> str:
        """Where the figures come from, for people."""
        if self.measured:
            return f"measured on this machine on {self.measured}"
        return f"of the reference machine ({self.cpu}); 'sdoml doctor --measure' measures this one"

    def rates(self) -> dict[str, float]:
        """Return what one core makes per second, by kind of work."""
        image = 4 * 512**2 * self.write_byte_s
        return {
            "AIA level 1, 4096 to 512 pixels, frames/s": 1
            / (self.image_frame_s + 4096**2 * self.image_pixel_s + image),
            "AIA synoptic, 1024 to 512 pixels, frames/s": 1
            / (self.image_frame_s + 1024**2 * self.image_pixel_s + image),
            "HMI vector, 4096 to 512 pixels, records/s": 1 / (4096**2 * self.vector_pixel_s + 3 * image),
            "EVE lines, hourly files/s": 1 / self.series_file_s,
            "written, MB/s": 1e-6 / self.write_byte_s,
        }


REFERENCE = Speed()
"""Figures of the reference machine."""


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
    """What a plan will take.

    Attributes
    ----------
    units, frames : int
        Shards of work, and values of (slot, channel).
    raw_bytes, stored_bytes : int
        Channels before and after compression.
    objects : int
        Objects of the finished dataset; every commit leaves some more of older versions.
    source_bytes : int
        What is read from the source.
    memory_per_actor_bytes : int
        Peak of one worker.
    core_hours : float
        Work of one core.
    """

    units: int
    frames: int
    raw_bytes: int
    stored_bytes: int
    objects: int
    source_bytes: int
    memory_per_actor_bytes: int
    core_hours: float


def total(estimates: Sequence[Estimate]) -> Estimate:
    """Add up estimates; of the memory the largest counts, for products are built in turn."""
    sums = {name: sum(getattr(one, name) for one in estimates) for name in Estimate.__dataclass_fields__}
    return Estimate(**sums | {"memory_per_actor_bytes": max(one.memory_per_actor_bytes for one in estimates)})


@dataclass(frozen=True)
class Machines:
    """A cluster to plan for.

    Attributes
    ----------
    nodes : int
        How many nodes.
    cpus_per_node : float
        CPUs of each.
    memory_per_node_bytes : int
        Memory of each; Ray offers 70 % of it to actors.
    source_bytes_per_s : float or None
        What the source delivers to all nodes together, if known.
    """

    nodes: int
    cpus_per_node: float
    memory_per_node_bytes: int
    source_bytes_per_s: float | None = None


@dataclass(frozen=True)
class Schedule:
    """How a plan runs on machines.

    Attributes
    ----------
    actors_per_node, actors : int
        How many fit, and how many are used of all.
    limit : str
        What keeps the run from being faster.
    wall_hours, node_hours : float
        Time of the run, and times the nodes.
    source_bytes_per_s : float
        What the source has to deliver for that.
    """

    actors_per_node: int
    actors: int
    limit: str
    wall_hours: float
    node_hours: float
    source_bytes_per_s: float


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

    def _seconds(self, files: int, frames: int, speed: Speed) -> float:
        """Return the work of one core, seconds."""
        recipe = self.recipe
        if recipe.contents.kind == "series":
            return files * speed.series_file_s
        pixels = self.source_pixels**2
        segments = max(len(bundle.segments) for bundle in recipe.bundles)
        # A segment of HMI costs a quarter of a record of four, the frames of AIA have a kernel of their own.
        one = (
            speed.image_frame_s + pixels * speed.image_pixel_s
            if recipe.product == "aia"
            else segments * pixels * speed.vector_pixel_s / 4
        )
        if recipe.product == "hmi_stack":
            one += recipe.grid.pixels**2 * _STACK_PIXEL_S
        return files / segments * one + frames * 4 * recipe.grid.pixels**2 * speed.write_byte_s

    def _objects(self, size: int) -> int:
        """Count the objects of the finished dataset: shards, histograms, headers, and tables over (time, channel)."""
        recipe, count = self.recipe, 0
        images = recipe.contents.kind == "images"
        tables = 1 + len(recipe.contents.keywords) + (_MOMENTS if images else 0)
        for start, stop in self.years().values():
            first, last = start // size, -(-stop // size)
            per_shard = sum((2 if images else 1) * len(bundle.channels) + 1 for bundle in recipe.bundles)
            count += (last - first) * per_shard
            count += tables * (-(-last // _SHARDS_PER_TABLE_CHUNK) - first // _SHARDS_PER_TABLE_CHUNK)
        return count

    def estimate(self, speed: Speed = REFERENCE) -> Estimate:
        """Estimate frames, bytes, objects, memory and time.

        Parameters
        ----------
        speed : Speed
            Of one core of the machines that will do it.
        """
        recipe = self.recipe
        size = recipe.shard_slots
        shards = sum(-(-stop // size) - start // size for start, stop in self.years().values())
        bundles, images = recipe.bundles, recipe.contents.kind == "images"
        frames = self.slots * len(recipe.channels)
        files = self.slots * sum(len(bundle.segments) for bundle in bundles)
        if recipe.product == "hmi_stack":
            files *= recipe.stack.frames
        image_bytes = 4 * (recipe.grid.pixels**2 if images else 1)
        source_pixels = self.source_pixels**2
        source_bytes = int(files * source_pixels * _SOURCE_BYTES_PER_PIXEL.get(recipe.product, 0))
        if not images:
            files = -(-self.slots * recipe.cadence // recipe.contents.file_span_s)
            source_bytes = files * _SERIES_FILE_BYTES
        widest = max(len(bundle.channels) for bundle in bundles)
        segments = max(len(bundle.segments) for bundle in bundles)
        # The blocks of the shards, one's compressed chunks and joined object; a frame's files as bytes, integers, floats.
        memory = _WORKER_BASE_BYTES + (2 + widest) * size * image_bytes + 10 * segments * source_pixels
        if recipe.product == "hmi_stack":
            # Sum and count of the stack, the frame in the middle and the one that is turned.
            memory += 20 * recipe.grid.pixels**2
        return Estimate(
            units=shards * len(bundles),
            frames=frames,
            raw_bytes=frames * image_bytes,
            stored_bytes=int(frames * image_bytes * _STORED_FRACTION[recipe.product]),
            objects=self._objects(size),
            source_bytes=source_bytes,
            memory_per_actor_bytes=recipe.resources.memory_per_actor or memory,
            core_hours=self._seconds(files, frames, speed) / 3600,
        )

    def schedule(self, machines: Machines, speed: Speed = REFERENCE) -> Schedule:
        """Say how long the plan takes on given machines, and what limits it.

        Parameters
        ----------
        machines : Machines
            The cluster.
        speed : Speed
            Of one of its cores.

        Raises
        ------
        UsageError
            If not even one actor fits on a node.
        """
        resources, estimate = self.recipe.resources, self.estimate(speed)
        by_cpu = int(machines.cpus_per_node // resources.cpus_per_actor)
        by_memory = int(machines.memory_per_node_bytes * _RAY_MEMORY_SHARE // estimate.memory_per_actor_bytes)
        fit = min(by_cpu, by_memory)
        if fit < 1:
            raise UsageError(
                f"No actor of product {self.recipe.product!r} fits on such a node: one takes {resources.cpus_per_actor:g} CPUs "
                f"and {estimate.memory_per_actor_bytes / 1e9:.2f} GB, a node offers {machines.cpus_per_node:g} CPUs and "
                f"{machines.memory_per_node_bytes * _RAY_MEMORY_SHARE / 1e9:.2f} GB "
                f"({_RAY_MEMORY_SHARE:.0%} of its memory; Ray keeps the rest for objects).",
                "The run would not start.",
                "Plan for larger nodes, or lower chunking.shard_slots.",
            )
        limit = "memory" if by_memory < by_cpu else "CPUs"
        actors = fit * machines.nodes
        for most, name in ((resources.maximum_actors, "resources.maximum_actors"), (estimate.units, "number of units")):
            if most is not None and most < actors:
                actors, limit = most, name
        # The last round of units may leave most actors idle.
        hours = -(-estimate.units // actors) * estimate.core_hours / estimate.units
        others = {"driver": estimate.units * _DRIVER_UNIT_S / 3600}
        if machines.source_bytes_per_s:
            others["source"] = estimate.source_bytes / machines.source_bytes_per_s / 3600
        slowest = max(others, key=lambda name: others[name])
        if others[slowest] > hours:
            hours, limit = others[slowest], slowest
        return Schedule(
            fit, actors, limit, hours, hours * machines.nodes, estimate.source_bytes / max(hours * 3600, 1e-9)
        )

    def summary(self, speed: Speed = REFERENCE) -> dict[str, Any]:
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
            **asdict(self.estimate(speed)),
        }


def unit_times(unit: Unit, cadence_s: int) -> np.ndarray:
    """Return the slot times of a unit, ``datetime64[ns]`` UTC, shape (slots,)."""
    return slot_times(unit.year, cadence_s, unit.start, unit.stop)
