"""The plan of an emergence dataset: axes of every region on one grid of frames, and units of three stages.

Frames are numbered on a grid of 45 s of TAI, windows on one of the hop, so that all regions share the boundaries of blocks:
a full-disc frame is read once and serves every region on it. No two units write one shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from sdoml_dist.emergence_recipe import CADENCE_S, EmergenceRecipe
from sdoml_dist.recipe_base import canonical_json
from sdoml_dist.solar.regions import Region
from sdoml_dist.solar.times import tai_to_utc, utc_to_tai
from sdoml_dist.solar.tracking import Patch

Quantity = Literal["V", "M", "Ic"]
QUANTITIES: tuple[Quantity, ...] = ("V", "M", "Ic")
"""Dopplergrams, at every frame; magnetograms and continuum images, one per window."""
Stage = Literal["track", "power", "timelines"]
STAGES: tuple[Stage, ...] = ("track", "power", "timelines")

_NS = 1_000_000_000
# A worker without frames: interpreter, Ray, compiled kernels.
_WORKER_BASE_BYTES = 450 * 2**20
# By benchmarks/emergence.py on one core of an AMD EPYC: a source pixel read, a pixel of a patch cut out and written,
# a pixel of a window of power (hop of 16 to 80 frames) with its reading and writing.
_READ_PIXEL_S, _TRACK_PIXEL_S, _POWER_PIXEL_S = 1.2e-8, 2.2e-7, 9e-7
_STORED_FRACTION = 0.8
_SOURCE_BYTES_PER_PIXEL = 1.4


def frame_times(first: int, count: int, step: int = 1) -> np.ndarray:
    """Return the UTC times of frames ``first``, ``first + step``, ... of the grid, ``datetime64[ns]``, shape (count,).

    Frame 0 is at 1970-01-01 00:00:00 TAI, so that frames fall on the hours of TAI, as T_REC of HMI does.
    """
    number = first + np.arange(count, dtype=np.int64) * step
    times: np.ndarray = tai_to_utc((number * (CADENCE_S * _NS)).astype("datetime64[ns]"))
    return times


def frame_number(time: np.datetime64, round_up: bool = False) -> int:
    """Return the number of the frame at or before a UTC time, or at or after it."""
    tai = int(utc_to_tai(time.astype("datetime64[ns]")).astype(np.int64))
    step = CADENCE_S * _NS
    return -(-tai // step) if round_up else tai // step


@dataclass(frozen=True)
class Axis:
    """A stretch of a grid: numbers from `first`, `count` of them."""

    first: int
    count: int

    @property
    def stop(self) -> int:
        """Number after the last."""
        return self.first + self.count

    @classmethod
    def blocks(cls, first: int, stop: int, size: int) -> Axis:
        """Return the whole blocks that hold ``first`` to ``stop``."""
        low, high = first // size * size, -(-stop // size) * size
        return cls(low, high - low)


@dataclass(frozen=True)
class RegionAxes:
    """The axes of a region's arrays.

    Attributes
    ----------
    region : Region
        The region.
    frames : Axis
        Dopplergrams, on the grid of frames; whole blocks.
    windows : Axis
        Windows of power, on the grid of windows (frame number over hop).
    snapshots : Axis
        Magnetograms and continuum images, on the grid of windows; whole blocks that hold `windows`.
    """

    region: Region
    frames: Axis
    windows: Axis
    snapshots: Axis

    def axis(self, quantity: Quantity) -> Axis:
        """Return the axis of time of a quantity."""
        return self.frames if quantity == "V" else self.snapshots


@dataclass(frozen=True)
class TrackUnit:
    """All frames of one quantity in one block of time, for every region there.

    Attributes
    ----------
    quantity : {"V", "M", "Ic"}
        Which series of HMI.
    block : int
        Number of the block on the grid.
    regions : tuple of int
        Numbers of the regions that have the block.
    """

    quantity: Quantity
    block: int
    regions: tuple[int, ...]

    @property
    def unit_id(self) -> str:
        """Readable identity."""
        return f"track/{self.quantity}/{self.block}"


@dataclass(frozen=True)
class PowerUnit:
    """The windows of one segment of one region, on one tile of pixels."""

    region: int
    segment: int
    row: int
    column: int

    @property
    def unit_id(self) -> str:
        """Readable identity."""
        return f"power/AR{self.region}/{self.segment}/{self.row}.{self.column}"


@dataclass(frozen=True)
class TimelineUnit:
    """The timelines of one region."""

    region: int

    @property
    def unit_id(self) -> str:
        """Readable identity."""
        return f"timelines/AR{self.region}"


@dataclass(frozen=True)
class EmergenceEstimate:
    """What a plan will take.

    Attributes
    ----------
    regions, frames, windows : int
        Regions; full-disc frames to read; windows of power over all regions.
    units : dict of str to int
        Units by stage.
    source_bytes, raw_bytes, stored_bytes : int
        What is read from the source, and arrays before and after compression.
    memory_per_actor_bytes : int
        Peak of one worker.
    core_hours : dict of str to float
        Work of one core by stage.
    """

    regions: int
    frames: int
    windows: int
    units: dict[str, int]
    source_bytes: int
    raw_bytes: int
    stored_bytes: int
    memory_per_actor_bytes: int
    core_hours: dict[str, float]


class EmergencePlan:
    """A recipe resolved. Pure and deterministic.

    Parameters
    ----------
    recipe : EmergenceRecipe
        The recipe.
    """

    def __init__(self, recipe: EmergenceRecipe) -> None:
        self.recipe = recipe

    @cached_property
    def axes(self) -> dict[int, RegionAxes]:
        """Axes of every region by its number, in the order of the recipe."""
        return {region.number: self._axes(region) for region in self.recipe.all_regions()}

    def _axes(self, region: Region) -> RegionAxes:
        hop, window, layout = self.recipe.power.hop, self.recipe.power.window, self.recipe.layout
        size = max(hop, layout.block_frames)
        first = frame_number(region.start, round_up=True) // size * size
        stop = max(frame_number(region.end, round_up=True), first + window)
        frames = Axis.blocks(first, stop, layout.block_frames)
        windows = Axis(frames.first // hop, (frames.count - window) // hop + 1)
        return RegionAxes(region, frames, windows, Axis.blocks(windows.first, windows.stop, layout.block_windows))

    @property
    def plan_id(self) -> str:
        """SHA-256 over identity and regions, 16 hexadecimal digits."""
        regions = [str(axes.region) for axes in self.axes.values()]
        return hashlib.sha256(canonical_json([self.recipe.identity(), regions]).encode()).hexdigest()[:16]

    def patch(self, region: Region) -> Patch:
        """Return the map that follows a region."""
        tracking = self.recipe.tracking
        return Patch(
            region.latitude_deg, region.longitude_deg, region.reference, tracking.pixels, tracking.scale_deg,
            tracking.projection, tracking.rate_deg_per_day,
        )  # fmt: skip

    def block_size(self, quantity: Quantity) -> int:
        """Return the frames per block of a quantity."""
        layout = self.recipe.layout
        return layout.block_frames if quantity == "V" else layout.block_windows

    def block_times(self, quantity: Quantity, block: int) -> np.ndarray:
        """Return the UTC times of a block's frames, ``datetime64[ns]``."""
        return self.times(quantity, Axis(block * self.block_size(quantity), self.block_size(quantity)))

    def times(self, quantity: Quantity, axis: Axis) -> np.ndarray:
        """Return the UTC times of the frames of an axis: of a snapshot, that of its frame."""
        if quantity == "V":
            return frame_times(axis.first, axis.count)
        hop = self.recipe.power.hop
        return frame_times(axis.first * hop + self.recipe.snapshot_frame, axis.count, hop)

    def window_times(self, axes: RegionAxes) -> np.ndarray:
        """Return the UTC times of the middles of a region's windows."""
        hop, window = self.recipe.power.hop, self.recipe.power.window
        half = np.timedelta64((window - 1) * CADENCE_S * _NS // 2, "ns")
        times: np.ndarray = frame_times(axes.windows.first * hop, axes.windows.count, hop) + half
        return times

    def track_units(self) -> Iterator[TrackUnit]:
        """Yield the units of tracking in order of time."""
        for quantity in QUANTITIES:
            size = self.block_size(quantity)
            there: dict[int, list[int]] = {}
            for number, axes in self.axes.items():
                axis = axes.axis(quantity)
                for block in range(axis.first // size, axis.stop // size):
                    there.setdefault(block, []).append(number)
            for block in sorted(there):
                yield TrackUnit(quantity, block, tuple(there[block]))

    def segments(self, axes: RegionAxes) -> int:
        """Return the number of segments of a region's windows."""
        return -(-axes.windows.count // self.recipe.layout.segment_windows)

    @property
    def tiles_per_axis(self) -> int:
        """Tiles of pixels per axis of a patch."""
        return self.recipe.tracking.pixels // self.recipe.layout.tile_pixels

    def power_units(self) -> Iterator[PowerUnit]:
        """Yield the units of power."""
        for number, axes in self.axes.items():
            for segment in range(self.segments(axes)):
                for row in range(self.tiles_per_axis):
                    for column in range(self.tiles_per_axis):
                        yield PowerUnit(number, segment, row, column)

    def segment_windows(self, axes: RegionAxes, segment: int) -> Axis:
        """Return the windows of a segment, counted from the region's first."""
        size = self.recipe.layout.segment_windows
        return Axis(segment * size, min(size, axes.windows.count - segment * size))

    def segment_frames(self, axes: RegionAxes, segment: int) -> Axis:
        """Return the frames that a segment needs, counted from the region's first."""
        hop, window = self.recipe.power.hop, self.recipe.power.window
        windows = self.segment_windows(axes, segment)
        return Axis(windows.first * hop, (windows.count - 1) * hop + window)

    @property
    def memory_per_actor_bytes(self) -> int:
        """Peak of one worker: of tracking the blocks of all its regions, of power one tile with all its frames."""
        recipe, layout = self.recipe, self.recipe.layout
        most = max((len(unit.regions) for unit in self.track_units()), default=1)
        frame = 4 * recipe.tracking.pixels**2
        # Blocks, compressed chunks of the one being written; the frame as bytes, integers and floats.
        tracking = (most + 1) * max(layout.block_frames, layout.block_windows) * frame + 12 * self._source_pixels
        # Coordinates of the pixels of every patch, double precision.
        tracking += most * 4 * frame
        longest = (layout.segment_windows - 1) * recipe.power.hop + recipe.power.window
        bands = len(recipe.power.bands_millihertz)
        tile = 4 * layout.tile_pixels**2
        power = tile * (1.5 * longest + 2 * layout.segment_windows * (bands + 1))
        return recipe.resources.memory_per_actor or _WORKER_BASE_BYTES + int(max(tracking, power))

    @property
    def _source_pixels(self) -> int:
        return (self.recipe.source_pixels or 4096) ** 2

    def estimate(self) -> EmergenceEstimate:
        """Estimate frames, bytes, memory and time."""
        recipe = self.recipe
        tracks = list(self.track_units())
        frames = sum(self.block_size(unit.quantity) for unit in tracks)
        cut = sum(self.block_size(unit.quantity) * len(unit.regions) for unit in tracks)
        windows = sum(axes.windows.count for axes in self.axes.values())
        segments = sum(self.segments(axes) for axes in self.axes.values())
        patch = recipe.tracking.pixels**2
        raw = 4 * patch * (cut + windows * (len(recipe.power.bands_millihertz) + 1))
        hours = {
            "track": (frames * self._source_pixels * _READ_PIXEL_S + cut * patch * _TRACK_PIXEL_S) / 3600,
            "power": windows * patch * _POWER_PIXEL_S / 3600,
        }
        return EmergenceEstimate(
            regions=len(self.axes),
            frames=frames,
            windows=windows,
            units={"track": len(tracks), "power": segments * self.tiles_per_axis**2, "timelines": len(self.axes)},
            source_bytes=int(frames * self._source_pixels * _SOURCE_BYTES_PER_PIXEL),
            raw_bytes=raw,
            stored_bytes=int(raw * _STORED_FRACTION),
            memory_per_actor_bytes=self.memory_per_actor_bytes,
            core_hours=hours,
        )

    def summary(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "plan_id": self.plan_id, "fingerprint": self.recipe.fingerprint, "name": self.recipe.name,
            "product": self.recipe.product, **asdict(self.estimate()),
        }  # fmt: skip
