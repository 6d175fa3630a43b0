"""Forecasts of a trained network for regions, stored: with those for hours that have not come yet.

For every region, tile and hour from the first whole input on there is a row: what is forecast, or why nothing is. Time is real
here (hours without data are missing), whatever the protocol of the training; the networks take what is missing as in training.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import ExitCode, StoreError
from sdoml_dist.experiments.emergence_scorer import Region, Scorer, load_trained
from sdoml_dist.experiments.emergence_table import FLAG_TITLE, flag_text
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.emergence import Timeline
from sdoml_dist.solar.emergence_scores import Detection, darkened_tiles, detections, scaled_by_region
from sdoml_dist.solar.emergence_series import (
    HOUR,
    INTENSITY,
    Series,
    cut,
    forecast_ends,
    known_share,
    last_intensity,
    lengthened,
    series_of,
)
from sdoml_dist.solar.tiles import GRID
from sdoml_dist.store.emergence_export import TimeScale
from sdoml_dist.store.reader import as_store
from sdoml_dist.store.timeline_folder import dataset_timelines, fingerprint, read_timelines
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.version import code_version

MADE, GAPS, DARK = "made", "too many gaps", "no intensity"
"""What became of a forecast: made; less than half of its inputs are there; the tile has no intensity in its inputs."""
METADATA_KEY = b"sdoml_dist.forecast"
"""Key of the metadata of the file."""
_LEAST_KNOWN = 0.5
_TIME = pa.timestamp("ms", "UTC")
SCHEMA = pa.schema(
    [
        pa.field("region", pa.int32(), nullable=False),
        pa.field("tile", pa.int16(), nullable=False),
        pa.field("issued", _TIME, nullable=False),
        pa.field("valid", _TIME, nullable=False),
        pa.field("forecast", pa.float32()),
        pa.field("spread", pa.float32()),
        pa.field("past", pa.float32()),
        pa.field("observed", pa.float32()),
        pa.field("status", pa.dictionary(pa.int8(), pa.string()), nullable=False),
    ]
)
"""Columns: NOAA number; tile, counted from 1 among 81; time of the last input; time that is forecast; forecast, its standard
deviation over the networks, last intensity of the input, and what was observed at `valid` (all in the units of the timelines,
the baseline of the column taken off; null where there is none); :data:`MADE` or why not."""
_COLUMNS = ("region", "hours", "made", "too_many_gaps", "no_intensity", "networks", "seen", "last_valid", "reason")


@dataclass
class Outcome:
    """What became of a region.

    Attributes
    ----------
    region, hours : int
        NOAA number, and hours from its first to its last observation.
    counts : Counter
        Rows by status.
    networks : int
        Whose mean the forecast is.
    seen : bool
        Whether these networks were trained on the region: what is forecast of it is then no test of them.
    last_valid : numpy.datetime64
        Time of the last forecast that was made.
    reason : str
        Why there is no forecast at all.
    """

    region: int
    hours: int
    counts: Counter[str]
    networks: int = 0
    seen: bool = False
    last_valid: np.datetime64 = np.datetime64("NaT", "s")  # noqa: RUF009
    reason: str = ""

    def to_text(self) -> str:
        """Return a line for a terminal."""
        if self.reason:
            return f"{self.region}: no forecast, {self.reason}"
        left = "".join(f"; {self.counts[why]} not: {why}" for why in (GAPS, DARK) if self.counts[why])
        seen = "; the network was trained on this region" if self.seen else ""
        return f"{self.region}: {self.counts[MADE]} forecasts, the last for {str(self.last_valid)[:16]}{left}{seen}"

    def cells(self) -> list[Any]:
        """Return the cells of :data:`_COLUMNS`."""
        last = "" if np.isnat(self.last_valid) else str(self.last_valid)
        counts = [self.counts[why] for why in (MADE, GAPS, DARK)]
        return [self.region, self.hours, *counts, self.networks, str(self.seen).lower(), last, self.reason]


@dataclass
class Forecasts:
    """What was forecast of all regions.

    Attributes
    ----------
    outcomes : list of Outcome
        One for each region.
    flags, told : list of Detection
        Flags of all tiles, and of those that an evaluation would print.
    files : list of pathlib.Path
        What was written.
    """

    outcomes: list[Outcome]
    flags: list[Detection]
    told: list[Detection]
    files: list[Path]

    @property
    def exit_code(self) -> ExitCode:
        """3 if a region could not be forecast."""
        return ExitCode.FRAMES_FAILED if any(one.reason for one in self.outcomes) else ExitCode.COMPLETE

    def to_text(self) -> str:
        """Return what a terminal shows."""
        lines = [one.to_text() for one in self.outcomes]
        shown = [flag_text(one) for one in self.told if _flagged(one)]
        if shown:
            lines += ["", FLAG_TITLE, *shown]
        return "\n".join([*lines, "", *map(str, self.files), ""])


class RegionForecaster:
    """Makes the rows of regions.

    Parameters
    ----------
    checkpoint : pathlib.Path
        Folder of the checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.place = checkpoint
        self.experiment, self.model, self.weights = load_trained(checkpoint)
        self.scorer = Scorer(self.experiment, self.model)
        self.data = self.experiment.data
        self.tiles = GRID * (GRID - 2)
        # A network without past intensities can still begin at the last one.
        self.needs_intensity = self.data.intensity or self.model.change

    def about(self, source: dict[str, Any]) -> dict[str, Any]:
        """Return what the file says of its forecasts: network, code, timelines."""
        told = checkpoints.about(self.place)
        return {
            "experiment": told["experiment"], "checkpoint": checkpoints.model_hash(self.place, self.weights),
            "weights": self.weights, "step": told["step"], "place": str(self.place), "trained_by": told.get("sdoml_dist"),
            "sdoml_dist": code_version(), "config": told["config"], "timelines": source, "input_hours": self.data.steps,
            "hours_ahead": self.data.ahead, "least_known": _LEAST_KNOWN, "citation": self.experiment.citation,
        }  # fmt: skip

    def series(self, timeline: Timeline) -> tuple[Series | None, str]:
        """Return a region on real time, or None and why it cannot be forecast."""
        try:
            series = series_of(timeline)
        except ValueError as error:
            return None, str(error)
        tiles, hours = series.values.shape[2], len(series.times)
        if tiles != self.tiles:
            return None, f"{tiles} tiles without the first and last row, the network takes {self.tiles}"
        if hours < self.data.steps:
            return None, f"too short: {hours} hours, the network takes {self.data.steps}"
        return series, ""

    def region(self, timeline: Timeline) -> tuple[Outcome, pa.Table, list[Detection], list[Detection]]:
        """Return what became of a region, its rows, and its flags: of all tiles, and of those that are shown."""
        number = timeline.region
        series, reason = self.series(timeline)
        if series is None:
            hours = 1 + round(np.ptp(timeline.times) / HOUR) if timeline.times.size else 0
            return Outcome(number, hours, Counter(), reason=reason), SCHEMA.empty_table(), [], []
        data, ends = self.data, forecast_ends(series, self.data.steps)
        past = np.stack([last_intensity(cut(series, int(end), data.steps)) for end in ends])
        status = np.full(past.shape, 0, np.int8)
        if self.needs_intensity:
            status[~np.isfinite(past)] = 2
        status[known_share(series, ends, data.steps, data.channels) < _LEAST_KNOWN] = 1
        made = self.scorer.forecasts(Region(series, ends, np.arange(self.tiles), data.steps), number)
        longer = lengthened(series, data.ahead)
        counts = Counter({why: int((status == code).sum()) for code, why in enumerate((MADE, GAPS, DARK))})
        outcome = Outcome(number, len(series.times), counts, len(made), self._seen(number))
        if not counts[MADE]:
            share = " and ".join(why for why in (GAPS, DARK) if counts[why])
            outcome.reason = f"{share} in the inputs of every hour"
        else:
            outcome.last_valid = longer.times[ends[(status == 0).any(axis=1)][-1] + data.ahead]
        good = status == 0
        mean = np.where(good, made.mean(axis=0), np.nan)
        spread = np.where(good, made.std(axis=0, ddof=1), np.nan) if len(made) > 1 else np.full(mean.shape, np.nan)
        rows = self._rows(longer, ends, mean, spread, past, status)
        return outcome, rows, *self._flags(longer, ends, mean)

    def _seen(self, number: int) -> bool:
        """Return whether the networks that forecast a region were trained on it."""
        if number not in self.experiment.division.train:
            return False
        fold = self.data.fold
        # With a network for each fold that of the region's own is taken.
        return fold is not None and number not in self.experiment.division.folds[fold]

    def _rows(
        self, series: Series, ends: np.ndarray, mean: np.ndarray, spread: np.ndarray, past: np.ndarray,
        status: np.ndarray,
    ) -> pa.Table:  # fmt: skip
        """Return a row for each hour and tile."""
        first = series.grid[1] + 1  # published numbers count the first row of tiles, from 1
        observed = series.values[ends + self.data.ahead, INTENSITY]
        number, tiles = len(ends), mean.shape[1]

        def numbers(values: np.ndarray) -> pa.Array:
            return pa.array(values.astype(np.float32).ravel(), from_pandas=True)  # NaN is null

        def times(steps: np.ndarray) -> pa.Array:
            return pa.array(np.repeat(series.times[steps], tiles).astype("datetime64[ms]")).cast(_TIME)

        return pa.table(
            [
                pa.array(np.full(number * tiles, series.region, np.int32)),
                pa.array(np.tile(np.arange(first, first + tiles, dtype=np.int16), number)),
                times(ends), times(ends + self.data.ahead),
                numbers(mean), numbers(spread), numbers(past), numbers(observed),
                pa.DictionaryArray.from_arrays(pa.array(status.ravel()), pa.array([MADE, GAPS, DARK])),
            ],
            schema=SCHEMA,
        )  # fmt: skip

    def _flags(self, series: Series, ends: np.ndarray, mean: np.ndarray) -> tuple[list[Detection], list[Detection]]:
        """Return the flags of all tiles, and of the tiles that darken most, which are those that an evaluation tells."""
        intensity = series.values[:, INTENSITY]
        if not np.isfinite(intensity).any() or np.nanmin(intensity) == np.nanmax(intensity):
            return [], []
        found = detections(series, scaled_by_region(series, mean), ends, self.data.ahead, np.arange(self.tiles))
        return found, [found[tile] for tile in darkened_tiles(series)]


