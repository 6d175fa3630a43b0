"""The plan covers every slot exactly once, whatever the recipe; files of several recipes; time on given machines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist import speed
from sdoml_dist.cli import main
from sdoml_dist.errors import EnvironmentFault, ExitCode, RecipeError, UsageError
from sdoml_dist.plan import REFERENCE, Machines, Plan, total, unit_times
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_file import load_recipe, load_recipes, parse_recipe
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


def test_the_full_mission_has_three_products() -> None:
    aia, hmi, eve = (Plan(recipe) for recipe in load_recipes("full-mission"))
    # 2010-05-13 to 2026-10-31 are 6016 days of 240 slots, from 2010-05-01 on 6028; 2010-05-01 to 2014-05-25 are 1486.
    assert (aia.slots, hmi.slots, eve.slots) == (6016 * 240, 6028 * 120, 1486 * 1440)
    assert sum(1 for _ in aia.units()) == 6016 * 9
    assert len({plan.recipe.store.url for plan in (aia, hmi, eve)}) == 1
    assert len({plan.recipe.resources for plan in (aia, hmi, eve)}) == 1
    for plan in (aia, hmi, eve):
        jsonschema.validate(plan.recipe.model_dump(mode="json"), Recipe.model_json_schema())


def several(folder: Path, *documents: dict[str, Any]) -> Path:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


HMI = {"product": "hmi", "cadence": "12min", "tolerance": "2min", "source": {"kind": "jsoc"}}


def test_later_documents_take_what_is_common_from_the_first(tmp_path: Path) -> None:
    first = variant(resources__drain_s=7, store__url="d")
    own = HMI | {"period": {"start": "2012-01-01", "end": "2012-01-02"}}
    aia, hmi = load_recipes(several(tmp_path, first, own))
    assert (hmi.name, hmi.store, hmi.resources) == (aia.name, aia.store, aia.resources)
    assert (hmi.period.start, aia.period.start) == ("2012-01-01T00:00:00", "2011-02-15T00:00:00")
    assert hmi.channels == ("Bx", "By", "Bz")
    aia, hmi = load_recipes(several(tmp_path, first, HMI), ["period.end=2011-02-20", "store.url=s3://b/d"])
    assert aia.period == hmi.period
    assert aia.store.url == hmi.store.url == "s3://b/d"
    assert [recipe.product for recipe in load_recipes(several(tmp_path, first, HMI), product="hmi")] == ["hmi"]
    assert load_recipe(several(tmp_path, first, HMI), ["source.email=a@b.c"], "hmi").product == "hmi"
    # Empty documents, as a separator at the end makes them, do not count.
    path = several(tmp_path, first)
    path.write_text("---\n" + path.read_text() + "---\n")
    assert load_recipe(path).product == "aia"


@pytest.mark.parametrize(
    ("second", "overrides", "message"),
    [
        (HMI | {"cadense": "6min"}, [], "document 2 (hmi) cannot be used"),
        (HMI | {"cadense": "6min"}, [], "did you mean 'cadence'"),
        ({"product": "aia"} | HMI | {"product": "aia"}, [], "two documents of product 'aia'"),
        (HMI | {"store": {"url": "/elsewhere"}}, [], "two stores"),
        (HMI, ["source.cadence_s=240"], "--product NAME picks one"),
    ],
)
def test_documents_that_do_not_fit_are_refused(
    tmp_path: Path, second: dict[str, Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipes(several(tmp_path, BASE, second), overrides)
    assert message in str(caught.value)


def test_one_recipe_of_several_has_to_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"holds 3 recipes: aia, hmi, eve"):
        load_recipe("full-mission")
    with pytest.raises(RecipeError, match=r"has no product 'hmi_45s'.*\n.*aia, hmi, eve"):
        load_recipes("full-mission", product="hmi_45s")
    with pytest.raises(RecipeError, match="not a mapping"):
        load_recipes(several(tmp_path, BASE, []))  # type: ignore[arg-type]


def test_speed_scales_the_time_and_nothing_else() -> None:
    plan = make()
    twice = replace(REFERENCE, image_frame_s=2 * REFERENCE.image_frame_s, image_pixel_s=2 * REFERENCE.image_pixel_s,
                    write_byte_s=2 * REFERENCE.write_byte_s)  # fmt: skip
    slow, fast = plan.estimate(twice), plan.estimate()
    assert slow.core_hours == pytest.approx(2 * fast.core_hours)
    assert replace(slow, core_hours=0) == replace(fast, core_hours=0)


def test_what_limits_a_run_is_named() -> None:
    plan = make(period__end="2012-02-15")
    memory = plan.estimate().memory_per_actor_bytes

    def limit(nodes: int = 1, cpus: float = 8, gigabytes: float = 100, rate: float | None = None) -> str:
        return plan.schedule(Machines(nodes, cpus, int(gigabytes * 1e9), rate)).limit

    assert limit() == "CPUs"
    assert limit(gigabytes=4 * memory / 0.7 / 1e9 + 0.1) == "memory"
    assert limit(rate=1e5) == "source"
    assert limit(nodes=1000, cpus=64, gigabytes=1000) == "driver"
    assert make(resources__maximum_actors=2).schedule(Machines(1, 1, 2 * 10**9)).limit == "CPUs"
    assert make(resources__maximum_actors=1).schedule(Machines(1, 4, 10**11)).limit == "resources.maximum_actors"
    few = make().schedule(Machines(1, 4, 10**11))
    assert (few.limit, few.actors, few.actors_per_node) == ("number of units", 2, 4)
    one, two = (plan.schedule(Machines(nodes, 8, 10**11)) for nodes in (1, 2))
    assert one.actors == 8
    assert one.wall_hours == pytest.approx(plan.estimate().core_hours / 8, rel=0.02)
    assert two.wall_hours == pytest.approx(one.wall_hours / 2, rel=0.02)
    assert two.node_hours == pytest.approx(2 * two.wall_hours)
    with pytest.raises(UsageError, match=r"No actor .* fits"):
        limit(gigabytes=0.5)


def test_the_total_adds_up_but_the_memory() -> None:
    estimates = [Plan(recipe).estimate() for recipe in load_recipes("full-mission")]
    everything = total(estimates)
    assert everything.stored_bytes == sum(one.stored_bytes for one in estimates)
    assert everything.memory_per_actor_bytes == max(one.memory_per_actor_bytes for one in estimates)


def test_a_measured_speed_is_kept_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert speed.load() is None
    assert main(["plan", "sdoml-v2"]) == 0
    assert "of the reference machine" in capsys.readouterr().out
    measured = replace(REFERENCE, cpu=speed.cpu_model(), measured="2026-01-02", image_pixel_s=1.0)
    path = speed.save(measured)
    assert path == tmp_path / "sdoml" / "speed.json"
    assert speed.load() == measured
    speed.save(replace(measured, cpu="another"))
    assert speed.load() == measured
    assert main(["plan", "sdoml-v2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["speed"]["origin"] == "measured on this machine on 2026-01-02"
    assert data["core_hours"] > Plan(load_recipe("sdoml-v2")).estimate().core_hours * 100
    for damage in ("{", "[]", '{"a": 1}'):
        path.write_text(damage)
        assert speed.load() is None


def test_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_TARGET", 64)
    measured = speed.measure(seconds=0.0, pixels=256)
    assert measured.cpu
    assert len(measured.measured) == 10
    assert measured.write_byte_s > 0
    assert measured.vector_pixel_s > 0
    assert measured.series_file_s > 0
    assert all(rate > 0 for rate in measured.rates().values())


def test_plan_of_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = ["--nodes", "4", "--cpus-per-node", "32", "--memory-per-node", "64GB"]
    assert main(["plan", "full-mission", *cluster]) == 0
    text = capsys.readouterr().out
    for word in ("HMI vector field", "EVE lines", "node-hours", "one product after another", "3 products"):
        assert word in text
    assert main(["plan", "full-mission", "--product", "eve", *cluster, "--source-rate", "1MB", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["product"] == "eve"
    assert data["products"][0]["schedule"]["limit"] == "source"
    assert main(["plan", "full-mission", "--resolved"]) == 0
    assert [one["product"] for one in json.loads(capsys.readouterr().out)] == ["aia", "hmi", "eve"]
    assert main(["plan", "full-mission", "--nodes", "4"]) == ExitCode.USAGE
    assert main(["plan", "full-mission", *cluster[:-1], "64 bananas"]) == ExitCode.USAGE
    assert main(["plan", "full-mission", *cluster[:-1], "1GB"]) == ExitCode.USAGE
    assert "lower chunking.shard_slots" in capsys.readouterr().err


def test_a_build_goes_through_the_products_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = several(tmp_path, variant(store__url=str(tmp_path / "d")), HMI)
    done: list[str] = []

    def build(recipe: Recipe, **options: Any) -> Any:
        done.append(recipe.product)
        if codes[recipe.product] is ExitCode.ENVIRONMENT:
            raise EnvironmentFault("no room")
        return SimpleNamespace(exit_code=codes[recipe.product])

    monkeypatch.setattr("sdoml_dist.engine.run.build", build)
    monkeypatch.setattr("sdoml_dist.report.text.accounting_table", lambda *_, **__: "")
    monkeypatch.setattr("sdoml_dist.report.text.run_line", lambda *_, **__: "")
    codes = {"aia": ExitCode.FRAMES_FAILED, "hmi": ExitCode.COMPLETE}
    assert main(["build", str(path)]) == ExitCode.FRAMES_FAILED
    assert done == ["aia", "hmi"]
    codes["aia"] = ExitCode.ENVIRONMENT
    assert main(["build", str(path)]) == ExitCode.ENVIRONMENT
    assert done == ["aia", "hmi", "aia"]
    assert main(["build", str(path), "--product", "hmi"]) == ExitCode.COMPLETE
    assert done[3:] == ["hmi"]


@pytest.mark.parametrize("pixels", [128, 512])
def test_memory_follows_the_shard(pixels: int) -> None:
    small, large = make(chunking__shard_slots=10), make(chunking__shard_slots=240, grid__pixels=pixels)
    assert large.estimate().memory_per_actor_bytes - small.estimate().memory_per_actor_bytes > 0 or pixels == 128


def test_base_is_untouched() -> None:
    assert BASE["channels"] == ["171A", "94A"]
