"""Scores of a trained emergence forecast beside baselines and published figures, as text, CSV and pictures.

Every row says which intensities a forecast knows, because that decides what it can be compared with:

``none``
    Powers and flux alone.
``one``
    The same, and the whole forecast of a tile is shifted once, as published
    (:func:`sdoml_dist.solar.emergence_scores.shifted_as_published`).
``last``
    The last intensity before each forecast; ``past`` all of the input's.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist.atomic import write_atomic
from sdoml_dist.experiments.emergence_scorer import OURS, Row, Scorer, load_trained
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.emergence_forecast import forecast_figure, score_figure
from sdoml_dist.solar.emergence_scores import (
    FIVE_REGIONS,
    LSTM_TIMES,
    Detection,
    Errors,
    darkened_tiles,
    detections,
    persistence,
    scaled_by_region,
)
from sdoml_dist.training import checkpoint as checkpoints

_NAMES = {
    "change": "running means",
    "attention": "SpatioTemporalAttention",
    "resnet": "SpatioTemporalResNet",
    "lstm": "LSTM",
}

FLAG_TITLE = "emergence: hours before the observed flag (as published counts), and lead of the alarm"


@dataclass
class Evaluation:
    """All that a checkpoint was found to do.

    Attributes
    ----------
    rows : list of Row
        Methods.
    flags, kept : dict
        Flags of emergence by the forecast, and by persistence, of the first regions.
    first_targets : dict
        Time of the first target of each region.
    about : dict
        Network, step, protocol, part.
    """

    rows: list[Row]
    flags: dict[int, list[Detection]]
    kept: dict[int, list[Detection]]
    first_targets: dict[int, np.datetime64]
    about: dict[str, Any]

    def to_text(self) -> str:
        """Return the tables for a terminal."""
        about = self.about
        benchmark = about["protocol"] == "benchmark"
        unit = "MSE x 1e-4 of the benchmark's range" if benchmark else "RMSE in units of each region's range"
        lines = [
            f"{about['network']}, step {about['step']}, {about['members']} networks; protocol {about['protocol']}, part "
            f"{about['part']}; {about['ahead']} hours ahead; {unit}"
        ]
        numbers = sorted({number for row in self.rows for number in row.errors})
        shown = numbers if len(numbers) <= 8 else []
        width = max(len(row.method) for row in self.rows)
        head = "".join(f"{number:>8}" for number in shown)
        lines.append(f"{'':<{width}}  knows {head}     mean            R2")
        for row in self.rows:
            values = {number: one.mse * 1e4 if benchmark else one.rmse for number, one in row.errors.items()}
            each = "".join(f"{values[number]:8.4f}" if number in values else f"{'':>8}" for number in shown)
            mean = self.mean_of(row)
            bar = self.bar_of(row)
            told = f" +- {bar:.4f}" if bar is not None else " " * 10
            r2 = f"{np.mean([one.r2 for one in row.errors.values()]):8.3f}" if row.errors else ""
            lines.append(f"{row.method:<{width}}  {row.knows:<5} {each} {mean:8.4f}{told} {r2}")
        if len(numbers) > 8:
            lines.append(self.wins())
        if self.flags:
            lines += ["", FLAG_TITLE]
            for found in self.flags.values():
                for one in found:
                    if np.isnat(one.observed) and np.isnat(one.forecast):
                        continue
                    lines.append(flag_text(one))
            lines.append(self.summary())
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def mean_of(self, row: Row) -> float:
        """Return the mean score of a row: over examples for the benchmark, over regions otherwise."""
        if self.about["protocol"] != "benchmark":
            return row.mean_rmse
        counts = self.about["examples"]
        return 1e4 * sum(one.mse * counts[n] for n, one in row.errors.items()) / sum(counts[n] for n in row.errors)

    def bar_of(self, row: Row) -> float | None:
        """Return the error bar of a row's mean: spread of the networks, or, where each region has one, over the folds."""
        if self.about["protocol"] == "benchmark":
            return None
        if row.spread:
            return float(np.mean(list(row.spread.values())))
        folds = self.about["folds"]
        means = [
            np.mean([row.errors[n].rmse for n in fold if n in row.errors])
            for fold in folds
            if set(fold) & set(row.errors)
        ]
        return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None

    def wins(self) -> str:
        """Say in how many regions the network is better than persistence."""
        kept, ours = (next(row for row in self.rows if row.method == name) for name in ("persistence", OURS))
        better = sum(ours.errors[n].rmse < kept.errors[n].rmse for n in ours.errors)
        ratio = float(np.mean([ours.errors[n].rmse / kept.errors[n].rmse for n in ours.errors]))
        return f"better than persistence in {better} of {len(ours.errors)} regions; mean ratio of RMSE {ratio:.3f}"

    def summary(self) -> str:
        """Return medians over the tiles that are flagged in both; what was observed before the first target does not count."""
        told = [
            f"{name}: {self._medians(flags)}" for name, flags in (("forecast", self.flags), ("persistence", self.kept))
        ]
        return "\n".join(told)

    def _medians(self, flags: dict[int, list[Detection]]) -> str:
        fair = [one for found in flags.values() for one in found if one.observed >= self.first_targets[one.region]]
        both = [one for one in fair if np.isfinite(one.difference_h)]
        text = f"{len(both)} of {len(fair)} observed emergences are flagged"
        if not both:
            return text
        early, lead = (float(np.median([getattr(one, name) for one in both])) for name in ("difference_h", "lead_h"))
        return f"{text}, median {early:+.1f} h before the observed flag, the alarm {lead:+.1f} h before it"

    def to_csv(self) -> str:
        """Return all metrics of all methods and regions."""
        out = io.StringIO()
        names = [one.name for one in fields(Errors)]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["method", "knows", "region", *names, "rmse_spread"])
        for row in self.rows:
            for number, one in row.errors.items():
                values = [f"{value:.6g}" for value in asdict(one).values()]
                spread = f"{row.spread[number]:.6g}" if number in row.spread else ""
                writer.writerow([row.method, row.knows, number, *values, spread])
            mean = ["" if name != "rmse" else f"{row.mean_rmse:.6g}" for name in names]
            writer.writerow([row.method, row.knows, "mean", *mean, ""])
        return out.getvalue()


