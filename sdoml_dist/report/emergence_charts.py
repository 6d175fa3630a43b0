"""Pictures of tracked emerging regions: the style that all share, and the timelines of tiles.

Figures are made on their own canvas, without pyplot, so that workers may draw side by side. Colours of lines are after
Okabe & Ito (2008), which colour-blind readers tell apart; maps have the perceptually uniform tables of matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import dates as mdates
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import KDTree

from sdoml_dist.report.tiles import palette_png
from sdoml_dist.solar.emergence_flag import emergence_times, normalised, typical_step
from sdoml_dist.solar.tiles import inner_tiles, without_baseline

if TYPE_CHECKING:
    from sdoml_dist.report.emergence import RegionView

MAP_DPI, _LINE_DPI = 120, 104
"""Dots per inch of figures with maps."""
GREYS, SHADES = 64, 24
"""Shades of grey maps and of others; more are not told apart in maps of noise, and make the file larger."""
FRAME, GRID_ALPHA = "#ffd24a", 0.45
"""Colour of framed tiles, and how strong the borders of all are."""
_TILES_SHOWN = 7  # as in the figures of Kasapis et al. (2025, ApJS 280, 64)


@dataclass(frozen=True)
class Scheme:
    """Colours of a figure.

    Attributes
    ----------
    paper, ink, soft, grid : str
        Ground, text, quiet text and rules.
    missing : str
        Where a map has no data.
    bands : tuple of str
        Lines of the four bands of power.
    mark : str
        Flagged moments.
    """

    paper: str
    ink: str
    soft: str
    grid: str
    missing: str
    bands: tuple[str, str, str, str]
    mark: str


# Grounds and inks are those of the page's style sheet.
LIGHT = Scheme(
    "#ffffff", "#1b1f24", "#59616b", "#e8ebee", "#c3cbd4", ("#0072b2", "#d55e00", "#009e73", "#b0578d"), "#b71c27"
)
DARK = Scheme(
    "#14171b", "#e7eaee", "#a0a9b4", "#262c33", "#3d4651", ("#56b4e9", "#f0803c", "#2fc59a", "#e08fc0"), "#ff8a8c"
)


def new_figure(width: float, height: float, scheme: Scheme, dpi: int = MAP_DPI) -> Any:
    """Return an empty figure of so many inches, with its own canvas."""
    figure = Figure(figsize=(width, height), facecolor=scheme.paper, dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def _palette(scheme: Scheme) -> np.ndarray:
    """Return all colours that a figure may have, shape (256, 3), uint8: tables of maps, and inks down to the paper."""
    grey, shaded = (
        mpl.colormaps[name].resampled(number)(range(number))[:, :3]
        for name, number in (("gray", GREYS), ("magma", SHADES))
    )
    inks = (scheme.ink, scheme.soft, scheme.grid, scheme.missing, *scheme.bands, scheme.mark, FRAME, "black")
    levels = np.linspace(1.0, 0.0, 4)[:-1, None]
    paper = np.array(to_rgb(scheme.paper))
    blends = [levels * np.array(to_rgb(ink)) + (1 - levels) * paper for ink in inks]
    found = np.concatenate([paper[None], *blends, grey, shaded, shaded + (1 - shaded) * GRID_ALPHA])
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(found)] = (255 * found).round()
    return palette


def png(figure: Any, scheme: Scheme) -> bytes:
    """Return the figure as PNG with a palette, which makes it a third as large."""
    figure.canvas.draw()
    rgba = np.ascontiguousarray(figure.canvas.buffer_rgba())
    codes = rgba.view("<u4")[..., 0] & 0xFFFFFF
    # A table over all colours finds those in use, and then their places, faster than sorting a million pixels.
    index = np.zeros(1 << 24, np.uint8)
    index[codes.ravel()] = 1
    seen = np.flatnonzero(index)
    palette = _palette(scheme)
    index[seen] = KDTree(palette).query(np.stack([seen & 255, seen >> 8 & 255, seen >> 16], axis=1))[1]
    return palette_png(index[codes], palette)


def axes_at(figure: Any, left: float, bottom: float, width: float, height: float, scheme: Scheme) -> Any:
    """Add axes; places and sizes are inches from the lower left corner."""
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / down, width / across, height / down), facecolor=scheme.paper)
    axes.tick_params(colors=scheme.soft, labelcolor=scheme.soft, labelsize=8, length=3, width=0.6)
    for spine in axes.spines.values():
        spine.set(color=scheme.soft, linewidth=0.6)
    return axes


def title_of(view: RegionView) -> str:
    """Return number and place of a region."""
    place = f"{abs(view.region.latitude_deg):.1f}° {'N' if view.region.latitude_deg >= 0 else 'S'}"
    return f"NOAA {view.region.number}   {place}, Carrington longitude {view.region.longitude_deg:.1f}°"


def tiles_shown(view: RegionView, most: int = _TILES_SHOWN) -> tuple[int, ...]:
    """Return the tiles whose flux changes most, in their order; the first and last row, the baseline, do not count."""
    flux = without_baseline(view.timeline.flux.astype(np.float64))
    change = np.array([np.ptp(row[np.isfinite(row)]) if np.isfinite(row).any() else 0.0 for row in flux])
    inner = inner_tiles()
    chosen = np.argsort(-change[inner], kind="stable")[:most] + inner.start
    return tuple(int(tile) for tile in np.sort(chosen))


def _line(axes: Any, times: np.ndarray, values: np.ndarray, colour: str, label: str = "", wide: float = 1.1) -> None:
    """Draw values against time; NaN is a gap, and a value between two gaps a dot."""
    axes.plot(times, values, color=colour, linewidth=wide, label=label, solid_joinstyle="round")
    good = np.concatenate([[False], np.isfinite(values), [False]])
    lone = good[1:-1] & ~good[:-2] & ~good[2:]
    axes.plot(times[lone], values[lone], linestyle="none", marker="o", markersize=1.8, color=colour)


def timeline_figure(view: RegionView, tiles: Sequence[int] | None = None, *, dark: bool = False) -> bytes:
    """Draw powers, unsigned flux and continuum intensity of some tiles over time.

    The baseline between the first and the last row of tiles is off, as published; powers (each band) and intensity are
    brought to 0..1 by the extremes of the region's inner tiles. A line through all panels marks the first record of the
    region; a triangle the step where a tile is flagged by :func:`sdoml_dist.solar.emergence_flag.emergence_times`.

    Parameters
    ----------
    view : RegionView
        The region.
    tiles : sequence of int, optional
        Tiles, 9 to 71; by default the seven whose flux changes most.
    dark : bool
        Light on dark.

    Returns
    -------
    bytes
        PNG.
    """
    scheme = DARK if dark else LIGHT
    tiles = tiles_shown(view) if tiles is None else tuple(tiles)
    even = view.timeline.steps(typical_step(view.timeline.times))
    inner = inner_tiles()
    power = np.stack([normalised(without_baseline(one.astype(np.float64))[inner]) for one in even.power])
    flux = without_baseline(even.flux.astype(np.float64))[inner]
    intensity = normalised(without_baseline(even.intensity.astype(np.float64))[inner])
    flagged = emergence_times(view.timeline)
    times = even.times.astype("datetime64[s]")
    height_each, gap, foot, head, left, width = 0.95, 0.08, 0.5, 0.85, 0.72, 10.1
    height = head + foot + len(tiles) * (height_each + gap)
    figure = new_figure(width, height, scheme, _LINE_DPI)
    figure.text(
        0.08 / width, 1 - 0.2 / height, title_of(view), color=scheme.ink, fontsize=12, va="center", weight="bold"
    )
    across, between = 2.75, 0.42
    names = ("Acoustic power (0–1, per band)", "Unsigned flux (G)", "Continuum intensity (0–1)")
    chosen = np.array(tiles, int) - inner.start
    limits = [_limits(values) for values in (power[:, chosen], flux[chosen], intensity[chosen])]
    for row, tile in enumerate(tiles):
        bottom = foot + (len(tiles) - 1 - row) * (height_each + gap)
        curves = (power[:, tile - inner.start], flux[None, tile - inner.start], intensity[None, tile - inner.start])
        for column, values in enumerate(curves):
            axes = axes_at(figure, left + column * (across + between), bottom, across, height_each, scheme)
            colours = scheme.bands if column == 0 else (scheme.ink,)
            for one, colour in zip(values, colours, strict=True):
                _line(axes, times, one, colour)
            _dress(axes, times, limits[column], row == len(tiles) - 1, scheme)
            _mark(axes, view, flagged[tile], column == 2, scheme)
            if row == 0:
                axes.set_title(names[column], color=scheme.ink, fontsize=9.5, pad=5)
            if column == 0:
                axes.set_ylabel(f"Tile {tile + 1}", fontsize=9, color=scheme.ink, labelpad=5)
    _legend(figure, view, scheme, width, height)
    return png(figure, scheme)


def _limits(values: np.ndarray) -> tuple[float, float]:
    good = values[np.isfinite(values)]
    low, high = (float(good.min()), float(good.max())) if good.size else (0.0, 1.0)
    air = 0.12 * ((high - low) or 1.0)
    return low - air, high + air


def _dress(axes: Any, times: np.ndarray, limits: tuple[float, float], last: bool, scheme: Scheme) -> None:
    axes.set_xlim(times[0], times[-1] + (times[-1] - times[0]) // 200 + np.timedelta64(1, "s"))
    axes.set_ylim(*limits)
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}".replace("-", "−"))
    locator = mdates.AutoDateLocator(minticks=3, maxticks=6, tz="UTC")
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator, tz="UTC", show_offset=last))
    axes.xaxis.get_offset_text().set(color=scheme.soft, fontsize=8)
    axes.tick_params(labelbottom=last)
    axes.grid(color=scheme.grid, linewidth=0.7)
    axes.set_axisbelow(True)


def _mark(axes: Any, view: RegionView, flagged: np.datetime64, told: bool, scheme: Scheme) -> None:
    """Mark the first record of the region, and the flagged step of the tile, which is told in one of the panels."""
    if not np.isnat(view.region.emergence):
        axes.axvline(
            view.region.emergence.astype("datetime64[s]"), color=scheme.soft, linewidth=1.0, linestyle=(0, (5, 2))
        )
    if np.isnat(flagged):
        return
    axes.axvline(flagged, color=scheme.mark, linewidth=1.0)
    axes.plot([flagged], [0.97], transform=axes.get_xaxis_transform(), marker="v", markersize=5, color=scheme.mark)
    if told:
        when = str(flagged.astype("datetime64[m]"))[5:].replace("T", " ")
        axes.text(0.015, 0.07, when, transform=axes.transAxes, color=scheme.mark, fontsize=8)


def _legend(figure: Any, view: RegionView, scheme: Scheme, width: float, height: float) -> None:
    handles = [
        Line2D([], [], color=colour, linewidth=1.6, label=f"{low:g}–{high:g} mHz")
        for colour, (low, high) in zip(scheme.bands, view.bands_millihertz, strict=True)
    ]
    if not np.isnat(view.region.emergence):
        handles.append(Line2D([], [], color=scheme.soft, linestyle=(0, (5, 2)), linewidth=1.0, label="first record"))
    handles.append(Line2D([], [], color=scheme.mark, marker="v", markersize=5, linewidth=1.0, label="tile flagged"))
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0.08 / width, 1 - 0.46 / height), ncols=len(handles),
        frameon=False, fontsize=8.5, labelcolor=scheme.ink, handlelength=1.5, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip
