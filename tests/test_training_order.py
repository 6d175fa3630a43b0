"""The order of samples: complete, random, and the same whatever the number of workers and wherever one starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.errors import UsageError
from sdoml_dist.training.order import Order, chosen

SHARDS = st.lists(st.integers(0, 9), min_size=1, max_size=200).map(sorted)


def orders(data: Any, **more: Any) -> Order:
    shards = np.array(data.draw(SHARDS))
    micro = data.draw(st.integers(1, 5))
    number = data.draw(st.integers(1, 6))
    keep = more.pop("keep_rest", micro * number > shards.size)
    return Order(shards, micro, number, seed=data.draw(st.integers(-3, 2**40)), window=data.draw(st.integers(1, 4)),
                 keep_rest=keep, **more)  # fmt: skip


def step_of(order: Order, epoch: int, step: int) -> list[list[int]]:
    return [order.micro(epoch, step, number).tolist() for number in range(order.micro_batches)]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 5))
def test_every_sample_once_per_epoch_but_for_the_dropped_rest(data: Any, epoch: int) -> None:
    order = orders(data)
    seen = [index for step in range(order.steps_per_epoch) for micro in step_of(order, epoch, step) for index in micro]
    assert len(set(seen)) == len(seen)
    assert sorted(order.epoch(epoch).tolist()) == list(range(len(order)))
    if order.keep_rest:
        assert sorted(seen) == list(range(len(order)))
    else:
        assert len(order) - order.global_batch < len(seen) <= len(order)
        assert len(seen) == order.steps_per_epoch * order.global_batch


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 3))
def test_workers_share_a_step_without_changing_it(data: Any, epoch: int) -> None:
    order = orders(data)
    step = data.draw(st.integers(0, order.steps_per_epoch - 1))
    whole = step_of(order, epoch, step)
    for world in range(1, 7):
        if order.micro_batches % world:
            with pytest.raises(UsageError, match=r"Use 1.* workers"):
                order.mine(0, world)
            continue
        shares = [order.mine(rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        assert sorted(number for share in shares for number in share) == list(range(order.micro_batches))
        assert all(number % world == rank for rank, share in enumerate(shares) for number in share)
        union = {number: order.micro(epoch, step, number).tolist() for share in shares for number in share}
        assert [union[number] for number in range(order.micro_batches)] == whole


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 40))
def test_a_new_order_at_any_position_continues_identically(data: Any, start: int) -> None:
    order = orders(data)
    fresh = Order(order._shard * 7 - 3, order.micro_batch, order.micro_batches, seed=order.seed, window=order.window,
                  keep_rest=order.keep_rest)  # fmt: skip
    before = [step_of(order, *order.position(number)) for number in range(start + 4)]
    assert [step_of(fresh, *fresh.position(number)) for number in range(start, start + 4)] == before[start:]
    epoch, step = order.position(start)
    assert epoch * order.steps_per_epoch + step == start


def test_samples_stay_within_a_window_of_shards_and_all_shards_are_shuffled() -> None:
    shards = np.repeat(np.arange(12), 10)
    order = Order(shards, 10, 3, seed=5, window=3)
    runs = [set(shards[order.epoch(0)[first : first + 30]].tolist()) for first in range(0, 120, 30)]
    assert all(len(run) == 3 for run in runs)
    assert runs[0] != {0, 1, 2}
    inside = shards[order.epoch(0)[:30]]
    assert len(set(inside[:10].tolist())) > 1  # samples of several shards are mixed
    assert (np.diff(order.epoch(0)) != 1).mean() > 0.8


def test_epochs_and_seeds_differ_and_positions_are_uniform() -> None:
    shards = np.zeros(40, int)
    first = [Order(shards, 4, seed=seed).epoch(epoch).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(one) for one in first}) == 9
    # Over many epochs each sample is as often early as late: mean place 19.5, standard error 11.5 / sqrt(400) = 0.58.
    order = Order(shards, 4, seed=1)
    places = np.mean([np.argsort(order.epoch(epoch)) for epoch in range(400)], axis=0)
    assert np.abs(places - 19.5).max() < 4 * 0.58


def test_the_order_never_changes() -> None:
    # Trainings that were begun with it go on with it: these numbers must not depend on numpy, machine or version.
    assert Order(np.repeat(np.arange(4), 3), 2, 2, seed=7, window=2).epoch(3).tolist() == GOLDEN


GOLDEN = [5, 3, 11, 9, 4, 10, 2, 6, 0, 7, 8, 1]


def test_validation_keeps_everything_in_order() -> None:
    order = Order(np.zeros(11, int), 2, 2, shuffle=False, keep_rest=True)
    assert order.steps_per_epoch == 3
    assert [step_of(order, 0, step) for step in range(3)] == [
        [[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10]]
    ]  # fmt: skip
    with pytest.raises(IndexError, match="step 3"):
        order.micro(0, 3, 0)


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(UsageError, match="7 samples do not fill one step of 4 micro-batches of 2"):
        Order(np.zeros(7), 2, 4)
    with pytest.raises(UsageError, match="at least 1"):
        Order(np.zeros(7), 0)
    with pytest.raises(UsageError, match="Use 1, 2, 3, 6 workers"):
        Order(np.zeros(100), 2, 6).mine(0, 4)
    with pytest.raises(UsageError, match="no worker 2 of 2"):
        Order(np.zeros(100), 2, 6).mine(2, 2)


def test_a_subset_depends_on_times_alone() -> None:
    times = np.datetime64("2011-01-01", "ns") + np.arange(500) * np.timedelta64(6, "m")
    rows = chosen(times, 50)
    assert (np.diff(rows) > 0).all()
    assert rows.size == 50
    assert not np.array_equal(rows, chosen(times, 50, seed=1))
    assert set(chosen(times, 20)) < set(rows)
    # Of the samples that both have, the same are preferred.
    assert set(times[:400][chosen(times[:400], 500)]) == set(times[:400])
    both = set(times[rows]) & set(times[:400])
    assert both <= set(times[:400][chosen(times[:400], 50)])
