"""Forecasts and errors of a trained emergence forecast, and of its baselines, region by region."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.emergence_data import Data, ends_of, series_of_protocol
from sdoml_dist.experiments.emergence_forecast import EmergenceForecast, Members
from sdoml_dist.models.emergence_change import ChangeNetwork
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.emergence_scores import (
    BENCHMARK_RANGE,
    FIVE_REGIONS,
    LSTM_RMSE,
    TRANSFORMER_RMSE,
    Errors,
    LinearBaseline,
    persistence,
    scaled_by_region,
    tile_means,
)
from sdoml_dist.solar.emergence_series import INTENSITY, Series, example_ends, series_of
from sdoml_dist.store.timeline_folder import dataset_timelines
from sdoml_dist.training import checkpoint as checkpoints

OURS, LINEAR = "this network", "its linear part"


@dataclass
class Row:
    """A method.

    Attributes
    ----------
    method, knows : str
        Its name, and which intensities it knows.
    errors : dict
        By region; empty where only a mean is published.
    spread : dict
        By region, the standard deviation of the RMSE over the networks of the folds, each by itself.
    mean_rmse : float
        Mean over the regions.
    """

    method: str
    knows: str
    errors: dict[int, Errors] = field(default_factory=dict)
    spread: dict[int, float] = field(default_factory=dict)
    mean_rmse: float = float("nan")


@dataclass
class Region:
    """A region that is scored, with what belongs to it.

    Attributes
    ----------
    series : Series
        In physical units.
    ends, tiles : numpy.ndarray
        Last input steps of its examples, and the tiles that count.
    input_steps : int
        Of the examples, for baselines.
    """

    series: Series
    ends: np.ndarray
    tiles: np.ndarray
    input_steps: int


def load_trained(place: Path) -> tuple[EmergenceForecast, Members, str]:
    """Return the experiment of a checkpoint, its networks, and the name of the weights that they have.

    These are the averaged weights where such were kept: they are what was validated.

    Parameters
    ----------
    place : pathlib.Path
        The checkpoint.

    Raises
    ------
    UsageError
        If it is no checkpoint of this experiment, or of another network.
    """
    told = checkpoints.about(place)
    if told.get("experiment") != EmergenceForecast.Config.model_fields["experiment"].default:
        raise UsageError(
            f"{place} is a checkpoint of {told.get('experiment')!r}, which forecasts no emergence.",
            "",
            "Give a run of 'sdoml train emergence-forecast'.",
        )
    experiment = EmergenceForecast({"config": told["config"], "prepared": told["prepared"]})
    model = experiment.model()
    assert isinstance(model, Members)
    weights = checkpoints.EMA if (place / f"{checkpoints.EMA}.safetensors").is_file() else "model"
    checkpoints.load_model(place, model, weights)
    return experiment, model, weights


class Scorer:
    """Forecasts and errors of a trained experiment on some regions.

    Parameters
    ----------
    experiment : EmergenceForecast
        The experiment.
    model : Members
        Its networks, trained.
    """

    def __init__(self, experiment: EmergenceForecast, model: Members) -> None:
        self.experiment, self.model, self.data = experiment, model, experiment.data

    def regions(self, part: str, store: Store | None, version: str | None) -> dict[int, Region]:
        """Return the regions of a part, or all of another dataset.

        Raises
        ------
        UsageError
            If there are none.
        """
        data, division = self.data, self.experiment.division
        if store is not None:
            timelines, _ = dataset_timelines(store, version)
            numbers = sorted(set(timelines) - set(division.train))
        else:
            timelines = self.experiment.timelines()
            folds = division.folds if data.fold is None else division.folds[data.fold : data.fold + 1]
            validated = [number for fold in folds for number in fold]
            numbers = {"test": list(division.test), "validation": sorted(validated)}.get(part, [])
        if not numbers:
            raise UsageError(
                f"There are no regions of the part {part!r}.",
                "Test regions are those of the protocol, validation regions those of the folds.",
                "Use --part test or --part validation; with data.protocol: all there is no test.",
            )
        found = {}
        for number in numbers:
            fixed = (
                FIVE_REGIONS.get(number)
                if part == "test" and data.protocol == "five-regions" and store is None
                else None
            )
            if store is not None:
                series = series_of(timelines[number])
            else:
                series = series_of_protocol(data, timelines[number], test=part == "test")
            steps = fixed.input_steps if fixed else data.steps
            ends = example_ends(series, steps, data.ahead) if fixed else ends_of(data, series)
            tiles = fixed.tiles if fixed else np.arange(series.values.shape[2])
            if len(ends):
                found[number] = Region(series, ends, tiles, steps)
        return found

    def forecasts(self, region: Region, number: int, *, linear: bool = False) -> np.ndarray:
        """Return the forecasts of each network that has not seen the region, shape (members, examples, tiles)."""
        model = self.model
        if linear:
            bare: list[nn.Module] = [_bare(one) for one in model.members if isinstance(one, ChangeNetwork)]
            model = Members(bare, change=model.change)
        found = self.experiment.forecast(model, region.series, region.ends)
        fold = next((k for k, part in enumerate(self.experiment.division.folds) if number in part), None)
        if fold is not None and len(model.members) > 1:
            found = found[fold : fold + 1]
        return found

    def unit(self, series: Series, values: np.ndarray) -> np.ndarray:
        """Bring intensities to the units of the protocol's scores."""
        return values / BENCHMARK_RANGE if self.data.protocol == "benchmark" else scaled_by_region(series, values)

    def errors(self, region: Region, forecast: np.ndarray) -> Errors:
        """Return the errors of a forecast in physical units, shape (examples, tiles)."""
        observed = region.series.values[region.ends + self.data.ahead, INTENSITY].astype(np.float64)
        pair = (self.unit(region.series, one)[:, region.tiles] for one in (observed, forecast))
        return Errors.of(*pair)

    def shifted(self, region: Region, forecast: np.ndarray) -> np.ndarray:
        """Return a forecast shifted once per tile, as published."""
        before = region.series.values[region.ends[0] + self.data.ahead - 1, INTENSITY].astype(np.float64)
        return forecast - forecast[:1] + before

    def row(self, method: str, knows: str, regions: dict[int, Region], made: dict[int, np.ndarray]) -> Row:
        """Return the row of forecasts of shape (members, examples, tiles), whose mean is what is scored."""
        row = Row(method, knows)
        for number, region in regions.items():
            row.errors[number] = self.errors(region, made[number].mean(axis=0))
            if len(made[number]) > 1:
                each = [self.errors(region, one).rmse for one in made[number]]
                row.spread[number] = float(np.std(each, ddof=1))
        row.mean_rmse = float(np.mean([one.rmse for one in row.errors.values()]))
        return row

    def rows(self, regions: dict[int, Region], published: bool) -> list[Row]:
        """Return all rows: published figures, baselines, then the network."""
        data, timelines = self.data, self.experiment.timelines()
        division = self.experiment.division
        train = {number: series_of_protocol(data, timelines[number], test=False) for number in division.train}
        rows = _published(regions) if published else []
        kept = {
            n: persistence(one.series, one.input_steps, data.ahead)[None, : len(one.ends)] for n, one in regions.items()
        }
        rows.append(self.row("persistence", "last", regions, kept))
        # Baselines are fitted to what the network learns from: all folds but the region's own.
        folds = {number: next((fold for fold in division.folds if number in fold), ()) for number in regions}
        makers = {
            own: _baselines({n: one for n, one in train.items() if n not in own}, data) for own in set(folds.values())
        }
        for method, knows in (
            ("mean of the tile", "none"),
            ("linear regression", "none"),
            ("linear regression", "past"),
        ):
            made = {n: makers[folds[n]][method, knows](one)[None] for n, one in regions.items()}
            rows.append(self.row(method, knows, regions, made))
            if knows == "none" and published:
                moved = {n: self.shifted(regions[n], one[0])[None] for n, one in made.items()}
                rows.append(self.row(method, "one", regions, moved))
        knows = "past" if data.intensity else "last" if self.model.change else "none"
        kinds = [(OURS, False)]
        if any(isinstance(one, ChangeNetwork) and one.network is not None for one in self.model.members):
            kinds.insert(0, (LINEAR, True))
        for method, linear in kinds:
            made = {number: self.forecasts(region, number, linear=linear) for number, region in regions.items()}
            rows.append(self.row(method, knows, regions, made))
            if knows == "none" and published:
                moved = {n: np.stack([self.shifted(regions[n], one) for one in each]) for n, each in made.items()}
                rows.append(self.row(method, "one", regions, moved))
        return rows


