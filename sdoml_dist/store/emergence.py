"""The arrays of an emergence dataset, and the record of what is done in it.

Each region has a group: ``V``, ``M`` and ``Ic`` with its tracked maps, ``power`` with the band powers of its windows, and
``timelines``. Workers write whole shards through forks; the driver writes the status arrays alone.
"""

from __future__ import annotations

import pickle
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import zarr

from sdoml_dist.emergence_plan import (
    QUANTITIES,
    Axis,
    EmergencePlan,
    PowerUnit,
    Quantity,
    RegionAxes,
    Stage,
    TimelineUnit,
    TrackUnit,
)
from sdoml_dist.emergence_recipe import EmergenceRecipe, RegionEntry
from sdoml_dist.errors import StoreError
from sdoml_dist.recipe_base import difference
from sdoml_dist.solar.status import FrameStatus, has_outcome
from sdoml_dist.store.emergence_template import GROUP, create_region
from sdoml_dist.store.receipt import count_outcomes
from sdoml_dist.store.repository import Ledger

_DONE, _PENDING = int(FrameStatus.OK), int(FrameStatus.PENDING)

AnyUnit = TrackUnit | PowerUnit | TimelineUnit
Task = tuple[AnyUnit, np.ndarray | None]
"""A unit, and for tracking the frames of the block to do where these are not all (a mask)."""


@dataclass
class StageReceipt:
    """Outcome of one unit.

    Attributes
    ----------
    unit : TrackUnit, PowerUnit or TimelineUnit
        The unit.
    status : numpy.ndarray
        Of tracking: codes of the block's frames that were processed. Else the code of each window.
    frames : numpy.ndarray
        Of tracking: which frames of the block were processed, counted from its first.
    fork : bytes
        The pickled fork through which the shards were written.
    """

    unit: AnyUnit
    status: np.ndarray
    frames: np.ndarray
    fork: bytes = b""
    started: float = 0.0
    seconds: float = 0.0
    read_s: float = 0.0
    write_s: float = 0.0
    read_bytes: int = 0
    peak_memory_bytes: int = 0
    node: str = ""
    details: list[str] = field(default_factory=list)
    worker: str = ""

    @property
    def phases(self) -> dict[str, float]:
        """What the time went into, seconds."""
        work = self.seconds - self.read_s - self.write_s
        return {"source": self.read_s, "compute": max(work, 0.0), "write": self.write_s}

    @property
    def unit_id(self) -> str:
        """Identity of the unit."""
        return self.unit.unit_id

    def outcomes(self) -> Counter[str]:
        """Count frames or windows by outcome."""
        return count_outcomes(self.status)