def forecast_regions(
    checkpoint: str | Path, timelines: str | Store, output: str | Path, *, version: str | None = None,
    scale: TimeScale = "tai",
) -> Forecasts:  # fmt: skip
    """Forecast all regions of some timelines and store what was forecast.

    Parameters
    ----------
    checkpoint : path
        Folder of a checkpoint, or of a run, whose best by validation is taken.
    timelines : str or Store
        Folder or file of timelines as :func:`sdoml_dist.store.timeline_folder.read_timelines` takes them, or an emergence
        dataset.
    output : path
        Folder for ``forecasts.parquet``, ``flags.csv`` and ``regions.csv``.
    version : str, optional
        Tag or snapshot of the dataset; by default the newest.
    scale : {"tai", "utc"}
        Scale of the times in files.

    Returns
    -------
    Forecasts
        What became of every region, and the flags.

    Raises
    ------
    UsageError
        If the checkpoint is none of this experiment.
    StoreError
        If there are no timelines, or they cannot be read.
    """
    forecaster = RegionForecaster(checkpoints.chosen(checkpoint).absolute())
    regions, source = _read(timelines, version, scale)
    outcomes: list[Outcome] = []
    tables: list[pa.Table] = [SCHEMA.empty_table()]
    flags: list[Detection] = []
    told: list[Detection] = []
    for number in sorted(regions):
        outcome, rows, found, shown = forecaster.region(regions[number])
        outcomes.append(outcome)
        tables.append(rows)
        flags += found
        told += shown
    about = json.dumps(forecaster.about(source)).encode()
    table = pa.concat_tables(tables).replace_schema_metadata({METADATA_KEY: about})
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", row_group_size=1 << 16)
    contents = {
        "forecasts.parquet": out.getvalue(),
        "flags.csv": _flag_lines(flags),
        "regions.csv": _lines(_COLUMNS, [one.cells() for one in outcomes]),
    }
    for name, content in contents.items():
        write_atomic(Path(output) / name, content)
    return Forecasts(outcomes, flags, told, [Path(output) / name for name in contents])


