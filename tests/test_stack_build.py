"""Stacks as a product of a dataset: what they are made of, what becomes of every slot, and that a build goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdoml_dist
from sdoml_dist.engine.run import build
from sdoml_dist.pipelines.preprocess import make_pipeline
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.report.validate import validate
from sdoml_dist.sources.make import make_source
from tests.denoising_data import at

FIRST = "2014-03-01T12:00"


def recipe(store: Path, product: str, **changes: Any) -> Recipe:
    data: dict[str, Any] = {
        "name": "small", "product": product, "cadence": "1h", "tolerance": "22s",
        "period": {"start": FIRST, "end": "2014-03-01T16:00"}, "grid": {"pixels": 256},
        "source": {"kind": "simulator", "simulation": {"pixels": 256}}, "store": {"url": str(store)},
        "chunking": {"shard_slots": 2}, "resources": {"commit_every_units": 1},
    }  # fmt: skip
    return parse_recipe(data | changes)


@pytest.mark.timeout(180)
def test_a_dataset_of_stacks(tmp_path: Path, ray_cluster: object) -> None:
    """Four hours: complete; one frame flagged and one cut off; without its middle; with too few."""
    faults = [
        {"channel": "M_45s", "time": at(1, -2, FIRST), "kind": "flagged"},
        {"channel": "M_45s", "time": at(1, 1, FIRST), "kind": "corrupt"},
        {"channel": "M_45s", "time": at(2, 0, FIRST), "kind": "missing"},
        *({"channel": "M_45s", "time": at(3, step, FIRST), "kind": "missing"} for step in (-2, -1, 1)),
    ]  # fmt: skip
    source = {"kind": "simulator", "simulation": {"pixels": 256, "faults": faults}}
    stack = {"before": 2, "after": 2, "minimum": 3}
    store = tmp_path / "dataset"
    stacks = recipe(store, "hmi_stack", source=source, stack=stack)
    done = build(stacks)
    assert done.outcomes == {"ok": 2, "missing": 2}
    assert int(done.exit_code) == 0
    table = sdoml_dist.frames(store, details=True)
    assert list(table.reason) == ["ok", "ok", "missing_no_frame", "missing_too_few"]
    assert table.detail[3] == "2 of 5 frames, 3 are asked for"
    record = sdoml_dist.header(store, "M_stack", "2014-03-01T13:00")
    assert [one["status"] for one in record["left_out"]] == ["rejected_quality", "failed_read"]
    assert record["left_out"][0]["time"] == at(1, -2, FIRST)
    assert record["frames"] == 3

    # The same command finds nothing to do.
    assert build(stacks).outcomes == {}
    assert validate(str(store)).valid
    native = sdoml_dist.open_dataset(store)
    assert list(native.FRAMES.values[:2, 0]) == [5, 3]
    assert sdoml_dist.to_map(native, "M_stack", FIRST).meta["bunit"] == "G"

    # Without noise the magnetogram of the middle is the truth for the mean and for the one with noise.
    mean = native["M_stack"].values[0]
    still = {"kind": "simulator", "simulation": {"pixels": 256, "noise": False}}
    once, truth = (
        _magnetogram(recipe(tmp_path, "hmi_45s", channels=["M_45s"], source=kind)) for kind in (source, still)
    )
    inside = np.hypot(*(np.indices((256, 256)) - 127.5)) < 80
    noise = {name: float(np.std((image - truth)[inside])) for name, image in (("once", once), ("mean", mean))}
    assert noise["mean"] < noise["once"] / np.sqrt(5) * 1.15, noise


def _magnetogram(made_by: Recipe) -> np.ndarray:
    unit = next(Plan(made_by).units())
    work = make_pipeline(made_by, make_source(made_by)).process(unit, np.array([unit.start]))
    image: np.ndarray = work.values["M_45s"][unit.start - unit.shard * made_by.shard_slots]
    return image


def test_wrong_stacks_are_refused(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(sdoml_dist.errors.RecipeError, match="never has 6"):
        recipe(tmp_path, "hmi_stack", stack={"before": 2, "after": 2, "minimum": 6})
    with pytest.raises(sdoml_dist.errors.RecipeError, match="full-disc magnetograms"):
        recipe(tmp_path, "hmi_stack", source={"kind": "published", "layout": "sdoml-v1", "url": "x"})
    # What does not concern other products does not change what they are.
    assert "stack" not in make_recipe().identity()
    assert recipe(tmp_path, "hmi_stack").fingerprint != recipe(tmp_path, "hmi_stack", stack={"minimum": 3}).fingerprint