class EmergenceStore:
    """An emergence dataset, opened for writing by its one driver.

    Parameters
    ----------
    plan : EmergencePlan
        What to build.

    Raises
    ------
    StoreError
        If the dataset was made from a recipe that does not fit, or holds something else.
    EnvironmentFault
        If the storage refuses.
    """

    def __init__(self, plan: EmergencePlan) -> None:
        self.plan = plan
        self.ledger = Ledger(plan.recipe.store)
        self._adopt()

    def _adopt(self) -> None:
        """Create what the plan needs, or refuse a plan that does not fit what is there."""
        recipe = self.plan.recipe
        root = self.ledger.group(mode="a")
        group = root.require_group(GROUP)
        fresh = "recipe" not in group.attrs
        if not fresh:
            stored = EmergenceRecipe.model_validate(group.attrs["recipe"])
            lines = difference(stored.identity(), recipe.identity())
            if lines:
                raise StoreError(
                    f"{recipe.store.url} was built from another recipe:\n" + "\n".join(lines),
                    "Mixing both in one dataset would make regions that cannot be compared.",
                    "Undo the change, or give the new recipe a store.url of its own.",
                )
        for axes in self.plan.axes.values():
            if axes.region.name in group:
                self._refuse_change(group, axes)
        missing = [axes for axes in self.plan.axes.values() if axes.region.name not in group]
        if not fresh and not missing:
            return
        for axes in missing:
            create_region(group, self.plan, axes)
        group.attrs.update(self._attributes(group))
        names = f"{len(missing)} regions" if len(missing) != 1 else missing[0].region.name
        self.ledger.commit(f"{GROUP}: {'create' if fresh else 'add'} {names}")

    def _attributes(self, group: zarr.Group) -> dict[str, Any]:
        recipe = self.plan.recipe
        # Regions that an earlier recipe had stay.
        known = {entry["number"]: entry for entry in group.attrs.get("regions", [])}
        known |= {n: RegionEntry.of(axes.region).model_dump(mode="json") for n, axes in self.plan.axes.items()}
        software = {name: version(name) for name in ("sdoml-dist", "numpy", "zarr", "icechunk", "astropy", "numba")}
        return {
            "Conventions": "CF-1.11", "title": recipe.name, "product": GROUP, "time_scale": "UTC",
            "recipe": recipe.model_dump(mode="json"), "fingerprint": recipe.fingerprint, "plan_id": self.plan.plan_id,
            "regions": list(known.values()), "software": software | {"python": platform.python_version()},
            "references": "Kasapis et al. 2024, arXiv:2402.08890; Kasapis et al. 2025, ApJS 280, 64",
        }  # fmt: skip

    def _refuse_change(self, group: zarr.Group, axes: RegionAxes) -> None:
        stored = {entry["number"]: entry for entry in group.attrs["regions"]}[axes.region.number]
        lines = difference(stored, RegionEntry.of(axes.region).model_dump(mode="json"))
        if lines:
            raise StoreError(
                f"{axes.region.name} of {self.plan.recipe.store.url} was followed elsewhere:\n" + "\n".join(lines),
                "A region that is in the dataset does not change.",
                "Undo the change, or give the region another number.",
            )

    def _status(self, path: str) -> zarr.Array[Any]:
        array = self.ledger.group(f"{GROUP}/{path}", "r+")["status"]
        assert isinstance(array, zarr.Array)
        return array

    def pending(self, stage: Stage, retry: Iterable[str] = ()) -> list[Task]:
        """Return what a stage has left to do.

        Parameters
        ----------
        stage : {"track", "power", "timelines"}
            The stage.
        retry : iterable of str
            Outcomes of frames to do again besides what is pending, for example ``("failed",)``.
        """
        plan, retry = self.plan, tuple(retry)
        tasks: list[Task] = []
        if stage == "track":
            codes = {
                (number, quantity): np.asarray(self._status(f"{axes.region.name}/{quantity}")[:])
                for number, axes in plan.axes.items()
                for quantity in QUANTITIES
            }
            for unit in plan.track_units():
                size = plan.block_size(unit.quantity)
                # Regions with the same frames to do are one task: no region's finished frames are made again because
                # another one lacks them.
                todo: dict[bytes, tuple[np.ndarray, list[int]]] = {}
                for number in unit.regions:
                    low = unit.block * size - plan.axes[number].axis(unit.quantity).first
                    wanted = has_outcome(codes[number, unit.quantity][low : low + size], "pending", *retry)
                    if wanted.any():
                        todo.setdefault(wanted.tobytes(), (wanted, []))[1].append(number)
                tasks += [
                    (TrackUnit(unit.quantity, unit.block, tuple(numbers)), None if mask.all() else mask)
                    for mask, numbers in todo.values()
                ]
        elif stage == "power":
            done = {n: np.asarray(self._status(f"{axes.region.name}/power")[:]) for n, axes in plan.axes.items()}
            tasks += [
                (unit, None)
                for unit in plan.power_units()
                if done[unit.region][unit.segment, unit.row, unit.column] != _DONE
            ]
        else:
            tasks += [
                (TimelineUnit(number), None)
                for number, axes in plan.axes.items()
                if self._status(f"{axes.region.name}/timelines")[0] != _DONE
            ]
        return tasks

    def count(self, tasks: list[Task]) -> int:
        """Count the frames or windows of some tasks."""
        return sum(self._count(*task) for task in tasks)

    def _count(self, unit: AnyUnit, mask: np.ndarray | None) -> int:
        if isinstance(unit, TrackUnit):
            return self.plan.block_size(unit.quantity) if mask is None else int(mask.sum())
        axes = self.plan.axes[unit.region]
        return (
            axes.windows.count
            if isinstance(unit, TimelineUnit)
            else self.plan.segment_windows(axes, unit.segment).count
        )

    def commit(self, receipts: list[StageReceipt], message: str, metadata: dict[str, Any]) -> None:
        """Make the shards of these receipts, and what became of their frames, visible at once.

        Raises
        ------
        EnvironmentFault
            If the storage refuses, or another driver has committed meanwhile.
        """
        forks = (receipt.fork for receipt in receipts if receipt.fork)
        self.ledger.merge(forks, partial(self._write_status, receipts), message, metadata)

    def _write_status(self, receipts: list[StageReceipt]) -> None:
        """Write what is done, and what has to be done again because what it was made of has changed."""
        before: dict[str, np.ndarray] = {}
        after: dict[str, np.ndarray] = {}

        def codes(path: str) -> np.ndarray:
            if path not in after:
                before[path] = np.asarray(self._status(path)[:])
                after[path] = before[path].copy()
            return after[path]

        for receipt in receipts:
            unit = receipt.unit
            if isinstance(unit, TrackUnit):
                for number in unit.regions:
                    self._write_tracked(receipt, unit, self.plan.axes[number], codes)
                continue
            name = self.plan.axes[unit.region].region.name
            if isinstance(unit, PowerUnit):
                codes(f"{name}/power")[unit.segment, unit.row, unit.column] = _DONE
            codes(f"{name}/timelines")[0] = _DONE if isinstance(unit, TimelineUnit) else _PENDING
        for path, values in after.items():
            if not np.array_equal(before[path], values):
                self._status(path)[:] = values

    def _write_tracked(
        self, receipt: StageReceipt, unit: TrackUnit, axes: RegionAxes, codes: Callable[[str], np.ndarray]
    ) -> None:
        """Write the outcome of frames; what was made of those whose maps have changed has to be made again."""
        place = unit.block * self.plan.block_size(unit.quantity) - axes.axis(unit.quantity).first
        frames, name = place + receipt.frames, axes.region.name
        outcome = codes(f"{name}/{unit.quantity}")
        # A frame that was no data and still is none has changed nothing.
        changed = frames[has_outcome(outcome[frames], "ok") | has_outcome(receipt.status, "ok")]
        outcome[frames] = receipt.status
        if changed.size == 0:
            return
        touched = Axis(int(changed[0]), int(changed[-1] - changed[0]) + 1)
        if unit.quantity == "V":
            segments = [s for s in range(self.plan.segments(axes)) if self._touches(axes, s, touched)]
            codes(f"{name}/power")[segments] = _PENDING
            shown = bool(segments)
        else:
            # Blocks of snapshots reach beyond the region's windows.
            first = axes.windows.first - axes.snapshots.first
            shown = touched.first < first + axes.windows.count and first < touched.stop
        if shown:
            codes(f"{name}/timelines")[0] = _PENDING

    def _touches(self, axes: RegionAxes, segment: int, frames: Axis) -> bool:
        needed = self.plan.segment_frames(axes, segment)
        return needed.first < frames.stop and frames.first < needed.stop

    def failed(self) -> int:
        """Count the tracked frames that failed, over all regions of the plan."""
        return sum(
            int(has_outcome(np.asarray(self._status(f"{axes.region.name}/{quantity}")[:]), "failed").sum())
            for axes in self.plan.axes.values()
            for quantity in QUANTITIES
        )


class RegionWriter:
    """A fork of the driver's session, through which a worker reads and writes regions.

    Parameters
    ----------
    fork_bytes : bytes
        Pickled fork.
    """

    def __init__(self, fork_bytes: bytes) -> None:
        self._fork = pickle.loads(fork_bytes)  # noqa: S301 - made by the driver of this run

    def group(self, region: str, part: Quantity | Literal["power", "timelines"]) -> zarr.Group:
        """Return a group of a region."""
        return zarr.open_group(self._fork.store, path=f"{GROUP}/{region}/{part}", mode="r+")

    def array(self, region: str, part: Quantity | Literal["power", "timelines"], name: str) -> zarr.Array[Any]:
        """Return an array of a region."""
        array = self.group(region, part)[name]
        assert isinstance(array, zarr.Array)
        return array

    def finish(self) -> bytes:
        """Return the pickled fork, to be merged by the driver."""
        return pickle.dumps(self._fork)
