"""Maps of tracked emerging regions: one moment in all quantities, and several moments below each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

from sdoml_dist.report.emergence_charts import (
    DARK,
    FRAME,
    GREYS,
    GRID_ALPHA,
    LIGHT,
    MAP_DPI,
    SHADES,
    Scheme,
    axes_at,
    new_figure,
    png,
    title_of,
)  # fmt: skip
from sdoml_dist.report.parts import moment
from sdoml_dist.solar.tiles import GRID

if TYPE_CHECKING:
    from sdoml_dist.report.emergence import MapSet, RegionView

# Pixels of a panel and of the map in it: each pixel of the map twice, which packs well.
_PANEL, _MAP_PIXELS = 256, 128
_SMALL_PANEL, _SMALL_MAP_PIXELS = 160, 80
# The quiet Sun's network stays grey, plage and spots are clipped.
_MOST_GAUSS = 300.0
# Above this ratio of the 99th to the first percentile, a power has a logarithmic scale.
_LOGARITHMIC = 5.0
# Below this field lies the quiet power; medians of fewer pixels than so many are not drawn.
_QUIET_GAUSS = 30.0
_LEAST_PIXELS = 12
_FIELD_BINS = (0, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000)


def _map_table(name: str, scheme: Scheme) -> Any:
    return mpl.colormaps[name].resampled(GREYS if name == "gray" else SHADES).with_extremes(bad=scheme.missing)


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
    axes.hlines(rows, columns[0], columns[-1], color="white", linewidth=0.3, alpha=GRID_ALPHA)
    axes.vlines(columns, rows[0], rows[-1], color="white", linewidth=0.3, alpha=GRID_ALPHA)
    for tile in tiles:
        y, x = divmod(tile, GRID)
        for colour, width in (("black", 2.0), (FRAME, 1.0)):
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


def _bar(figure: Any, drawn: Any, place: tuple[float, float, float, float], label: str, scheme: Scheme) -> None:
    """Add a horizontal colour bar; a common power of ten goes into the label."""
    left, bottom, width, height = place
    # Narrower than the map, so that labels at the ends stay clear of the next bar's.
    axes = axes_at(figure, left + 0.07 * width, bottom, 0.86 * width, height, scheme)
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
    scheme = DARK if dark else LIGHT
    side, gap, left, width = _PANEL / MAP_DPI, 0.4, 0.5, 10.3
    figure = new_figure(width, 6.9, scheme)
    top, bottom = 4.1, 0.8
    places = [left + index * (side + gap) for index in range(4)]
    figure.text(0.08 / width, 1 - 0.2 / 6.9, title_of(view), color=scheme.ink, fontsize=12, va="center", weight="bold")
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
            axes = axes_at(figure, places[index], row, side, side, scheme)
            drawn = _draw_map(axes, image, norm, _map_table(table, scheme), view, tiles)
            axes.set_title(name, color=scheme.ink, fontsize=10, pad=4)
            if index:
                axes.set_yticklabels([])
            _bar(figure, drawn, (places[index], row - 0.42, side, 0.1), label, scheme)
    _against_field(
        axes_at(figure, places[2] + 0.25, top - 0.42, 2 * side + gap - 0.25, side + 0.42, scheme), view, maps, scheme
    )
    return png(figure, scheme)


def _against_field(axes: Any, view: RegionView, maps: MapSet, scheme: Scheme) -> None:
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
    scheme = DARK if dark else LIGHT
    side, gap, left, foot, head = _SMALL_PANEL / MAP_DPI, 0.15, 1.7, 0.9, 0.65
    rows = len(view.maps)
    width, height = left + 3 * side + 2 * gap + 0.2, foot + rows * (side + gap) - gap + head
    figure = new_figure(width, height, scheme)
    figure.text(
        0.1 / width, 1 - 0.2 / height, title_of(view), color=scheme.ink, fontsize=11, va="center", weight="bold"
    )
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
            axes = axes_at(figure, place, bottom, side, side, scheme)
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
    return png(figure, scheme)
