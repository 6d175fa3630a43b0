"""The latest run in a report: its figures, what its workers were busy with, and their units."""

from __future__ import annotations

import time as clock
from html import escape
from itertools import groupby

import numpy as np

from sdoml_dist.report.history import PHASES, DoneUnit, History, on_nodes
from sdoml_dist.report.parts import facts, note, table
from sdoml_dist.report.plan_text import human_bytes

_WIDTH, _HEIGHT = 1000, 100
_MOST_LANES = 64
_MOST_UNITS = 3000
"""Above these a page would become slow; the picture of 'sdoml history' shows all."""
_LANE = 14
_MOST_TICKS = 8
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


def run_chart(history: History | None) -> str:
    """Return the part of a report about the latest run; nothing where it left no history."""
    if history is None:
        return ""
    told = history.summary()
    memory = told["memory_bytes"]
    projected = f", projected {human_bytes(memory['projected'])}" if memory["projected"] else ""
    began = clock.strftime("%Y-%m-%d %H:%M", clock.gmtime(history.start))
    text = facts({
        "Run": f"{escape(str(told['verb']))}, {began} UTC <code>{escape(str(told['run_id']))}</code>",
        "Speed": f"{told['units_per_s']:.2f} units/s, {told['frames_per_s']:.1f} frames/s for {_short(told['span_s'])}",
        "Workers": on_nodes(told),
        "Units": f"{told['units']:,}; median {told['unit_s']['median']:.2f} s, longest {told['unit_s']['longest']:.2f} s",
        "Memory": f"largest worker {human_bytes(memory['largest'])}{projected}",
        "Read": human_bytes(told["read_bytes"]),
    })  # fmt: skip
    keys = "".join(
        f'<span><i class="p-{phase}"></i>{phase} {share:.0%}</span>' for phase, share in told["shares"].items()
    )
    what = "What the time of the workers went into; the line is how many there were."
    chart = f'<div class="run"><div class="node">{_most(history)}</div>{_busy(history)}{_lanes(history)}{_axis(history)}</div>'
    slowest = [
        [escape(one["unit"]), f"{one['seconds']:.2f} s", f"{one['frames']:,}", escape(one["node"])]
        for one in told["slowest"]
    ]
    title = "Slowest units"
    listed = table(["Unit", "Took", "Frames", "Node"], slowest, title, "words")
    return (
        f'<h3>The latest run</h3>{text}{note(what)}<p class="legend">{keys}</p>{chart}'
        f"<details><summary>{title}</summary>{listed}</details>"
    )


def _short(seconds: float) -> str:
    if seconds < 180:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


def _most(history: History) -> str:
    most = round(float(history.workers().max()))
    return f"up to {most}<br>worker{'s' if most > 1 else ''}"


def _svg(content: str, label: str, height: int = _HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f"{content}</svg>"
    )


def _busy(history: History) -> str:
    """Draw how many workers are in which phase, stacked, and how many there are."""
    busy, there = history.busy(), history.workers()
    top = max(float(there.max()), 1e-9) * 1.08
    x = history.bins / history.span_s * _WIDTH
    below = np.zeros(there.size)
    paths = ""
    for phase in PHASES:
        above = below + busy[phase]
        if busy[phase].any():
            steps = _steps(x, above / top) + _steps(x[::-1], (below / top)[::-1])
            paths += f'<path class="p-{phase}" d="M{"L".join(steps)}Z"/>'
        below = above
    paths += f'<path class="there" d="M{"L".join(_steps(x, there / top))}"/>'
    shares = ", ".join(f"{phase} {share:.0%}" for phase, share in history.shares().items())
    return f'<div class="plot busy">{_svg(paths, f"Time of workers: {shares}")}</div>'


def _steps(x: np.ndarray, fraction: np.ndarray) -> list[str]:
    """Return the corners of a staircase; `x` has one value more than `fraction`."""
    y = (1 - fraction) * _HEIGHT
    return [f"{a:.1f} {h:.1f}" for k, h in enumerate(y) for a in (x[k], x[k + 1])]


def _lanes(history: History) -> str:
    """Draw a row per worker, by node; nothing where there are too many."""
    if len(history.lanes) > _MOST_LANES or len(history.units) > _MOST_UNITS:
        return f"<div></div><div>{note('Too many units for this page: sdoml history draws them.')}</div>"
    body = ""
    for node, group in groupby(history.lanes, key=lambda lane: lane[0]):
        rows = [units for _, units in group]
        drawn = "".join(_unit(history, unit, row) for row, units in enumerate(rows) for unit in units)
        height = _LANE * len(rows)
        told = f"{node}: {sum(len(units) for units in rows)} units by {len(rows)} workers"
        body += (
            f'<div class="node">{escape(node[:20])}</div>'
            f'<div class="plot lanes" style="height:{height + 4}px">{_svg(drawn, told, height)}</div>'
        )
    return body


def _unit(history: History, unit: DoneUnit, row: int) -> str:
    """Draw a unit, cut into its phases; where a frame failed there is a mark at its beginning."""
    per_s = _WIDTH / history.span_s
    left = (unit.started - history.start) * per_s
    first, total = left, sum(unit.phases.values()) or 1.0
    drawn = ""
    # A gap of a hundredth of the unit tells neighbours apart.
    for phase in PHASES:
        width = unit.phases.get(phase, 0.0) / total * unit.seconds * per_s * 0.99
        if width > 0:
            drawn += f'<rect class="p-{phase}" x="{left:.2f}" y="{row * _LANE + 2}" width="{width:.2f}" height="{_LANE - 4}"/>'
            left += width
    if unit.failed:
        drawn += f'<rect class="bad" x="{first:.2f}" y="{row * _LANE}" width="3" height="{_LANE}"/>'
    return drawn


def _axis(history: History) -> str:
    step = next((one for one in _STEPS if history.span_s / one <= _MOST_TICKS), 2 * _STEPS[-1])
    marks = ""
    for at in np.arange(0.0, history.span_s * 0.97, step):
        label = f"{at:.0f} s" if step < 60 else f"{at / 60:.0f} min" if step < 3600 else f"{at / 3600:.0f} h"
        marks += f'<span style="left:{100 * at / history.span_s:.2f}%">{label}</span>'
    return f'<div class="foot"><div class="axis" aria-hidden="true">{marks}</div></div>'
