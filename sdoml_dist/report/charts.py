"""Charts as HTML and inline SVG: the SVG holds shapes only and stretches, the text stays text and does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from sdoml_dist.report.digest import CODES, OUTCOMES, Curves, Digest
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.status import FrameStatus

_WIDTH, _HEIGHT = 1000, 100
_MOST_TIME_TICKS = 9
# Above this ratio of the largest to the smallest value an axis is logarithmic.
_LOGARITHMIC = 20
_LEAST_SPAN = 0.05
_LEVELS = (0.01, 0.05, 0.2, 0.5)
_LABEL_GAP = 0.068
_LONE = re.compile(r"M[^M]*h0")

_MINUTE = 60
_STEPS_S = [m * _MINUTE for m in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)] + [
    d * 86400 for d in (1, 2, 5, 10, 15)
]  # fmt: skip
_STEPS_MONTHS = (1, 2, 3, 6, 12, 24, 36, 60)


@dataclass(frozen=True)
class TimeAxis:
    """The span of time that all charts of a product share."""

    start: np.datetime64
    end: np.datetime64

    def fraction(self, time: np.ndarray) -> np.ndarray:
        """Return where times are between start (0) and end (1)."""
        return (time - self.start) / (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return a few round times as (fraction, label)."""
        seconds = float((self.end - self.start) / np.timedelta64(1, "s"))
        step = next((s for s in _STEPS_S if seconds / s <= _MOST_TIME_TICKS), None)
        if step is not None:
            first = self.start.astype("datetime64[D]").astype("datetime64[s]")
            times = np.arange(first, self.end.astype("datetime64[s]"), np.timedelta64(step, "s"))
        else:
            months = seconds / (30.44 * 86400)
            step = next((m for m in _STEPS_MONTHS if months / m <= _MOST_TIME_TICKS), 120)
            first = self.start.astype("datetime64[Y]").astype("datetime64[M]")
            times = np.arange(first, self.end.astype("datetime64[M]") + 1, np.timedelta64(step, "M"))
            step *= 30 * 86400
        times = times.astype("datetime64[ns]")
        times = times[(times >= self.start) & (times < self.end)]
        return [(float(self.fraction(time)), _time_label(time, step)) for time in times]

    def html(self) -> str:
        """Return the labels of the axis."""
        marks = "".join(
            f'<span style="left:{100 * at:.2f}%">{escape(label)}</span>' for at, label in self.ticks() if at < 0.97
        )
        return f'<div class="axis" aria-hidden="true">{marks}</div>'

    def grid(self) -> str:
        """Return the vertical lines of the axis."""
        lines = "".join(f"M{_WIDTH * at:.1f} 0V{_HEIGHT}" for at, _ in self.ticks() if at > 0)
        return f'<path class="grid" d="{lines}"/>' if lines else ""


def _time_label(time: np.datetime64, step_s: int) -> str:
    text = str(time)
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[int(text[5:7]) - 1]
    if step_s < 86400:
        return text[11:16] if text[11:16] != "00:00" else f"{int(text[8:10])} {month}"
    if step_s < 28 * 86400:
        return f"{int(text[8:10])} {month}"
    return text[:4] if text[5:7] == "01" else month


def number(value: float) -> str:
    """Write a number with four significant digits, and powers of ten as people write them."""
    if not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.{max(0, 3 - int(np.floor(np.log10(abs(value)))))}f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{superscript(int(exponent))}".replace("-", "−")


def superscript(power: int) -> str:
    """Write an exponent."""
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def short(value: float) -> str:
    """Write a number of an axis as briefly as possible."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}".replace("-", "−")
    mantissa, exponent = f"{value:.4e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")


def colour_key(channel: str, index: int) -> str:
    """Return the key of the style sheet's colour for a channel: its own, or one of nine that go round."""
    return channel if channel in AIA else f"n{index % 9}"