def _read(place: str | Store, version: str | None, scale: TimeScale) -> tuple[dict[int, Timeline], dict[str, Any]]:
    """Return timelines, and what identifies them."""
    path = None if isinstance(place, Store) else Path(place).expanduser()
    if path is not None and (path.is_file() or any(path.glob("AR*"))):
        if version is not None:
            raise StoreError(f"{path} has no versions.", "It is a folder or file of timelines.", "Leave --version out.")
        timelines = read_timelines(path, scale=scale)
        return timelines, {"source": str(path.absolute()), "fingerprint": fingerprint(timelines)}
    store = as_store(place)
    timelines, snapshot = dataset_timelines(store, version)
    return timelines, {"source": store.url, "snapshot": snapshot, "fingerprint": fingerprint(timelines)}


def _flagged(one: Detection) -> bool:
    return not (np.isnat(one.observed) and np.isnat(one.forecast))


def _flag_lines(flags: list[Detection]) -> bytes:
    """Return the tiles that are flagged by what was observed or forecast."""
    rows = [
        [one.region, one.tile, *("" if np.isnat(time) else str(time) for time in (one.observed, one.forecast, one.known)),
         *("" if np.isnan(hours) else f"{hours:g}" for hours in (one.difference_h, one.lead_h))]
        for one in flags
        if _flagged(one)
    ]  # fmt: skip
    return _lines(("region", "tile", "observed", "forecast", "known", "difference_h", "lead_h"), rows)


def _lines(columns: tuple[str, ...], rows: list[list[Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue().encode()
