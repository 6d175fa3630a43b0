"""Recipes of emergence datasets as YAML files, with their regions in the file or in a table beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from sdoml_dist.emergence_recipe import EmergenceRecipe, RegionEntry
from sdoml_dist.errors import RecipeError, UsageError
from sdoml_dist.overrides import override
from sdoml_dist.recipe_file import explain, find_recipe, resolve_paths
from sdoml_dist.solar.region_summaries import SrsEntry, read_srs
from sdoml_dist.solar.region_tables import read_regions


def load_emergence_recipe(path: str | Path, overrides: list[str] | None = None) -> EmergenceRecipe:
    """Read the recipe of an emergence dataset.

    Parameters
    ----------
    path : str or pathlib.Path
        A YAML file, or the name of a shipped recipe such as ``solared``.
    overrides : list of str, optional
        ``key.subkey=value`` pairs; values are YAML.

    Raises
    ------
    RecipeError
        If it is not a valid recipe, or its table of regions is not one.
    """
    found = find_recipe(path)
    try:
        data = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}", "", "See jobs/recipes/solared.yaml.") from None
    if not isinstance(data, dict) or data.get("product") != "emergence":
        raise RecipeError(
            f"{path} is not the recipe of an emergence dataset (product: emergence).",
            "",
            "For AIA, HMI and EVE use 'sdoml build'; see jobs/recipes/solared.yaml.",
        )
    data = override(data, overrides or [])
    resolve_paths(data, found.parent)
    if isinstance(data.get("regions"), str):
        data["regions"] = _table(Path(data["regions"]).expanduser())
    try:
        return EmergenceRecipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, str(path), EmergenceRecipe) from None


def _table(path: Path) -> list[dict[str, object]]:
    """Read a table of regions as plain data."""
    try:
        regions = read_regions(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The table of regions {path} cannot be used: {error}", "", "'sdoml emergence regions' makes such a table."
        ) from None
    return [RegionEntry.of(region).model_dump() for region in regions]


def read_summaries(paths: Sequence[str]) -> list[SrsEntry]:
    """Read NOAA's daily region summaries.

    Parameters
    ----------
    paths : sequence of str
        Text files, or folders whose ``*SRS.txt`` count, at any depth.

    Raises
    ------
    UsageError
        If there is no such file, or one is not a summary.
    """
    entries = []
    for path in map(Path, paths):
        files = sorted(path.rglob("*SRS.txt")) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path} holds no file *SRS.txt.", "", "Give NOAA's daily region summaries.")
        for file in files:
            try:
                entries += read_srs(file.read_text(encoding="latin-1"), file.name)
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"{file} cannot be used: {error}", "", "Remove it, or get it again from NOAA."
                ) from None
    return entries
