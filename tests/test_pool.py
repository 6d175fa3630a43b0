"""The pool: tasks shared out among calls, answers handed over in pieces, every answer once whatever dies; commits beside it."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdoml_dist.engine import pool
from sdoml_dist.engine.brake import Brake
from sdoml_dist.engine.collect import Committer
from sdoml_dist.engine.pool import PoolActor, PoolSize, _calls, pooled
from sdoml_dist.recipe_base import Resources


@pytest.mark.parametrize(
    ("number", "workers"), [(1, 1), (20, 2), (3006, 2), (10_008, 3), (54_135, 1000), (100_008, 100_008)]
)
def test_every_task_is_in_one_call_and_the_last_calls_are_single(number: int, workers: int) -> None:
    calls = _calls(number, workers)
    assert sorted(task for call in calls for task in call) == list(range(number))
    assert len(calls[-1]) == 1
    # All workers have something from the beginning, and neighbours work on neighbours.
    side = min(workers, number, 1024)
    assert [call[0] for call in calls[:side]] == list(range(side))
    # No call is larger than an eighth of what one worker has to do, or than what bounds their number.
    assert len(calls[0]) <= max(number / workers / 8, number / 8192 + 1, 1)


class Echo(PoolActor):
    """Answers with twice the task; some tasks take long."""

    def name(self, task: int) -> str:
        return str(task)

    def work(self, task: int) -> int:
        if task % 7 == 3:
            time.sleep(0.03)
        return 2 * task


class Direct:
    """A brake in this process, with the calls of an actor's handle."""

    def __init__(self, brake: Brake) -> None:
        for name in ("begin", "end", "call", "cut"):
            setattr(self, name, SimpleNamespace(remote=getattr(brake, name)))


def pieces(actor: Echo, tasks: list[tuple[int, int]]) -> Iterator[dict[int, Any]]:
    batch = {"task": np.array([pickle.dumps(task) for task in tasks], dtype=object)}
    for handed in actor(batch):
        for piece in handed["answers"]:
            yield {number: answer.value for number, answer in pickle.loads(piece)}


def test_a_repeated_call_hands_over_in_the_same_pieces_what_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.ray, "get", lambda value: value)
    brake = Brake(hand_over_s=0.02)
    tasks = [(100 + number, number) for number in range(30)]
    first = pieces(Echo(Direct(brake)), tasks)
    # The worker dies when it has handed over two pieces, of which the driver has one.
    seen = [next(first), next(first)]
    first.close()
    brake.received(list(seen[0]))
    again = list(pieces(Echo(Direct(brake)), tasks))
    assert seen[0]
    assert again[0] == {}
    assert again[1] == seen[1]
    assert seen[0] | {number: value for piece in again for number, value in piece.items()} == {
        100 + number: 2 * number for number in range(30)
    }
    # Another repetition, of which nothing new is known, is the same to the last piece.
    assert list(pieces(Echo(Direct(brake)), tasks)) == again


class Fragile(Echo):
    """Takes its worker along at some tasks, the first time; one answer never comes."""

    def __init__(self, folder: str, brake: Any) -> None:
        super().__init__(brake)
        self.folder = Path(folder)

    def work(self, task: int) -> int:
        mark = self.folder / f"tried-{task}"
        if task in (5, 40) and not mark.exists():
            mark.touch()
            os._exit(1)
        return super().work(task)


def test_every_answer_comes_once_though_workers_die_and_answers_are_lost(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = pool._answers, [7, 44]

    def losing(data: Any) -> Iterator[list[Any]]:
        for answers in real(data):
            kept = [one for one in answers if one[0] not in lost]
            # And some come twice, as of a call that Ray repeats.
            yield kept + kept[:1]
        lost.clear()

    monkeypatch.setattr(pool, "_answers", losing)
    size = PoolSize(2, 2, 1.0, 10**8)
    found = list(pooled(Fragile, (str(tmp_path),), list(range(64)), size, 30.0))
    assert sorted(found) == [2 * number for number in range(64)]


def test_what_comes_back_during_a_commit_goes_together() -> None:
    commits: list[list[int]] = []
    busy, go = threading.Event(), threading.Event()

    def commit(batch: list[int]) -> None:
        commits.append(list(batch))
        busy.set()
        assert go.wait(30)

    committer = Committer(Resources(commit_every_units=2, commit_every_s=1000.0), commit)
    committer.add(0)
    committer.add(1)
    assert busy.wait(30)
    for number in range(2, 9):
        committer.add(number)
    go.set()
    committer.close()
    assert commits == [[0, 1], list(range(2, 9))]


def test_a_receipt_does_not_wait_for_others_longer_than_it_may() -> None:
    committed = threading.Event()
    committer = Committer(Resources(commit_every_units=1000, commit_every_s=0.05), lambda _: committed.set())
    committer.add(0)
    assert committed.wait(30)
    committer.close()


def test_a_commit_that_fails_ends_the_run_with_its_error() -> None:
    def commit(_: list[int]) -> None:
        raise OSError("No space left on device")

    committer = Committer(Resources(commit_every_units=1, commit_every_s=1000.0), commit)
    deadline = time.monotonic() + 30
    while not committer.failed:
        assert time.monotonic() < deadline
        committer.add(0)
    with pytest.raises(OSError, match="No space"):
        committer.close()
