"""The report about tracked emerging regions: one HTML file with maps, timelines and what became of the frames."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from sdoml_dist.report.charts import stacked_bar
from sdoml_dist.report.digest import OUTCOMES
from sdoml_dist.report.emergence_charts import tiles_shown, timeline_figure
from sdoml_dist.report.emergence_maps import power_figure, power_sequence_figure
from sdoml_dist.report.history import History
from sdoml_dist.report.parts import facts, moment, note, percent, table
from sdoml_dist.report.run_chart import run_chart
from sdoml_dist.solar.emergence import Timeline, windows
from sdoml_dist.solar.emergence_flag import emergence_times, typical_step
from sdoml_dist.solar.helioseismology import BANDS_MILLIHERTZ, Bands
from sdoml_dist.solar.regions import Region
from sdoml_dist.solar.tiles import inner_tiles

QUANTITIES = {"V": "Dopplergrams", "M": "Magnetograms", "Ic": "Continuum"}
"""Names of the tracked quantities, as HMI's series have them."""

_STYLE = """
.facts dt { flex-basis: 116px; }
.picture { margin: 12px 0 0; }
.picture img { display: block; width: 100%; min-width: 760px; height: auto; border-radius: 6px; }
.picture.narrow img { max-width: 732px; min-width: 600px; }
.regions td { white-space: nowrap; } .regions a { color: inherit; } .cell small { color: var(--soft); font-size: 12px; }
.cell small .failed { color: var(--failed-ink); font-weight: 600; }
"""


@dataclass(frozen=True)
class MapSet:
    """The maps of a region at one moment.

    Attributes
    ----------
    time : numpy.datetime64
        Middle of the window, UTC.
    power : numpy.ndarray
        Power of each band, shape (4, y, x); NaN where there is none. Rows go north, columns west.
    magnetogram : numpy.ndarray
        Line-of-sight field in G, shape (y, x).
    continuum : numpy.ndarray
        Intensity in any unit, shape (y, x); it is drawn in units of its median.
    duty_cycle : float
        Share of the window's frames that the power rests on, 0 to 1.
    """

    time: np.datetime64
    power: np.ndarray
    magnetogram: np.ndarray
    continuum: np.ndarray
    duty_cycle: float


@dataclass(frozen=True)
class RegionView:
    """What the report shows of a region.

    Attributes
    ----------
    region : Region
        Place, period and first record.
    timeline : Timeline
        Means of 9 x 9 tiles before the baseline is taken off; one that has it off already does not change by that.
    maps : tuple of MapSet
        A few moments, in their order.
    patch_degrees : float
        Size of the patch, heliographic degrees.
    units : str
        Unit of the power.
    bands_millihertz : tuple of (float, float)
        The four bands.
    accounting : mapping
        Frames by quantity ("V", "M", "Ic") and outcome ("ok", "missing", "rejected", "failed", "pending").
    """

    region: Region
    timeline: Timeline
    maps: tuple[MapSet, ...]
    patch_degrees: float
    units: str
    bands_millihertz: Bands = BANDS_MILLIHERTZ
    accounting: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def short_units(self) -> str:
        """Unit of the power as axes tell it: without remarks after a comma, exponents raised."""
        return self.units.partition(",")[0].replace("^2", "²").replace("^-1", "⁻¹")

    def even(self) -> Timeline:
        """Return the timeline on even steps, NaN in gaps."""
        return self.timeline.steps(typical_step(self.timeline.times))

    def complete_windows(self) -> tuple[int, int]:
        """Return the number of windows without a missing value in the inner tiles, and of all from first to last."""
        if self.timeline.times.size == 0:
            return 0, 0
        even, inner = self.even(), inner_tiles()
        good = np.isfinite(even.power[:, inner]).all(axis=(0, 1))
        good &= np.isfinite(even.flux[inner]).all(axis=0) & np.isfinite(even.intensity[inner]).all(axis=0)
        return int(good.sum()), int(good.size)

    def examples(self) -> tuple[int, int]:
        """Return the number of complete examples for forecasts of the benchmark's length, and of all."""
        if self.timeline.times.size == 0:
            return 0, 0
        valid = windows(self.even()).valid
        return int(valid.sum()), int(valid.size)

    def counts(self, quantity: str) -> dict[str, int]:
        """Return the frames of a quantity by outcome; outcomes that are not told have none."""
        told = self.accounting.get(quantity, {})
        return {name: int(told.get(name, 0)) for name in OUTCOMES}


def write_report(
    views: Sequence[RegionView], output: str | Path, *, title: str, provenance: Mapping[str, str], foot: str,
    history: History | None = None,
) -> Path:
    """Write a report about regions as one HTML file that needs nothing else, neither files nor network.

    Parameters
    ----------
    views : sequence of RegionView
        The regions, in the order to show them.
    output : path
        HTML file to write; replaced as a whole.
    title : str
        Title of the page.
    provenance : mapping of str to str
        Names and values to tell where the data come from.
    foot : str
        Last line of the page.

    Returns
    -------
    pathlib.Path
        The file.
    """
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    text = render(views, title=title, provenance=provenance, foot=foot, history=history)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)
    return target


