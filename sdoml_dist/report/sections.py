"""The sections of a report about the frames: outcomes, coverage, curves, statistics."""

from __future__ import annotations

from html import escape

import numpy as np

from sdoml_dist.report import charts
from sdoml_dist.report.charts import TimeAxis, colour_key, number
from sdoml_dist.report.digest import CODES, OUTCOMES, Digest
from sdoml_dist.report.parts import channel_name, moment, note, percent, table
from sdoml_dist.report.view import DatasetView
from sdoml_dist.solar.status import FrameStatus

_MOST_COLUMNS_LISTED = 20
_LEVELS = (0.01, 0.25, 0.5, 0.75, 0.99, 0.9999)
_WHISKERS = (0.01, 0.25, 0.5, 0.75, 0.99)


def frames(view: DatasetView, found: Digest) -> str:
    """Return the accounting per channel, the reasons, and examples of what failed."""
    per = {name: found.outcome(name).sum(axis=0) for name in OUTCOMES}
    body = []
    for index, channel in enumerate([*view.channels, "all"]):
        counts = {name: int(values[index] if channel != "all" else values.sum()) for name, values in per.items()}
        name = channel_name(channel, index, view.label) if channel != "all" else "all"
        cells = [f'<span class="{"zero" if not n else outcome}">{n:,}</span>' for outcome, n in counts.items()]
        bar = charts.stacked_bar(counts, view.label(channel) if channel != "all" else "All channels")
        body.append([name, bar, f"{sum(counts.values()):,}", *cells])
    head = ["Channel", "Share", "Planned", *(f'<i class="key {name}"></i>{name.capitalize()}' for name in OUTCOMES)]
    text = table(head, body, "Frames per channel and outcome", "numbers barred", foot=True)
    reasons = []
    for k, code in enumerate(CODES):
        total = int(found.counts[:, :, k].sum())
        if total and code is not FrameStatus.OK:
            where = [f"{int(n):,}" if n else '<span class="zero">0</span>' for n in found.counts[:, :, k].sum(axis=0)]
            label = f'<i class="key {code.outcome}"></i>{code.label.replace("_", " ")}'
            reasons.append([label, f"{total:,}", *where])
    if reasons:
        head = ["Reason", "All", *(escape(view.label(name)) for name in view.channels)]
        text += "<h3>Why frames are not there</h3>" + table(head, reasons, "Reasons per channel", "numbers")
    if found.failed:
        shown = [
            [moment(one.time), escape(view.label(one.channel)), one.code.label.replace("_", " "), f"{one.frames:,}",
             escape(one.detail), escape(one.source)]
            for one in found.failed
        ]  # fmt: skip
        title = "What failed"
        head = ["First", "Channel", "Reason", "Frames", "Found", "Source"]
        text += f"<h3>{title}</h3>" + table(head, shown, title, "words")
    return note("planned = ok + missing + rejected + failed + pending") + text


def coverage(view: DatasetView, found: Digest, axis: TimeAxis) -> str:
    """Return what became of the frames by channel and time, as a picture and as a list."""
    ramp = "".join(f'<i class="{{0}} l{level}"></i>' for level in range(1, 6))
    keys = ['<span><i class="ok"></i>all ok</span>']
    keys += [f"<span>{ramp.format(name)}{name}</span>" for name in OUTCOMES[1:] if found.outcome(name).any()]
    told = (
        f"One column per {found.unit}. The colour is what most of the frames that are not there have in common, "
        "the stronger, the larger their share: up to 1, 5, 20, 50, 100 %."
    )
    text = note(told) + f'<p class="legend">{"".join(keys)}</p>'
    text += charts.coverage(axis, found, view.channels, view.label)
    planned, ok = found.counts.sum(axis=(1, 2)), found.outcome("ok").sum(axis=1)
    lost = planned - ok
    order = np.argsort(-lost / np.maximum(planned, 1), kind="stable")[:_MOST_COLUMNS_LISTED]
    rows = []
    for column in order[lost[order] > 0]:
        summed = found.counts[column].sum(axis=0)
        why = [f"{summed[k]:,} {code.label.replace('_', ' ')}" for k, code in enumerate(CODES)
                if summed[k] and code is not FrameStatus.OK]  # fmt: skip
        share = percent(int(ok[column]), int(planned[column]))
        rows.append([moment(found.edges[column]), f"{planned[column]:,}", share, ", ".join(why)])
    if rows:
        head = [f"{found.unit.capitalize()} from", "Planned", "Ok", "Not there"]
        title = f"Least complete {found.unit}s"
        text += f"<details><summary>{title}</summary>{table(head, rows, title, 'words')}</details>"
    return text


