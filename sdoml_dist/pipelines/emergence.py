"""What a worker does with a unit of an emergence dataset: make it, write its shards, hand back the receipt."""

from __future__ import annotations

import os
import resource
import socket
import time

import numpy as np

from sdoml_dist.emergence_plan import EmergencePlan, PowerUnit, TimelineUnit, TrackUnit
from sdoml_dist.emergence_recipe import CADENCE_S
from sdoml_dist.pipelines.tracking import TrackedBlock, Tracker
from sdoml_dist.solar.helioseismology import band_power
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.tiles import GRID, tile_means
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.emergence import AnyUnit, RegionWriter, StageReceipt

# Maps of power that are averaged over tiles at a time.
_WINDOWS_AT_ONCE = 16


class EmergenceWorker:
    """Process units of all three stages; made once per worker.

    Parameters
    ----------
    plan : EmergencePlan
        The plan.
    fork_bytes : bytes
        Pickled fork of the driver's session, taken after the stage before was committed.
    """

    def __init__(self, plan: EmergencePlan, fork_bytes: bytes) -> None:
        self.plan, self.fork_bytes = plan, fork_bytes
        self._tracker = Tracker(plan, make_source(plan.recipe))

    def process(self, unit: AnyUnit, mask: np.ndarray | None = None) -> StageReceipt:
        """Process a unit and return its receipt.

        Parameters
        ----------
        unit : TrackUnit, PowerUnit or TimelineUnit
            The unit.
        mask : numpy.ndarray, optional
            Of tracking, which frames of the block to do.
        """
        receipt = StageReceipt(unit, np.empty(0, np.uint8), np.empty(0, np.int64), started=time.time())
        clock = time.perf_counter()
        writer = RegionWriter(self.fork_bytes)
        if isinstance(unit, TrackUnit):
            self._track(unit, mask, writer, receipt)
        elif isinstance(unit, PowerUnit):
            self._power(unit, writer, receipt)
        else:
            self._timelines(unit, writer, receipt)
        receipt.fork = writer.finish()
        receipt.seconds = time.perf_counter() - clock
        receipt.node, receipt.worker = socket.gethostname(), str(os.getpid())
        receipt.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return receipt

    def _track(self, unit: TrackUnit, mask: np.ndarray | None, writer: RegionWriter, receipt: StageReceipt) -> None:
        block = self._tracker.process(unit, mask)
        size = self.plan.block_size(unit.quantity)
        receipt.frames = np.arange(size) if mask is None else np.flatnonzero(mask)
        receipt.status, receipt.details = block.status, block.details
        receipt.read_bytes, receipt.read_s = block.read_bytes, block.read_s
        began = time.perf_counter()
        for region in unit.regions:
            axes = self.plan.axes[region]
            low = unit.block * size - axes.axis(unit.quantity).first
            for name, values in _arrays(unit, region, block).items():
                array = writer.array(axes.region.name, unit.quantity, name)
                if mask is not None:
                    # Frames that an earlier run finished stay as they are; the shard is written as a whole.
                    before = np.asarray(array[low : low + size])
                    before[receipt.frames] = values
                    values = before
                array[low : low + size] = values
        receipt.write_s = time.perf_counter() - began

    def _power(self, unit: PowerUnit, writer: RegionWriter, receipt: StageReceipt) -> None:
        recipe, axes = self.plan.recipe, self.plan.axes[unit.region]
        frames, windows = self.plan.segment_frames(axes, unit.segment), self.plan.segment_windows(axes, unit.segment)
        size = recipe.layout.tile_pixels
        tile = (slice(unit.row * size, (unit.row + 1) * size), slice(unit.column * size, (unit.column + 1) * size))
        began = time.perf_counter()
        velocity = np.asarray(writer.array(axes.region.name, "V", "V")[frames.first : frames.stop, tile[0], tile[1]])
        receipt.read_s, receipt.read_bytes = time.perf_counter() - began, velocity.nbytes
        power = recipe.power
        found = band_power(
            velocity, CADENCE_S, power.window, power.hop, power.bands_millihertz, power.convention, power.gaps,
            power.minimum_duty_cycle,
        )  # fmt: skip
        began = time.perf_counter()
        place = slice(windows.first, windows.stop)
        writer.array(axes.region.name, "power", "power")[place, :, tile[0], tile[1]] = found.power
        writer.array(axes.region.name, "power", "duty_cycle")[place, tile[0], tile[1]] = found.duty_cycle
        receipt.write_s = time.perf_counter() - began
        receipt.status = np.full(windows.count, int(FrameStatus.OK), np.uint8)

    def _timelines(self, unit: TimelineUnit, writer: RegionWriter, receipt: StageReceipt) -> None:
        recipe, axes = self.plan.recipe, self.plan.axes[unit.region]
        name, count = axes.region.name, axes.windows.count
        maps = writer.array(name, "power", "power")
        began = time.perf_counter()
        means = np.empty((len(recipe.power.bands_millihertz), GRID**2, count))
        for low in range(0, count, _WINDOWS_AT_ONCE):
            part = np.asarray(maps[low : low + _WINDOWS_AT_ONCE])
            receipt.read_bytes += part.nbytes
            means[:, :, low : low + _WINDOWS_AT_ONCE] = tile_means(part).transpose(1, 2, 0)
        writer.array(name, "timelines", "power")[:] = means
        first = axes.windows.first - axes.snapshots.first
        for quantity, target in (("M", "flux"), ("Ic", "intensity")):
            tiles = np.asarray(writer.array(name, quantity, "tiles")[first : first + count])  # type: ignore[arg-type]
            writer.array(name, "timelines", target)[:] = tiles.T
        # Next to nothing else is done here.
        receipt.read_s = time.perf_counter() - began
        receipt.status = np.full(count, int(FrameStatus.OK), np.uint8)


def _arrays(unit: TrackUnit, region: int, block: TrackedBlock) -> dict[str, np.ndarray]:
    """Return the arrays of a region that a block of tracking fills."""
    found = {
        unit.quantity: block.maps[region], "keywords": block.keywords[region],
        "record": np.array(block.records, dtype=object),
    }  # fmt: skip
    return found if unit.quantity == "V" else found | {"tiles": block.tiles[region]}
