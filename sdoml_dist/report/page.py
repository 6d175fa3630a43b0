"""The report: one HTML file that shows what a dataset holds, what is missing and why, and where it came from."""

from __future__ import annotations

import base64
import os
import re
import time as clock
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from sdoml_dist import __version__
from sdoml_dist.report import sections
from sdoml_dist.report.charts import TimeAxis
from sdoml_dist.report.digest import OUTCOMES, Digest, digest
from sdoml_dist.report.parts import duration, facts, moment, percent
from sdoml_dist.report.provenance import place, provenance, versions
from sdoml_dist.report.tiles import tile
from sdoml_dist.report.view import DatasetView
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import format_fits_time


def write_report(url: str, output: str | Path, version: str | None = None, **options: Any) -> Path:
    """Write a report about a dataset as one HTML file that needs nothing else, neither files nor network.

    Parameters
    ----------
    url : str
        The dataset.
    output : path
        HTML file to write; replaced as a whole.
    version : str, optional
        Tag or snapshot id; by default the newest commit.
    **options
        Options of the store, as in :func:`sdoml_dist.open_dataset`.

    Returns
    -------
    pathlib.Path
        The file.
    """
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(render(DatasetView.products(url, version, **options)), encoding="utf-8")
    temporary.replace(target)
    return target


def render(views: Sequence[DatasetView]) -> str:
    """Return the page about the products of a dataset."""
    resources = {path: files("sdoml_dist.report").joinpath(path).read_text(encoding="utf-8") for path in
                 ("page.html", "page.css", "page.js")}  # fmt: skip
    many = len(views) > 1
    title = views[0].url.rstrip("/").rpartition("/")[2] if many else views[0].name
    if many:
        links = "".join(f'<a href="#{view.product}">{escape(view.title)}</a>' for view in views)
        body = (
            f"<header><h1>{escape(title)}</h1>{facts(place(views[0]))}</header>"
            f'<nav aria-label="Products">{links}<a href="#versions">Versions</a></nav>'
        )
        body += "".join(
            f'<article id="{one.product}">{_deeper(_product(one, f"{one.product}-"))}</article>' for one in views
        )
    else:
        body = _product(views[0], "")
    made = clock.strftime("%Y-%m-%d %H:%M UTC", clock.gmtime())
    return Template(resources["page.html"]).substitute(
        title=escape(title), style=resources["page.css"], script=resources["page.js"],
        body=body + versions(views), foot=f"Written by sdoml_dist {escape(__version__)} on {made}. All times are UTC.",
    )  # fmt: skip


def _deeper(html: str) -> str:
    """Move headings one level down."""
    return re.sub(r"<(/?)h([1-5])\b", lambda found: f"<{found[1]}h{int(found[2]) + 1}", html)


def _product(view: DatasetView, prefix: str) -> str:
    found = digest(view)
    axis = TimeAxis(view.start, view.end)
    listed = [
        ("frames", "Frames", sections.frames(view, found)),
        ("coverage", "Coverage", sections.coverage(view, found, axis)),
        ("light", "Light curves" if view.has_images else "Irradiance", sections.light_curves(view, found, axis)),
        ("exposure", "Exposure", sections.exposure(view, found, axis)),
        ("degradation", "Degradation", sections.degradation(view, found, axis)),
        ("statistics", "Statistics", sections.statistics(view)),
        ("provenance", "Provenance", provenance(view)),
    ]
    listed = [section for section in listed if section[2]]
    links = "".join(f'<a href="#{prefix}{key}">{title}</a>' for key, title, _ in listed)
    parts = "".join(
        f'<section id="{prefix}{key}" aria-labelledby="{prefix}{key}-title">'
        f'<h2 id="{prefix}{key}-title">{title}</h2>{content}</section>'
        for key, title, content in listed
    )
    last = "" if prefix else '<a href="#versions">Versions</a>'
    nav = f'<nav aria-label="Sections of {escape(view.name)}">{links}{last}</nav>'
    return _header(view, found, not prefix) + nav + _mosaic(view, found) + parts


def _header(view: DatasetView, found: Digest, alone: bool) -> str:
    totals = {name: int(found.outcome(name).sum()) for name in OUTCOMES}
    planned = sum(totals.values())
    told = {
        "Product": escape(view.title),
        "Period": f"{moment(view.start)} to {moment(view.end)} UTC",
        "Cadence": f"{duration(view.cadence_s)}, {view.slots:,} slots",
        "Channels": ", ".join(escape(view.label(name)) for name in view.channels),
        "Per slot": f"{escape(view.image_size)}, {escape(view.unit)}",
        "Source": escape(view.source),
        **(place(view) if alone else {}),
    }
    figures = f"<div><strong>{planned:,}</strong><span>frames planned</span></div>" + "".join(
        f'<div class="{name}"><strong>{percent(count, planned)}</strong><span>{name}</span></div>'
        for name, count in totals.items()
        if count or name == "ok"
    )
    about = f'<p class="about">{escape(view.description)}</p>' if view.description else ""
    return f'<header><h1>{escape(view.name)}</h1>{about}<div class="figures">{figures}</div>{facts(told)}</header>'


def _mosaic(view: DatasetView, found: Digest) -> str:
    year, slot = found.sample
    if not view.has_images or not found.outcome("ok").any():
        return ""
    stamp = view.times(year, slot, slot + 1)[0]
    codes, seen = view.table("status", year, slot, slot + 1)[0], view.observed(year, slot)
    tiles = []
    for index, channel in enumerate(view.channels):
        name, code = escape(view.label(channel)), FrameStatus(int(codes[index]))
        image = view.image(year, slot, channel) if code is FrameStatus.OK else np.empty(0)
        if np.isfinite(image).any():
            data = base64.b64encode(tile(image, view.colormap(channel), view.is_signed(channel))).decode()
            observed = format_fits_time(seen[index], 1).replace("T", " ")
            alt = f"The Sun in {name}, observed {observed} UTC"
            picture = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
            told = observed[11:]
        else:
            picture, told = '<div class="none"></div>', code.label.replace("_", " ")
        tiles.append(f"<figure>{picture}<figcaption><b>{name}</b> <span>{told}</span></figcaption></figure>")
    tiles.append(
        f'<div class="told"><b>{moment(stamp)}</b>The first slot with the most channels. '
        "Below each image: when it was observed.</div>"
    )
    # One row, or two rows of equal length.
    columns = len(tiles) if len(tiles) <= 6 else -(-len(tiles) // 2)
    return (
        f'<section class="mosaic" aria-label="Images of {moment(stamp)} UTC">'
        f'<div class="tiles" style="--columns:{columns}">{"".join(tiles)}</div></section>'
    )
