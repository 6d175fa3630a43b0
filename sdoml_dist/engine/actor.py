"""The actor of a build: it owns a preprocessor and turns units into receipts."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdoml_dist.engine.pool import PoolActor
from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.plan import Unit
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.receipt import Receipt

Task = tuple[Unit, np.ndarray | None]
"""A unit, and the slots to do where these are not all."""


class UnitActor(PoolActor):
    """Runs units of a plan.

    Parameters
    ----------
    recipe : dict
        The recipe as plain data.
    fork_bytes : bytes
        Pickled fork of the driver's session.
    brake : ray.actor.ActorHandle
        The run's brake.
    """

    def __init__(self, recipe: dict[str, Any], fork_bytes: bytes, brake: Any) -> None:
        super().__init__(brake)
        self.preprocessor = Preprocessor(parse_recipe(recipe), fork_bytes)

    def name(self, task: Task) -> str:
        """Return the unit's identity."""
        return task[0].unit_id

    def work(self, task: Task) -> Receipt:
        """Process a unit."""
        return self.preprocessor.process(task[0], _slots(task))

    def lost(self, task: Task, why: str) -> Receipt:
        """Account for a unit that ended every worker that tried it."""
        unit, slots = task[0], _slots(task)
        channels = self.preprocessor.recipe.bundle(unit.bundle).channels
        status = np.full((slots.size, len(channels)), int(FrameStatus.FAILED_UNEXPECTED), dtype=np.uint8)
        return Receipt(unit=unit, slots=slots, channels=channels, status=status, keywords={}, moments={}, details=[why])


def _slots(task: Task) -> np.ndarray:
    unit, some = task
    return np.arange(unit.start, unit.stop) if some is None else some
