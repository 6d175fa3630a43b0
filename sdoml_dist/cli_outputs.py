"""Where verbs keep what they make: a job's working folder is a copy that Ray removes."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from sdoml_dist.errors import UsageError
from sdoml_dist.paths import in_copy, refuse_copy

Kept = tuple[str, str]
"""What is kept, and its place."""

NOTHING = {"plan", "status", "inspect", "validate", "diff", "compression", "versions", "schema", "doctor", "submit"}
"""Verbs that keep nothing where they are told to."""

_FILE, _FOLDER, _DATASET, _CATALOG = "The file", "The output", "The dataset", "The catalog"
ARGUMENT: dict[str, Kept] = {
    "quicklook": (_FILE, "output"), "history": (_FILE, "output"), "report": (_FILE, "output"), "similar": (_FILE, "output"),
    "demo": (_FOLDER, "output"), "simulate": (_FOLDER, "output"), "export": (_FOLDER, "output"), "flux": (_FOLDER, "output"),
    "far-side": (_FOLDER, "output"), "drawing": (_FOLDER, "output"), "forecast": (_FOLDER, "output"),
    "apply": (_DATASET, "output"), "decode": (_DATASET, "output"),
    "import": (_DATASET, "dataset"), "update": (_DATASET, "dataset"), "reprocess": (_DATASET, "dataset"),
    "expire": (_DATASET, "dataset"), "tag": (_DATASET, "dataset"), "encode": (_CATALOG, "catalog"),
    "compact": (_CATALOG, "catalog"),
}  # fmt: skip
"""Verbs that keep what they make where an argument says: what it is, and the argument."""


def _recipes(options: argparse.Namespace) -> Iterator[Kept]:
    from sdoml_dist.recipe_file import load_recipes

    for recipe in load_recipes(options.recipe, options.set, options.product):
        yield "The dataset", recipe.store.url


def _prefetched(options: argparse.Namespace) -> Iterator[Kept]:
    from sdoml_dist.recipe_file import load_recipes

    for recipe in load_recipes(options.recipe, options.set, options.product):
        yield "What is fetched for the dataset", recipe.store.url
        if (cache := getattr(recipe.source, "cache", None)) is not None:
            yield "The cache of the source", cache


def _emergence(options: argparse.Namespace) -> Iterator[Kept]:
    from sdoml_dist.emergence_file import load_emergence_recipe

    if options.action == "build":
        yield "The dataset", load_emergence_recipe(options.recipe, options.set).store.url
    elif options.action in ("regions", "export", "quicklook"):
        yield _FOLDER if options.action == "export" else _FILE, options.output


def _train(options: argparse.Namespace) -> Iterator[Kept]:
    import yaml

    from sdoml_dist.overrides import override
    from sdoml_dist.recipe_file import find_recipe
    from sdoml_dist.training.config import ExperimentConfig

    # Just this key is looked at: the whole configuration needs PyTorch, which submitting machines may lack.
    with contextlib.suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
        data = yaml.safe_load(find_recipe(options.config).read_text(encoding="utf-8"))
        if isinstance(data, dict):
            output = override(data, options.set or []).get("output", ExperimentConfig.model_fields["output"].default)
            yield "The run", str(output)


def _evaluate(options: argparse.Namespace) -> Iterator[Kept]:
    yield "The evaluation", options.checkpoint if options.output is None else options.output


OTHERS: dict[str, Callable[[argparse.Namespace], Iterator[Kept]]] = {
    "build": _recipes, "prefetch": _prefetched, "emergence": _emergence, "train": _train, "evaluate": _evaluate,
}  # fmt: skip
"""Verbs whose place is not just an argument."""


def kept(options: argparse.Namespace) -> list[Kept]:
    """Return what a verb keeps, and where.

    Parameters
    ----------
    options : argparse.Namespace
        Parsed arguments of ``sdoml``.

    Returns
    -------
    list of (str, str)
        Names for messages, and paths or addresses as they are given; those of recipes are absolute.

    Raises
    ------
    RecipeError
        If the recipe cannot be read.
    """
    if options.verb in OTHERS:
        return list(OTHERS[options.verb](options))
    if options.verb in NOTHING:
        return []
    what, argument = ARGUMENT[options.verb]
    place = getattr(options, argument)
    return [] if place is None else [(what, str(place))]


def refuse_lost(options: argparse.Namespace) -> None:
    """Refuse, in a job, to keep something where Ray removes it; anywhere else nothing is looked at.

    Raises
    ------
    UsageError
        With the place.
    """
    if in_copy("."):
        for what, place in kept(options):
            refuse_copy(place, what)


def refuse_unsent(options: argparse.Namespace) -> None:
    """Refuse a job, before it is sent from its working folder, that would keep something below that folder.

    Raises
    ------
    UsageError
        With the place.
    """
    here = Path.cwd()
    for what, place in kept(options):
        if "://" in place and not place.startswith("file://"):
            continue
        path = Path(place.removeprefix("file://")).expanduser()
        if not path.is_absolute() or path.is_relative_to(here):
            raise UsageError(
                f"{what} would be at {path}, below the working folder.",
                "The job works on a copy of that folder, which Ray removes.",
                "Give a folder that all nodes share, by its whole path, or an object store.",
            )
