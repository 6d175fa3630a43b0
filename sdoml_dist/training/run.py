"""From the file of an experiment to a trained network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import RecipeError
from sdoml_dist.overrides import override
from sdoml_dist.recipe_base import Section
from sdoml_dist.recipe_file import explain, find_recipe, resolve_paths
from sdoml_dist.training.experiment import find_experiment
from sdoml_dist.training.trainer import IDENTITY, Outcome, train

PREPARED = "prepared.json"
# What changes neither data nor network.
_AROUND = {"workers", "watching", "output"}


def load_config(path: str | Path, overrides: list[str] | None = None) -> Any:
    """Read the configuration of an experiment.

    Parameters
    ----------
    path : str or pathlib.Path
        A YAML file, or the name of a shipped one such as ``latent-space``.
    overrides : list of str, optional
        ``key.subkey=value`` pairs; values are YAML.

    Returns
    -------
    Section
        A `Config` of the experiment that the file names.

    Raises
    ------
    RecipeError
        If it is not a valid configuration, or of no experiment that is known.
    """
    found = find_recipe(path)
    try:
        data = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path} is not the configuration of an experiment.", "", "See jobs/recipes/latent-space.yaml.")
    data = override(data, overrides or [])
    model = find_experiment(data.get("experiment")).Config
    _resolve(data, found.parent)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explain(error, str(path), model) from None


def _resolve(data: dict[str, Any], folder: Path) -> None:
    """Make the local paths of stores and sources absolute, at any depth."""
    resolve_paths(data, folder)
    for value in data.values():
        if isinstance(value, dict):
            _resolve(value, folder)


def train_experiment(config: Any, *, cpus: int | None = None, wait_s: float = 0.0) -> Outcome:
    """Train, or go on where an earlier run stopped.

    What the experiment prepares, such as the snapshot of its dataset and the normalisation, is made when the training
    begins and kept in the run's folder; going on uses what is there.

    Parameters
    ----------
    config : Section
        The configuration of an experiment, from :func:`load_config`.
    cpus : int, optional
        CPUs of a private Ray.
    wait_s : float
        How long to wait for another driver's lease.

    Raises
    ------
    SdomlError
        As :func:`sdoml_dist.training.trainer.train`.
    """
    experiment = find_experiment(config.experiment)

    def settings(folder: Path) -> dict[str, Any]:
        return {"config": config.model_dump(mode="json"), "prepared": prepared(config, folder)}

    return train(
        experiment, settings, config.output, config.training, config.watching, config.workers, name=config.name, cpus=cpus,
        identity={"config": config.model_dump(mode="json", exclude=_AROUND)}, wait_s=wait_s,
    )  # fmt: skip


def prepared(config: Section, folder: Path) -> dict[str, Any]:
    """Return what an experiment has prepared for the training in a folder, and prepare it where the training begins.

    Parameters
    ----------
    config : Section
        The configuration.
    folder : pathlib.Path
        Folder of the run.
    """
    path = folder / PREPARED
    if path.is_file() and (folder / IDENTITY).is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    made = find_experiment(config.experiment).prepare(config, folder)  # type: ignore[attr-defined]
    text = json.dumps(made, indent=1)
    write_atomic(path, text.encode())
    # As it will be read again.
    plain: dict[str, Any] = json.loads(text)
    return plain
