"""Recipes as YAML files, a document per product: found by path or name, read, checked, explained where they are wrong."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sdoml_dist.errors import RecipeError
from sdoml_dist.overrides import override
from sdoml_dist.recipe import Recipe

# What the later documents of a file take from the first.
_SHARED_KEYS = ("name", "period", "store", "resources")


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


def explain(error: ValidationError, origin: str, model: type[BaseModel]) -> RecipeError:
    """Turn pydantic's findings about a model into one message per line with a did-you-mean."""
    tags = {"files", "synoptic", "jsoc", "simulator", "published"}
    lines = []
    for item in error.errors():
        location = item["loc"]
        name = ".".join(str(part) for part in location if part not in tags)
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), _known_keys(model, location[:-1]), 1, 0.5)
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
        raise explain(error, origin, Recipe) from None


def load_recipes(path: str | Path, overrides: list[str] | None = None, product: str | None = None) -> list[Recipe]:
    """Read the recipes of a YAML file, or of a shipped one by its name: a document per product of one dataset.

    Parameters
    ----------
    path : str or pathlib.Path
        A file, or the name of a shipped recipe such as ``full-mission``. Documents are separated by ``---``; `name`,
        `period`, `store` and `resources` of the first one are the defaults of the others.
    overrides : list of str, optional
        ``key.subkey=value`` pairs for every document that is taken; values are YAML.
    product : str, optional
        Take the document of this product only.

    Returns
    -------
    list of Recipe
        In the order of the file; no two are of one product, and all have one store.

    Raises
    ------
    RecipeError
        If the file is absent, is not YAML, holds something that is not a valid recipe (the document is named), or lacks
        the product.
    """
    found = find_recipe(path)
    documents = _documents(found)
    if product is not None and len(documents) == 1 and not isinstance(documents[0], dict):
        parse_recipe(documents[0], str(path))
    names = [_product_name(data) for data in documents]
    if "emergence" in names:
        raise RecipeError(
            f"{path} is the recipe of an emergence dataset.", "", f"Use 'sdoml emergence plan {path}', build, ..."
        )
    taken = [index for index, name in enumerate(names) if product in (None, name)]
    if not taken:
        raise RecipeError(
            f"The recipe {path} has no product {product!r}.",
            f"It has {', '.join(names)}.",
            "Choose one with --product.",
        )
    recipes = []
    for index in taken:
        data, origin = documents[index], str(path)
        if len(documents) > 1:
            origin += f", document {index + 1} ({names[index]})"
        if isinstance(data, dict):
            data = override(data, overrides or [])
            resolve_paths(data, found.parent)
        try:
            recipes.append(parse_recipe(data, origin))
        except RecipeError as error:
            if overrides and len(taken) > 1:
                hint = f"{error.hint} --set counts for every product of the file; --product NAME picks one."
                raise RecipeError(error.what, error.why, hint) from None
            raise
    _check_together(recipes, str(path))
    return recipes


def load_recipe(path: str | Path, overrides: list[str] | None = None, product: str | None = None) -> Recipe:
    """Read one recipe from a YAML file, or a shipped one by its name.

    Parameters
    ----------
    path : str or pathlib.Path
        A file, or the name of a shipped recipe such as ``sdoml-v2``.
    overrides : list of str, optional
        ``key.subkey=value`` pairs; values are YAML.
    product : str, optional
        Which recipe of several.

    Raises
    ------
    RecipeError
        If the file is absent, is not YAML, does not hold a valid recipe, or holds several and none is chosen.
    """
    recipes = load_recipes(path, overrides, product)
    if len(recipes) > 1:
        raise RecipeError(
            f"{path} holds {len(recipes)} recipes: {', '.join(recipe.product for recipe in recipes)}.",
            "Here just one can be used.",
            "Pick one by its product: --product NAME, or load_recipe(path, product=NAME) and load_recipes(path) in Python.",
        )
    return recipes[0]


def _documents(path: Path) -> list[Any]:
    """Read the documents of a file and fill in what the later ones take from the first."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    # A separator at the beginning or end of the file makes an empty document.
    documents = [data for data in documents if data is not None] or [None]
    first = documents[0]
    for data in documents[1:]:
        if isinstance(first, dict) and isinstance(data, dict):
            for key in _SHARED_KEYS:
                if key in first and key not in data:
                    data[key] = copy.deepcopy(first[key])
    return documents


def _product_name(data: object) -> str:
    return str(data.get("product", "aia")) if isinstance(data, dict) else "?"


def _check_together(recipes: list[Recipe], path: str) -> None:
    """Refuse recipes that do not make one dataset."""
    for later, recipe in enumerate(recipes):
        for first in recipes[:later]:
            if first.product == recipe.product:
                raise RecipeError(
                    f"The recipe {path} has two documents of product {recipe.product!r}.",
                    "A dataset holds a product once.",
                    "Remove one, or give it a file and a store.url of its own.",
                )
        if recipe.store != recipes[0].store:
            raise RecipeError(
                f"The recipe {path} names two stores: {recipes[0].store.url} and {recipe.store.url}.",
                "The documents of a file are products of one dataset.",
                "Leave 'store' out of all but the first document, or use a file for each dataset.",
            )


def resolve_paths(data: dict[str, Any], folder: Path) -> None:
    """Make relative local paths of calibration files, source and store absolute, so that every node reads the same file."""
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
