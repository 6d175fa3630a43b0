"""From the file of an experiment to a trained network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import RecipeError
from sdoml_dist.experiments.latent_space import LatentSpace, LatentSpaceConfig, find_samples
from sdoml_dist.models.transforms import ChannelTransforms
from sdoml_dist.overrides import override
from sdoml_dist.recipe_file import explain, find_recipe, resolve_paths
from sdoml_dist.training.loading import fit_transforms
from sdoml_dist.training.trainer import Outcome, train

_TRANSFORMS = "transforms.json"


def load_config(path: str | Path, overrides: list[str] | None = None) -> LatentSpaceConfig:
    """Read the configuration of an experiment.

    Parameters
    ----------
    path : str or pathlib.Path
        A YAML file, or the name of a shipped one such as ``latent-space``.
    overrides : list of str, optional
        ``key.subkey=value`` pairs; values are YAML.

    Raises
    ------
    RecipeError
        If it is not a valid configuration.
    """
    found = find_recipe(path)
    try:
        data = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict) or data.get("experiment") != "latent-space":
        raise RecipeError(
            f"{path} is not the configuration of an experiment (experiment: latent-space).",
            "",
            "See jobs/recipes/latent-space.yaml.",
        )
    data = override(data, overrides or [])
    if isinstance(data.get("data"), dict):
        resolve_paths(data["data"], found.parent)
    try:
        return LatentSpaceConfig.model_validate(data)
    except ValidationError as error:
        raise explain(error, str(path), LatentSpaceConfig) from None


def train_experiment(config: LatentSpaceConfig, *, cpus: int | None = None) -> Outcome:
    """Train, or go on where an earlier run stopped.

    The dataset is pinned at its snapshot, and the normalisation measured, when the training begins; going on keeps both.

    Parameters
    ----------
    config : LatentSpaceConfig
        The experiment.
    cpus : int, optional
        CPUs of a private Ray.
    """
    folder = Path(config.output).absolute() / config.name
    path = folder / _TRANSFORMS
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        transforms, snapshot = ChannelTransforms.from_dict(kept["transforms"]), kept["snapshot"]
    else:
        samples = find_samples(config.data)
        transforms = fit_transforms(
            samples, ChannelTransforms.default(config.data.channels), config.network.size,
            number=config.data.statistics_samples, threads=config.data.threads,
        )  # fmt: skip
        snapshot = samples.snapshot
        folder.mkdir(parents=True, exist_ok=True)
        told = {"snapshot": snapshot, "transforms": transforms.to_dict()}
        write_atomic(path, json.dumps(told, indent=1).encode())
    pinned = config.model_copy(update={"data": config.data.model_copy(update={"version": snapshot})})
    settings: dict[str, Any] = {
        "config": pinned.model_dump(mode="json", exclude={"workers", "watching", "output"}),
        "transforms": transforms.to_dict(),
    }
    return train(
        LatentSpace,
        settings,
        config.output,
        config.training,
        config.watching,
        config.workers,
        name=config.name,
        cpus=cpus,
    )