@dataclass(frozen=True)
class Scale:
    """Values to heights: linear or logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def of(cls, values: np.ndarray, zero: float = 0.0) -> Scale:
        """Return a scale that holds all values, with some air; with `zero` from zero to so many times the largest."""
        good = values[np.isfinite(values)]
        low, high = (float(good.min()), float(good.max())) if good.size else (0.0, 1.0)
        if zero:
            return cls(0.0, max(high, 1e-9) * zero)
        if low > 0 and high / low > _LOGARITHMIC:
            return cls(low / 1.1, high * 1.1, True)
        # Noise of a part in a thousand must not fill the height.
        middle, half = (low + high) / 2, max((high - low) * 0.58, (abs(low) + abs(high)) * _LEAST_SPAN / 4) or 1.0
        return cls(middle - half, middle + half)

    def fraction(self, values: np.ndarray) -> np.ndarray:
        """Return where values are between low (0) and high (1)."""
        if self.logarithmic:
            return (np.log(values) - np.log(self.low)) / (np.log(self.high) - np.log(self.low))
        return (values - self.low) / (self.high - self.low)

    def ticks(self, most: int = 3) -> list[tuple[float, str]]:
        """Return a few round values as (fraction, label)."""
        if self.logarithmic:
            powers = range(int(np.floor(np.log10(self.low))), int(np.floor(np.log10(self.high))) + 1)
            values = [10.0**power for power in powers if self.low <= 10.0**power <= self.high]
            if len(values) < 2:
                values = [
                    f * 10.0**power for power in powers for f in (1, 3) if self.low <= f * 10.0**power <= self.high
                ]
            values = values[:: -(-len(values) // most) or 1]
        else:
            width = (self.high - self.low) / most
            unit = 10.0 ** np.floor(np.log10(width))
            step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= width * 0.999)
            values = [float(v) for v in np.arange(np.ceil(self.low / step), np.floor(self.high / step) + 1) * step]
        return [(float(self.fraction(np.array(value))), short(value)) for value in values]


def path_data(x: np.ndarray, y: np.ndarray) -> str:
    """Return an SVG path through points of the unit square; NaN ends a stroke, a lone point becomes a dot."""
    across, down = np.round(x * _WIDTH, 1), np.round((1 - y) * _HEIGHT, 1)
    parts, good = [], np.isfinite(down)
    bounds = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
    for start, stop in bounds.reshape(-1, 2):
        # Points inside a level stretch add nothing.
        keep = np.ones(stop - start, dtype=bool)
        level = down[start:stop]
        keep[1:-1] = (level[1:-1] != level[:-2]) | (level[1:-1] != level[2:])
        points = [f"{a:g} {d:g}" for a, d in zip(across[start:stop][keep], level[keep], strict=True)]
        parts.append(f"M{points[0]}" + ("L" + " ".join(points[1:]) if len(points) > 1 else "h0"))
    return "".join(parts)


def _svg(content: str, label: str, css: str = "") -> str:
    return (
        f'<svg class="{css}" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{content}</svg>'
    )


def _line(name: str, key: str, scale: Scale, data: str) -> str:
    return (
        f'<path class="line" data-c="{key}" data-name="{escape(name)}" data-low="{scale.low:.6g}" '
        f'data-high="{scale.high:.6g}" data-log="{int(scale.logarithmic)}" d="{data}"/>'
        + (f'<path class="dots" data-c="{key}" d="{lone}"/>' if (lone := "".join(_LONE.findall(data))) else "")
    )


def _value_axis(ticks: list[tuple[float, str]], air: float) -> tuple[str, str, int]:
    """Return labels, lines and the longest label's length; labels near to the border would touch the next chart's."""
    ticks = [(at, text) for at, text in ticks if air <= at <= 1 - air]
    labels = "".join(f'<span style="bottom:{100 * at:.1f}%">{text}</span>' for at, text in ticks)
    lines = "".join(f"M0 {_HEIGHT * (1 - at):.1f}H{_WIDTH}" for at, _ in ticks)
    longest = max((len(text) for _, text in ticks), default=1)
    return f'<div class="values" aria-hidden="true">{labels}</div>', f'<path class="grid" d="{lines}"/>', longest


def _live(axis: TimeAxis, title: str, body: str, css: str = "", ticks: int = 0) -> str:
    """Wrap charts that share a time axis, so that the page's script can read values at a time."""
    first, last = (int(t.astype("datetime64[ms]").astype(np.int64)) for t in (axis.start, axis.end))
    return (
        f'<div class="chart {css}" style="--ticks:{ticks}ch" data-start="{first}" data-end="{last}" tabindex="0" role="group" '
        f'aria-label="{escape(title)}. Arrow keys move along time.">{body}</div>'
    )


