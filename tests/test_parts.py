"""Independent parts of one plan: together they are the whole, bit for bit, whatever their order."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdoml_dist.cli import main
from sdoml_dist.engine.run import build
from sdoml_dist.errors import EnvironmentFault, ExitCode, UsageError
from sdoml_dist.parts import Part, array_expression, parse_part, part_of
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.parts_left import parts_left
from sdoml_dist.store import lease as leases
from sdoml_dist.store.lease import Lease
from tests.test_build import contents, same


@given(st.integers(1, 500), st.integers(1, 60))
def test_parts_cover_a_plan_once_and_evenly(units: int, of: int) -> None:
    parts = [[index for index in range(units) if Part(number, of).holds(index, units)] for number in range(1, of + 1)]
    assert list(itertools.chain(*parts)) == list(range(units))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part_of(index, units, of) == number for number, part in enumerate(parts, 1) for index in part)


@given(st.sets(st.integers(0, 99)))
def test_an_array_expression_says_the_same_numbers(numbers: set[int]) -> None:
    text = array_expression(numbers)
    spans = [span.split("-") for span in text.split(",")] if text else []
    assert [n for span in spans for n in range(int(span[0]), int(span[-1]) + 1)] == sorted(numbers)


def test_what_is_no_part_is_refused() -> None:
    assert parse_part("3/8") == Part(3, 8)
    for text in ("0/8", "9/8", "3", "3/0", "a/b"):
        with pytest.raises(UsageError, match="not a part"):
            parse_part(text)


def test_parts_make_the_whole(
    ray_cluster: Any, make_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_recipe(str(tmp_path / "whole"))
    expected = build(whole)
    recipe = whole.model_copy(update={"store": Store(url=str(tmp_path / "parts"))})
    assert len(list(Plan(recipe).units())) == 10
    # Both at once, by turns, on one dataset.
    codes: list[ExitCode] = []
    threads = [threading.Thread(target=lambda n=n: codes.append(build(recipe, part=Part(n, 2)).exit_code)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(codes) == expected.exit_code == ExitCode.FRAMES_FAILED
    same(contents(whole.store.url), contents(recipe.store.url))
    records = [json.loads(path.read_text()) for path in Path(recipe.store.url).glob("sdoml/runs/*part*/run.json")]
    assert sorted(sum(record["outcomes"].values()) for record in records) == [20, 20]
    # Only parts with failed frames are left, and doing them again does nothing but that.
    failed = parts_left(recipe.store, 5)
    assert 0 < len(failed) < 5
    assert main(["status", recipe.store.url, "--array-expression", "5"]) == 0
    assert capsys.readouterr().out.strip() == array_expression(failed)
    again = build(recipe, part=Part(min(failed), 5), retry=("failed",))
    assert 0 < again.outcomes.total() < 8
    same(contents(whole.store.url), contents(recipe.store.url))


def test_a_driver_of_the_whole_waits_for_parts_and_parts_for_it(tmp_path: Path) -> None:
    store = Store(url=str(tmp_path / "d"))
    with Lease(store, "part", part=(1, 2)):
        with pytest.raises(EnvironmentFault, match="in use: part"):
            Lease(store, "whole").__enter__()
        with pytest.raises(EnvironmentFault, match="in use: part"):
            Lease(store, "the same part", part=(1, 2)).__enter__()
        # The refused driver holds nothing: a part has its turn at once, and another part may run.
        with Lease(store, "other part", part=(2, 2)), Lease(store, "other part", turn=True):
            pass
    with Lease(store, "whole"), Lease(store, "part", part=(1, 2)), pytest.raises(EnvironmentFault, match="in use: whole"):
        Lease(store, "part", turn=True).__enter__()
    assert list((tmp_path / "d" / "sdoml").iterdir()) == []


def test_one_of_many_takes_over_from_a_dead_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that ran out long ago, and waiters that all see it: turns never overlap, and all get one."""
    store, path = Store(url=str(tmp_path / "d")), tmp_path / "d" / "sdoml" / "lease.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"token": "dead", "machine": "elsewhere", "renewed_unix_s": 0.0}))
    monkeypatch.setattr(leases, "SILENT_S", 0.5)
    holding, most, done = 0, 0, []
    guard = threading.Lock()

    def take(number: int) -> None:
        nonlocal holding, most
        with Lease(store, f"waiter {number}", 60.0, turn=True):
            with guard:
                holding += 1
                most = max(most, holding)
            with guard:
                holding -= 1
                done.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, sorted(done)) == (1, list(range(12)))