def _baselines(train: dict[int, Series], data: Data) -> dict[tuple[str, str], Callable[[Region], np.ndarray]]:
    """Return baselines fitted to training regions, by name and by which intensities they know."""
    means = tile_means(train, data.steps, data.ahead)
    blind = LinearBaseline(data.steps, data.ahead).fit(train)
    seeing = LinearBaseline(data.steps, data.ahead, 6, change=True).fit(train)
    return {
        ("mean of the tile", "none"): lambda one: np.tile(means, (len(one.ends), 1)),
        ("linear regression", "none"): lambda one: _regressed(blind, one),
        ("linear regression", "past"): lambda one: _regressed(seeing, one),
    }


def _bare(member: ChangeNetwork) -> ChangeNetwork:
    """Return a network's linear part alone."""
    other = copy.copy(member)
    other._modules = {name: part for name, part in member._modules.items() if name != "network"}
    other.network = None
    return other


def _regressed(fit: LinearBaseline, region: Region) -> np.ndarray:
    """Return a regression's forecasts of the examples of a region, whose input may be longer than the regression's."""
    skipped = region.ends[0] - (fit.input_steps - 1)
    if skipped < 0:
        raise UsageError(
            f"Region {region.series.region} is tested with {region.input_steps} hours of input, the regression takes "
            f"{fit.input_steps}.",
            "",
            "Set data.input_steps to 72 or less for the five-region protocol.",
        )
    return fit.forecast(region.series)[skipped : skipped + len(region.ends)]


def _published(regions: dict[int, Region]) -> list[Row]:
    """Return the published figures of the five-region protocol."""
    errors = {
        number: Errors(one.lstm[0], one.lstm[1], one.lstm[2], one.lstm_rmsle, one.lstm[3])
        for number, one in FIVE_REGIONS.items()
        if number in regions
    }
    lstm = Row("LSTM, published", "one", errors, mean_rmse=LSTM_RMSE)
    return [lstm, Row("transformer, published", "one", mean_rmse=TRANSFORMER_RMSE)]
