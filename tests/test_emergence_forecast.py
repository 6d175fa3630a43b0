"""Regions, examples, baselines and scores of the emergence forecast, on the real timelines and on small made ones."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.experiments.emergence_data import Data, Division, Examples, ends_of, measured, series_of_protocol
from sdoml_dist.experiments.emergence_forecast import EmergenceForecast, EmergenceForecastConfig, Members
from sdoml_dist.experiments.emergence_scorer import Scorer
from sdoml_dist.experiments.emergence_table import evaluate
from sdoml_dist.solar.emergence import BENCHMARK_TEST, BENCHMARK_TRAIN, Scaling, Timeline, windows
from sdoml_dist.solar.emergence_scores import (
    BENCHMARK_RANGE,
    FIVE_REGIONS,
    FIVE_REGIONS_HORIZON,
    LSTM_RMSE,
    LSTM_TIMES,
    Errors,
    LinearBaseline,
    detections,
    persistence,
    scaled_by_region,
    shifted_as_published,
    targets,
    tile_means,
)
from sdoml_dist.solar.emergence_series import (
    HOUR,
    INTENSITY,
    Scales,
    Series,
    carried_forward,
    cut,
    example_ends,
    hourly,
    last_intensity,
    series_of,
)
from sdoml_dist.store.emergence_export import write_hdf5, write_npz
from sdoml_dist.store.timeline_folder import fingerprint, read_timelines
from sdoml_dist.training.loop import Loop, Worker

# Persistence of the last intensity by the five-region protocol, RMSE.
PERSISTENCE = {11698: 0.092, 11726: 0.062, 13165: 0.084, 13179: 0.074, 13183: 0.087}
# Observed first emergence in the published figures, by the published number of the tile.
OBSERVED = {
    11698: {49: "2013-03-14T09", 51: "2013-03-15T09", 52: "2013-03-16T11"},
    13183: {40: "2023-01-06T06", 41: "2023-01-05T06", 42: "2023-01-05T09", 43: "2023-01-06T17"},
}


@pytest.fixture(scope="module")
def real(real_data: Path) -> dict[int, Timeline]:
    return read_timelines(real_data / "solared")


def made(region: int, seed: int = 0, hours: int = 60, holes: bool = False) -> Timeline:
    """Return random walks over 81 tiles, the first and last row 0."""
    random = np.random.default_rng((region, seed))
    walks = random.normal(size=(6, 81, hours)).cumsum(axis=2) * np.array([9, 8, 7, 6, 5, 100.0])[:, None, None]
    walks[:, :9] = walks[:, 72:] = 0
    if holes:
        walks[:, 30, 20:25] = np.nan
    times = np.datetime64("2014-01-01T00:59:37", "ns") + np.arange(hours) * HOUR
    if holes:
        keep = np.r_[0:40, 46:hours]
        return Timeline(region, times[keep], walks[:4][..., keep], walks[4][:, keep], walks[5][:, keep])
    return Timeline(region, times, walks[:4], walks[4], walks[5])


def config(**data: Any) -> EmergenceForecastConfig:
    return EmergenceForecastConfig.model_validate({"data": data, "training": {"global_batch": 8, "micro_batch": 4}})


@pytest.mark.real
def test_persistence_by_the_five_region_protocol(real: dict[int, Timeline]) -> None:
    found = {}
    for number, protocol in FIVE_REGIONS.items():
        region = series_of(real[number], as_they_come=True)
        steps = protocol.input_steps
        observed = scaled_by_region(region, targets(region, steps, FIVE_REGIONS_HORIZON, protocol.tiles))
        assert len(observed) == (150 if number == 11726 else 134)
        kept = scaled_by_region(region, persistence(region, steps, FIVE_REGIONS_HORIZON)[:, protocol.tiles])
        found[number] = Errors.of(observed, kept).rmse
        # The published error of the LSTM is larger in every region.
        assert found[number] < protocol.lstm[2]
    assert found == pytest.approx(PERSISTENCE, abs=6e-4)
    assert np.mean([one.lstm[2] for one in FIVE_REGIONS.values()]) == pytest.approx(LSTM_RMSE, abs=5e-4)


@pytest.mark.real
def test_baselines_of_the_benchmark(real: dict[int, Timeline]) -> None:
    data = Data(folder=".", protocol="benchmark")
    regions = {
        number: series_of_protocol(data, real[number], test=False) for number in (*BENCHMARK_TRAIN, *BENCHMARK_TEST)
    }
    train = {number: regions[number] for number in BENCHMARK_TRAIN}
    counts = {number: len(ends_of(data, one)) for number, one in regions.items()}
    assert sum(counts[number] for number in BENCHMARK_TRAIN) == 3240
    assert sum(counts[number] for number in BENCHMARK_TEST) == 208
    regression = LinearBaseline(120, 12).fit(train)
    means = tile_means(train, 120, 12)

    def score(forecast: Any) -> float:
        squares = [((forecast(one) - targets(one, 120, 12))[:-1] / BENCHMARK_RANGE) ** 2 for one in
                   (regions[number] for number in BENCHMARK_TEST)]  # fmt: skip
        return float(np.concatenate(squares).mean())

    assert score(lambda one: persistence(one, 120, 12)) == pytest.approx(3.17e-4, rel=0.01)
    assert score(regression.forecast) == pytest.approx(6.38e-4, rel=0.02)
    assert score(lambda one: means) == pytest.approx(2.486e-3, rel=0.01)
    # A regression that knows the intensity is better than both.
    change = LinearBaseline(120, 12, 6, change=True).fit(train)
    assert score(change.forecast) < 3.0e-4


@pytest.mark.real
def test_series_are_those_of_the_published_windows(real: dict[int, Timeline]) -> None:
    region = real[11158]
    published = windows(region)
    one = series_of(region, as_they_come=True)
    ends = example_ends(one, 120, 12)
    assert len(ends) == len(published.targets) + 1
    np.testing.assert_allclose(cut(one, int(ends[5]), 120)[:, :5], published.inputs[5], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(targets(one, 120, 12)[5], published.targets[5], rtol=1e-5, atol=1e-3)
    assert one.times[ends[5] + 12] == published.times[5].astype("datetime64[s]")
    # 11726 has nine hours without data, which real time keeps.
    assert len(series_of(real[11726]).times) == 240
    assert len(series_of(real[11726], as_they_come=True).times) == 232
    # No region is left out for a missing value.
    division = Division.of(Data(folder="."), list(real))
    assert len(division.train) == 43
    assert not set(division.train) & set(division.test)
    assert sorted(division.test) == sorted(FIVE_REGIONS)
    assert {len(part) for part in division.folds} == {7, 8}


@pytest.mark.real
@pytest.mark.parametrize("number", OBSERVED)
def test_flags_are_those_published(number: int, real: dict[int, Timeline]) -> None:
    region = series_of(real[number], as_they_come=True)
    protocol = FIVE_REGIONS[number]
    ends = example_ends(region, protocol.input_steps, FIVE_REGIONS_HORIZON)
    # A perfect forecast is flagged near the observed emergence, and the flag could be raised before it.
    perfect = scaled_by_region(region, targets(region, protocol.input_steps, FIVE_REGIONS_HORIZON, protocol.tiles))
    found = {one.tile: one for one in detections(region, perfect, ends, FIVE_REGIONS_HORIZON, protocol.tiles)}
    assert list(found) == list(range(protocol.first_tile + 10, protocol.first_tile + 17))
    for tile, hour in OBSERVED[number].items():
        assert str(found[tile].observed)[:13] == hour
        assert tile in LSTM_TIMES[number]
        assert abs(found[tile].difference_h) <= 8
        assert found[tile].lead_h == found[tile].difference_h + FIVE_REGIONS_HORIZON - 6
    assert min(one.known for one in found.values() if not np.isnat(one.known)) >= region.times[ends[0]]


def test_a_forecast_is_flagged_at_its_own_time() -> None:
    times = np.datetime64("2014-01-01", "s") + np.arange(100) * HOUR
    values = np.zeros((100, 6, 63), np.float32)
    values[:, INTENSITY] = np.clip(1.0 - 0.05 * np.maximum(np.arange(100) - 60, 0), 0, 1)[:, None] * 1000
    region = Series(1, times, values)
    ends = example_ends(region, 24, 11)
    early = np.clip(1.0 - 0.05 * np.maximum(ends + 11 - 55, 0), 0, 1)[:, None]
    (one,) = detections(region, early, ends, 11, np.array([30]))
    assert one.tile == 40
    # Smoothing lets both flags come before the fall: the observed intensity is smoothed twice.
    assert one.observed == times[59]
    assert one.forecast == times[54]
    assert one.known == times[54 + 6 - 11]
    assert one.difference_h == 5
    assert one.lead_h == 10
    (never,) = detections(region, np.ones((len(ends), 1)), ends, 11, np.array([30]))
    assert np.isnat(never.forecast)
    assert np.isnan(never.lead_h)


def test_metrics_by_hand() -> None:
    observed = np.array([[0.0, 1.0], [0.5, 1.0], [1.0, np.nan]])
    found = Errors.of(observed, observed + np.array([0.1, -0.2]))
    assert found.mae == pytest.approx(0.15)
    assert found.rmse == pytest.approx(0.15)
    assert found.mse == pytest.approx((0.01 + 0.04) / 2)
    assert found.r2 == pytest.approx(1 - 0.01 / (1 / 6))  # the second tile never changes
    logs = np.log1p([0.1, 0.6, 1.1]) - np.log1p([0.0, 0.5, 1.0])
    assert found.rmsle == pytest.approx((np.sqrt((logs**2).mean()) + np.log(2 / 1.8)) / 2)
    with pytest.raises(ValueError, match="no target"):
        Errors.of(np.full((2, 2), np.nan), np.zeros((2, 2)))
    times = np.datetime64("2014-01-01", "s") + np.arange(30) * HOUR
    region = Series(1, times, np.arange(30 * 6 * 63, dtype=np.float32).reshape(30, 6, 63))
    shifted = shifted_as_published(np.ones((8, 63)) * np.arange(8)[:, None], region, 12, 11)
    np.testing.assert_array_equal(shifted[0], region.values[21, INTENSITY])
    np.testing.assert_array_equal(shifted[3] - shifted[0], 3.0)


def test_missing_values_are_carried_and_masked_never_filled_from_later() -> None:
    region = made(11000, holes=True)
    one = series_of(region)
    assert len(one.times) == 60
    assert np.isnan(one.values[40:46]).all()
    assert one.grid == (7, 9)
    inputs = cut(one, 44, 12)
    last = last_intensity(inputs)
    np.testing.assert_array_equal(last, one.values[39, INTENSITY])
    filled = carried_forward(inputs)
    np.testing.assert_array_equal(filled[-1], one.values[39])
    before = cut(one, 3, 12)
    assert np.isnan(before[:8]).all()
    assert not carried_forward(before)[:8].any()
    np.testing.assert_array_equal(persistence(one, 12, 4)[44 - 11], one.values[39, INTENSITY])
    assert np.isnan(persistence(one, 2, 4)[44 - 1]).all()
    # A regression forecasts through gaps too.
    regression = LinearBaseline(12, 4).fit({1: one})
    assert np.isfinite(regression.forecast(one)).all()
    # Later values change nothing before them.
    later = one.values.copy()
    later[45:] = 7.0
    np.testing.assert_array_equal(cut(Series(1, one.times, later), 44, 12), inputs)
    # A finer step is used at its whole hours.
    steps = region.times[0] + np.arange(31) * np.timedelta64(12, "m")
    ramp = np.broadcast_to(np.arange(31.0), (4, 81, 31))
    fine = Timeline(1, steps, ramp, ramp[0], ramp[1])
    assert hourly(fine).flux[5].tolist() == [0, 5, 10, 15, 20, 25, 30]


def test_folds_scales_and_weights_know_training_regions_alone(tmp_path: Path) -> None:
    timelines = {number: made(number, holes=number == 11001) for number in range(11000, 11006)}
    data = Data(folder=str(tmp_path), protocol="all", input_steps=12, folds=3)
    division = Division.of(data, list(timelines))
    scales, ranges = measured(timelines, division, data)
    regions = {number: scales.scaled(series_of(one)) for number, one in timelines.items()}
    examples = Examples(data, regions, ranges, division.folds)
    for row in (0, 100, len(examples) - 1):
        mine = division.folds[examples.fold[row]]
        assert examples.region[row] in mine
        assert examples.trains[row].tolist() == [fold != examples.fold[row] for fold in range(3)]
    rows = examples.validation_rows()
    assert (np.diff(examples.fold[rows]) >= 0).all()
    gap = np.flatnonzero((examples.region == 11001) & (examples.end == 30))
    batch = examples.batch(gap, filled=False)
    # The target of hour 42 is missing.
    assert not batch["weight"].any()
    assert torch.isnan(batch["inputs"]).any()
    assert torch.isfinite(examples.batch(gap, filled=True)["inputs"]).all()
    single = Examples(data.model_copy(update={"fold": 1}), regions, ranges, division.folds)
    assert single.trains.shape == (len(examples), 1)
    assert set(single.region[single.validation_rows()].tolist()) == set(division.folds[1])
    # Errors count in units of a region's range.
    full = examples.batch(np.flatnonzero(examples.region == 11000)[:1], filled=False)["weight"].max()
    other = examples.batch(np.flatnonzero(examples.region == 11002)[:1], filled=False)["weight"].max()
    assert float(full / other) == pytest.approx((ranges[11002] / ranges[11000]) ** 2, rel=1e-5)
    with pytest.raises(UsageError, match="11698"):
        Division.of(Data(folder=str(tmp_path)), list(timelines))
    with pytest.raises(UsageError, match="cannot be divided"):
        Division.of(data.model_copy(update={"folds": 7}), list(timelines))
    still = made(1)
    fluxless = series_of(Timeline(1, still.times, still.power, 0 * still.flux, still.intensity))
    with pytest.raises(ValueError, match="unsigned flux"):
        Scales.of([fluxless])


def test_the_same_timelines_from_every_layout(tmp_path: Path) -> None:
    timelines = {number: made(number, hours=150) for number in (11000, 11001)}
    for number, one in timelines.items():
        (tmp_path / "single").mkdir(exist_ok=True)
        np.savez(
            tmp_path / f"single/AR{number}.npz", power=one.power, unsigned_flux=one.flux, continuum=one.intensity,
            time=one.times,
        )  # fmt: skip
    single = read_timelines(tmp_path / "single", scale="utc")
    write_npz(timelines, tmp_path / "published")
    published = read_timelines(tmp_path / "published")
    assert fingerprint(single) == fingerprint(timelines)
    assert fingerprint(published) == fingerprint(timelines)
    scaling = Scaling(np.full(5, -400.0), np.full(5, 300.0), -9000.0, 8000.0)
    write_hdf5(timelines, tmp_path / "examples.h5", scaling=scaling)
    again = read_timelines(tmp_path / "examples.h5")
    assert list(again) == [11000, 11001]
    # 18 examples: inputs of 137 hours, targets from hour 131 on.
    np.testing.assert_array_equal(again[11001].times, timelines[11001].times[:149])
    np.testing.assert_allclose(again[11001].power[..., :137], timelines[11001].power[..., :137], atol=1e-6)
    np.testing.assert_allclose(again[11001].intensity[:, 131:], timelines[11001].intensity[:, 131:149], atol=1e-6)
    assert np.isnan(again[11001].intensity[9:72, :131]).all()
    for wrong, told in (({"power": single[11000].power}, "has no array unsigned_flux"),
                        ({"power": np.zeros((4, 81, 3)), "unsigned_flux": np.zeros((81, 3)), "continuum": np.zeros((80, 3)),
                          "time": single[11000].times[:3]}, "do not fit")):  # fmt: skip
        (tmp_path / "wrong").mkdir(exist_ok=True)
        np.savez(tmp_path / "wrong/AR1.npz", **wrong)
        with pytest.raises(StoreError, match=told):
            read_timelines(tmp_path / "wrong")
    with pytest.raises(StoreError, match="no folder"):
        read_timelines(tmp_path / "nowhere")


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {},
        {"folder": "a", "store": {"url": "b"}},
        {"folder": "a", "fold": 6},
        {"folder": "a", "unknown": 1},
    ):
        with pytest.raises(ValidationError):
            config(**wrong)
    with pytest.raises(ValidationError, match="train_linear"):
        EmergenceForecastConfig.model_validate({"data": {"folder": "a"}, "network": {"layers": 0}})
    by_default = config(folder="a").data
    assert (by_default.steps, by_default.ahead, by_default.channels, by_default.by_region) == (72, 11, 6, True)
    benchmark = config(folder="a", protocol="benchmark", intensity=False).data
    assert (benchmark.steps, benchmark.ahead, benchmark.channels, benchmark.by_region) == (120, 12, 5, False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> EmergenceForecast:
    folder = tmp_path_factory.mktemp("regions")
    for number in range(11000, 11004):
        one = made(number, holes=number == 11002)
        np.savez(
            folder / f"AR{number}.npz", power=one.power, unsigned_flux=one.flux, continuum=one.intensity, time=one.times
        )
    settings = EmergenceForecastConfig.model_validate(
        {
            "data": {"folder": str(folder), "protocol": "all", "input_steps": 12, "folds": 2, "time_scale": "utc"},
            "network": {"width": 8}, "training": {"global_batch": 8, "micro_batch": 4},
        }
    )  # fmt: skip
    prepared = EmergenceForecast.prepare(settings, folder)
    return EmergenceForecast({"config": settings.model_dump(mode="json"), "prepared": prepared})


def test_the_experiment_begins_as_the_regression_of_other_folds(small: EmergenceForecast) -> None:
    torch.manual_seed(0)
    model = small.model().eval()
    examples = small.examples
    batch = examples.batch(np.arange(0, len(examples), 7), filled=False)
    with torch.no_grad():
        forecast = model(batch["inputs"], batch["last"])
    assert forecast.shape == (2, len(batch["last"]), 63)
    assert torch.isfinite(forecast).all()
    # Each linear part is fitted to the other fold: it is better there than in its own.
    squares = batch["weight"] * (forecast - batch["target"]) ** 2
    seen = batch["trains"].T[:, :, None]
    assert (squares * seen).sum() < 0.8 * (squares * ~seen).sum()
    terms = small.validate({"model": model}, batch, torch.Generator())
    assert set(terms) == {"loss", "persistence"}
    whole = small.loss(model, batch, torch.Generator())["loss"].detach()
    share = examples.trains.size / examples.trains.sum()
    assert float(whole) == pytest.approx(float((squares * seen).mean() * share), rel=1e-5)


def test_micro_batches_do_not_depend_on_the_workers(small: EmergenceForecast) -> None:
    one = [batch for (batch, _) in small.batches(3, 5, (0, 1))]
    other = [batch for (batch,) in small.batches(3, 5, (0,))]
    for first, second in zip(one, other, strict=True):
        assert all(torch.equal(first[name].nan_to_num(), second[name].nan_to_num()) for name in first)
    later = next(small.batches(4, 5, (0,)))[0]
    assert torch.equal(later["target"], one[1]["target"])
    rows = sum(len(batch["last"]) for rank in (0, 1) for batch in small.validation(rank, 2))
    assert rows == len(small.examples.validation_rows())


def test_other_timelines_than_at_the_beginning_are_refused(small: EmergenceForecast) -> None:
    prepared = small.prepared | {"fingerprint": "0"}
    changed = EmergenceForecast({"config": small.config.model_dump(mode="json"), "prepared": prepared})
    with pytest.raises(StoreError, match="not those that this training began with"):
        _ = changed.examples


@pytest.mark.parametrize("kind", ["attention", "lstm"])
def test_published_networks_take_the_same_examples(small: EmergenceForecast, kind: str) -> None:
    data = small.config.model_dump(mode="json")
    data["network"] |= {"kind": kind, "forecast": "level"}
    data["data"] |= {"intensity": False, "fold": 1}
    experiment = EmergenceForecast({"config": data, "prepared": small.prepared})
    model = experiment.model()
    assert sum(values.numel() for values in model.parameters()) == {"attention": 200_385, "lstm": 184_641}[kind]
    batch = next(experiment.batches(0, 1, (0,)))[0]
    assert torch.isfinite(batch["inputs"]).all()
    loss = experiment.loss(model, batch, torch.Generator())["loss"]
    loss.backward()
    assert all(values.grad is not None for values in model.parameters())
    region = series_of(small.timelines()[11003])
    assert experiment.forecast(model, region).shape == (1, len(example_ends(region, 12, 12)), 63)


def test_an_evaluation_says_what_each_method_knows(small: EmergenceForecast, tmp_path: Path) -> None:
    torch.manual_seed(0)
    loop = Loop(small, small.config.training, small.config.watching, Worker())
    place = tmp_path / "checkpoint"
    place.mkdir()
    loop.save(place, {})
    text = evaluate(place, tmp_path / "out", part="validation", most=2)
    with (tmp_path / "out/table.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = {(row["method"], row["knows"]): row for row in rows if row["region"] == "mean"}
    assert list(table) == [
        ("persistence", "last"), ("mean of the tile", "none"), ("linear regression", "none"), ("linear regression", "past"),
        ("its linear part", "past"), ("this network", "past"),
    ]  # fmt: skip
    # Before any step the network is its linear part.
    assert table["its linear part", "past"]["rmse"] == table["this network", "past"]["rmse"]
    assert {row["region"] for row in rows} == {"11000", "11001", "mean"}
    assert text.count("\n") > 10
    for name in ("table.txt", "scores.png", "region-11001.png"):
        assert (tmp_path / "out" / name).stat().st_size > 300
    # A region is forecast by the network of its own fold, which has not seen it.
    model = loop.networks["model"]
    assert isinstance(model, Members)
    scorer = Scorer(small, model)
    regions = scorer.regions("validation", None, None)
    for fold, numbers in enumerate(small.division.folds):
        made = scorer.forecasts(regions[numbers[0]], numbers[0])
        everyone = small.forecast(model, regions[numbers[0]].series)
        np.testing.assert_array_equal(made[0], everyone[fold])
    small.sample_grid({"model": model}, tmp_path, 5)
    assert (tmp_path / "forecast_00000005.png").stat().st_size > 5000
    with pytest.raises(UsageError, match="no regions of the part 'test'"):
        evaluate(place, tmp_path / "out")
