"""The plan covers every slot exactly once, whatever the recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.plan import Plan, unit_times
from sdoml_dist.recipe_file import load_recipe, parse_recipe
from sdoml_dist.solar.times import year_slots
from tests.test_recipe import BASE, variant

CADENCES = [12, 45, 96, 360, 720, 1800, 3600, 43200, 86400]


def make(**changes: Any) -> Plan:
    return Plan(parse_recipe(variant(**changes)))


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 6 * 365 * 24),
    hours=st.integers(1, 24 * 40),
    cadence=st.sampled_from(CADENCES),
    shard=st.integers(1, 2000),
    workers=st.integers(1, 13),
)
def test_every_slot_is_covered_exactly_once(start: int, hours: int, cadence: int, shard: int, workers: int) -> None:
    if hours * 3600 // cadence > 20_000:
        hours = 20_000 * cadence // 3600
    first = np.datetime64("2010-05-13T00", "h") + start
    plan = make(
        period__start=str(first) + ":00", period__end=str(first + hours) + ":00", cadence=cadence,
        tolerance=cadence // 2, chunking__shard_slots=shard,
    )  # fmt: skip
    units = list(plan.units())
    # Any way of dealing units to workers covers each once; what matters is that no two share a shard.
    dealt = [unit for worker in range(workers) for unit in units[worker::workers]]
    assert sorted(dealt) == sorted(units)
    assert len({(unit.year, unit.shard, unit.bundle) for unit in units}) == len(units)
    for unit in units:
        assert (
            unit.shard * shard
            <= unit.start
            < unit.stop
            <= min((unit.shard + 1) * shard, year_slots(unit.year, cadence))
        )
    for channel in plan.recipe.channels:
        times = [unit_times(unit, cadence) for unit in units if unit.bundle == channel]
        joined = np.concatenate(times) if times else np.array([], "datetime64[ns]")
        assert len(np.unique(joined)) == len(joined) == plan.slots
        assert ((joined >= plan.recipe.period.first) & (joined < plan.recipe.period.last)).all()
        if len(joined) > 1:
            assert (np.diff(joined).astype(np.int64) == cadence * 1_000_000_000).all()
    assert plan.estimate().units == len(units)
    assert plan.estimate().frames == plan.slots * len(plan.recipe.channels)


def test_a_day_of_two_channels() -> None:
    units = list(make().units())
    assert [unit.unit_id for unit in units] == ["2011/045/94A", "2011/045/171A"]
    assert (units[0].start, units[0].stop) == (45 * 240, 46 * 240)


def test_the_plan_is_deterministic_and_names_itself() -> None:
    assert make().plan_id == make().plan_id
    assert make(period__end="2011-02-17").plan_id != make().plan_id
    assert make(resources__drain_s=1).plan_id == make().plan_id


def test_the_new_year_does_not_tear_the_grid() -> None:
    plan = make(period__start="2011-12-31T12:00", period__end="2012-01-01T12:00")
    assert {unit.year for unit in plan.units()} == {2011, 2012}
    assert plan.slots == 240


def test_the_full_mission_is_planned_quickly() -> None:
    plan = Plan(load_recipe("full-mission"))
    # 2010-05-13 to 2026-12-31 are 6077 days of 240 slots.
    assert plan.slots == 6077 * 240
    assert sum(1 for _ in plan.units()) == 6077 * 9


@pytest.mark.parametrize("pixels", [128, 512])
def test_memory_follows_the_shard(pixels: int) -> None:
    small, large = make(chunking__shard_slots=10), make(chunking__shard_slots=240, grid__pixels=pixels)
    assert large.estimate().memory_per_actor_bytes - small.estimate().memory_per_actor_bytes > 0 or pixels == 128


def test_base_is_untouched() -> None:
    assert BASE["channels"] == ["171A", "94A"]
