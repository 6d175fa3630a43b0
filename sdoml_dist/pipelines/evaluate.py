"""Evaluate a checkpoint by the tables of its experiment."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments import EVALUATIONS
from sdoml_dist.recipe_base import Store
from sdoml_dist.training import checkpoint as checkpoints


def evaluate(
    checkpoint: str | Path, output: str | Path | None = None, *, store: Store | None = None, version: str | None = None,
    part: str = "test", **options: Any,
) -> str:  # fmt: skip
    """Evaluate a trained network.

    What is computed belongs to the experiment: the function that :data:`sdoml_dist.experiments.EVALUATIONS` names for it is
    called as ``function(checkpoint, output, store=..., version=..., part=..., **options)``.

    Parameters
    ----------
    checkpoint : path
        Folder of a checkpoint, or of a run, whose best by validation is taken.
    output : path, optional
        Where files go; by default ``evaluation-PART`` in the checkpoint's run.
    store, version : optional
        Another dataset, and its version; by default that of the training.
    part : str
        Part of the samples by the training's split.
    **options
        Of the experiment.

    Returns
    -------
    str
        Tables for a terminal.

    Raises
    ------
    UsageError
        If it is no checkpoint, or its experiment has no tables.
    """
    place = checkpoints.chosen(checkpoint).absolute()
    name = checkpoints.about(place).get("experiment")
    if name not in EVALUATIONS:
        raise UsageError(
            f"{place} is a checkpoint of {name!r}, which has no table.",
            f"There are tables of {', '.join(sorted(EVALUATIONS))}.",
        )
    module, _, attribute = EVALUATIONS[name].partition(":")
    function: Callable[..., str] = getattr(importlib.import_module(module), attribute)
    folder = place.parent / f"evaluation-{part}" if output is None else Path(output)
    return function(place, folder, store=store, version=version, part=part, **options)