def rows(
    axis: TimeAxis,
    curves: Curves,
    channels: Sequence[str],
    label: Callable[[str], str],
    title: str,
    zero: float = 0.0,
) -> str:
    """Draw one small chart per channel above each other, each with its own scale.

    With `zero` the scales go from zero to so many times the largest value, and only the median is marked: for what is
    nearly always the same.
    """
    body: list[str] = []
    longest = 5
    for index, channel in enumerate(channels):
        key, name, values = colour_key(channel, index), escape(label(channel)), curves.value[:, index]
        good = values[np.isfinite(values)]
        told = f"{number(good.min())} to {number(good.max())}" if good.size else "no data"
        scale = Scale.of(values, zero)
        usual = float(np.median(good)) if good.size and (zero or good.min() == good.max()) else None
        ticks = scale.ticks(3) if usual is None else [(float(scale.fraction(np.array(usual))), short(usual))]
        marks, lines, length = _value_axis(ticks, 0.1)
        longest = max(longest, length)
        data = path_data(axis.fraction(curves.time[:, index]), scale.fraction(values))
        drawn = _svg(axis.grid() + lines + _line(label(channel), key, scale, data), f"{title}, {name}: {told}")
        body.append(f'<div class="name" data-c="{key}">{name}</div>{marks}<div class="plot">{drawn}</div>')
    return _live(
        axis, title, f'{"".join(body)}<div class="foot">{axis.html()}</div>', "rows low" if zero else "rows", longest
    )


def overlay(axis: TimeAxis, curves: Curves, channels: Sequence[str], label: Callable[[str], str], title: str) -> str:
    """Draw all channels in one chart, named where they end."""
    scale = Scale.of(curves.value, zero=1.06)
    marks, lines, _ = _value_axis(scale.ticks(5), 0.01)
    drawn, ends = [], []
    for index, channel in enumerate(channels):
        key, values = colour_key(channel, index), curves.value[:, index]
        data = path_data(axis.fraction(curves.time[:, index]), scale.fraction(values))
        drawn.append(_line(label(channel), key, scale, data))
        good = np.flatnonzero(np.isfinite(values))
        if good.size:
            ends.append((float(scale.fraction(values[good[-1]])), key, label(channel)))
    ends.sort()
    spread = _apart([at for at, _, _ in ends])
    names = "".join(
        f'<span data-c="{key}" style="bottom:{100 * at:.1f}%">{escape(name)}</span>'
        for at, (_, key, name) in zip(spread, ends, strict=True)
    )
    picture = _svg(axis.grid() + lines + "".join(drawn), title)
    body = f'{marks}<div class="plot">{picture}</div><div class="ends" aria-hidden="true">{names}</div>'
    return _live(axis, title, f'{body}<div class="foot">{axis.html()}</div>', "overlay")