def light_curves(view: DatasetView, found: Digest, axis: TimeAxis) -> str:
    """Return the mean of each frame against time, or the numbers themselves."""
    thinned = f" Smallest and largest of every {found.step:,} frames." if found.step > 1 else ""
    what = "Mean of the valid pixels of each frame" if view.has_images else "The values themselves"
    return note(f"{what}, {escape(view.unit)}.{thinned}") + charts.rows(
        axis, found.curves["mean"], view.channels, view.label, what
    )


def exposure(view: DatasetView, found: Digest, axis: TimeAxis) -> str:
    """Return the exposure time against time, or nothing where the product has none."""
    if "exposure" not in found.curves or not np.isfinite(found.curves["exposure"].value).any():
        return ""
    told = note("Exposure time that each image was divided by, in seconds.")
    return told + charts.rows(axis, found.curves["exposure"], view.channels, view.label, "Exposure time", zero=1.4)


def degradation(view: DatasetView, found: Digest, axis: TimeAxis) -> str:
    """Return the degradation factor against time, or nothing where the product has none."""
    if "degradation" not in found.curves:
        return ""
    values = found.curves["degradation"].value
    if not np.isfinite(values).any():
        return note("No frame has a degradation factor.")
    if bool((values[np.isfinite(values)] == 1).all()):
        return note("No correction was applied: the factor is 1 in every frame.")
    told = note("Degradation factor that each image was divided by; 1 is the instrument at launch.")
    return told + charts.overlay(axis, found.curves["degradation"], view.channels, view.label, "Degradation factor")


def statistics(view: DatasetView) -> str:
    """Return the statistics per channel."""
    values = view.statistics()
    if values is None or not (values["count"] > 0).any():
        return note("Not computed yet: the build writes them at its end.")
    inner = values.loc[values["count"] > 0, list(_WHISKERS)].to_numpy()
    # A logarithmic axis suits intensities; for fields and velocities, which have both signs, the numbers must do.
    marked = bool((inner[:, 2] > 0).all())
    low, high = max(float(inner[inner > 0].min()), float(inner.max()) * 1e-6) if marked else 1.0, float(inner.max())
    # Small values, as irradiances are, share a power of ten.
    power = 3 * int(np.floor(np.log10(largest) / 3)) if 0 < (largest := float(np.abs(inner).max())) < 1e-2 else 0
    body = []
    for index, channel in enumerate(view.channels):
        row = values.loc[channel]
        told = f"{view.label(channel)}: half of the values between {number(row[0.25])} and {number(row[0.75])}"
        key, places = colour_key(channel, index), [row[level] for level in _WHISKERS]
        marks = charts.range_marks(low / 1.3, high * 1.3, places, key, told) if marked and row["count"] else ""
        cells = [number(float(row[key]) / 10.0**power) for key in ("mean", "std", "minimum", *_LEVELS, "maximum")]
        cells.insert(0, f"{int(row['count']):,}" if row["count"] < 1e6 else number(float(row["count"])))
        body.append([channel_name(channel, index, view.label), *([marks] if marked else []), *cells])
    head = ["Channel", *(["1 to 99 %"] if marked else []), "Pixels" if view.has_images else "Values"]
    head += ["Mean", "Std", "Min", *(f"{100 * level:g} %" for level in _LEVELS), "Max"]
    unit = (f"10{charts.superscript(power)} " if power else "") + escape(view.unit)
    text = f"All valid pixels of all frames, {unit}." if view.has_images else f"All valid values, {unit}."
    if view.has_images:
        text += " Quantiles are accurate to about 10 %."
    if marked:
        text += " The marks share one logarithmic axis: line 1 to 99 %, bar 25 to 75 %, tick median."
    return note(text) + table(head, body, "Statistics per channel", "numbers barred" if marked else "numbers")
