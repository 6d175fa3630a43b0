"""The radio flux experiment from files: a table of flux, a latent catalog, and images for a network that was not trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.radio_flux import daily_features, run
from sdoml_dist.experiments.radio_flux_table import ForecastConfig, Table
from sdoml_dist.models.resnet import FEATURES, FeatureNetwork
from sdoml_dist.models.transforms import DEFAULTS
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.radio_flux import read_radio_flux
from sdoml_dist.store.catalog import Catalog
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.samples import Samples

RESNET_CHANNEL = "211A"
"""What the paper's baseline sees."""
_BATCH = 16
# Scales of the transforms are the saturation times this softening (models/transforms.py).
_SOFTENING = 0.005


def forecast_config(overrides: Sequence[str]) -> ForecastConfig:
    """Return the published protocol with some ``key=value`` changes; values are YAML.

    Raises
    ------
    UsageError
        If there is no such key.
    """
    known = {field.name for field in dataclasses.fields(ForecastConfig)}
    changes: dict[str, Any] = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or key not in known:
            raise UsageError(f"{text!r} changes nothing of the forecast.", f"Its keys are {', '.join(sorted(known))}.")
        read = yaml.safe_load(value)
        changes[key] = tuple(read) if isinstance(read, list) else str(read) if key.endswith("_day") else read
    try:
        return dataclasses.replace(ForecastConfig(), **changes)
    except TypeError as error:
        raise UsageError(f"The forecast cannot be made: {error}") from None


def daily_latents(catalog: Catalog, hour: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return days and latents of one image a day, nearest to an hour UT; reads the catalog block by block.

    Parameters
    ----------
    catalog : Catalog
        Latents of any cadence.
    hour : float
        UT hour.
    """
    times: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for when, block in catalog.blocks():
        # A day's best of all blocks is the best of the blocks' best.
        _, rows = daily_features(when, np.arange(len(when), dtype=np.float64)[:, None], hour)
        chosen = rows[:, 0].astype(int)
        times.append(when[chosen])
        values.append(block[chosen].astype(np.float32))
    if not times:
        raise UsageError(f"{catalog.url} has no latent.")
    return daily_features(np.concatenate(times), np.concatenate(values), hour)


def daily_resnet_features(
    dataset: Store, network: FeatureNetwork, *, channel: str = RESNET_CHANNEL, size: int | None = None, hour: float = 0.0,
    version: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return days and features of one image a day by a network that was not trained here.

    Parameters
    ----------
    dataset : Store
        Where images are.
    network : FeatureNetwork
        Of one channel. Images are stretched by asinh between 0 and the channel's saturation; missing pixels are dark.
    channel : str
        Which images.
    size : int, optional
        Side to which they are binned.
    hour : float
        UT hour.
    version : str, optional
        Of the dataset.
    """
    samples = Samples.find(dataset, [channel], version=version)
    _, rows = daily_features(samples.times, np.arange(len(samples), dtype=np.float64)[:, None], hour)
    daily = samples.take(rows[:, 0].astype(int))
    scale = DEFAULTS[channel][1]
    features, done = np.empty((len(daily), FEATURES), np.float32), 0
    for batch in Loader(daily, None, size, threads=2).validation(_BATCH):
        images = torch.nan_to_num(batch["physical"], nan=0.0).clamp_min(0)
        shown = (torch.asinh(images / scale) / float(np.arcsinh(1 / _SOFTENING))).clamp(0, 1)
        features[done : done + len(shown)] = network(shown).float().cpu().numpy()
        done += len(shown)
    return daily_features(daily.times, features, hour)


def forecast_flux(
    flux: str | Path, features: Mapping[str, tuple[np.ndarray, np.ndarray]], output: str | Path,
    config: ForecastConfig, *, column: str | None = None,
) -> Table:  # fmt: skip
    """Run the experiment and write its table and figure.

    Parameters
    ----------
    flux : path
        Comma-separated daily flux, in a format of :mod:`sdoml_dist.solar.radio_flux`.
    features : mapping of str to (days, values)
        Sets of features, one row a day.
    output : path
        Folder for JSON, text and figures.
    config : ForecastConfig
        Protocol.
    column : str, optional
        Column of the flux.

    Raises
    ------
    UsageError
        If the file is none, or does not cover the protocol together with the features.
    """
    try:
        read = read_radio_flux(Path(flux).read_text(encoding="utf-8"), column=column)
    except (OSError, ValueError) as error:
        raise UsageError(f"{flux} is no table of radio flux: {error}") from None
    table = run(features, read, config)
    table.write(output)
    return table
