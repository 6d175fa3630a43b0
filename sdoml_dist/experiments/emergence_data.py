"""Regions of the emergence forecast: which are for training, validation and test, and the examples that are cut of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe_base import Section, Store
from sdoml_dist.solar.emergence import (
    BENCHMARK_TEST,
    BENCHMARK_TRAIN,
    HORIZON_STEPS,
    INPUT_STEPS,
    Timeline,
    region_folds,
)
from sdoml_dist.solar.emergence_scores import FIVE_REGIONS, FIVE_REGIONS_HORIZON
from sdoml_dist.solar.emergence_series import (
    INTENSITY,
    Scales,
    Series,
    carried_forward,
    cut,
    example_ends,
    last_intensity,
    series_of,
)
from sdoml_dist.store.timeline_folder import dataset_timelines, fingerprint, read_timelines
from sdoml_dist.training.experiment import Batch

ProtocolName = Literal["five-regions", "benchmark", "all"]
_STEPS = 72


class Data(Section):
    """Which regions, and what a forecast may know."""

    folder: str | None = None
    """Timelines: a folder of ``AR*.npz``, one as published, or an exported HDF5 file."""
    time_scale: Literal["tai", "utc"] = "tai"
    """Of the times in these files; the published ones are TAI."""
    store: Store | None = None
    """An emergence dataset, instead of a folder."""
    version: str | None = None
    """Tag or snapshot of the dataset; by default the newest, which is then pinned."""
    protocol: ProtocolName = "five-regions"
    """``five-regions``: 11698, 11726, 13165, 13179 and 13183 are for the test, all others for training. ``benchmark``: the
    30 and 2 regions of SuryaBench. ``all``: no test, scores are of the folds alone."""
    intensity: bool = True
    """Whether past intensities are inputs. The benchmark has none; the five-region protocol shows a forecast one."""
    input_steps: int | None = Field(None, ge=2)
    """Hours of input: by default 120 in the benchmark, as published, and otherwise 72, which is published for 11726; the
    other four of the five regions have 96 there."""
    horizon: int | None = Field(None, ge=1)
    """Hours from the last input to the target: by default 11 for the five regions, as published ("12 hours" begin with the
    last input there), and 12 otherwise."""
    folds: int = Field(6, ge=2)
    """Parts of the training regions; validation is by region, never by time within one."""
    fold_seed: int = 0
    """Another seed gives other folds."""
    fold: int | None = Field(None, ge=0)
    """Train one network and validate it with this fold; by default one network for each fold, all in one training."""
    weighting: Literal["region", "equal"] | None = None
    """``region``: errors count in units of the range of their region's intensity. ``equal``: in the same units everywhere,
    by default for the benchmark, whose score is such."""
    validation_stride: int = Field(4, ge=1)
    """Every so many-th example is validated; neighbours in time differ little."""

    @field_validator("folder", mode="before")
    @classmethod
    def _absolute(cls, value: Any) -> Any:
        return str(Path(value).expanduser().absolute()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.folder is None) == (self.store is None):
            raise ValueError("give data.folder or data.store, one of them")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is not below folds ({self.folds})")
        return self

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return 6 if self.intensity else 5

    @property
    def ahead(self) -> int:
        """Hours from the last input to the target."""
        if self.horizon is not None:
            return self.horizon
        return FIVE_REGIONS_HORIZON if self.protocol == "five-regions" else HORIZON_STEPS

    @property
    def steps(self) -> int:
        """Hours of input."""
        if self.input_steps is not None:
            return self.input_steps
        return INPUT_STEPS if self.protocol == "benchmark" else _STEPS

    @property
    def by_region(self) -> bool:
        """Whether errors count in units of the region's range."""
        return (self.weighting or ("equal" if self.protocol == "benchmark" else "region")) == "region"


def load_timelines(data: Data, version: str | None = None) -> tuple[dict[int, Timeline], dict[str, Any]]:
    """Return all timelines, and what identifies them: the snapshot of a dataset, and a fingerprint.

    Raises
    ------
    StoreError
        If they cannot be read.
    """
    if data.store is not None:
        timelines, snapshot = dataset_timelines(data.store, version or data.version)
        return timelines, {"snapshot": snapshot, "fingerprint": fingerprint(timelines)}
    assert data.folder is not None
    timelines = read_timelines(data.folder, scale=data.time_scale)
    return timelines, {"fingerprint": fingerprint(timelines)}


@dataclass(frozen=True)
class Division:
    """Training regions in folds, and test regions."""

    folds: tuple[tuple[int, ...], ...]
    test: tuple[int, ...]

    @classmethod
    def of(cls, data: Data, regions: list[int]) -> Division:
        """Divide the regions that are there by the protocol.

        Raises
        ------
        UsageError
            If regions of the protocol are missing, or there are too few for the folds.
        """
        fixed = {"five-regions": tuple(FIVE_REGIONS), "benchmark": BENCHMARK_TEST, "all": ()}
        test = fixed[data.protocol]
        train = list(BENCHMARK_TRAIN) if data.protocol == "benchmark" else sorted(set(regions) - set(test))
        absent = sorted({*train, *test} - set(regions))
        if absent:
            raise UsageError(
                f"The protocol {data.protocol} needs the regions {', '.join(map(str, absent))}, which are not there.",
                "A score on other regions could not be compared.",
                "Give their timelines, or set data.protocol: all.",
            )
        try:
            return cls(tuple(region_folds(train, data.folds, data.fold_seed)), test)
        except ValueError as error:
            raise UsageError(f"{error}.", "", "Lower data.folds.") from None

    @property
    def train(self) -> tuple[int, ...]:
        """All training regions."""
        return tuple(sorted(region for part in self.folds for region in part))


