"""Forecast of the emergence of active regions: the published networks and one of ours, on the same regions and scores.

Published (Kasapis et al. 2025, ApJS 280, 64; Tirona et al. 2026, arXiv 2601.13144; NASA-IMPACT/SuryaBench): from days of
acoustic power and magnetic flux of 63 tiles the continuum intensity of each tile 12 hours later. None of them is compared
with persistence of the last intensity, which is better than all that was published for the five regions.

What is done otherwise than in the published code: regions are divided into folds, and all that is chosen is chosen by
validation regions, never by test regions; values are scaled by training regions alone; gaps and missing values are masked,
not closed or set to 0; examples are shuffled; one optimiser runs from the first to the last step; the distance of the target
is said in hours (11 for the "12 hours" of the five-region protocol).

By default one network for each fold is trained, all in one training: each learns from the other folds and is validated by its
own, so that every training region is forecast by a network that has not seen it. Test regions are forecast by the mean of
the networks, and their spread is the error bar.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import StoreError
from sdoml_dist.experiments.emergence_data import (
    Data,
    Division,
    Examples,
    ends_of,
    load_timelines,
    measured,
    series_of_protocol,
    stacked_inputs,
)
from sdoml_dist.models.emergence import SpatioTemporalAttention, SpatioTemporalResNet, TileLSTM
from sdoml_dist.models.emergence_change import Averages, ChangeNetwork, LinearSums
from sdoml_dist.recipe_base import Section
from sdoml_dist.report.emergence_forecast import forecast_figure
from sdoml_dist.solar.emergence_scores import darkened_tiles, detections, scaled_by_region
from sdoml_dist.solar.emergence_series import INTENSITY, Scales, Series, example_ends
from sdoml_dist.training.config import ExperimentConfig
from sdoml_dist.training.experiment import Batch, Experiment
from sdoml_dist.training.order import Order


class Network(Section):
    """The network."""

    kind: Literal["change", "attention", "resnet", "lstm"] = "change"
    """``change``: ours, running means, a linear part and a small network. Published: ``attention`` (200,385 parameters for
    five channels), ``resnet`` (33 million) and ``lstm`` (184,641)."""
    forecast: Literal["change", "level"] = "change"
    """``change``: what the network gives is added to the last intensity, so that one past intensity is known even where
    ``data.intensity`` is false. ``level``: it is the intensity itself."""
    width: int = Field(64, ge=1)
    """Of ``change``."""
    layers: int = Field(2, ge=0)
    """Of ``change``; 0 is the linear part alone, which is not trained further unless ``train_linear``."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Of ``change``."""
    penalty: float = Field(1.0, gt=0)
    """Of the ridge regression that the linear part of ``change`` begins with."""
    train_linear: bool = False
    """Whether the linear part is trained with the network, or stays the regression."""
    middle_row: bool = False
    """Of ``lstm``: learn from the nine tiles of the middle row alone, as published; it is validated and tested on all."""


