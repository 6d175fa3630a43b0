"""Recipes as YAML files: found by path or name, read, checked, and explained where they are wrong."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sdoml_dist.errors import RecipeError
from sdoml_dist.recipe import Recipe


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed where a validation error was raised."""
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    for part in location:
        node = node.get("properties", {}).get(part, {}) if not _is_tag(node, part) else _tagged(schema, node, part)
        for branch in node.get("allOf", []) + [b for b in node.get("anyOf", []) if "$ref" in b]:
            node = branch
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return list(node.get("properties", {}))


def _is_tag(node: dict[str, Any], part: int | str) -> bool:
    return "discriminator" in node and part in node["discriminator"]["mapping"]


def _tagged(schema: dict[str, Any], node: dict[str, Any], part: int | str) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][node["discriminator"]["mapping"][part].rsplit("/", 1)[1]]
    return found


def _explain(error: ValidationError, origin: str) -> RecipeError:
    """Turn pydantic's findings into one message per line with a did-you-mean."""
    tags = {"files", "synoptic", "jsoc", "simulator"}
    lines = []
    for item in error.errors():
        location = item["loc"]
        name = ".".join(str(part) for part in location if part not in tags)
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), _known_keys(Recipe, location[:-1]), 1, 0.5)
            lines.append(f"  {name}: unknown key" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"  {name}: missing")
        else:
            lines.append(f"  {name or 'recipe'}: {item['msg'].removeprefix('Value error, ')}")
    return RecipeError(
        f"The recipe {origin} cannot be used:\n" + "\n".join(lines),
        "A misread recipe would build another dataset than the one meant; nothing was written.",
        "Correct the lines above; 'sdoml schema' documents every key.",
    )


def parse_recipe(data: object, origin: str = "<data>") -> Recipe:
    """Check plain data and return the recipe.

    Raises
    ------
    RecipeError
        With one line per problem and a did-you-mean for unknown keys.
    """
    if not isinstance(data, dict):
        raise RecipeError(f"The recipe {origin} is not a mapping of keys to values.", "", "See jobs/recipes/demo.yaml.")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise _explain(error, origin) from None


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from a YAML file, or a shipped one by its name.

    Parameters
    ----------
    path : str or pathlib.Path
        A file, or the name of a shipped recipe such as ``sdoml-v2``.
    overrides : list of str, optional
        ``key.subkey=value`` pairs; values are YAML.

    Raises
    ------
    RecipeError
        If the file is absent, is not YAML, or does not hold a valid recipe.
    """
    found = find_recipe(path)
    try:
        data = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{found} is not YAML: {error}") from None
    for override in overrides or []:
        key, separator, value = override.partition("=")
        if not separator or not isinstance(data, dict):
            raise RecipeError(f"--set takes key=value, not {override!r}", "", "For example --set grid.pixels=256")
        node = data
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise RecipeError(f"--set {override}: {parent!r} is not a section of the recipe")
        node[leaf] = yaml.safe_load(value)
    if isinstance(data, dict):
        _resolve_paths(data, found.parent)
    return parse_recipe(data, str(path))


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    """Make relative local paths of calibration files absolute, so that every node reads the same file."""
    for pin in ("degradation", "pointing"):
        section = data.get("calibration")
        entry = section.get(pin) if isinstance(section, dict) else None
        if isinstance(entry, dict) and isinstance(entry.get("url"), str) and "://" not in entry["url"]:
            entry["url"] = str((folder / entry["url"]).resolve())
    for section, key in (("store", "url"), ("source", "url")):
        entry = data.get(section)
        if isinstance(entry, dict) and isinstance(entry.get(key), str) and "://" not in entry[key]:
            entry[key] = str(Path(entry[key]).expanduser().absolute())


def recipe_folder() -> Path:
    """Return the folder of the shipped recipes, in an installation or in a checkout."""
    package = Path(__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "jobs" / "recipes"


def find_recipe(path: str | Path) -> Path:
    """Return the file of a recipe given by path or shipped name."""
    direct = Path(path)
    shipped = recipe_folder() / f"{path}.yaml"
    for candidate in (direct, shipped):
        if candidate.is_file():
            return candidate
    names = sorted(file.stem for file in recipe_folder().glob("*.yaml"))
    near = difflib.get_close_matches(direct.stem, names, 1)
    raise RecipeError(
        f"There is no recipe {str(path)!r}.",
        f"Shipped recipes are {', '.join(names)}.",
        f"Did you mean {near[0]!r}?" if near else "Give a YAML file or one of these names.",
    )