class Examples:
    """Examples of training regions.

    Parameters
    ----------
    data : Data
        The settings.
    regions : dict
        Series in units of the scales.
    ranges : dict
        Range of the intensity of each region in the same units; of training regions, as it is taken from their whole time.
    folds : sequence of sequences of int
        Regions of each fold.
    """

    def __init__(
        self, data: Data, regions: dict[int, Series], ranges: dict[int, float], folds: tuple[tuple[int, ...], ...]
    ) -> None:
        self.data, self.regions = data, regions
        self.members = len(folds) if data.fold is None else 1
        self.fold_of = {region: index for index, part in enumerate(folds) for region in part}
        pairs = [(number, end) for number, one in regions.items() for end in ends_of(data, one)]
        self.region = np.array([number for number, _ in pairs])
        self.end = np.array([end for _, end in pairs])
        self.fold = np.array([self.fold_of[number] for number in self.region.tolist()], int)
        squares = {number: ranges[number] ** -2 if data.by_region else 1.0 for number in regions}
        middle = float(np.mean([squares[number] for number in self.region.tolist()])) if pairs else 1.0
        self.weight = np.array([squares[number] / middle for number in self.region.tolist()], np.float32)

    def __len__(self) -> int:
        return len(self.end)

    @cached_property
    def trains(self) -> np.ndarray:
        """Whether each network learns from each example, shape (examples, members): all but those of its own fold."""
        folds = np.arange(self.members) if self.data.fold is None else np.array([self.data.fold])
        learns: np.ndarray = self.fold[:, None] != folds
        return learns

    def batch(self, rows: np.ndarray, *, filled: bool) -> Batch:
        """Cut examples.

        Parameters
        ----------
        rows : numpy.ndarray
            Which.
        filled : bool
            Whether missing inputs are the last ones before them; otherwise they stay NaN.

        Returns
        -------
        dict
            ``inputs`` (B, T, C, N), ``last`` (B, N) the last intensity, ``target`` (B, N), ``weight`` (B, N), 0 where
            there is no target or no last intensity, and ``trains`` (B, members).
        """
        steps, ahead = self.data.steps, self.data.ahead
        chosen = [(self.regions[int(self.region[row])], int(self.end[row])) for row in rows]
        whole = np.stack([cut(one, end, steps) for one, end in chosen])
        target = np.stack([one.values[end + ahead, INTENSITY] for one, end in chosen])
        last = last_intensity(whole)
        known = np.isfinite(target) & np.isfinite(last)
        inputs = whole[:, :, : self.data.channels]
        arrays = {
            "inputs": carried_forward(inputs) if filled else inputs,
            "last": np.nan_to_num(last),
            "target": np.nan_to_num(target),
            "weight": known * self.weight[rows][:, None],
            "trains": self.trains[rows],
        }
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}

    def validation_rows(self) -> np.ndarray:
        """Return the examples that are validated, every so many-th of each fold that has a network, sorted by fold."""
        rows = np.flatnonzero(~self.trains.all(axis=1))
        rows = rows[np.argsort(self.fold[rows], kind="stable")]
        return rows[:: self.data.validation_stride]


def ends_of(data: Data, series: Series) -> np.ndarray:
    """Return the last input steps of a region's examples by the protocol."""
    ends = example_ends(series, data.steps, data.ahead)
    # One more would fit; the published benchmark does not take it.
    return ends[:-1] if data.protocol == "benchmark" else ends


def series_of_protocol(data: Data, timeline: Timeline, *, test: bool) -> Series:
    """Return a region as the protocol takes it: steps as they come in what was published, on real time otherwise."""
    return series_of(timeline, as_they_come=data.protocol == "benchmark" or (test and data.protocol == "five-regions"))


def measured(timelines: dict[int, Timeline], division: Division, data: Data) -> tuple[Scales, dict[int, float]]:
    """Return the scales of the training regions, and the range of the intensity of each, in units of the scales.

    Raises
    ------
    UsageError
        If a channel never changes.
    """
    regions = {number: series_of_protocol(data, timelines[number], test=False) for number in division.train}
    try:
        scales = Scales.of(regions.values())
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    unit = scales.values[INTENSITY]
    return scales, {number: (one.extremes[1] - one.extremes[0]) / unit for number, one in regions.items()}


def stacked_inputs(
    data: Data, series: Series, ends: np.ndarray, *, filled: bool
) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Yield inputs (B, T, C, N) and the last intensities (B, N) of a region's examples, some at a time."""
    for part in np.array_split(ends, max(1, len(ends) // 64)):
        whole = np.stack([cut(series, int(end), data.steps) for end in part])
        inputs = whole[:, :, : data.channels]
        yield (
            torch.from_numpy(carried_forward(inputs) if filled else np.ascontiguousarray(inputs)),
            last_intensity(whole),
        )
