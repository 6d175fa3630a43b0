"""Which finished frames the source would now give other bytes for."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from sdoml_dist.pipelines.preprocess import make_pipeline
from sdoml_dist.plan import Plan, Unit
from sdoml_dist.solar.status import FrameError, has_outcome
from sdoml_dist.solar.times import slot_times
from sdoml_dist.sources.base import Source
from sdoml_dist.store.dataset import Dataset

logger = logging.getLogger("sdoml")

# A source that cannot list what it has is asked again for frames that were not there yet, for this long.
_RECENT = np.timedelta64(30, "D")


def changed(dataset: Dataset, source: Source, now: np.datetime64) -> Iterator[tuple[Unit, np.ndarray]]:
    """Yield units with frames whose source has changed since they were made, appeared or vanished.

    Parameters
    ----------
    dataset : Dataset
        The product.
    source : Source
        Its source, prepared.
    now : numpy.datetime64
        UTC. Where the source cannot list its frames, those that were missing in the last 30 days are taken.

    Yields
    ------
    tuple of (Unit, numpy.ndarray)
        A unit and the slots of the year to do again.
    """
    plan: Plan = dataset.plan
    recipe = plan.recipe
    column = {bundle.name: recipe.channels.index(bundle.channels[0]) for bundle in recipe.bundles}
    pipeline = make_pipeline(recipe, source)
    year, status, known, times = None, np.empty(0), np.empty(0), np.empty(0)
    for unit in plan.units():
        if unit.year != year:
            year, status = unit.year, dataset.status(unit.year)
            known, times = dataset.table(unit.year, "keywords/SOURCE_ID"), slot_times(unit.year, recipe.cadence)
        codes = status[unit.start : unit.stop, column[unit.bundle]]
        slots = np.flatnonzero(~has_outcome(codes, "pending")) + unit.start
        if not source.sees_changes:
            slots = (
                np.flatnonzero(has_outcome(codes, "missing") & (times[unit.start : unit.stop] > now - _RECENT))
                + unit.start
            )
            if slots.size:
                yield unit, slots
            continue
        if slots.size == 0:
            continue
        try:
            found = pipeline.chosen(unit, slots)
        except FrameError as error:
            logger.warning("%s is left as it is: %s", unit.unit_id, error)
            continue
        other = slots[found != known[slots, column[unit.bundle]]]
        if other.size:
            yield unit, other
