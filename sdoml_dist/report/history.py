"""The history of a run: its units, on which workers they ran, what their time and memory went into."""

from __future__ import annotations

import json
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.plan_text import human_bytes
from sdoml_dist.store.storage import join, sidecar_filesystem

PHASES = ("source", "decode", "calibrate", "compute", "write", "other")
"""What the time of a unit goes into, in the order in which it is drawn."""
_BINS = 240
_SLOWEST = 5


@dataclass(frozen=True)
class DoneUnit:
    """One finished unit.

    Attributes
    ----------
    started, seconds : float
        Unix time of its beginning, and how long it took.
    phases : dict of str to float
        What the time went into, seconds.
    peak_bytes, projected_bytes : int
        Largest memory of its worker by its end, and what the plan projects; 0 where a run did not record it.
    """

    name: str
    frames: int
    failed: int
    started: float
    seconds: float
    read_bytes: int
    peak_bytes: int
    projected_bytes: int
    node: str
    worker: str
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> float:
        """Unix time of its end."""
        return self.started + self.seconds

    @classmethod
    def of(cls, line: dict[str, Any]) -> DoneUnit:
        """Return the unit of a line of the history; runs of earlier versions recorded less."""
        seconds = float(line["seconds"])
        return cls(
            str(line["unit"]), int(line["frames"]), int(dict(line.get("outcomes") or {}).get("failed", 0)),
            float(line["started_unix_s"]), seconds, int(line.get("read_bytes", 0)),
            int(line.get("peak_memory_bytes", 0)), int(line.get("projected_memory_bytes", 0)),
            str(line.get("node", "")), str(line.get("worker", "")), dict(line.get("phases") or {"other": seconds}),
        )  # fmt: skip