def _apart(places: list[float]) -> list[float]:
    """Move rising places as little as needed for labels not to cover each other."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _bottom(groups[-1]) < _bottom(groups[-2]) + _LABEL_GAP * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_bottom(group) + _LABEL_GAP * i for group in groups for i in range(len(group))]


def _bottom(group: list[float]) -> float:
    height = _LABEL_GAP * (len(group) - 1)
    return min(max(sum(group) / len(group) - height / 2, 0.0), max(1 - height, 0.0))


def stacked_bar(counts: dict[str, int], label: str) -> str:
    """Draw the shares of the outcomes; the smallest share still shows."""
    told = ", ".join(f"{counts[name]:,} {name}" for name in OUTCOMES if counts[name])
    parts = "".join(f'<i class="{name}" style="flex-grow:{counts[name]}"></i>' for name in OUTCOMES if counts[name])
    return f'<div class="bar" role="img" aria-label="{escape(label)}: {told or "nothing planned"}">{parts}</div>'


def coverage(axis: TimeAxis, summary: Digest, channels: Sequence[str], label: Callable[[str], str]) -> str:
    """Draw what became of the frames per channel and column of time; only columns with losses are drawn."""
    planned = summary.counts.sum(axis=2)
    lost = np.stack([summary.outcome(name) for name in OUTCOMES[1:]], axis=2)
    share = lost.sum(axis=2) / np.maximum(planned, 1)
    level = np.searchsorted(_LEVELS, share) + 1
    worst = lost.argmax(axis=2)
    kind = np.where(share > 0, level * 10 + worst, 0)
    at = axis.fraction(summary.edges)
    body = []
    for index, channel in enumerate(channels):
        column = kind[:, index]
        change = np.flatnonzero(np.diff(np.concatenate([[-1], column, [-1]])))
        cells = "".join(
            f'<rect class="{OUTCOMES[1 + column[a] % 10]} l{column[a] // 10}" x="{_WIDTH * at[a]:.2f}" y="0" '
            f'width="{_WIDTH * (at[b] - at[a]):.2f}" height="{_HEIGHT}"/>'
            for a, b in pairwise(change.tolist())
            if column[a]
        )
        bad = int(np.count_nonzero(column))
        told = f"{label(channel)}: {bad} of {len(column)} {summary.unit}s are incomplete"
        base = f'<rect class="ok" x="0" y="0" width="{_WIDTH}" height="{_HEIGHT}"/>'
        body.append(
            f'<div class="name">{escape(label(channel))}</div>'
            f'<div class="plot" data-row="{index}">{_svg(base + cells, told)}</div>'
        )
    data = {
        "unit": summary.unit,
        "edges": summary.edges.astype("datetime64[ms]").astype(np.int64).tolist(),
        "planned": planned.max(axis=1).tolist(),
        "reasons": [code.label.replace("_", " ") for code in CODES],
        "cells": [_cells(summary.counts[:, index]) for index in range(len(channels))],
        "names": [label(channel) for channel in channels],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    script = f'<script type="application/json">{text}</script>'
    foot = f'<div class="foot">{axis.html()}</div>{script}'
    return _live(axis, "What became of the frames, by channel and time", "".join(body) + foot, "coverage")


def _cells(counts: np.ndarray) -> dict[str, list[list[int]]]:
    """Return the columns in which a frame is not ok, as pairs of code and number."""
    other = [index for index, code in enumerate(CODES) if code is not FrameStatus.OK]
    columns = np.flatnonzero(counts[:, other].any(axis=1))
    return {str(c): [[int(i), int(counts[c, i])] for i in np.flatnonzero(counts[c])] for c in columns}


def range_marks(low: float, high: float, values: Sequence[float], key: str, label: str) -> str:
    """Draw quantiles (outer, quartile, median, quartile, outer) on a logarithmic axis from `low` to `high`."""
    scale = Scale(low, high, True)
    places = [_WIDTH * float(scale.fraction(np.array(max(value, low)))) for value in values]
    a, b, c, d, e = places
    shapes = (
        f'<path d="M{a:.1f} 50H{e:.1f}"/><path class="box" d="M{b:.1f} 50H{d:.1f}"/>'
        f'<path class="median" d="M{c:.1f} 20V80"/>'
    )
    return f'<div class="range" data-c="{key}">{_svg(shapes, label)}</div>'
