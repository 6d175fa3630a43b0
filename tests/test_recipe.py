"""The recipe is strict, and says what is wrong and what was probably meant."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sdoml_dist.errors import ExitCode, RecipeError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import difference
from sdoml_dist.recipe_file import load_recipe, load_recipes, parse_recipe, recipe_folder

BASE: dict[str, Any] = {
    "name": "test",
    "period": {"start": "2011-02-15", "end": "2011-02-16"},
    "cadence": "6min",
    "tolerance": "1min",
    "channels": ["171A", "94A"],
    "source": {"kind": "synoptic"},
    "store": {"url": "/data/test"},
}


def variant(**changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return data


def test_reads_durations_times_and_orders_channels() -> None:
    recipe = parse_recipe(BASE)
    assert (recipe.cadence, recipe.tolerance, recipe.shard_slots) == (360, 60, 240)
    assert recipe.channels == ("94A", "171A")
    assert recipe.period.start == "2011-02-15T00:00:00"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cadense": "6min"}, "did you mean 'cadence'"),
        ({"grid__pixel": 512}, "grid.pixel: unknown key; did you mean 'pixels'"),
        ({"source__ulr": "x"}, "source.ulr: unknown key; did you mean 'url'"),
        ({"source__network": {"retrys": 2}}, "did you mean 'retries'"),
        ({"channels": ["171"]}, "did you mean '171A'"),
        ({"channels": []}, "list of channels"),
        ({"channels": ["171A", "171A"]}, "listed twice"),
        ({"cadence": "7min"}, "does not divide a day"),
        ({"cadence": "6 parsec"}, "6min, 90s or 1d"),
        ({"tolerance": "4min"}, "half the cadence"),
        ({"period__end": "2011-02-15"}, "before it starts"),
        ({"period__end": "2011-02-16T00:00:00_TAI"}, "UTC, not TAI"),
        ({"period__start": "1999-01-01"}, "outside the mission"),
        ({"grid__pixels": 8}, "greater than or equal to 16"),
        ({"calibration__degradation": {"url": "x", "sha256": "abc"}}, "sha256"),
        ({"calibration__pointing": {"url": "x"}}, "level 1.5 frames are registered already"),
        ({"source": {"kind": "files", "url": "s3://b/x", "storage_options": {"secret": "s"}}}, "looks like a secret"),
        ({"source": {"kind": "fils", "url": "x"}}, "kind"),
        ({"resources__memory_per_actor": "2 bananas"}, "2GB or 512MiB"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_refuses_with_a_message(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(variant(**changes))
    assert message in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_missing_key_is_named() -> None:
    data = variant()
    del data["period"]["end"]
    with pytest.raises(RecipeError, match=r"period\.end: missing"):
        parse_recipe(data)


def test_a_recipe_is_frozen() -> None:
    recipe = parse_recipe(BASE)
    with pytest.raises(ValueError, match="frozen"):
        recipe.cadence = 12  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"period__end": "2012-01-01"}, True),
        ({"store__url": "s3://bucket/x"}, True),
        ({"resources__commit_every_units": 3}, True),
        ({"source__network": {"retries": 1}}, True),
        ({"description": "other words"}, True),
        ({"cadence": "12min"}, False),
        ({"grid__pixels": 256}, False),
        ({"channels": ["171A"]}, False),
        ({"tolerance": "2min"}, False),
        ({"chunking__shard_slots": 10}, False),
        ({"selection__minimum_exposure_s": 0.5}, False),
    ],
)
def test_identity_holds_what_determines_pixels(changes: dict[str, Any], same: bool) -> None:
    assert (parse_recipe(variant(**changes)).fingerprint == parse_recipe(BASE).fingerprint) is same


def test_a_pinned_table_may_move_but_not_change() -> None:
    def made(url: str, digit: str) -> str:
        return parse_recipe(variant(calibration__degradation={"url": url, "sha256": digit * 64})).fingerprint

    assert made("/a/table.txt", "1") == made("/b/table.txt", "1")
    assert made("/a/table.txt", "1") != made("/a/table.txt", "2")


def test_difference_is_readable() -> None:
    assert difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == ["  a.b: 1 -> 3"]


@pytest.mark.parametrize("name", ["demo", "sdoml-v2", "aia-level1", "full-mission"])
def test_shipped_recipes_are_valid_by_model_and_schema(name: str) -> None:
    for recipe in load_recipes(name):
        assert recipe.name == name
        jsonschema.validate(recipe.model_dump(mode="json"), Recipe.model_json_schema())


def test_every_field_is_documented() -> None:
    def undocumented(schema: dict[str, Any]) -> list[str]:
        parts = [schema, *schema.get("$defs", {}).values()]
        return [
            f"{part.get('title')}.{name}"
            for part in parts
            for name, field in part.get("properties", {}).items()
            if "description" not in field and "$ref" not in field and "const" not in field and name != "source"
        ]

    assert undocumented(Recipe.model_json_schema()) == []


def test_overrides_and_relative_paths(tmp_path: Path) -> None:
    data = variant(calibration__degradation={"url": "table.txt"}, store__url="ds")
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(data))
    recipe = load_recipe(file, ["grid.pixels=256", "store.url=/elsewhere"])
    assert recipe.grid.pixels == 256
    assert recipe.store.url == "/elsewhere"
    assert recipe.calibration.degradation is not None
    assert recipe.calibration.degradation.url == str(tmp_path / "table.txt")


@pytest.mark.parametrize("text", ["{unclosed", "- just\n- a list", "!!python/object/apply:os.system ['true']", "\x00"])
def test_hostile_yaml_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(file)


def test_an_unknown_recipe_suggests_a_shipped_one() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'sdoml-v2'"):
        load_recipe("sdoml-v3")
    assert recipe_folder().is_dir()