def render(
    views: Sequence[RegionView], *, title: str, provenance: Mapping[str, str], foot: str, history: History | None = None
) -> str:
    """Return the page about regions; see :func:`write_report`."""
    resources = {path: files("sdoml_dist.report").joinpath(path).read_text(encoding="utf-8") for path in
                 ("page.html", "page.css", "page.js")}  # fmt: skip
    links = "".join(f'<a href="#{view.region.name}">{view.region.number}</a>' for view in views)
    last = '<a href="#provenance">Provenance</a>' if provenance else ""
    nav = f'<nav aria-label="Regions"><a href="#overview">Overview</a>{links}{last}</nav>'
    told = {escape(name): escape(value) for name, value in provenance.items()}
    origin = _section("provenance", "Provenance", facts(told) + run_chart(history)) if told else ""
    body = (
        f"<header><h1>{escape(title)}</h1>{_figures(views)}</header>{nav}"
        f"{_section('overview', 'Overview', _overview(views))}{''.join(map(_region, views))}{origin}"
    )
    return Template(resources["page.html"]).substitute(
        title=escape(title), style=resources["page.css"] + _STYLE, script=resources["page.js"], body=body, foot=escape(foot)
    )  # fmt: skip


def _section(key: str, title: str, content: str) -> str:
    return f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{content}</section>'


def _figures(views: Sequence[RegionView]) -> str:
    """Return the numbers at the top: regions, frames, complete windows."""
    totals = {name: sum(view.counts(key)[name] for view in views for key in view.accounting) for name in OUTCOMES}
    planned = sum(totals.values())
    done, steps = (
        (sum(pair) for pair in zip(*(view.complete_windows() for view in views), strict=True)) if views else (0, 0)
    )
    told = [("", f"{len(views):,}", "region" if len(views) == 1 else "regions")]
    if planned:
        told += [("", f"{planned:,}", "frames planned")]
        told += [
            (name, percent(count, planned), f"frames {name}") for name, count in totals.items() if count or name == "ok"
        ]
    told.append(("", percent(done, steps), "complete windows"))
    listed = "".join(
        f'<div class="{name}"><strong>{value}</strong><span>{what}</span></div>' for name, value, what in told
    )
    return f'<div class="figures">{listed}</div>'


def _place(view: RegionView) -> str:
    latitude = view.region.latitude_deg
    return f"{abs(latitude):.1f}° {'N' if latitude >= 0 else 'S'}, {view.region.longitude_deg:.1f}°"


def _first_record(view: RegionView) -> str:
    return "–" if np.isnat(view.region.emergence) else moment(view.region.emergence)


def _overview(views: Sequence[RegionView]) -> str:
    quantities = [key for key in QUANTITIES if any(key in view.accounting for view in views)]
    head = [
        "Region",
        "Place",
        "Period (UTC)",
        "First record",
        *(QUANTITIES[key] for key in quantities),
        "Complete windows",
    ]
    body = []
    for view in views:
        region = view.region
        cells = [_frames(view.counts(key)) for key in quantities]
        done, steps = view.complete_windows()
        body.append([
            f'<a href="#{region.name}">{region.number}</a>', _place(view),
            f"{moment(region.start)[:10]} to {moment(region.end)[:10]}", _first_record(view), *cells,
            f'<span class="cell">{percent(done, steps)}<br><small>{done:,} of {steps:,}</small></span>',
        ])  # fmt: skip
    text = (
        "Place: heliographic latitude and Carrington longitude of the centre. Frames: the share that is there, and below it "
        "what is not. A window is complete where no power, flux or intensity of the inner 63 tiles is missing."
    )
    return note(text) + table(head, body, "Regions", "words regions")


def _frames(counts: dict[str, int]) -> str:
    lost = [f'<span class="{name}">{counts[name]:,} {name}</span>' for name in OUTCOMES[1:] if counts[name]]
    below = ", ".join(lost) or "none missing"
    return f'<span class="cell">{percent(counts["ok"], sum(counts.values()))}<br><small>{below}</small></span>'


def _region(view: RegionView) -> str:
    region, key = view.region, view.region.name
    steps = view.timeline.times.size
    flagged = emergence_times(view.timeline) if steps else np.empty(0, "datetime64[s]")
    done, number = view.examples()
    told = {
        "Place": _place(view),
        "Period": f"{moment(region.start)} to {moment(region.end)} UTC",
        "First record": _first_record(view),
        "Flagged tiles": _flagged(flagged),
        "Patch": f"{view.patch_degrees:g}° × {view.patch_degrees:g}°, 9 × 9 tiles",
        "Examples": f"{done:,} of {number:,} complete (120 steps, 12 ahead)",
    }
    tiles = tiles_shown(view) if steps else ()
    parts = [facts(told)]
    if view.maps:
        parts += [_sequence(view, tiles), _powers(view, tiles)]
    if steps > 1:
        parts.append(_timelines(view, tiles, flagged))
    parts.append(_accounting(view))
    return _section(key, f"Region {region.number}", "".join(parts))