class EmergenceForecastConfig(ExperimentConfig):
    """Everything that determines the experiment."""

    experiment: Literal["emergence-forecast"] = "emergence-forecast"
    """Which experiment."""
    name: str = Field("emergence-forecast", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder."""
    data: Data
    network: Network = Network.model_validate({})

    @model_validator(mode="after")
    def _trainable(self) -> EmergenceForecastConfig:
        if self.network.kind == "change" and self.network.layers == 0 and not self.network.train_linear:
            raise ValueError("network.layers: 0 needs network.train_linear: true, or nothing would be trained")
        if self.network.middle_row and self.network.kind != "lstm":
            raise ValueError("network.middle_row is for network.kind: lstm; the others take all tiles at once")
        return self


class Members(nn.Module):
    """Networks that forecast side by side.

    Parameters
    ----------
    members : list of torch.nn.Module
        Each takes inputs (B, T, C, N) and returns (B, N).
    change : bool
        Whether the last intensity is added.
    """

    def __init__(self, members: list[nn.Module], *, change: bool) -> None:
        super().__init__()
        self.members, self.change = nn.ModuleList(members), change

    def forward(self, inputs: Tensor, last: Tensor) -> Tensor:
        """Return the forecasts of all members, shape (members, B, N), from inputs and last intensities (B, N)."""
        first = self.members[0]
        if isinstance(first, ChangeNetwork):
            features = first.features(inputs)  # the same for all
            found = torch.stack([one.of_features(features) for one in self.members])  # type: ignore[operator]
        else:
            found = torch.stack([one(inputs) for one in self.members])
        return found + last if self.change else found


class EmergenceForecast(Experiment):
    """The experiment on one worker; timelines are read when they are first needed."""

    Config = EmergenceForecastConfig
    citation = (
        "S. Kasapis, I. N. Kitiashvili, A. G. Kosovichev, J. T. Stefan 2025, Prediction of intensity variations associated "
        "with emerging active regions using helioseismic power maps and machine learning, ApJS 280, 64. J. Tirona et al. "
        "2026, arXiv 2601.13144. NASA-IMPACT/SuryaBench, ar_emergence. HMI data are courtesy of NASA/SDO and the HMI science "
        "team."
    )

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.data: Data = self.config.data
        self.scales = Scales(tuple(self.prepared["scales"]))
        self.division = Division(
            tuple(tuple(part) for part in self.prepared["folds"]), tuple(self.prepared["test_regions"])
        )

    @classmethod
    def prepare(cls, config: EmergenceForecastConfig, folder: Path) -> dict[str, Any]:
        """Divide the regions, measure scales on those for training, and fit the linear part for each fold."""
        timelines, identity = load_timelines(config.data)
        division = Division.of(config.data, list(timelines))
        scales, ranges = measured(timelines, division, config.data)
        told: dict[str, Any] = identity | {
            "folds": division.folds, "test_regions": division.test, "scales": scales.values,
            "ranges": {str(number): value for number, value in ranges.items()},
        }  # fmt: skip
        if config.network.kind == "change":
            regions = {
                number: scales.scaled(series_of_protocol(config.data, timelines[number], test=False))
                for number in division.train
            }
            told["linear"] = fit_linear(config, Examples(config.data, regions, ranges, division.folds))
        return told

    @cached_property
    def examples(self) -> Examples:
        """Examples of the training regions, those of validation among them."""
        timelines = self.timelines()
        regions = {
            number: self.scales.scaled(series_of_protocol(self.data, timelines[number], test=False))
            for number in self.division.train
        }
        ranges = {int(number): value for number, value in self.prepared["ranges"].items()}
        return Examples(self.data, regions, ranges, self.division.folds)

    def timelines(self) -> dict[int, Any]:
        """Return the timelines that the training began with.

        Raises
        ------
        StoreError
            If they have changed since.
        """
        timelines, identity = load_timelines(self.data, self.prepared.get("snapshot"))
        if identity["fingerprint"] != self.prepared["fingerprint"]:
            raise StoreError(
                "The timelines are not those that this training began with.",
                "Scales and folds were measured on others, and test regions may have been trained on.",
                "Train under another name, or bring the old timelines back.",
            )
        return timelines

    def model(self) -> nn.Module:
        """Return fresh networks, one for each fold or for the one that is chosen."""
        network, data = self.config.network, self.data
        number = len(self.division.folds) if data.fold is None else 1
        members = [make_member(self.config) for _ in range(number)]
        for one, fold in zip(members, range(number) if data.fold is None else [data.fold], strict=True):
            if isinstance(one, ChangeNetwork):
                linear = self.prepared["linear"][str(fold)]
                mean, scale, weights = (torch.tensor(linear[name]) for name in ("mean", "scale", "weights"))
                one.set_linear(mean, scale, weights, linear["constant"])
                one.linear.requires_grad_(network.train_linear)
        return Members(members, change=network.forecast == "change")

    @property
    def filled(self) -> bool:
        """Whether the networks know no mask, so that missing inputs are carried forward."""
        return bool(self.config.network.kind != "change")

    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        training, examples = self.config.training, self.examples
        learning = np.flatnonzero(examples.trains.any(axis=1))
        order = Order(
            examples.region[learning], training.micro_batch, training.micro_batches, seed=training.seed,
            window=max(len(examples.regions), 1),
        )  # fmt: skip
        for step in range(start_step, steps):
            epoch, place = order.position(step)
            yield [examples.batch(learning[order.micro(epoch, place, k)], filled=self.filled) for k in mine]

    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        """Yield validation examples; each is forecast by the network that has not seen its region."""
        rows, size = self.examples.validation_rows(), self.config.training.micro_batch
        for number in range(rank, -(-len(rows) // size), world):
            yield self.examples.batch(rows[number * size : (number + 1) * size], filled=self.filled)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted mean squared error of what each network learns from."""
        squares = self._squares(model, middle_row(batch) if self.config.network.middle_row else batch)
        loss = (squares * batch["trains"].T[:, :, None]).mean() * self._share()
        return {"loss": loss}

    def validate(self, networks: dict[str, nn.Module], batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the same of those that have not seen the example, and of persistence."""
        squares = self._squares(networks["model"], batch)
        unseen = ~batch["trains"].T[:, :, None]
        kept = batch["weight"] * (batch["last"] - batch["target"]) ** 2
        return {"loss": (squares * unseen).sum() / unseen.sum() / squares.shape[2], "persistence": kept.mean()}

    def _squares(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return weighted squared errors, shape (members, B, N)."""
        forecast = model(batch["inputs"], batch["last"])
        return batch["weight"] * (forecast.float() - batch["target"]) ** 2

    def _share(self) -> float:
        """Return what makes of the mean over all networks and examples that over those that learn."""
        trains = self.examples.trains
        return float(trains.size / max(int(trains.sum()), 1))

    @torch.no_grad()
    def forecast(self, model: nn.Module, series: Series, ends: np.ndarray | None = None) -> np.ndarray:
        """Return forecasts of a region in its own units, shape (members, examples, tiles).

        Parameters
        ----------
        model : torch.nn.Module
            :class:`Members`, trained.
        series : Series
            The region in physical units.
        ends : numpy.ndarray, optional
            Last input steps; by default of all examples with as many steps as the network takes. Steps before the series
            begins are missing.
        """
        learning = model.training
        model.eval()
        scaled = self.scales.scaled(series)
        if ends is None:
            ends = example_ends(scaled, self.data.steps, self.data.ahead)
        device = next(model.parameters()).device
        parts = [
            model(inputs.to(device), torch.from_numpy(np.nan_to_num(last)).to(device)).double().cpu().numpy()
            for inputs, last in stacked_inputs(self.data, scaled, ends, filled=self.filled)
        ]
        model.train(learning)
        found: np.ndarray = np.concatenate(parts, axis=1) * self.scales.values[INTENSITY]
        return found

    def sample_grid(self, networks: dict[str, nn.Module], folder: Path, step: int) -> None:
        """Draw the forecast of the first validation region by the network that has not seen it."""
        fold = self.data.fold or 0
        number = self.division.folds[fold][0]
        scaled = self.examples.regions[number]
        unit = np.array(self.scales.values, np.float32)[:, None]
        series = Series(number, scaled.times, scaled.values * unit)
        ends = ends_of(self.data, series)
        forecast = scaled_by_region(series, self.forecast(networks["model"], series, ends)[0])
        tiles = darkened_tiles(series)
        found = detections(series, forecast[:, tiles], ends, self.data.ahead, tiles)
        picture = forecast_figure(series, forecast[:, tiles], ends + self.data.ahead, tiles, found, self.data.ahead)
        write_atomic(folder / f"forecast_{step:08d}.png", picture)

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of data and model."""
        counts = {"training": len(self.division.train), "test": len(self.division.test)}
        return super().describe() | {"samples": {"regions": counts, "examples": len(self.examples)}}


def middle_row(batch: Batch) -> Batch:
    """Return the tiles of the middle row of a batch of :meth:`Examples.batch` alone."""
    # n x n tiles without two rows are n (n - 2), which is (n - 1)^2 - 1.
    columns = isqrt(batch["last"].shape[1] + 1) + 1
    row = slice((columns - 2) // 2 * columns, ((columns - 2) // 2 + 1) * columns)
    return batch | {name: batch[name][..., row] for name in ("inputs", "last", "target", "weight")}


def make_member(config: EmergenceForecastConfig) -> nn.Module:
    """Return one network, its weights drawn from torch's generator."""
    data, network = config.data, config.network
    if network.kind == "attention":
        return SpatioTemporalAttention(data.channels)
    if network.kind == "resnet":
        return SpatioTemporalResNet(data.channels)
    if network.kind == "lstm":
        return TileLSTM(data.channels)
    return ChangeNetwork(
        Averages(data.steps, data.ahead),
        data.channels,
        width=network.width,
        layers=network.layers,
        dropout=network.dropout,
    )


@torch.no_grad()
def fit_linear(config: EmergenceForecastConfig, examples: Examples) -> dict[str, dict[str, Any]]:
    """Return by fold the ridge regression on the regions of all others, as plain data."""
    network, data = config.network, config.data
    model = make_member(config)
    assert isinstance(model, ChangeNetwork)
    size = model.linear.in_features
    parts = {fold: LinearSums(size) for fold in sorted(set(examples.fold.tolist()))}
    for rows in np.array_split(np.arange(len(examples)), max(1, len(examples) // 64)):
        batch = examples.batch(rows, filled=False)
        features = model.features(batch["inputs"])
        target = batch["target"] - batch["last"] if network.forecast == "change" else batch["target"]
        for fold in set(examples.fold[rows].tolist()):
            mine = torch.from_numpy(examples.fold[rows] == fold)
            parts[fold].add(features[mine].flatten(0, 1), target[mine].flatten(), batch["weight"][mine].flatten())
    fits = {}
    for left_out in range(len(parts)) if data.fold is None else [data.fold]:
        total = LinearSums(size)
        for fold, sums in parts.items():
            if fold != left_out:
                total.products += sums.products
                total.with_target += sums.with_target
        mean, scale, weights, constant = total.solve(network.penalty)
        fits[str(left_out)] = {
            "mean": mean.tolist(), "scale": scale.tolist(), "weights": weights.tolist(), "constant": float(constant)
        }  # fmt: skip
    return fits
