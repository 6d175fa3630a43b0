"""Continual update: new and changed frames, versions, differences, reprocessing on a branch, letting old versions go."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdoml_dist
from sdoml_dist.cli import main
from sdoml_dist.engine.reprocess import reprocess
from sdoml_dist.engine.run import build
from sdoml_dist.errors import EnvironmentFault, ExitCode, Stopped, StoreError, UsageError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.report.validate import validate
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.simulator import SimulatorSource, response_table
from sdoml_dist.store.diff import compare
from sdoml_dist.store.expire import expire
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.reader import MixedCalibrationWarning, open_product
from sdoml_dist.store.repository import open_repository
from tests.conftest import small
from tests.test_build import contents, same

START = np.datetime64("2011-02-15T00:00", "ns")
STEP = np.timedelta64(360, "s")


def write_files(folder: Path, slots: range, seed: int = 0) -> None:
    """Write the files of some slots of 171 A."""
    source = SimulatorSource(SimulationConfig(pixels=128, seed=seed))
    for path, record in source.files("171A", START + slots.start * STEP, START + slots.stop * STEP):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.fetch(record))


def files_recipe(tmp_path: Path, slots: int = 10, **changes: Any) -> Recipe:
    data = small(
        str(tmp_path / "d"), channels=["171A"], source={"kind": "files", "url": str(tmp_path / "files"), "pixels": 128},
        period={"start": str(START)[:19], "end": str(START + slots * STEP)[:19]},
    )  # fmt: skip
    return parse_recipe(data | changes)


def run(*arguments: str) -> int:
    return main([*arguments])


def _full(*_: object) -> None:
    raise EnvironmentFault("No space left.")


@pytest.mark.usefixtures("ray_cluster")
def test_an_update_takes_what_is_new_and_changed_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    write_files(files, range(8))
    recipe, url = files_recipe(tmp_path), str(tmp_path / "d")
    build(recipe)
    assert run("tag", url, "v1") == 0
    assert sdoml_dist.accounting(url).loc["171A", ["ok", "missing"]].tolist() == [8, 2]
    # Nothing new: the update commits nothing and makes no version.
    capsys.readouterr()
    assert run("update", url) == 0
    assert "nothing has changed" in capsys.readouterr().out
    versions = open_repository(recipe.store).list_tags()
    assert versions == {"v1"}
    # Slot 8 arrives late, slot 3 is delivered again with other pixels, the period grows by two slots.
    write_files(files, range(8, 9))
    write_files(files, range(10, 12))
    write_files(files, range(3, 4), seed=5)
    before = sdoml_dist.open_dataset(url, "v1")["171A"].values
    assert run("update", url, "--to", str(START + 12 * STEP)[:19]) == 0
    out = capsys.readouterr().out
    assert "4 frames in" in out
    tag = next(name for name in open_repository(recipe.store).list_tags() if name != "v1")
    assert f"version {tag}" in out
    after = sdoml_dist.open_dataset(url, tag)["171A"].values
    unchanged = [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_array_equal(after[unchanged], before[unchanged])
    assert (after[3] != before[3]).any()
    assert np.isfinite(after[[8, 10, 11]]).any(axis=(1, 2)).all()
    assert np.isnan(after[9]).all()
    # The old version is what it was.
    np.testing.assert_array_equal(sdoml_dist.open_dataset(url, "v1")["171A"].values, before)
    # The difference says so.
    (found,) = compare(url, "v1", tag)
    assert dict(found.transitions) == {("missing_no_frame", "ok"): 1, ("absent", "ok"): 2}
    assert (found.remade, found.values) == (1, 1)
    assert any("period.end" in line for line in found.settings)
    assert set(found.statistics) == {"171A"}
    assert f"171A {START + 3 * STEP}: made again" in found.examples
    assert run("diff", url, "v1", tag) == 0
    assert "1 frames missing_no_frame -> ok" in capsys.readouterr().out
    assert run("diff", url, "v1", "v1", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["remade"] == 0
    assert validate(url).valid
    # A file that vanishes takes its frame with it, and the old version keeps it. Broken off before the version has its name,
    # the update is named by the next one, which finds nothing new.
    next(files.rglob("*_0018*")).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("sdoml_dist.store.repository.create_tag", _full)
        assert run("update", url, "--tag", "v3") == ExitCode.ENVIRONMENT
    assert "v3" not in open_repository(recipe.store).list_tags()
    assert run("update", url, "--tag", "v3") == 0
    assert "nothing has changed\nversion v3" in capsys.readouterr().out
    assert run("update", url) == 0
    assert "version" not in capsys.readouterr().out
    table = sdoml_dist.frames(url)
    assert table[table.time == START + 3 * STEP].reason.tolist() == ["missing_no_frame"]


@pytest.mark.usefixtures("ray_cluster")
def test_reprocessing_goes_to_a_branch_and_mixed_calibrations_are_seen(tmp_path: Path) -> None:
    write_files(tmp_path / "files", range(10))
    recipe, url = files_recipe(tmp_path), str(tmp_path / "d")
    store = Store(url=url)
    build(recipe)
    before = contents(url)
    table = tmp_path / "aia_V0_simulated_response_table.txt"
    table.write_text(response_table())
    change = [f"calibration.degradation.url={table}"]
    with pytest.raises(UsageError, match="Nothing is to change"):
        reprocess(store, "aia", [])
    with pytest.raises(StoreError, match="other arrays"):
        reprocess(store, "aia", ["cadence=720"])
    # A run that is stopped in the middle leaves the dataset as it was, and the branch open.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdoml_dist.engine.reprocess.build", stopped)
        with pytest.raises(Stopped):
            reprocess(store, "aia", change)
    same(before, contents(url))
    with pytest.raises(StoreError, match="under way on the branch reprocess-aia"):
        build(recipe, retry=("missing",))
    assert sdoml_dist.accounting(url, "reprocess-aia").loc["171A", "pending"] == 10
    with pytest.raises(StoreError, match="Another reprocessing"):
        reprocess(store, "aia", ["selection.minimum_exposure_s=0.1"])
    # The same command goes on and merges.
    done = reprocess(store, "aia", change)
    assert done.merged is not None
    assert "reprocess-aia" not in open_repository(store).list_branches()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = sdoml_dist.open_dataset(url)
    assert (ds.DEG_COR != 1).all()
    assert len(ds.attrs["calibrations"]) == 1
    corrected = ds["171A"].values * ds.DEG_COR.values[:, 0, None, None]
    np.testing.assert_allclose(corrected, pixels(before, ds.sizes["time"]), rtol=1e-5)
    # Only a stretch, back to no correction: two calibrations, and nobody can miss it.
    part = str(START + 5 * STEP)[:19]
    again = reprocess(store, "aia", ["calibration.degradation=null"], start=part)
    assert again.merged is not None
    with pytest.warns(MixedCalibrationWarning, match="made by 2 calibrations"):
        ds = sdoml_dist.open_dataset(url)
    marks = ds.CALIBRATION.values[:, 0]
    assert (marks[:5] != marks[5:]).all()
    assert set(map(str, np.unique(marks))) == set(ds.attrs["calibrations"])
    assert (ds.DEG_COR.values[5:] == 1).all()
    assert validate(url).valid


def stopped(*_: Any, **__: Any) -> None:
    """Stand for a run that a signal stops before its first commit."""
    raise Stopped("stopped", "", "")


def pixels(arrays: dict[str, np.ndarray], number: int) -> np.ndarray:
    """Return the first frames of the period from a dataset's arrays (which begin 500 slots earlier)."""
    return arrays["aia/2011/171A"][500 : 500 + number]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_old_versions_go_and_tags_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "files", range(4))
    recipe, url = files_recipe(tmp_path, 4), str(tmp_path / "d")
    build(recipe)
    run("tag", url, "v1")
    kept = sdoml_dist.open_dataset(url, "v1")["171A"].values
    write_files(tmp_path / "files", range(4), seed=1)
    run("update", url, "--no-tag")
    write_files(tmp_path / "files", range(4), seed=2)
    run("update", url, "--no-tag")
    store = Store(url=url)
    with pytest.raises(UsageError, match="below a day"):
        expire(store, 0.5)
    assert expire(store, 1.0).snapshots == 0
    monkeypatch.setattr("sdoml_dist.store.expire.SHORTEST_DAYS", -1.0)
    commits = len(list(open_repository(store).ancestry(branch="main")))
    gone = expire(store, -0.001)
    assert gone.snapshots > 0
    assert gone.objects > 0
    assert len(list(open_repository(store).ancestry(branch="main"))) < commits
    np.testing.assert_array_equal(sdoml_dist.open_dataset(url, "v1")["171A"].values, kept)
    assert validate(url).valid
    with Lease(store, "another driver"), pytest.raises(Exception, match="another driver"):
        expire(store, 1.0)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_updates_at_once_lose_nothing(tmp_path: Path) -> None:
    write_files(tmp_path / "files", range(4))
    recipe, url = files_recipe(tmp_path, 4), str(tmp_path / "d")
    build(recipe)
    write_files(tmp_path / "files", range(4, 10))
    command = [sys.executable, "-m", "sdoml_dist", "update", url, "--cpus", "1", "--wait", "60", "--to"]
    ends = [str(START + number * STEP)[:19] for number in (8, 10)]
    runs = [
        subprocess.Popen([*command, end], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for end in ends
    ]
    codes = []
    for one in runs:
        _, err = one.communicate(timeout=180)
        codes.append(one.returncode)
        # One that comes second may find the period longer already than it wanted.
        assert one.returncode == 0 or "would cut that" in err, err
    assert ExitCode.COMPLETE in codes
    assert sdoml_dist.accounting(url).loc["171A", "ok"] == 10
    assert open_product(url).recipe.period.end == ends[1]
    assert validate(url).valid
