"""Pictures of tracked emerging regions: maps of one moment, maps over time, and the timelines of tiles.

Figures are made on their own canvas, without pyplot, so that workers may draw side by side. Colours of lines are those of
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
from matplotlib.colors import LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdoml_dist.report.parts import moment
from sdoml_dist.report.tiles import palette_png
from sdoml_dist.solar.emergence_flag import emergence_times, normalised, typical_step
from sdoml_dist.solar.tiles import GRID, inner_tiles, without_baseline

if TYPE_CHECKING:
    from sdoml_dist.report.emergence import MapSet, RegionView

_DPI = 106
# Pixels of a panel and of the map in it: each pixel of the map twice, which packs well.
_PANEL, _MAP_PIXELS = 256, 128
_SMALL_PANEL, _SMALL_MAP_PIXELS = 168, 84
_GREYS, _SHADES = 64, 28  # more shades are not told apart in maps of noise, and make the file larger
_FRAME, _GRID_ALPHA = "#ffd24a", 0.45  # framed tiles, and the borders of all
_MOST_GAUSS = 300.0
# Above this ratio of the 99th to the first percentile, a power has a logarithmic scale.
_LOGARITHMIC = 5.0
_TILES_SHOWN = 7  # as in the figures of Kasapis et al. (2025, ApJS 280, 64)
# Below this field lies the quiet power; medians of fewer pixels than so many are not drawn.
_QUIET_GAUSS = 30.0
_FIELD_BINS = (0, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000)
_LEAST_PIXELS = 12


@dataclass(frozen=True)
class _Scheme:
    """Colours of a figure."""

    paper: str
    ink: str
    soft: str
    grid: str
    missing: str
    bands: tuple[str, str, str, str]
    mark: str


# Grounds and inks are those of the page's style sheet.
_LIGHT = _Scheme(
    "#ffffff", "#1b1f24", "#59616b", "#e8ebee", "#c3cbd4", ("#0072b2", "#d55e00", "#009e73", "#b0578d"), "#b71c27"
)
_DARK = _Scheme(
    "#14171b", "#e7eaee", "#a0a9b4", "#262c33", "#3d4651", ("#56b4e9", "#f0803c", "#2fc59a", "#e08fc0"), "#ff8a8c"
)


def _figure(width: float, height: float, scheme: _Scheme) -> Any:
    figure = Figure(figsize=(width, height), facecolor=scheme.paper, dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure


def _palette(scheme: _Scheme) -> np.ndarray:
    """Return all colours that a figure may have, shape (256, 3), uint8: tables of maps, and inks down to the paper."""
    grey, shaded = (
        mpl.colormaps[name].resampled(number)(range(number))[:, :3]
        for name, number in (("gray", _GREYS), ("magma", _SHADES))
    )
    inks = (scheme.ink, scheme.soft, scheme.grid, scheme.missing, *scheme.bands, scheme.mark, _FRAME, "black")
    levels = np.linspace(1.0, 0.0, 4)[:-1, None]
    paper = np.array(to_rgb(scheme.paper))
    blends = [levels * np.array(to_rgb(ink)) + (1 - levels) * paper for ink in inks]
    found = np.concatenate([paper[None], *blends, grey, shaded, shaded + (1 - shaded) * _GRID_ALPHA])
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(found)] = (255 * found).round()
    return palette


def _png(figure: Any, scheme: _Scheme) -> bytes:
    """Return the figure as PNG with a palette, which makes it a third as large."""
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(np.int32)
    seen, place = np.unique(picture @ np.array([65536, 256, 1]), return_inverse=True)
    palette = _palette(scheme)
    colours = np.stack([seen >> 16, seen >> 8 & 255, seen & 255], axis=1)
    nearest = ((colours[:, None] - palette.astype(np.int64)) ** 2).sum(axis=2).argmin(axis=1)
    return palette_png(nearest.astype(np.uint8)[place].reshape(picture.shape[:2]), palette)


def _axes(figure: Any, left: float, bottom: float, width: float, height: float, scheme: _Scheme) -> Any:
    """Add axes; places and sizes are inches from the lower left corner."""
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / down, width / across, height / down), facecolor=scheme.paper)
    axes.tick_params(colors=scheme.soft, labelcolor=scheme.soft, labelsize=8, length=3, width=0.6)
    for spine in axes.spines.values():
        spine.set(color=scheme.soft, linewidth=0.6)
    return axes


def _map_table(name: str, scheme: _Scheme) -> Any:
    return mpl.colormaps[name].resampled(_GREYS if name == "gray" else _SHADES).with_extremes(bad=scheme.missing)


def _magnetic_norm(maps: Sequence[MapSet]) -> Any:
    found = np.concatenate([np.abs(one.magnetogram[np.isfinite(one.magnetogram)]) for one in maps] or [np.zeros(0)])
    reach = float(np.percentile(found, 99.5)) if found.size else 0.0
    # A round number between 50 and 300 G.
    reach = float(np.clip(np.ceil(reach / 50) * 50, 50.0, _MOST_GAUSS))
    return Normalize(-reach, reach)


def _relative(image: np.ndarray) -> np.ndarray:
    """Return the intensity in units of its median, which is that of the quiet Sun."""
    good = image[np.isfinite(image)]
    middle = float(np.median(good)) if good.size else 1.0
    relative: np.ndarray = image / (middle or 1.0)
    return relative


def _continuum_norm(maps: Sequence[MapSet]) -> Any:
    images = [_relative(one.continuum) for one in maps]
    found = np.concatenate([image[np.isfinite(image)] for image in images] or [np.zeros(0)])
    low, high = np.percentile(found, (0.1, 99.8)) if found.size else (0.5, 1.1)
    return Normalize(min(0.05 * np.floor(20 * low), 0.95), max(0.05 * np.ceil(20 * high), 1.05))


def _power_norm(maps: Sequence[MapSet], band: int) -> Any:
    """Return one scale for all moments of a band: logarithmic where the power spans more than a factor of five."""
    found = np.concatenate([one.power[band][np.isfinite(one.power[band])] for one in maps] or [np.zeros(0)])
    if not found.size:
        return Normalize(0.0, 1.0)
    low, high = (float(value) for value in np.percentile(found, (1, 99)))
    if low > 0 and high / low > _LOGARITHMIC:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + (abs(low) or 1.0))


def _tile_edges(size: int) -> np.ndarray:
    """Return the borders of tiles, as shares of an axis of so many pixels; some pixels at its end may be left over."""
    edges: np.ndarray = np.arange(GRID + 1) * (size // GRID) / size
    return edges


def _averaged(image: np.ndarray, pixels: int) -> np.ndarray:
    """Return the image as means over `pixels` even parts of each axis that has more; NaN does not count."""
    weights = []
    for size in image.shape:
        edges = np.linspace(0, size, min(size, pixels) + 1)
        at = np.arange(size)
        weights.append(np.clip(np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at), 0, None))
    rows, columns = weights
    valid = np.isfinite(image)
    total, share = (
        rows @ values @ columns.T for values in (np.where(valid, image, 0.0).astype(np.float64), valid.astype(float))
    )
    averaged: np.ndarray = np.where(share > 0, total / np.where(share > 0, share, 1.0), np.nan)
    return averaged


def _draw_map(
    axes: Any, image: np.ndarray, norm: Any, table: Any, view: RegionView, tiles: Sequence[int],
    pixels: int = _MAP_PIXELS,
) -> Any:  # fmt: skip
    """Draw a map with its tiles, north up and west to the right; return the image for a colour bar."""
    half = view.patch_degrees / 2
    drawn = axes.imshow(
        np.ma.masked_invalid(_averaged(image, pixels)), origin="lower", extent=(-half, half, -half, half), norm=norm,
        cmap=table, interpolation="nearest",
    )  # fmt: skip
    axes.set_xlim(-half, half)
    axes.set_ylim(-half, half)
    rows, columns = (-half + view.patch_degrees * _tile_edges(size) for size in image.shape)
    axes.hlines(rows, columns[0], columns[-1], color="white", linewidth=0.3, alpha=_GRID_ALPHA)
    axes.vlines(columns, rows[0], rows[-1], color="white", linewidth=0.3, alpha=_GRID_ALPHA)
    for tile in tiles:
        y, x = divmod(tile, GRID)
        for colour, width in (("black", 2.0), (_FRAME, 1.0)):
            axes.add_patch(
                Rectangle((columns[x], rows[y]), columns[x + 1] - columns[x], rows[y + 1] - rows[y],
                          fill=False, edgecolor=colour, linewidth=width)
            )  # fmt: skip
    step = 10 if view.patch_degrees >= 20 else 5 if view.patch_degrees >= 10 else 1
    ticks = np.arange(-(half // step), half // step + 1) * step
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    for axis, names in ((axes.xaxis, "EW"), (axes.yaxis, "SN")):
        axis.set_ticklabels([f"{abs(tick):g}°" + (f" {names[int(tick > 0)]}" if tick else "") for tick in ticks])
    return drawn


def _bar(figure: Any, drawn: Any, place: tuple[float, float, float, float], label: str, scheme: _Scheme) -> None:
    """Add a horizontal colour bar; a common power of ten goes into the label."""
    left, bottom, width, height = place
    # Narrower than the map, so that labels at the ends stay clear of the next bar's.
    axes = _axes(figure, left + 0.07 * width, bottom, 0.86 * width, height, scheme)
    low, high = drawn.norm.vmin, drawn.norm.vmax
    power = int(np.floor(np.log10(max(abs(low), abs(high)))))
    unit = 10.0**power if not -2 <= power < 4 else 1.0
    bar = figure.colorbar(drawn, cax=axes, orientation="horizontal")
    bar.outline.set(edgecolor=scheme.soft, linewidth=0.6)
    if isinstance(drawn.norm, LogNorm):
        digits = (1, 2, 5) if high / low < 100 else (1,)
        powers = range(int(np.floor(np.log10(low))), power + 1)
        ticks = [digit * 10.0**one for one in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        bar.set_ticks(ticks if len(ticks) > 1 else [low, high])
    else:
        bar.set_ticks(mpl.ticker.MaxNLocator(4 if width > 1.6 else 2).tick_values(low, high))
        axes.set_xlim(low, high)
    bar.ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value / unit:.3g}".replace("-", "−"))
    axes.tick_params(colors=scheme.soft, labelsize=8, length=2.5)
    scale = "" if unit == 1.0 else f"10$^{{{power}}}$ "
    axes.set_xlabel(label.format(scale=scale), fontsize=8, color=scheme.soft, labelpad=2)


def _title(view: RegionView) -> str:
    place = f"{abs(view.region.latitude_deg):.1f}° {'N' if view.region.latitude_deg >= 0 else 'S'}"
    return f"NOAA {view.region.number}   {place}, Carrington longitude {view.region.longitude_deg:.1f}°"


def _since(view: RegionView, time: np.datetime64) -> str:
    """Say how long before or after the first record a time is."""
    if np.isnat(view.region.emergence):
        return ""
    hours = float((time - view.region.emergence) / np.timedelta64(1, "s")) / 3600
    return f"{abs(hours):.0f} h {'before' if hours < 0 else 'after'} first record"


def power_figure(
    view: RegionView, maps: MapSet | None = None, *, tiles: Sequence[int] = (), dark: bool = False
) -> bytes:
    """Draw the maps of one moment: field, continuum, four band powers, and how the powers depend on the field.

    Parameters
    ----------
    view : RegionView
        The region. Scales are shared by all its moments, so that its pictures compare.
    maps : MapSet, optional
        Moment; by default the last one.
    tiles : sequence of int
        Tiles to highlight, 0 to 80, row by row from the south-east.
    dark : bool
        Light on dark.

    Returns
    -------
    bytes
        PNG.
    """
    maps = maps or view.maps[-1]
    scheme = _DARK if dark else _LIGHT
    side, gap, left, width = _PANEL / _DPI, 0.4, 0.5, 10.3
    figure = _figure(width, 6.9, scheme)
    top, bottom = 4.1, 0.8
    places = [left + index * (side + gap) for index in range(4)]
    figure.text(0.08 / width, 1 - 0.2 / 6.9, _title(view), color=scheme.ink, fontsize=12, va="center", weight="bold")
    told = [f"{moment(maps.time)} UTC", _since(view, maps.time), f"duty cycle {100 * maps.duty_cycle:.1f} %"]
    figure.text(
        1 - 0.08 / width,
        1 - 0.2 / 6.9,
        "   ".join(filter(None, told)),
        color=scheme.soft,
        fontsize=10,
        ha="right",
        va="center",
    )
    upper = [
        (
            "Magnetogram",
            maps.magnetogram,
            _magnetic_norm(view.maps or (maps,)),
            "gray",
            "line-of-sight field, {scale}G",
        ),
        ("Continuum", _relative(maps.continuum), _continuum_norm(view.maps or (maps,)), "gray", "intensity / median"),
    ]
    lower = [
        (f"{low:g}–{high:g} mHz", maps.power[band], _power_norm(view.maps or (maps,), band), "magma",
         f"power, {{scale}}{view.short_units}")
        for band, (low, high) in enumerate(view.bands_millihertz)
    ]  # fmt: skip
    for row, panels in ((top, upper), (bottom, lower)):
        for index, (name, image, norm, table, label) in enumerate(panels):
            axes = _axes(figure, places[index], row, side, side, scheme)
            drawn = _draw_map(axes, image, norm, _map_table(table, scheme), view, tiles)
            axes.set_title(name, color=scheme.ink, fontsize=10, pad=4)
            if index:
                axes.set_yticklabels([])
            _bar(figure, drawn, (places[index], row - 0.42, side, 0.1), label, scheme)
    _against_field(
        _axes(figure, places[2] + 0.25, top - 0.42, 2 * side + gap - 0.25, side + 0.42, scheme), view, maps, scheme
    )
    return _png(figure, scheme)


def _against_field(axes: Any, view: RegionView, maps: MapSet, scheme: _Scheme) -> None:
    """Draw the median power of each band against the field, in units of that where the field is weak."""
    field = np.abs(maps.magnetogram)
    edges = np.array(_FIELD_BINS, float)
    middle = np.sqrt(np.maximum(edges[:-1], 5.0) * edges[1:])
    for band, ((low, high), colour) in enumerate(zip(view.bands_millihertz, scheme.bands, strict=True)):
        power = maps.power[band]
        good = np.isfinite(power) & np.isfinite(field)
        quiet = power[good & (field < _QUIET_GAUSS)]
        if quiet.size < _LEAST_PIXELS or not np.median(quiet) > 0:
            continue
        place = np.digitize(field, edges) - 1
        curve = np.full(middle.size, np.nan)
        for index in range(middle.size):
            values = power[good & (place == index)]
            if values.size >= _LEAST_PIXELS:
                curve[index] = np.median(values) / np.median(quiet)
        axes.plot(middle, curve, color=colour, linewidth=1.4, marker="os^D"[band], markersize=3.5,
                  label=f"{low:g}–{high:g} mHz")  # fmt: skip
    axes.axhline(1.0, color=scheme.soft, linewidth=0.6, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_xlim(6, 2500)
    axes.set_ylim(bottom=0)
    axes.set_xticks([10, 30, 100, 300, 1000], labels=["10", "30", "100", "300", "1000"])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.grid(color=scheme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title("Power against field", color=scheme.ink, fontsize=10, pad=4)
    axes.set_xlabel("line-of-sight field, G (absolute)", fontsize=8, color=scheme.soft, labelpad=2)
    axes.set_ylabel(f"median power / that below {_QUIET_GAUSS:g} G", fontsize=8, color=scheme.soft)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, labelcolor=scheme.ink, loc="lower left")


def power_sequence_figure(view: RegionView, *, band: int = 1, tiles: Sequence[int] = (), dark: bool = False) -> bytes:
    """Draw the moments of a region below each other: magnetogram, continuum, and the power of one band.

    Parameters
    ----------
    view : RegionView
        The region, with at least one moment.
    band : int
        Which power; 1 is 3-4 mHz.
    tiles : sequence of int
        Tiles to highlight, 0 to 80.
    dark : bool
        Light on dark.

    Returns
    -------
    bytes
        PNG.
    """
    scheme = _DARK if dark else _LIGHT
    side, gap, left, foot, head = _SMALL_PANEL / _DPI, 0.15, 1.7, 0.9, 0.65
    rows = len(view.maps)
    width, height = left + 3 * side + 2 * gap + 0.2, foot + rows * (side + gap) - gap + head
    figure = _figure(width, height, scheme)
    figure.text(0.1 / width, 1 - 0.2 / height, _title(view), color=scheme.ink, fontsize=11, va="center", weight="bold")
    low, high = view.bands_millihertz[band]
    columns = [
        ("Magnetogram", "gray", _magnetic_norm(view.maps), "line-of-sight field, {scale}G"),
        ("Continuum", "gray", _continuum_norm(view.maps), "intensity / median"),
        (f"Power {low:g}–{high:g} mHz", "magma", _power_norm(view.maps, band), f"{{scale}}{view.short_units}"),
    ]
    for row, maps in enumerate(view.maps):
        bottom = foot + (rows - 1 - row) * (side + gap)
        images = (maps.magnetogram, _relative(maps.continuum), maps.power[band])
        for index, ((name, table, norm, label), image) in enumerate(zip(columns, images, strict=True)):
            place = left + index * (side + gap)
            axes = _axes(figure, place, bottom, side, side, scheme)
            drawn = _draw_map(axes, image, norm, _map_table(table, scheme), view, tiles, _SMALL_MAP_PIXELS)
            if index:
                axes.set_yticklabels([])
            if row == 0:
                axes.set_title(name, color=scheme.ink, fontsize=10, pad=4)
            if row < rows - 1:
                axes.set_xticklabels([])
            else:
                _bar(figure, drawn, (place, 0.48, side, 0.1), label, scheme)
        day, hour = moment(maps.time).split(" ")
        since = _since(view, maps.time).replace(" first", "\nfirst")
        middle = (bottom + side / 2) / height
        figure.text(
            0.1 / width, middle + 0.2 / height, f"{day}\n{hour} UTC", color=scheme.ink, fontsize=9.5, va="center"
        )
        figure.text(0.1 / width, middle - 0.22 / height, since, color=scheme.soft, fontsize=8.5, va="center")
    return _png(figure, scheme)


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
    scheme = _DARK if dark else _LIGHT
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
    figure = _figure(width, height, scheme)
    figure.text(0.08 / width, 1 - 0.2 / height, _title(view), color=scheme.ink, fontsize=12, va="center", weight="bold")
    across, between = 2.75, 0.42
    names = ("Acoustic power (0–1, per band)", "Unsigned flux (G)", "Continuum intensity (0–1)")
    chosen = np.array(tiles, int) - inner.start
    limits = [_limits(values) for values in (power[:, chosen], flux[chosen], intensity[chosen])]
    for row, tile in enumerate(tiles):
        bottom = foot + (len(tiles) - 1 - row) * (height_each + gap)
        curves = (power[:, tile - inner.start], flux[None, tile - inner.start], intensity[None, tile - inner.start])
        for column, values in enumerate(curves):
            axes = _axes(figure, left + column * (across + between), bottom, across, height_each, scheme)
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
    return _png(figure, scheme)


def _limits(values: np.ndarray) -> tuple[float, float]:
    good = values[np.isfinite(values)]
    low, high = (float(good.min()), float(good.max())) if good.size else (0.0, 1.0)
    air = 0.12 * ((high - low) or 1.0)
    return low - air, high + air


def _dress(axes: Any, times: np.ndarray, limits: tuple[float, float], last: bool, scheme: _Scheme) -> None:
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


def _mark(axes: Any, view: RegionView, flagged: np.datetime64, told: bool, scheme: _Scheme) -> None:
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


def _legend(figure: Any, view: RegionView, scheme: _Scheme, width: float, height: float) -> None:
    from matplotlib.lines import Line2D

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
