"""From an emergence dataset to what its pictures and its report show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist import __version__
from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import UsageError
from sdoml_dist.report.emergence import MapSet, RegionView, write_report
from sdoml_dist.report.emergence_charts import timeline_figure
from sdoml_dist.report.emergence_maps import power_figure
from sdoml_dist.report.history import read_history
from sdoml_dist.store.emergence_reader import Emergence
from sdoml_dist.store.reader import as_store

# Moments of a region that the report draws maps of.
_MOMENTS = 4


def region_view(dataset: Emergence, number: int, moments: np.ndarray | None = None) -> RegionView:
    """Read what is shown of a region.

    Parameters
    ----------
    dataset : Emergence
        The dataset.
    number : int
        Region.
    moments : numpy.ndarray, optional
        Times of the maps, UTC; the windows nearest to them are taken. By default some, evenly over the windows that are
        made.
    """
    maps = dataset.maps(number)
    times = maps["time"].values.astype("datetime64[ns]")
    timeline = dataset.timeline(number)
    if moments is None:
        made = np.flatnonzero(np.isfinite(timeline.power).any(axis=(0, 1)))
        made = made if made.size else np.arange(times.size)
        chosen = np.unique(made[np.linspace(0, made.size - 1, _MOMENTS + 2).round().astype(int)[1:-1]])
    else:
        chosen = np.unique([int(np.abs(times - moment).argmin()) for moment in moments])
    sets = []
    for index in chosen:
        at = maps.isel(time=int(index)).load()
        sets.append(
            MapSet(
                times[index], at["power"].values, at["magnetogram"].values, at["continuum"].values,
                float(at["duty_cycle"].mean()),
            )
        )  # fmt: skip
    recipe = dataset.recipe
    return RegionView(
        dataset.regions[number], timeline, tuple(sets), recipe.tracking.pixels * recipe.tracking.scale_deg,
        maps["power"].attrs["units"], recipe.power.bands_millihertz, dataset.accounting(number),
    )  # fmt: skip


def quicklook(dataset: Emergence, output: Path, number: int | None = None, time: str | None = None) -> list[Path]:
    """Draw the maps of a region at one moment, and its timelines, as two PNG files.

    Parameters
    ----------
    dataset : Emergence
        The dataset.
    output : pathlib.Path
        File of the maps; the timelines are next to it.
    number : int, optional
        Region; by default the first.
    time : str, optional
        UTC; by default the middle of the region's time.
    """
    region = dataset.region(next(iter(dataset.regions)) if number is None else number)
    moment = np.datetime64(time, "ns") if time else region.start + (region.end - region.start) / 2
    view = region_view(dataset, region.number, np.array([moment]))
    lines = output.with_name(f"{output.stem}-timelines{output.suffix}")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, power_figure(view))
    write_atomic(lines, timeline_figure(view))
    return [output, lines]


def write_emergence_report(url: str, output: str | Path, version: str | None = None, **options: Any) -> Path:
    """Write a report about an emergence dataset as one HTML file."""
    dataset = Emergence(url, version, **options)
    recipe, attributes = dataset.recipe, dataset.attributes
    software = ", ".join(f"{name} {number}" for name, number in attributes["software"].items())
    provenance = {
        "dataset": dataset.url, "version": dataset.snapshot, "recipe": str(attributes["fingerprint"]),
        "tracking": f"{recipe.tracking.pixels} x {recipe.tracking.pixels} pixels of {recipe.tracking.scale_deg:.4g} degrees, "
                    f"{recipe.tracking.projection} projection",
        "power": f"windows of {recipe.power.window} frames of 45 s every {recipe.power.step / 60:g} minutes, convention "
                 f"{recipe.power.convention}, gaps: {recipe.power.gaps}, background: {recipe.power.background}",
        "source": recipe.source.kind, "software": software, "references": str(attributes["references"]),
    }  # fmt: skip
    views = [region_view(dataset, number) for number in dataset.regions]
    foot = f"Written by sdoml_dist {__version__}. All times are UTC."
    try:
        history = read_history(as_store(url, **options))
    except (UsageError, OSError, ValueError, KeyError):
        history = None  # the dataset can be read without its records
    return write_report(views, output, title=recipe.name, provenance=provenance, foot=foot, history=history)