def _flagged(times: np.ndarray) -> str:
    known = np.flatnonzero(~np.isnat(times))
    if not known.size:
        return "none"
    first = int(known[np.argmin(times[known])])
    return f"{known.size} of 63; first tile {first + 1}, {moment(times[first])} UTC"


def _picture(plain: bytes, alt: str, label: str, night: bytes | None = None, css: str = "") -> str:
    """Return a picture, and another one for dark screens if there is; print takes the first."""
    # Width and height are in the PNG's header; they keep the page from jumping.
    width, height = (int.from_bytes(plain[at : at + 4], "big") for at in (16, 20))
    data, dark = (base64.b64encode(one or b"").decode() for one in (plain, night))
    source = '<source media="screen and (prefers-color-scheme: dark)" srcset="data:image/png;base64,{}"/>'
    return (
        f'<figure class="picture {css}"><div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><picture>'
        f"{source.format(dark) if dark else ''}"
        f'<img alt="{escape(alt)}" width="{width}" height="{height}" src="data:image/png;base64,{data}">'
        f"</picture></div></figure>"
    )


def _numbers(tiles: Sequence[int]) -> str:
    return ", ".join(str(tile + 1) for tile in tiles)


def _sequence(view: RegionView, tiles: Sequence[int]) -> str:
    low, high = view.bands_millihertz[1]
    stamps = ", ".join(moment(maps.time) for maps in view.maps)
    alt = (
        f"Maps of region {view.region.number} at {stamps} UTC, one row each: magnetogram, continuum, and acoustic power "
        f"at {low:g} to {high:g} mHz, with the tiles {_numbers(tiles)} framed."
    )
    text = (
        "North is up, west to the right. Lines are the borders of tiles; framed are those of the timelines below. Columns "
        "share their scale. Flat grey-blue: no data."
    )
    return (
        "<h3>Emergence</h3>" + note(text)
        + _picture(power_sequence_figure(view, tiles=tiles, dark=True), alt, "Maps over time", css="narrow")
    )  # fmt: skip


def _powers(view: RegionView, tiles: Sequence[int]) -> str:
    maps = view.maps[-1]
    bands = ", ".join(f"{low:g} to {high:g}" for low, high in view.bands_millihertz)
    alt = (
        f"Region {view.region.number} at {moment(maps.time)} UTC: magnetogram, continuum, acoustic power in the bands "
        f"{bands} mHz, and the median power of each band against the field, in units of that of weak field."
    )
    text = f"Power in {escape(view.units)}. Each band has its own scale, the same for all moments of the region."
    return (
        "<h3>Acoustic power</h3>" + note(text)
        + _picture(power_figure(view, maps, tiles=tiles, dark=True), alt, "Power maps")
    )  # fmt: skip


def _timelines(view: RegionView, tiles: Sequence[int], flagged: np.ndarray) -> str:
    told = [f"tile {tile + 1} at {moment(flagged[tile])} UTC" for tile in tiles if not np.isnat(flagged[tile])]
    alt = (
        f"Timelines of the tiles {_numbers(tiles)} of region {view.region.number}: acoustic power in four bands, unsigned "
        f"flux, continuum intensity. Flagged as emerging: {'; '.join(told) or 'none'}. "
        f"First record: {_first_record(view)}."
    )
    text = (
        "The seven tiles whose flux changes most, without the baseline between the first and the last row of tiles. Tiles "
        "are counted from 1, row by row from the south-east. A tile is flagged where its intensity, smoothed, "
        "falls by at least 0.01 per hour for four hours (Kasapis et al. 2025). Gaps are left open."
    )
    light, dark = (timeline_figure(view, tiles, dark=one) for one in (False, True))
    return "<h3>Timelines</h3>" + note(text) + _picture(light, alt, "Timelines of tiles", dark)


def _accounting(view: RegionView) -> str:
    if not view.accounting:
        return ""
    body = []
    for key in view.accounting:
        counts, name = view.counts(key), QUANTITIES.get(key, key)
        numbers = [f"{counts[one]:,}" if counts[one] else '<span class="zero">0</span>' for one in OUTCOMES]
        body.append([escape(name), stacked_bar(counts, name), f"{sum(counts.values()):,}", *numbers])
    head = ["Frames", "", "planned", *(f'<i class="key {one}"></i>{one}' for one in OUTCOMES)]
    return "<h3>Frames</h3>" + table(head, body, f"Frames of region {view.region.number}", "numbers barred")
