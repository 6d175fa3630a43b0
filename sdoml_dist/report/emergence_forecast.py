"""Pictures of forecasts of emerging regions: intensities with flags as published, and the errors of all methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import dates as mdates
from matplotlib.lines import Line2D

from sdoml_dist.report.emergence_charts import LIGHT, Scheme, axes_at, new_figure, png
from sdoml_dist.solar.emergence_flag import SMOOTH_STEPS, THRESHOLD, emergence_slope
from sdoml_dist.solar.emergence_scores import Detection, scaled_by_region
from sdoml_dist.solar.emergence_series import INTENSITY, Series

if TYPE_CHECKING:
    from sdoml_dist.experiments.emergence_scorer import Row

_DPI, _BEFORE = 104, 50
"""Dots per inch, and steps before the first forecast that are shown, as published for two of the regions."""
_MOST_REGIONS = 12


def forecast_figure(
    series: Series, forecast: np.ndarray, at: np.ndarray, tiles: np.ndarray, found: Sequence[Detection], ahead: int,
    records: Sequence[str] = (),
) -> bytes:  # fmt: skip
    """Draw observed and forecast intensity of some tiles, and their slopes with the threshold of emergence.

    Parameters
    ----------
    series : Series
        The region.
    forecast : numpy.ndarray
        Scaled to 0..1 by the region's extremes, shape (examples, tiles).
    at : numpy.ndarray
        Steps of the targets.
    tiles : numpy.ndarray
        The tiles among the inner ones.
    found : sequence of Detection
        Flags of these tiles.
    ahead : int
        Hours of the forecast.
    records : sequence of str
        Days of NOAA's records, which are marked.

    Returns
    -------
    bytes
        PNG.
    """
    scheme = LIGHT
    observed = scaled_by_region(series, series.values[:, INTENSITY].astype(np.float64))
    first = max(int(at[0]) - _BEFORE, 0)
    # Steps as they come may hide gaps; the lines end there.
    each, thin, gap, foot, head, left, width = 1.0, 0.42, 0.16, 0.5, 0.72, 0.62, 10.0
    columns, rows = 2, -(-len(tiles) // 2)
    across = (width - left - 0.2 - 0.55) / 2
    height = head + foot + rows * (each + thin + gap)
    figure = new_figure(width, height, scheme, _DPI)
    title = f"NOAA {series.region}: continuum intensity, observed and forecast {ahead} hours ahead"
    figure.text(0.1 / width, 1 - 0.2 / height, title, color=scheme.ink, fontsize=12, va="center", weight="bold")
    _forecast_legend(figure, scheme, width, height, bool(records))
    for place, (tile, one) in enumerate(zip(tiles, found, strict=True)):
        row, column = divmod(place, columns)
        bottom = foot + (rows - 1 - row) * (each + thin + gap)
        x = left + column * (across + 0.55)
        upper = axes_at(figure, x, bottom + thin, across, each, scheme)
        lower = axes_at(figure, x, bottom, across, thin, scheme)
        seen, told = observed[first:, tile], forecast[:, place]
        _lines(upper, series.times[first:], seen, scheme.ink, 1.0)
        _lines(upper, series.times[at], told, scheme.bands[1], 1.3)
        _lines(lower, series.times[first:], emergence_slope(observed[:, tile])[first:], scheme.ink, 0.9)
        slope = emergence_slope(told, smooth=1, smooth_slope=SMOOTH_STEPS)
        _lines(lower, series.times[at], slope, scheme.bands[1], 1.0)
        lower.axhline(THRESHOLD, color=scheme.mark, linewidth=0.7, linestyle=(0, (4, 2)))
        last = place + columns >= len(tiles)
        for axes, limits in ((upper, (-0.08, 1.08)), (lower, (-0.045, 0.045))):
            axes.set_ylim(*limits)
            axes.set_xlim(series.times[first], series.times[-1])
            _time_axis(axes, scheme, labels=last and axes is lower)
            for record in records:
                axes.axvline(np.datetime64(record, "s"), color=scheme.soft, linewidth=0.9, linestyle=(0, (5, 2)))
        for flag, colour, mark in ((one.observed, scheme.ink, "v"), (one.forecast, scheme.bands[1], "^")):
            if not np.isnat(flag) and flag >= series.times[first]:
                upper.axvline(flag, color=colour, linewidth=0.8, alpha=0.8)
                upper.plot([flag], [0.95 if mark == "v" else 0.05], transform=upper.get_xaxis_transform(), marker=mark,
                           markersize=6, color=colour)  # fmt: skip
        upper.set_ylabel(f"Tile {one.tile}", fontsize=9, color=scheme.ink, labelpad=3)
        upper.set_yticks([0, 0.5, 1])
        lower.set_yticks([-0.03, 0, 0.03])
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    return png(figure, scheme)


def _lines(axes: Any, times: np.ndarray, values: np.ndarray, colour: str, wide: float) -> None:
    """Draw values against time; a gap between times is one in the line."""
    cuts = np.flatnonzero(np.diff(times) > np.timedelta64(5400, "s")) + 1
    for part in np.split(np.arange(len(times)), cuts):
        axes.plot(times[part], values[part], color=colour, linewidth=wide, solid_joinstyle="round")


def _time_axis(axes: Any, scheme: Scheme, *, labels: bool) -> None:
    locator = mdates.DayLocator(tz="UTC")
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%m-%d", tz="UTC"))
    axes.tick_params(labelbottom=labels)
    axes.grid(color=scheme.grid, linewidth=0.7)
    axes.set_axisbelow(True)


def _forecast_legend(figure: Any, scheme: Scheme, width: float, height: float, records: bool) -> None:
    handles = [
        Line2D([], [], color=scheme.ink, linewidth=1.4, marker="v", markersize=6, label="observed, its flag"),
        Line2D([], [], color=scheme.bands[1], linewidth=1.4, marker="^", markersize=6, label="forecast, its flag"),
        Line2D(
            [], [], color=scheme.mark, linewidth=0.9, linestyle=(0, (4, 2)), label="threshold of the slope per hour"
        ),
    ]
    if records:
        handles.append(Line2D([], [], color=scheme.soft, linewidth=1.0, linestyle=(0, (5, 2)), label="NOAA's records"))
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0.1 / width, 1 - 0.48 / height), ncols=len(handles),
        frameon=False, fontsize=8.5, labelcolor=scheme.ink, handlelength=2.0, columnspacing=1.4, borderaxespad=0,
    )  # fmt: skip


def score_figure(rows: Sequence[Row]) -> bytes:
    """Draw the RMSE of all methods by region, and their means.

    Parameters
    ----------
    rows : sequence of Row
        Methods; bars are the spread of the networks of the folds.

    Returns
    -------
    bytes
        PNG. Of more than twelve regions only the means are drawn.
    """
    scheme = LIGHT
    numbers = sorted({number for row in rows for number in row.errors})
    shown: list[int | None] = [*(numbers if len(numbers) <= _MOST_REGIONS else []), None]
    left, line, foot, head, wide = 2.75, 0.3, 0.42, 0.55, 1.45
    width = left + len(shown) * (wide + 0.12) + 0.15
    height = head + foot + line * len(rows)
    figure = new_figure(width, height, scheme, _DPI)
    figure.text(
        0.1 / width, 1 - 0.2 / height, "RMSE by region, mean over its tiles", color=scheme.ink, fontsize=12, va="center",
        weight="bold",
    )  # fmt: skip
    top = 1.08 * max(
        [one.rmse for row in rows for one in row.errors.values()]
        if len(shown) > 1
        else [row.mean_rmse for row in rows]
    )  # fmt: skip
    places = np.arange(len(rows))[::-1]
    for column, number in enumerate(shown):
        axes = axes_at(figure, left + column * (wide + 0.12), foot, wide, line * len(rows), scheme)
        for place, row in zip(places, rows, strict=True):
            one = row.errors.get(number) if number is not None else None
            value = row.mean_rmse if number is None else one.rmse if one is not None else float("nan")
            ours = "network" in row.method or "linear part" in row.method
            colour = scheme.bands[1] if ours else scheme.soft if "published" in row.method else scheme.bands[0]
            axes.hlines(place, 0, value, color=colour, linewidth=0.9, alpha=0.5)
            spread = row.spread.get(number, 0.0) if number is not None else 0.0
            axes.errorbar(value, place, xerr=spread or None, color=colour, marker="o", markersize=4.5, linewidth=1.2)
        axes.set_xlim(0, top)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(places)
        axes.set_yticklabels([f"{row.method} ({row.knows})" for row in rows] if column == 0 else [])
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        axes.set_title("mean" if number is None else f"{number}", color=scheme.ink, fontsize=9.5, pad=5)
        axes.grid(color=scheme.grid, linewidth=0.7, axis="x")
        axes.set_axisbelow(True)
    return png(figure, scheme)
