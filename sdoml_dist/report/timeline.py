"""The history of a run as a picture: when each worker did which unit, what all were busy with, and their memory."""

from __future__ import annotations

import os
import time as clock
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist.report.history import PHASES, History

COLOURS = {
    "source": "#4c78a8", "decode": "#e9a23b", "calibrate": "#54a24b", "compute": "#2f9e93", "write": "#9d6bb3",
    "other": "#b6bcc4",
}  # fmt: skip
_FAILED = "#c8242f"
_INK, _SOFT, _RULE = "#1b1f24", "#59616b", "#dfe3e7"
_WIDTH = 12.0
_MOST_LANE_INCHES = 9.0
_MOST_NAMES = 40
"""More nodes than this are not named."""


def draw_history(history: History, output: str | Path) -> Path:
    """Draw the history of a run as a PNG; replaced as a whole.

    Parameters
    ----------
    history : History
        The run.
    output : path
        PNG to write.

    Returns
    -------
    pathlib.Path
        The picture.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lanes = min(max(0.24 * len(history.lanes), 0.9), _MOST_LANE_INCHES)
    heights = (lanes, 2.2, 1.6)
    with mpl.rc_context({"font.size": 9, "axes.edgecolor": _RULE, "axes.labelcolor": _SOFT, "text.color": _INK,
                         "xtick.color": _SOFT, "ytick.color": _SOFT, "axes.spines.top": False,
                         "axes.spines.right": False, "font.family": "DejaVu Sans"}):  # fmt: skip
        figure = Figure(figsize=(_WIDTH, sum(heights) + 2.5), dpi=130, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(3, 1, sharex=True, height_ratios=heights)
        scale, unit = _scale(history.span_s)
        _lanes(axes[0], history, scale)
        _busy(axes[1], history, scale)
        _memory(axes[2], history, scale)
        axes[2].set_xlabel(f"{unit} since the first unit began", labelpad=6)
        axes[2].set_xlim(0, history.span_s / scale)
        _title(figure, history)
        top = 1 - 1.15 / figure.get_figheight()
        figure.subplots_adjust(left=0.09, right=0.985, top=top, bottom=0.62 / figure.get_figheight(), hspace=0.0)
        _spread(axes, heights, figure.get_figheight())
        target = Path(output)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        figure.savefig(temporary, format="png")
        temporary.replace(target)
    return target


def _scale(span_s: float) -> tuple[float, str]:
    """Return how many seconds the unit of the time axis has, and its name."""
    for seconds, name in ((3600.0, "hours"), (60.0, "minutes")):
        if span_s >= 3 * seconds:
            return seconds, name
    return 1.0, "seconds"


def _spread(axes: Any, heights: tuple[float, ...], total: float) -> None:
    """Put the panels under each other with the same room between them, whatever their heights."""
    place = 1 - 1.15 / total
    for panel, height in zip(axes, heights, strict=True):
        box = panel.get_position()
        panel.set_position([box.x0, place - height / total, box.width, height / total])
        place -= (height + 0.36) / total


def _title(figure: Any, history: History) -> None:
    told = history.summary()
    began = clock.strftime("%Y-%m-%d %H:%M", clock.gmtime(history.start))
    head = f"{told['verb']}, {began} UTC"
    line = (
        f"{told['units']:,} units and {told['frames']:,} frames in {_short(told['span_s'])}: {told['units_per_s']:.2f} "
        f"units/s, {told['frames_per_s']:.1f} frames/s. {told['workers']} workers, "
        f"{told['utilisation']:.0%} of their time in units"
    )
    height = figure.get_figheight()
    figure.text(0.09, 1 - 0.34 / height, head, fontsize=14, fontweight="bold", va="center")
    figure.text(0.09, 1 - 0.62 / height, line, fontsize=10, color=_SOFT, va="center")
    if told["failed"]:
        mark = f"\u25bc units with failed frames ({told['failed']:,} frames)"
        figure.text(0.985, 1 - 0.95 / height, mark, fontsize=8.5, color=_FAILED, va="center", ha="right")


def _short(seconds: float) -> str:
    if seconds < 180:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


def _lanes(axes: Any, history: History, scale: float) -> None:
    """Draw a row per worker with a bar per unit, cut into its phases; failures are marked above it."""
    from matplotlib.collections import PolyCollection

    boxes: dict[str, list[np.ndarray]] = {phase: [] for phase in PHASES}
    failed: list[tuple[float, float]] = []
    for row, (_, units) in enumerate(history.lanes):
        for unit in units:
            left = (unit.started - history.start) / scale
            total = sum(unit.phases.values()) or 1.0
            for phase in PHASES:
                width = unit.phases.get(phase, 0.0) / total * unit.seconds / scale
                if width > 0:
                    right = left + width
                    boxes[phase].append(
                        np.array([(left, row - 0.4), (right, row - 0.4), (right, row + 0.4), (left, row + 0.4)])
                    )
                    left = right
            if unit.failed:
                failed.append(((unit.started - history.start) / scale, row))
    for phase, shapes in boxes.items():
        if shapes:
            axes.add_collection(PolyCollection(shapes, facecolors=COLOURS[phase], linewidths=0))
    # A white line where a unit begins, as long as there is room to see it.
    if len(history.units) < 60 * max(len(history.lanes), 1):
        starts = [((unit.started - history.start) / scale, row)
                  for row, (_, units) in enumerate(history.lanes) for unit in units]  # fmt: skip
        axes.vlines([x for x, _ in starts], [y - 0.4 for _, y in starts], [y + 0.4 for _, y in starts], "white", lw=0.8)
    if failed:
        x, y = zip(*failed, strict=True)
        axes.scatter(x, np.array(y) - 0.4, marker="v", s=16, color=_FAILED, linewidths=0, zorder=3, clip_on=False)
    axes.set_ylim(len(history.lanes) - 0.4, -0.6)
    _name_nodes(axes, history)
    axes.tick_params(axis="both", length=0, labelbottom=False)
    axes.spines["left"].set_visible(False)


def _name_nodes(axes: Any, history: History) -> None:
    nodes = [node for node, _ in history.lanes]
    edges = [0, *(row for row, (a, b) in enumerate(pairwise(nodes), 1) if a != b), len(nodes)]
    groups = [(nodes[first], first, last) for first, last in pairwise(edges)]
    for _, first, _ in groups[1:]:
        axes.axhline(first - 0.5, color=_RULE, lw=0.8)
    if len(groups) <= _MOST_NAMES:
        names = [
            f"{name[:14]}\n{last - first} workers" if last - first > 1 else name[:14] for name, first, last in groups
        ]
        axes.set_yticks([(first + last - 1) / 2 for _, first, last in groups], names, fontsize=8)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(nodes)} workers on {len(groups)} nodes")


def _busy(axes: Any, history: History, scale: float) -> None:
    """Draw how many workers are in which phase, and how many there are."""
    busy, there = history.busy(), history.workers()
    edges = history.bins / scale
    below = np.zeros(there.size)
    shares = history.shares()
    for phase in PHASES:
        if phase in shares:
            label = f"{phase} {shares[phase]:.0%}"
            axes.stairs(below + busy[phase], edges, baseline=below, fill=True, color=COLOURS[phase], lw=0, label=label)
            below = below + busy[phase]
    axes.stairs(there, edges, baseline=None, color=_INK, lw=1.1, label="workers there")
    axes.set_ylim(0, max(float(there.max()), 1.0) * 1.3)
    axes.set_ylabel("workers")
    axes.legend(loc="upper left", ncols=len(shares) + 1, frameon=False, fontsize=8.5, handlelength=1.0, columnspacing=1.4,
                borderaxespad=0.2)  # fmt: skip
    axes.tick_params(length=0, labelbottom=False)
    axes.grid(axis="y", color=_RULE, lw=0.6)
    axes.set_axisbelow(True)


def _memory(axes: Any, history: History, scale: float) -> None:
    """Draw the memory of workers at the end of their units, and what the plan projects."""
    ended = np.array([unit.ended - history.start for unit in history.units]) / scale
    peak = np.array([unit.peak_bytes for unit in history.units]) / 1e6
    projected = max(unit.projected_bytes for unit in history.units) / 1e6
    factor, unit = (1e3, "GB") if max(float(peak.max()), projected) >= 2000 else (1.0, "MB")
    axes.scatter(
        ended, peak / factor, s=9, color=COLOURS["source"], linewidths=0, alpha=0.75, label="worker, largest so far"
    )
    if projected:
        axes.axhline(projected / factor, color=_INK, lw=1.1, ls=(0, (5, 3)), label="projected by the plan")
    axes.set_ylim(0, max(float(peak.max()), projected) / factor * 1.45 or 1.0)
    axes.set_ylabel(f"memory, {unit}")
    axes.legend(loc="upper left", ncols=2, frameon=False, fontsize=8.5, borderaxespad=0.2, columnspacing=1.4)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=_RULE, lw=0.6)
    axes.set_axisbelow(True)