@dataclass(frozen=True)
class History:
    """A run and its units in the order in which they began.

    Attributes
    ----------
    record : dict
        The record of the run.
    units : tuple of DoneUnit
        At least one.
    """

    record: dict[str, Any]
    units: tuple[DoneUnit, ...]

    @cached_property
    def start(self) -> float:
        """When the first unit began, Unix time."""
        return self.units[0].started

    @cached_property
    def end(self) -> float:
        """When the last unit ended, Unix time."""
        return max(unit.ended for unit in self.units)

    @cached_property
    def span_s(self) -> float:
        """Seconds from the first beginning to the last end."""
        return max(self.end - self.start, 1e-6)

    @cached_property
    def lanes(self) -> list[tuple[str, list[DoneUnit]]]:
        """Units by worker, as (node, units); sorted by node and first beginning. No two of a lane overlap.

        Where a run did not record its workers, units of a node that overlap are put into different lanes.
        """
        lanes: list[tuple[str, str, list[DoneUnit]]] = []
        open_lanes: dict[tuple[str, str], list[int]] = {}
        for unit in self.units:
            known = open_lanes.setdefault((unit.node, unit.worker), [])
            # Clocks and rounding leave a few milliseconds between units that follow each other.
            free = next((lane for lane in known if lanes[lane][2][-1].ended <= unit.started + 0.05), None)
            if free is None:
                known.append(len(lanes))
                lanes.append((unit.node, unit.worker, [unit]))
            else:
                lanes[free][2].append(unit)
        order = sorted(lanes, key=lambda lane: (lane[0], lane[2][0].started))
        return [(node, units) for node, _, units in order]

    @cached_property
    def bins(self) -> np.ndarray:
        """Edges of equal stretches of the run, seconds since its start."""
        return np.linspace(0.0, self.span_s, _BINS + 1)

    def busy(self) -> dict[str, np.ndarray]:
        """Return how many workers are in each phase on average, per stretch of time.

        Within a unit the phases follow each other frame by frame, so each is spread over the unit's whole time.
        """
        found = {phase: np.zeros(_BINS) for phase in PHASES}
        width = self.span_s / _BINS
        for unit in self.units:
            covered = _overlap(self.bins, unit.started - self.start, unit.ended - self.start) / width
            total = sum(unit.phases.values()) or 1.0
            for phase, seconds in unit.phases.items():
                found[phase if phase in found else "other"] += covered * (seconds / total)
        return found

    def workers(self) -> np.ndarray:
        """Return how many workers there are on average per stretch of time, from their first unit to their last."""
        width = self.span_s / _BINS
        there = np.zeros(_BINS)
        for _, units in self.lanes:
            there += _overlap(self.bins, units[0].started - self.start, units[-1].ended - self.start) / width
        return there

    @property
    def utilisation(self) -> float:
        """Time of the units over the time that their workers were there."""
        there = sum(units[-1].ended - units[0].started for _, units in self.lanes)
        return min(sum(unit.seconds for unit in self.units) / max(there, 1e-9), 1.0)

    def shares(self) -> dict[str, float]:
        """Return what the time of all units went into, as shares."""
        total = dict.fromkeys(PHASES, 0.0)
        for unit in self.units:
            for phase, seconds in unit.phases.items():
                total[phase if phase in PHASES else "other"] += seconds
        whole = sum(total.values()) or 1.0
        return {phase: total[phase] / whole for phase in PHASES if total[phase] > 0}

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run as plain data."""
        seconds = np.array([unit.seconds for unit in self.units])
        slowest = sorted(self.units, key=lambda unit: -unit.seconds)[:_SLOWEST]
        return {
            "run_id": self.record.get("run_id"), "verb": self.record.get("verb"),
            "exit_code": self.record.get("exit_code"), "units": len(self.units),
            "frames": sum(unit.frames for unit in self.units), "failed": sum(unit.failed for unit in self.units),
            "span_s": self.span_s, "units_per_s": len(self.units) / self.span_s,
            "frames_per_s": sum(unit.frames for unit in self.units) / self.span_s,
            "workers": len(self.lanes), "nodes": len({unit.node for unit in self.units}),
            "utilisation": self.utilisation, "shares": self.shares(),
            "unit_s": {"median": float(np.median(seconds)), "longest": float(seconds.max())},
            "read_bytes": sum(unit.read_bytes for unit in self.units),
            "memory_bytes": {
                "projected": max(unit.projected_bytes for unit in self.units),
                "largest": max(unit.peak_bytes for unit in self.units),
            },
            "slowest": [
                {"unit": unit.name, "seconds": unit.seconds, "node": unit.node, "frames": unit.frames} for unit in slowest
            ],
        }  # fmt: skip

    def text(self) -> str:
        """Return the figures of the run for people."""
        told = self.summary()
        began = clock.strftime("%Y-%m-%d %H:%M:%S", clock.gmtime(self.start))
        memory = told["memory_bytes"]
        projected = f", projected {human_bytes(memory['projected'])}" if memory["projected"] else ""
        rate = f"{told['units_per_s']:.2f} units/s, {told['frames_per_s']:.1f} frames/s"
        unit = f"median {told['unit_s']['median']:.2f} s, longest {told['unit_s']['longest']:.2f} s"
        lines = [
            f"run        {told['run_id']} ({told['verb']}), first unit at {began} UTC",
            f"done       {told['units']:,} units, {told['frames']:,} frames, {told['failed']:,} failed "
            f"in {told['span_s']:.1f} s: {rate}",
            f"workers    {on_nodes(told)}",
            f"time       {', '.join(f'{phase} {share:.0%}' for phase, share in told['shares'].items())}",
            f"unit       {unit}",
            f"memory     largest worker {human_bytes(memory['largest'])}{projected}",
            f"read       {human_bytes(told['read_bytes'])}",
        ]
        lines += [
            f"slowest    {one['seconds']:8.2f} s  {one['unit']}  ({one['frames']} frames, {one['node']})"
            for one in told["slowest"]
        ]
        return "\n".join(lines)


def on_nodes(told: dict[str, Any]) -> str:
    """Say how many workers on how many nodes there were, from :meth:`History.summary`."""
    nodes = f"{told['nodes']} node{'s' if told['nodes'] > 1 else ''}"
    return f"{told['workers']} on {nodes}, {told['utilisation']:.0%} of their time in units"


def _overlap(edges: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Return how much of each stretch lies between two times, seconds."""
    return np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0.0, None)


def read_history(store: Store, run: str | None = None) -> History:
    """Return the history of a run.

    Parameters
    ----------
    store : Store
        The dataset.
    run : str, optional
        Its id, or the beginning of it; by default the latest run that finished a unit.

    Raises
    ------
    UsageError
        If there is no such run, or none has finished a unit.
    """
    filesystem, folder = sidecar_filesystem(store)
    parts: dict[str, list[str]] = {}
    for path in sorted(str(path) for path in filesystem.glob(join(folder, "runs", "*", "history-*.jsonl"))):
        parts.setdefault(path.rsplit("/", 2)[1], []).append(path)
    chosen = [name for name in sorted(parts) if name.startswith(run or "")]
    if not chosen:
        raise UsageError(
            f"No run {'' if run is None else run + ' '}of {store.url} has finished a unit.",
            f"Runs with a history: {', '.join(sorted(parts)[-5:]) or 'none'}.", "'sdoml status' tells of the latest run.",
        )  # fmt: skip
    record = json.loads(filesystem.cat_file(join(folder, "runs", chosen[-1], "run.json")))
    lines = _lines(filesystem.cat(parts[chosen[-1]]).values())
    return History(record, tuple(sorted((DoneUnit.of(line) for line in lines), key=lambda unit: unit.started)))


def _lines(parts: Sequence[bytes] | Any) -> list[dict[str, Any]]:
    return [json.loads(line) for part in parts for line in part.decode().splitlines() if line]