def flag_text(one: Detection) -> str:
    """Say when a tile is flagged, beside what is published of it."""
    observed, told = (
        "not" if np.isnat(t) else str(t)[5:13].replace("T", " ") + "h" for t in (one.observed, one.forecast)
    )
    text = f"{one.region} tile {one.tile}: observed {observed:>9}, forecast {told:>9}"
    if np.isfinite(one.difference_h):
        text += f"  {one.difference_h:+4.0f} h, alarm {one.lead_h:+4.0f} h"
    published = LSTM_TIMES.get(one.region, {}).get(one.tile)
    if published and not np.isnat(one.observed):
        early = (one.observed.astype("datetime64[h]") - np.datetime64(published, "h")) / np.timedelta64(1, "h")
        text += f"  (published LSTM {early:+.0f} h)"
    return text


def evaluate(
    checkpoint: Path, output: Path, *, store: Store | None = None, version: str | None = None, part: str = "test",
    most: int | None = None,
) -> str:  # fmt: skip
    """Evaluate a checkpoint of the experiment.

    Parameters
    ----------
    checkpoint : pathlib.Path
        Its folder.
    output : pathlib.Path
        Where files go: ``table.txt``, ``table.csv``, ``scores.png`` and a picture of each of the first regions.
    store, version : optional
        An emergence dataset, of which all regions are scored that were not trained on.
    part : str
        ``test``: regions of the protocol. ``validation``: training regions, each by the network that has not seen it.
    most : int, optional
        The first so many regions.

    Returns
    -------
    str
        The tables, and the names of the files.

    Raises
    ------
    UsageError
        If the part has no regions.
    """
    told = checkpoints.about(checkpoint)
    experiment, model, _ = load_trained(checkpoint)
    scorer = Scorer(experiment, model)
    regions = scorer.regions(part, store, version)
    if most is not None:
        regions = dict(list(regions.items())[:most])
    five = part == "test" and store is None and experiment.data.protocol == "five-regions"
    rows = scorer.rows(regions, five)
    made = {number: scorer.forecasts(region, number).mean(axis=0) for number, region in regions.items()}
    if five and rows[-1].knows == "one":
        made = {number: scorer.shifted(regions[number], one) for number, one in made.items()}
    ahead = experiment.data.ahead
    flags: dict[int, list[Detection]] = {}
    kept: dict[int, list[Detection]] = {}
    pictures: dict[str, bytes] = {}
    for number, region in regions.items():
        tiles = region.tiles if len(region.tiles) <= 9 else darkened_tiles(region.series)
        scaled = scaled_by_region(region.series, made[number])[:, tiles]
        found = detections(region.series, scaled, region.ends, ahead, tiles)
        if len(flags) < 8:
            flags[number] = found
            last = persistence(region.series, region.input_steps, ahead)[: len(region.ends), tiles]
            kept[number] = detections(region.series, scaled_by_region(region.series, last), region.ends, ahead, tiles)
            records = FIVE_REGIONS[number].records if number in FIVE_REGIONS else ()
            pictures[f"region-{number}.png"] = forecast_figure(
                region.series, scaled, region.ends + ahead, tiles, found, ahead, records
            )
    first_targets = {number: one.series.times[one.ends[0] + ahead] for number, one in regions.items()}
    about = {
        "network": _NAMES[experiment.config.network.kind], "step": told["step"], "members": len(model.members),
        "protocol": experiment.data.protocol, "part": part if store is None else store.url, "ahead": ahead,
        "examples": {number: len(region.ends) for number, region in regions.items()}, "folds": experiment.division.folds,
    }  # fmt: skip
    evaluation = Evaluation(rows, flags, kept, first_targets, about)
    text = evaluation.to_text()
    files = {
        "table.txt": text.encode(),
        "table.csv": evaluation.to_csv().encode(),
        "scores.png": score_figure(rows),
        **pictures,
    }
    for name, content in files.items():
        write_atomic(output / name, content)
    return text + "\n".join(str(output / name) for name in files) + "\n"
