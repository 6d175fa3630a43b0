"""Changes of a recipe on the command line: ``--set key.subkey=value``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import yaml

from sdoml_dist.errors import RecipeError


def override(data: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return plain data with some keys changed.

    Parameters
    ----------
    data : dict
        Nested dictionaries; not changed.
    changes : sequence of str
        ``key.subkey=value`` pairs; values are YAML.

    Raises
    ------
    RecipeError
        If a pair cannot be read or leads through something that is not a section.
    """
    changed = copy.deepcopy(data)
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise RecipeError(f"--set takes key=value, not {change!r}", "", "For example --set grid.pixels=256")
        node = changed
        *parents, leaf = key.split(".")
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise RecipeError(f"--set {change}: {parent!r} is not a section of the recipe")
        try:
            node[leaf] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {key}: the value is not YAML: {error}") from None
    return changed
