"""Small datasets of simulated magnetograms and stacks, made in this process, and the truth that they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.finalise import finalise

FIRST = "2014-03-01T00:00"


def recipe(store: Path, product: str, *, pixels: int, hours: int, noise: bool = True, **changes: Any) -> Recipe:
    """Return a recipe of some hours of magnetograms or stacks."""
    end = np.datetime64(FIRST, "s") + np.timedelta64(hours, "h")
    simulation = {"pixels": pixels, "noise": noise} | changes.pop("simulation", {})
    data: dict[str, Any] = {
        "name": "small", "product": product, "cadence": "1h", "tolerance": "22s", "grid": {"pixels": pixels},
        "period": {"start": FIRST, "end": str(end)}, "source": {"kind": "simulator", "simulation": simulation},
        "store": {"url": str(store)}, "chunking": {"shard_slots": 2},
    } | ({"channels": ["M_45s"]} if product == "hmi_45s" else {"stack": {"minimum": 10}})  # fmt: skip
    return parse_recipe(data | changes)


def at(slot: int, step: int = 0, first: str = FIRST) -> str:
    """Return the time (UTC) of a magnetogram some steps from the one nearest to an hour: times are whole steps of TAI."""
    tai = np.datetime64(first, "s") + np.timedelta64(3600 * slot + 35, "s")
    whole = round(tai.astype(np.int64) / 45) * 45 + 45 * step
    return str(np.datetime64(whole - 35, "s"))


def make(made_by: Recipe) -> None:
    """Build a product without a cluster."""
    dataset = Dataset(Plan(made_by), {})
    worker = Preprocessor(made_by, dataset.fork_bytes)
    dataset.commit([worker.process(unit, slots) for unit, slots in dataset.pending()], "all", {})
    finalise(dataset)
