"""Ends at rare moments: between the last commit and the statistics, within an expiry, of a driver that stalls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdoml_dist.engine.run import build
from sdoml_dist.errors import EnvironmentFault, ExitCode
from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.store import expire as expiry
from sdoml_dist.store import lease as leases
from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.finalise import finalise
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.reader import frames
from sdoml_dist.store.repository import create_tag, open_repository, session_at
from tests.conftest import ROOT
from tests.test_build import contents, same

Maker = Callable[..., Recipe]
SHORT = {"period": {"start": "2011-02-15T00:00", "end": "2011-02-15T00:30"}, "channels": ["171A"]}


def commit_all(recipe: Recipe) -> Dataset:
    """Commit every unit of a recipe, in this process; the statistics are not brought up to date."""
    dataset = Dataset(Plan(recipe), calibration_identity(recipe))
    worker = Preprocessor(recipe, dataset.fork_bytes)
    for task in dataset.pending():
        dataset.commit([worker.process(*task)], "a unit", {})
    return dataset


def test_a_driver_dies_between_its_last_commit_and_the_statistics(make_recipe: Maker, tmp_path: Path) -> None:
    """All frames are there, which a reader sees; the same command has only the statistics left."""
    whole, cut = make_recipe(str(tmp_path / "whole"), **SHORT), make_recipe(str(tmp_path / "cut"), **SHORT)
    finalise(commit_all(whole))
    commit_all(cut)
    assert (frames(cut.store.url).outcome != "pending").all()
    before = contents(cut.store.url)
    expected = contents(whole.store.url)
    with pytest.raises(AssertionError):
        same(expected, before)
    assert build(cut).exit_code is ExitCode.COMPLETE
    same(expected, contents(cut.store.url))


_DIES = """
import os, sys
from sdoml_dist.recipe_base import Store
from sdoml_dist.store import expire as module
module.SHORTEST_DAYS = -1.0
opened = module.open_repository
class Dying:
    def __init__(self, repository): self.repository = repository
    def expire_snapshots(self, limit):
        if sys.argv[2] == "before": os._exit(9)
        return self.repository.expire_snapshots(limit)
    def garbage_collect(self, limit): os._exit(9)
module.open_repository = lambda store: Dying(opened(store))
module.expire(Store(url=sys.argv[1]), -0.001)
"""


@pytest.mark.parametrize("moment", ["before", "within"])
def test_an_expiry_dies(moment: str, make_recipe: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves its lease and some or all old versions; newest state and tags are whole, and the next one clears up."""
    recipe = make_recipe(str(tmp_path / "d"), **SHORT)
    dataset = commit_all(recipe)
    create_tag(open_repository(recipe.store), "half", session_at(open_repository(recipe.store), None).snapshot_id)
    finalise(dataset)
    half, newest = contents(recipe.store.url, version="half"), contents(recipe.store.url)
    done = subprocess.run(
        [sys.executable, "-c", _DIES, recipe.store.url, moment], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 9, done.stderr
    assert (tmp_path / "d" / "sdoml" / "lease.json").exists()
    same(newest, contents(recipe.store.url))
    same(half, contents(recipe.store.url, version="half"))
    monkeypatch.setattr(expiry, "SHORTEST_DAYS", -1.0)
    gone = expiry.expire(recipe.store, -0.001)
    assert gone.objects > 0
    assert (gone.snapshots > 0) == (moment == "before")
    same(newest, contents(recipe.store.url))
    same(half, contents(recipe.store.url, version="half"))
    assert not (tmp_path / "d" / "sdoml" / "lease.json").exists()


def test_a_driver_that_stalls_cannot_commit_any_more(
    make_recipe: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped for longer than a lease lives, it is replaced from another machine; when it wakes up its commit is refused."""
    recipe = make_recipe(str(tmp_path / "d"), **SHORT)
    expected = make_recipe(str(tmp_path / "whole"), **SHORT)
    finalise(commit_all(expected))
    # The thread that renews does not wake up any more.
    monkeypatch.setattr(leases, "RENEW_S", 1e6)
    stalled = Lease(recipe.store, "the first")
    with stalled:
        stalled.check()
        dataset = Dataset(Plan(recipe), calibration_identity(recipe))
        receipt = Preprocessor(recipe, dataset.fork_bytes).process(*dataset.pending()[0])
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(leases, "_machine", lambda: "another machine")
            with pytest.raises(EnvironmentFault, match="in use: the first"), Lease(recipe.store, "the second"):
                pass
            elsewhere.setattr(leases, "LIFETIME_S", 0.0)
            elsewhere.setattr(leases, "SILENT_S", 0.5)
            with Lease(recipe.store, "the second"):
                finalise(commit_all(recipe))
                with pytest.raises(EnvironmentFault, match="Another driver has taken over"):
                    stalled.check()
        # Even without that look the commit itself is refused: the branch has gone on.
        with pytest.raises(EnvironmentFault, match="committed"):
            dataset.commit([receipt], "too late", {})
    same(contents(expected.store.url), contents(recipe.store.url))
