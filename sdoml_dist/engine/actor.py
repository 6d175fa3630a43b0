"""The actor of the pool: it owns a preprocessor and turns units into receipts."""

from __future__ import annotations

import logging
import pickle
import time
import traceback
from typing import Any

import numpy as np
import ray

from sdoml_dist.engine.brake import MAXIMUM_STARTS
from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.plan import Unit
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.receipt import Receipt

_WRITE_ATTEMPTS = 4
_PAUSE_S = 2.0


class UnitActor:
    """Runs units for Ray Data, one row at a time.

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
        # The driver shows what matters; a worker's log is its own file.
        logging.getLogger("sdoml_dist").setLevel(logging.WARNING)
        self.preprocessor = Preprocessor(parse_recipe(recipe), fork_bytes)
        self.brake = brake

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Map a batch of tasks to a batch of receipts (both pickled)."""
        return {"receipt": [self._run(*pickle.loads(task)) for task in batch["task"]]}  # noqa: S301 - our own driver

    def _run(self, unit: Unit, some: np.ndarray | None) -> bytes:
        slots = np.arange(unit.start, unit.stop) if some is None else some
        answer = ray.get(self.brake.begin.remote(unit.unit_id))
        if answer == "stop":
            return pickle.dumps(None)
        if answer == "poison":
            return pickle.dumps(_poisoned(unit, slots, self.preprocessor.recipe.bundle(unit.bundle).channels))
        try:
            result: Receipt | str = self._attempt(unit, slots)
        except Exception as error:  # noqa: BLE001 - reported to the driver
            result = f"{unit.unit_id}: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
        ray.get(self.brake.end.remote(unit.unit_id))
        return pickle.dumps(result)

    def _attempt(self, unit: Unit, slots: np.ndarray) -> Receipt:
        """Process a unit; storage that answers badly is given some time."""
        for attempt in range(1, _WRITE_ATTEMPTS):
            try:
                return self.preprocessor.process(unit, slots)
            except Exception as error:
                if "space" in str(error).lower():
                    raise
                time.sleep(_PAUSE_S * attempt)
        return self.preprocessor.process(unit, slots)


def _poisoned(unit: Unit, slots: np.ndarray, channels: tuple[str, ...]) -> Receipt:
    """Account for a unit that ended every worker that tried it."""
    status = np.full((slots.size, len(channels)), int(FrameStatus.FAILED_UNEXPECTED), dtype=np.uint8)
    detail = f"{unit.unit_id}: workers died {MAXIMUM_STARTS} times on this unit (out of memory?)"
    return Receipt(unit=unit, slots=slots, channels=channels, status=status, keywords={}, moments={}, details=[detail])
