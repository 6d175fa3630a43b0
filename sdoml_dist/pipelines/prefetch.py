"""Fetch what a build needs where there is a network: calibration tables first, then frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.pipelines.frames import chosen_frames
from sdoml_dist.pipelines.tables import prefetch_tables
from sdoml_dist.plan import Plan, unit_times
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_sources import FilesConfig, SimulatorConfig, SynopticConfig
from sdoml_dist.solar.status import FrameError
from sdoml_dist.sources.make import make_source


def prefetch(recipe: Recipe, *, tables_only: bool = False) -> Iterator[str]:
    """Fetch tables and frames, and yield a line about each step.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    tables_only : bool
        Whether to leave the frames.

    Raises
    ------
    UsageError
        If the source has no cache to fetch frames into.
    """
    for name, digest in prefetch_tables(recipe).items():
        yield f"{name}: sha256 {digest}"
    source = make_source(recipe)
    tolerance = np.timedelta64(recipe.tolerance, "s")
    source.prepare(
        [bundle.name for bundle in recipe.bundles], recipe.period.first - tolerance, recipe.period.last + tolerance
    )
    yield f"{recipe.source.kind}: index ready"
    if tables_only or isinstance(recipe.source, FilesConfig | SimulatorConfig):
        return
    if isinstance(recipe.source, SynopticConfig) and recipe.source.cache is None:
        raise UsageError(
            "The synoptic source has no cache, so frames are streamed during the build.",
            "There is nowhere to fetch them to.",
            "Set source.cache, or use --tables-only.",
        )
    for unit in Plan(recipe).units():
        times = unit_times(unit, recipe.cadence)
        records = chosen_frames(source, unit.bundle, times, recipe.tolerance)
        chosen = [record for record in records if record is not None]
        good = [record for record in chosen if not record.quality]
        missing = 0
        try:
            source.stage(good)
        except FrameError as error:
            yield f"{unit.unit_id}: {error.detail}"
            continue
        for record in good:
            try:
                for _, file in record.segments or (("", record),):
                    source.fetch(file)
            except FrameError:
                missing += 1
        yield f"{unit.unit_id}: {len(good) - missing} frames there, {missing} not available"
