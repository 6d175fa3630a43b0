"""Stored forecasts of emerging regions, and which weights a checkpoint is used with."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sdoml_dist.cli import main
from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.experiments import emergence_apply
from sdoml_dist.experiments.emergence_apply import DARK, GAPS, MADE, METADATA_KEY, forecast_regions
from sdoml_dist.experiments.emergence_forecast import EmergenceForecast, EmergenceForecastConfig, Members
from sdoml_dist.experiments.emergence_scorer import load_trained
from sdoml_dist.experiments.emergence_table import evaluate
from sdoml_dist.pipelines.apply import application
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.emergence import Timeline
from sdoml_dist.solar.emergence_scores import detections, scaled_by_region
from sdoml_dist.solar.emergence_series import HOUR, INTENSITY, forecast_ends, known_share, lengthened, series_of
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.loop import Loop, Worker
from tests.test_emergence_forecast import made

STEPS, AHEAD = 12, 12


@dataclass
class Small:
    """A network of few steps on four made regions."""

    place: Path
    experiment: EmergenceForecast
    loop: Loop


def save(folder: Path, *timelines: Timeline) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for one in timelines:
        np.savez(
            folder / f"AR{one.region}.npz",
            power=one.power,
            unsigned_flux=one.flux,
            continuum=one.intensity,
            time=one.times,
        )
    return folder


def train(folder: Path, network: dict[str, Any], data: dict[str, Any], **training: Any) -> Small:
    regions = save(folder / "regions", *(made(number, holes=number == 11002) for number in range(11000, 11004)))
    config = EmergenceForecastConfig.model_validate(
        {
            "data": {"folder": str(regions), "protocol": "all", "input_steps": STEPS, "folds": 2, "time_scale": "utc", **data},
            "network": {"width": 8, **network},
            "training": {"global_batch": 8, "micro_batch": 4, "steps": 3, "learning_rate": 0.05, **training},
        }
    )  # fmt: skip
    prepared = json.loads(json.dumps(EmergenceForecast.prepare(config, folder)))
    experiment = EmergenceForecast({"config": config.model_dump(mode="json"), "prepared": prepared})
    loop = Loop(experiment, config.training, config.watching, Worker())
    loop.run(lambda progress: None)
    place = folder / "run/checkpoint_00000003"
    place.mkdir(parents=True)
    loop.save(place, {})
    return Small(place, experiment, loop)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return train(tmp_path_factory.mktemp("small"), {}, {})


def rows(folder: Path, region: int, column: str) -> np.ndarray:
    """Return a column of a region, shape (hours, tiles)."""
    table = pq.read_table(folder / "forecasts.parquet", filters=[("region", "==", region)])
    return table[column].to_numpy().reshape(-1, 63)


def listed(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["region"]: row for row in csv.DictReader(file)}


def test_the_averaged_weights_are_used_where_there_are_any(tmp_path: Path) -> None:
    averaged = train(tmp_path, {}, {}, ema=0.9)
    _, model, weights = load_trained(averaged.place)
    assert weights == "ema"
    last, mean = averaged.loop.networks["model"], averaged.loop.shown()["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, mean.state_dict()[name])
    assert any(not torch.equal(value, last.state_dict()[name]) for name, value in model.state_dict().items())
    plain = tmp_path / "plain"
    shutil.copytree(averaged.place, plain)
    (plain / "ema.safetensors").unlink()
    assert load_trained(plain)[2] == "model"
    tables = []
    for place in (averaged.place, plain):
        evaluate(place, tmp_path / "table", part="validation", most=1)
        tables.append((tmp_path / "table/table.csv").read_text().splitlines())
    different = {new.split(",")[0] for new, old in zip(*tables, strict=True) if new != old}
    assert different == {"this network"}
    # Forecasts are made with the same weights, and say with which.
    folder = averaged.experiment.data.folder
    assert folder is not None
    outputs = [forecast_regions(place, folder, tmp_path / place.name, scale="utc") for place in (averaged.place, plain)]
    told = [json.loads(pq.read_schema(one.files[0]).metadata[METADATA_KEY]) for one in outputs]
    assert [one["weights"] for one in told] == ["ema", "model"]
    assert told[0]["checkpoint"] == checkpoints.model_hash(averaged.place, "ema") != told[1]["checkpoint"]


def test_every_hour_has_a_forecast_and_the_last_lies_ahead_of_all_observations(small: Small, tmp_path: Path) -> None:
    new = made(12000)
    done = forecast_regions(small.place.parent, str(save(tmp_path / "new", new)), tmp_path / "out", scale="utc")
    assert int(done.exit_code) == 0
    series = series_of(new)
    ends = forecast_ends(series, STEPS)
    assert ends.tolist() == list(range(11, 60))
    model = small.loop.networks["model"]
    each = small.experiment.forecast(model, series, ends)
    out = tmp_path / "out"
    np.testing.assert_allclose(rows(out, 12000, "forecast"), each.mean(axis=0), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(rows(out, 12000, "spread"), each.std(axis=0, ddof=1), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(rows(out, 12000, "past"), series.values[ends, INTENSITY])
    observed = rows(out, 12000, "observed")
    np.testing.assert_array_equal(observed[:-AHEAD], series.values[ends[:-AHEAD] + AHEAD, INTENSITY])
    assert np.isnan(observed[-AHEAD:]).all()
    table = pq.read_table(out / "forecasts.parquet")
    assert table["tile"][:63].to_pylist() == list(range(10, 73))
    assert table["status"].unique().to_pylist() == [MADE]
    issued, valid = (table[name].to_numpy() for name in ("issued", "valid"))
    assert (valid - issued == AHEAD * HOUR).all()
    assert issued[-1] == series.times[-1]
    assert listed(out / "regions.csv")["12000"]["last_valid"] == str(series.times[-1] + AHEAD * HOUR)
    # What comes later changes nothing that was forecast before.
    part = slice(0, 40)
    early = Timeline(12000, new.times[part], new.power[..., part], new.flux[:, part], new.intensity[:, part])
    forecast_regions(small.place, str(save(tmp_path / "early", early)), tmp_path / "less", scale="utc")
    np.testing.assert_allclose(
        rows(tmp_path / "less", 12000, "forecast"), rows(out, 12000, "forecast")[: 40 - 11], rtol=1e-5, atol=1e-3
    )
    told = json.loads(table.schema.metadata[METADATA_KEY])
    assert told["checkpoint"] == checkpoints.model_hash(small.place)
    assert (told["step"], told["hours_ahead"], told["input_hours"]) == (3, AHEAD, STEPS)
    assert told["sdoml_dist"] == told["trained_by"]
    assert len(told["timelines"]["fingerprint"]) == 16


def test_regions_of_the_training_are_forecast_by_the_network_that_has_not_seen_them(
    small: Small, tmp_path: Path
) -> None:
    folder = small.experiment.data.folder
    assert folder is not None
    forecast_regions(small.place, folder, tmp_path, scale="utc")
    table = listed(tmp_path / "regions.csv")
    model = small.loop.networks["model"]
    for fold, numbers in enumerate(small.experiment.division.folds):
        for number in numbers:
            series = series_of(small.experiment.timelines()[number])
            mine = small.experiment.forecast(model, series, forecast_ends(series, STEPS))[fold]
            good = rows(tmp_path, number, "status") == MADE
            np.testing.assert_allclose(
                rows(tmp_path, number, "forecast")[good], mean_of(mine, good), rtol=1e-5, atol=1e-3
            )
            assert np.isnan(rows(tmp_path, number, "spread")).all()
            assert (table[str(number)]["networks"], table[str(number)]["seen"]) == ("1", "false")
    single = train(tmp_path / "single", {}, {"fold": 1})
    done = forecast_regions(single.place, folder, tmp_path / "out", scale="utc")
    seen = {one.region: one.seen for one in done.outcomes}
    assert seen == {number: number not in single.experiment.division.folds[1] for number in range(11000, 11004)}
    assert done.to_text().count("trained on this region") == 2


def mean_of(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = values[good].astype(np.float32)
    return chosen


def test_what_cannot_be_forecast_is_listed_with_its_reason(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, hollow, dark, odd, good = made(12001, hours=11), made(12002), made(12003), made(12004), made(12005)
    hollow.power[..., 3:-3] = hollow.flux[:, 3:-3] = hollow.intensity[:, 3:-3] = np.nan
    dark.intensity[:, :] = np.nan
    odd = Timeline(12004, odd.times, odd.power[:, :49], odd.flux[:49], odd.intensity[:49])
    good.power[:, 30, 20:32], good.flux[30, 20:32] = np.nan, np.nan
    good.intensity[31, :40] = np.nan
    folder, out = save(tmp_path / "regions", short, hollow, dark, odd, good), tmp_path / "out"
    command = ["forecast", str(small.place.parent), str(folder), "-o", str(out), "--time-scale", "utc"]
    assert main(command) == 3
    told = capsys.readouterr().out
    table = listed(out / "regions.csv")
    reasons = {number: row["reason"] for number, row in table.items() if row["reason"]}
    assert reasons == {
        "12001": "too short: 11 hours, the network takes 12",
        "12002": "too many gaps in the inputs of every hour",
        "12003": "no intensity in the inputs of every hour",
        "12004": "35 tiles without the first and last row, the network takes 63",
    }
    for number, why in reasons.items():
        assert f"{number}: no forecast, {why}" in told
    assert table["12001"]["hours"] == "11"
    assert str(out / "forecasts.parquet") in told
    # Rows that lack a forecast say why; all others have one.
    status, forecast = rows(out, 12005, "status"), rows(out, 12005, "forecast")
    np.testing.assert_array_equal(status == MADE, np.isfinite(forecast))
    gaps, none = status == GAPS, status == DARK
    # Tile 30 of 81 is 21 of the inner ones: five of six channels are missing for twelve hours.
    assert gaps[:, 21].sum() == sum(
        5 / 6 * len(set(range(e - 11, e + 1)) & set(range(20, 32))) / 12 > 0.5 for e in range(11, 60)
    )
    assert np.flatnonzero(none[:, 22]).tolist() == list(range(40 - 11))
    assert gaps.sum() + none.sum() == gaps[:, 21].sum() + none[:, 22].sum()
    row = table["12005"]
    assert [int(row[name]) for name in ("made", "too_many_gaps", "no_intensity")] == [
        int((status == why).sum()) for why in (MADE, GAPS, DARK)
    ]
    assert f"{none.sum()} not: {DARK}" in told
    for bad in reasons:
        (folder / f"AR{bad}.npz").unlink()
    assert main(command) == 0


def test_flags_are_stored_as_an_evaluation_prints_them(small: Small, tmp_path: Path) -> None:
    region = made(12006, seed=1)
    # A darkening at the end: the observed flag, and its forecast by a network that follows the intensity.
    region.intensity[40, 35:] -= 400.0 * np.arange(25)
    folder = save(tmp_path / "regions", region)
    done = forecast_regions(small.place, str(folder), tmp_path, scale="utc")
    series = lengthened(series_of(region), AHEAD)
    forecast = scaled_by_region(series, rows(tmp_path, 12006, "forecast").astype(np.float64))
    wanted = detections(series, forecast, forecast_ends(series_of(region), STEPS), AHEAD, np.arange(63))
    assert [(one.tile, str(one.forecast), str(one.observed)) for one in done.flags] == [
        (one.tile, str(one.forecast), str(one.observed)) for one in wanted
    ]
    (mine,) = (one for one in done.flags if one.tile == 41)
    assert mine.observed <= series.times[37]
    # Seen late, the alarm is of forecasts whose hours lie after all observations or near them.
    assert mine.forecast > mine.observed
    assert mine.known <= region.times[-1]
    with (tmp_path / "flags.csv").open() as file:
        stored = {int(row["tile"]): row for row in csv.DictReader(file)}
    flagged = {one.tile for one in wanted if not (np.isnat(one.observed) and np.isnat(one.forecast))}
    assert set(stored) == flagged
    assert stored[41]["forecast"] == str(mine.forecast)
    assert float(stored[41]["lead_h"]) == mine.lead_h
    text = done.to_text()
    assert "12006 tile 41: observed" in text
    assert "lead of the alarm" in text


def test_networks_without_intensities_forecast_tiles_that_have_none(tmp_path: Path) -> None:
    blind = train(tmp_path, {"forecast": "level"}, {"intensity": False})
    dark = made(12007)
    dark.intensity[:, :] = np.nan
    done = forecast_regions(blind.place, str(save(tmp_path / "dark", dark)), tmp_path / "out", scale="utc")
    assert int(done.exit_code) == 0
    assert np.isfinite(rows(tmp_path / "out", 12007, "forecast")).all()
    assert np.isnan(rows(tmp_path / "out", 12007, "past")).all()
    assert done.flags == []


def test_shares_of_what_is_known() -> None:
    series = series_of(made(12008))
    series.values[20:23, :3, 5] = np.nan
    share = known_share(series, np.array([11, 21, 25]), STEPS, 5)
    assert share[:, 4].tolist() == [1, 1, 1]
    assert share[:, 5] == pytest.approx([1, 1 - 2 * 3 / 60, 1 - 3 * 3 / 60])


def test_datasets_are_named_by_their_snapshot(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def timelines(store: Store, version: str | None) -> tuple[dict[int, Timeline], str]:
        asked.append((store.url, version))
        return {12010: made(12010)}, "SNAPSHOT"

    # What is read of a dataset is tested where one is built.
    monkeypatch.setattr(emergence_apply, "dataset_timelines", timelines)
    address = str(tmp_path / "dataset")
    assert main(["forecast", str(small.place), address, "-o", str(tmp_path / "out"), "--version", "v1"]) == 0
    assert asked == [(address, "v1")]
    told = json.loads(pq.read_schema(tmp_path / "out/forecasts.parquet").metadata[METADATA_KEY])
    assert (told["timelines"]["source"], told["timelines"]["snapshot"]) == (address, "SNAPSHOT")


def test_wrong_usage_says_what_to_do(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path / "regions", made(12009))
    other = tmp_path / "other"
    shutil.copytree(small.place, other)
    about = json.loads((other / "checkpoint.json").read_text())
    (other / "checkpoint.json").write_text(json.dumps(about | {"experiment": "denoising"}))
    with pytest.raises(UsageError, match="which forecasts no emergence"):
        forecast_regions(other, str(folder), tmp_path / "out")
    with pytest.raises(UsageError, match="Use 'sdoml forecast'"):
        application(small.place)
    with pytest.raises(StoreError, match="has no versions"):
        forecast_regions(small.place, str(folder), tmp_path / "out", version="v1")
    assert main(["forecast", str(small.place), str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_lstm_learns_from_the_middle_row(small: Small) -> None:
    data = small.experiment.config.model_dump(mode="json")
    data["network"] |= {"kind": "lstm", "forecast": "level", "middle_row": True}
    data["data"] |= {"intensity": False, "fold": 1}
    experiment = EmergenceForecast({"config": data, "prepared": small.experiment.prepared})
    torch.manual_seed(0)
    model = experiment.model()
    assert isinstance(model, Members)
    batch = next(experiment.batches(0, 1, (0,)))[0]
    loss = experiment.loss(model, batch, torch.Generator())["loss"]
    other = dict(batch) | {"target": batch["target"].clone()}
    other["target"][:, :27] += 5.0
    other["target"][:, 36:] += 5.0
    assert torch.equal(experiment.loss(model, other, torch.Generator())["loss"], loss)
    other["target"][:, 30] += 5.0
    assert experiment.loss(model, other, torch.Generator())["loss"] > loss
    # It is validated on all tiles.
    checked = experiment.validate({"model": model}, batch, torch.Generator())["loss"]
    assert experiment.validate({"model": model}, other, torch.Generator())["loss"] != checked
    with pytest.raises(ValueError, match=r"network\.middle_row is for"):
        EmergenceForecastConfig.model_validate({"data": {"folder": "a"}, "network": {"middle_row": True}})
