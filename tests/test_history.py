"""The history of a run: what a build records of its units, the figures, the picture, the report."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdoml_dist
from sdoml_dist.cli import main
from sdoml_dist.engine.run import build
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.report.history import PHASES, DoneUnit, History, read_history
from sdoml_dist.report.page import write_report
from sdoml_dist.report.run_chart import run_chart
from tests.conftest import small


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> Recipe:
    recipe = parse_recipe(small(str(tmp_path_factory.mktemp("history") / "dataset")))
    build(recipe)
    return recipe


def unit(start: float, seconds: float, node: str = "n1", worker: str = "1", **changes: Any) -> DoneUnit:
    phases = {"source": 0.25 * seconds, "decode": 0.5 * seconds, "other": 0.25 * seconds}
    given = {"name": f"u{start:g}", "frames": 4, "failed": 0, "read_bytes": 10, "peak_bytes": 700, "projected_bytes": 900}
    return DoneUnit(**given | changes, started=start, seconds=seconds, node=node, worker=worker, phases=phases)


def test_a_build_records_what_its_units_took(built: Recipe) -> None:
    history = read_history(built.store)
    assert sum(one.frames for one in history.units) == len(sdoml_dist.frames(built.store.url))
    for one in history.units:
        assert sum(one.phases.values()) == pytest.approx(one.seconds, abs=1e-3)
        assert {"source", "decode", "calibrate", "write"} <= one.phases.keys() <= set(PHASES)
        assert min(one.phases[phase] for phase in ("decode", "calibrate", "write")) > 0
        assert one.peak_bytes > 10**8
        assert one.projected_bytes > 10**8
        assert one.worker
        assert one.node
    told = history.summary()
    assert told["failed"] == int(sdoml_dist.accounting(built.store.url).loc["all", "failed"]) > 0
    assert 0 < told["utilisation"] <= 1
    assert sum(told["shares"].values()) == pytest.approx(1)


def test_the_verb_prints_and_draws(built: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "deep" / "history.png"
    assert main(["history", built.store.url, "-o", str(picture)]) == ExitCode.COMPLETE
    said = capsys.readouterr().out
    assert "10 units, 40 frames" in said
    assert "projected" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    from matplotlib.image import imread

    pixels = imread(picture)
    # Bars of at least three colours, not an empty frame.
    assert len(np.unique(pixels[..., :3].reshape(-1, 3).round(2), axis=0)) > 10
    assert main(["history", built.store.url, "--json"]) == ExitCode.COMPLETE
    assert json.loads(capsys.readouterr().out)["units"] == 10
    assert main(["history", built.store.url, "--run", "19990101"]) == ExitCode.USAGE
    with pytest.raises(UsageError, match="has finished a unit"):
        read_history(Store(url=str(tmp_path / "nothing")))


def test_the_report_shows_the_latest_run(built: Recipe, tmp_path: Path) -> None:
    page = write_report(built.store.url, tmp_path / "report.html").read_text()
    assert "The latest run" in page
    assert read_history(built.store).record["run_id"] in page
    drawn = page.split('<div class="run">')[1].split("Slowest units")[0]
    assert set(re.findall(r'class="p-(\w+)"', drawn)) >= {"decode", "calibrate", "write"}


def test_busy_workers_are_counted_by_hand() -> None:
    # Two workers on one node, one on another; the second begins late and waits between its units.
    history = History({}, (unit(0, 10), unit(5, 2, worker="2"), unit(5, 5, "n2"), unit(8, 2, worker="2")))
    assert [(node, len(units)) for node, units in history.lanes] == [("n1", 1), ("n1", 2), ("n2", 1)]
    there, busy = history.workers(), history.busy()
    assert there[10] == pytest.approx(1)
    assert there[-10] == pytest.approx(3)
    assert sum(busy.values())[180] == pytest.approx(2)  # at 7.5 s the second worker is idle
    assert sum(busy.values()).sum() * history.span_s / there.size == pytest.approx(19)
    assert busy["decode"].sum() == pytest.approx(2 * busy["source"].sum())
    assert history.utilisation == pytest.approx(19 / 20)


def test_units_of_unknown_workers_never_overlap_in_a_lane() -> None:
    rng = np.random.default_rng(0)
    units = tuple(sorted((unit(s, 1 + 3 * rng.random(), worker="") for s in 20 * rng.random(60)), key=lambda one: one.started))
    history = History({}, units)
    assert sum(len(lane) for _, lane in history.lanes) == 60
    for _, lane in history.lanes:
        assert all(a.ended <= b.started + 0.06 for a, b in itertools.pairwise(lane))


def test_a_history_of_very_many_units_leaves_their_bars_out_of_the_page() -> None:
    units = tuple(unit(k / 10, 1, worker=str(k % 100)) for k in range(4000))
    text = run_chart(History({"run_id": "r<1>"}, units))
    assert "<rect" not in text
    assert "r&lt;1&gt;" in text
    assert len(text) < 200_000
    assert run_chart(None) == ""
