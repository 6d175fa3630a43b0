"""Daily radio flux of files, and the forecast of it: formats, days, splits, baselines by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.radio_flux import (
    ForecastConfig,
    Table,
    daily_features,
    figure,
    forest,
    forest_predictions,
    in_gap,
    run,
    splits,
)
from sdoml_dist.solar.radio_flux import RadioFlux, read_radio_flux

_PENTICTON = "observed_flux (solar flux unit (SFU)),adjusted_flux (solar flux unit (SFU))"
_CLS = "absolute_f30 (solar flux unit (SFU)),adjusted_f30 (solar flux unit (SFU)),absolute_f30_c,absolute_f30_f"


def _days(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[D]")


def _flux(first: str, values: Any) -> RadioFlux:
    """Return a made-up flux from a first day on."""
    values = np.asarray(values, float)
    days = np.datetime64(first, "D") + np.arange(values.size)
    return RadioFlux(days, values, "F10.7", "f107", values.size, 0, 0, 0)


@pytest.fixture(scope="session")
def real_flux(real_data: Path) -> RadioFlux:
    path = real_data / "tables" / "f10.7.csv"
    if not path.is_file():
        pytest.skip(f"no daily F10.7 at {path}")
    return read_radio_flux(path.read_text())


# Files


def test_real_file(real_flux: RadioFlux) -> None:
    assert (real_flux.quantity, real_flux.column) == ("F10.7", "f107")
    # 15,682 lines: all days but 2015-01-13; seven of them are a date without a value.
    assert real_flux.rows == 15_682
    assert real_flux.times.size == 15_683
    absent = "1983-11-06 1992-11-21 1996-10-23 2008-02-03 2008-12-21 2011-01-01 2012-01-01 2015-01-13"
    assert [str(day) for day in real_flux.times[np.isnan(real_flux.values)]] == absent.split()
    assert real_flux.missing == 8
    assert (real_flux.repeated, real_flux.conflicting, real_flux.other_hours) == (0, 0, 0)
    known = _days("1975-05-24", "1979-11-10", "2018-04-30")
    assert real_flux.on_days(known).tolist() == [70.6, 367.0, 71.3]
    assert np.isnan(real_flux.on_days(_days("1975-05-23", "2018-05-01", "2011-01-01", "NaT"))).all()
    # A time within a day is of that day, before 1970 too.
    assert real_flux.on_days(np.array(["1979-11-10T23:59:59"], "datetime64[ns]")).tolist() == [367.0]
    assert np.isnan(real_flux.on_days(np.array(["1969-12-31T12"], "datetime64[ns]"))).all()


@pytest.mark.parametrize(
    ("text", "day", "value", "quantity", "column"),
    [
        # 2455348.5 is the midnight of 2010-06-01, so that .333 is 20 UT; the others are 17 and 23 UT.
        (f"time (Julian Date),{_PENTICTON}\n2455349.208,70,71\n2455349.333,72,73\n2455349.458,74,75", "2010-06-01", 72.0,
         "F10.7", "observed_flux"),
        (f"time (yyyy MM dd),{_CLS}\n2010 6 1,50.1,51,50,0\n", "2010-06-01", 50.1, "F30", "absolute_f30"),
        (f"time (yyyy MM dd),{_CLS}\n2010 06 01,50.1,51,50,0\n", "2010-06-01", 50.1, "F30", "absolute_f30"),
        ("time (yyyyMMdd),f30 (solar flux unit (SFU))\n20100601,50\n", "2010-06-01", 50.0, "F30", "f30"),
        ("time (yyyyMMdd_HHmmss.SSS),adjusted_flux\n20100601_200000.000,70", "2010-06-01", 70.0, "F10.7", "adjusted_flux"),
        ("time (yyyy-MM-dd'T'HH:mm:ss.SSS'Z'),f15\r\n2010-06-01T20:00:00.000Z,70\r\n", "2010-06-01", 70.0, "F15", "f15"),
        ("time (yyyy-MM-dd'T'HH:mm),f8\n2010-06-01T20:00,70\n", "2010-06-01", 70.0, "F8", "f8"),
        ("time (days since 1947-01-01T12:00),f107\n1.0,70\n", "1947-01-02", 70.0, "F10.7", "f107"),
        ("time (milliseconds since 1970-01-01),f107\n86400000,70\n", "1970-01-02", 70.0, "F10.7", "f107"),
        ("\ufeff# a note, with a comma\n\nDate, F10.7\n2010-06-01, 70\n", "2010-06-01", 70.0, "F10.7", "F10.7"),
    ],
)  # fmt: skip
def test_formats(text: str, day: str, value: float, quantity: str, column: str) -> None:
    flux = read_radio_flux(text)
    assert flux.times.tolist() == _days(day).tolist()
    assert flux.values.tolist() == [value]
    assert (flux.quantity, flux.column) == (quantity, column)


def test_one_observation_a_day() -> None:
    # Day 1: 20 UT counts. Day 2: 20 UT has none, 18 is nearer than 23. Day 3: 19 and 21 are as near. Day 4: none at all.
    text = """time (yyyyMMdd_HHmmss),observed_flux
20100601_170000,1\n20100601_200000,2\n20100601_230000,3
20100602_230000,6\n20100602_200000,0\n20100602_180000,5
20100603_210000,8\n20100603_190000,7
20100604_200000,-99999
20100606_200000,9\n20100606_200000,9\n20100606_200000,9
20100607_200000,10\n20100607_200000,13
"""
    flux = read_radio_flux(text)
    assert flux.rows == 14
    np.testing.assert_array_equal(flux.values, [2, 5, 7, np.nan, np.nan, 9, 11.5])
    # 1, 3; 6; 8 lose against nearer ones; the 9 comes twice more; 10 and 13 disagree.
    assert (flux.other_hours, flux.repeated, flux.conflicting) == (4, 2, 1)
    assert read_radio_flux(text, noon_hour=3).values[0] == 1


def test_columns_are_chosen() -> None:
    text = f"time (yyyy MM dd),{_CLS}\n2010 6 1,50.1,51,50,0\n"
    assert read_radio_flux(text, column="adjusted_f30").values.tolist() == [51.0]
    assert read_radio_flux("date,flux\n20100601,4", column="flux", quantity="F30").quantity == "F30"
    with pytest.raises(ValueError, match=r"line 1, column 2 \(flux\): .*quantity"):
        read_radio_flux("date,flux\n20100601,4", column="flux")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: a header"),
        ("20100601,70\n", "line 1, column 1: a header"),
        ("date,f107\n", "line 1, column 1: no data"),
        ("time (yyyyDDD),f30\n2010001,4", r"line 1, column 1 \(time \(yyyyDDD\)\)"),
        ("time (yyyy dd MM),f30\n2010 1 6,4", "line 1, column 1"),
        ("time,f30\n2455349.2,4", "line 2, column 1: '2455349.2' is no known form"),
        ("time (Julian Date),f30\n20100601,4", "line 2, column 1: a time outside"),
        ("date,f107\n\n20101301,4", "line 3, column 1: '20101301' is not in the calendar"),
        ("date,f107\n20100601,4\n20100602,abc", r"line 3, column 2 \(f107\): 'abc'"),
        ("date,f107\n20100601,inf", "line 2, column 2"),
        ("date,f107\n20100601,4,5", "line 2, column 3: the header has 2"),
        ("f107,date\n4", "line 2, column 2: no time"),
        ("date,f107 (K)\n20100601,4", "line 1, column 2 .*solar flux units"),
        ("date,f107,f30\n20100601,4,5", "line 1, columns f107, f30: no column, or several"),
        ("date,count\n20100601,4", "line 1, columns count"),
    ],
)
def test_unknown_formats(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_radio_flux(text)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(-8000, 25000), st.floats(0.5, 500), min_size=1, max_size=40), st.randoms())
def test_order_and_repetition_of_lines_do_not_matter(values: dict[int, float], random: Any) -> None:
    lines = [f"{np.datetime64(day, 'D')},{value!r}" for day, value in values.items()]
    shuffled = lines + lines[: len(lines) // 2]
    random.shuffle(shuffled)
    flux = read_radio_flux("\n".join(["time,f107", *shuffled]))
    assert flux.repeated == len(lines) // 2
    assert flux.missing == flux.times.size - len(values)
    days = np.array(list(values), "datetime64[D]")
    assert flux.on_days(days).tolist() == list(values.values())


# Days


def test_features_of_a_day() -> None:
    times = np.array(
        [
            "2010-06-01T05",
            "2010-06-01T23:50",
            "2010-06-02T00:06",
            "2010-06-02T18:30",
            "2010-06-03T12:00",
            "2010-06-05T01",
        ],
        "datetime64[ns]",
    )
    latents = np.arange(12.0).reshape(6, 2)
    # Midnight of the 2nd is 6 minutes from the third image but 10 from the second; 18:30 is nearest to the 3rd, 5.5 h off.
    days, features = daily_features(times[::-1], latents[::-1])
    assert days.tolist() == _days("2010-06-01", "2010-06-02", "2010-06-03", "2010-06-05").tolist()
    assert features[:, 0].tolist() == [0, 4, 6, 10]
    # At 20 UT: 23:50 is of the 1st, 01 of the 5th is of the 4th.
    days, features = daily_features(times, latents, hour=20)
    assert days.tolist() == _days("2010-06-01", "2010-06-02", "2010-06-04").tolist()
    assert features[:, 0].tolist() == [2, 6, 10]
    days, _ = daily_features(times, latents, tolerance=np.timedelta64(1, "h"))
    assert days.tolist() == _days("2010-06-02", "2010-06-05").tolist()
    latents[2] = np.nan
    assert daily_features(times, latents)[1][1].tolist() == [2, 3]
    with pytest.raises(UsageError, match="do not fit"):
        daily_features(times[1:], latents)
    with pytest.raises(UsageError, match="12 hours"):
        daily_features(times, latents, tolerance=np.timedelta64(13, "h"))


def test_published_split_by_hand() -> None:
    config = ForecastConfig()
    calendar = config.calendar()
    # 214 days from June to December 2010, eight years with two leap days.
    assert calendar.size == 214 + 8 * 365 + 2
    masks = splits(calendar, config)
    assert {part: int(mask.sum()) for part, mask in masks.items()} == {"train": 2640, "validation": 248, "test": 248}
    np.testing.assert_array_equal(np.sum(list(masks.values()), axis=0), 1)
    assert {str(day)[5:7] for day in calendar[masks["test"]]} == {"01"}
    assert {str(day)[5:7] for day in calendar[masks["validation"]]} == {"03"}
    edge = splits(_days("2010-03-31", "2011-01-01", "2011-02-01", "2011-03-01", "2019-01-01"), config)
    assert edge["test"].tolist() == [False, True, False, False, False]
    assert edge["validation"].tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(("horizon", "history", "gap"), [(1, 1, 0), (3, 5, 0), (4, 5, 2), (7, 1, 1)])
def test_gap_by_hand(horizon: int, history: int, gap: int) -> None:
    config = ForecastConfig(gap_days=gap, regression_history=history)
    calendar = config.calendar()
    masks = splits(calendar, config)
    removed = in_gap(calendar, ~masks["train"], horizon, config)
    # Before and after both months of all eight years: the days whose forecast would share a day, and the gap.
    assert removed.sum() == 8 * 4 * (horizon + history - 1 + gap)
    assert not (removed & ~masks["train"]).any()
    kept = calendar[masks["train"] & ~removed]
    span = np.arange(1 - history, horizon + 1)
    used = {int(day) for held in calendar[~masks["train"]].astype(int) for day in held + span}
    nearest = min(abs(int(day) - other) for start in kept.astype(int) for day in start + span for other in (
        int(day) - step for step in range(-gap - 1, gap + 2)) if other in used)  # fmt: skip
    assert nearest == gap + 1
    assert not in_gap(calendar, ~masks["train"], horizon, ForecastConfig()).any()


# Forecasts

_SMALL: dict[str, Any] = {
    "last_day": "2012-12-31", "held_out_years": (2011, 2012), "trees": (4, 8), "draws": 200, "horizons": (1, 2, 3, 4),
}  # fmt: skip


def _scores(table: Table, method: str) -> dict[int, float]:
    return {score.horizon: score.rmse for score in table.of(method)}


def test_baselines_by_hand() -> None:
    # On a ramp of 1 sfu a day persistence is h too low, the recurrence 27, and the regression exact.
    table = run({}, _flux("2010-01-01", 50 + np.arange(1200)), ForecastConfig(**_SMALL))
    for horizon in (1, 2, 3, 4):
        persistence, recurrence, regression = (
            next(score for score in table.of(name) if score.horizon == horizon) for name in table.methods
        )
        assert persistence.rmse == persistence.mae == horizon
        assert persistence.rmse_interval == (horizon, horizon)
        assert persistence.skill == 0
        assert recurrence.rmse == recurrence.mae == 27
        assert recurrence.skill == pytest.approx(1 - 27 / horizon)
        assert regression.rmse < 1e-6
        assert regression.skill_interval == pytest.approx((1, 1))
        assert persistence.days == 62
    assert table.blocks == dict.fromkeys((1, 2, 3, 4), 2)


def test_mae_and_rmse_by_hand() -> None:
    # 90 on one day of January 2011, else 70: of 31 forecasts a day ahead two are 20 off.
    values = np.full(1200, 70.0)
    values[(np.datetime64("2011-01-11") - np.datetime64("2010-01-01")).astype(int)] = 90
    config = ForecastConfig(**_SMALL | {"held_out_years": (2011,), "horizons": (1,)})
    (score,) = run({}, _flux("2010-01-01", values), config).of("persistence")
    assert score.rmse == pytest.approx(math.sqrt(2 * 400 / 31))
    assert score.mae == pytest.approx(40 / 31)
    # One month only: there is nothing to draw from.
    assert np.isnan(score.rmse_interval).all()


def test_features_are_aligned_with_targets() -> None:
    # Values are few and all occur in training, so that trees find the one three days ahead exactly, and no other.
    values = np.random.default_rng(5).integers(70, 90, 1200).astype(float)
    flux, config = _flux("2010-01-01", values), ForecastConfig(**_SMALL)
    calendar = config.calendar()
    ahead = flux.on_days(calendar + 3)[:, None]
    rmse = _scores(run({"oracle": (calendar, ahead)}, flux, config), "oracle")
    assert rmse[3] < 1e-9
    assert all(rmse[horizon] > 5 for horizon in (1, 2, 4))
    # The order of rows does not matter, nor do days outside the protocol.
    more = np.concatenate([calendar[::-1], _days("2009-01-01", "2013-05-05")])
    again = run({"oracle": (more, np.concatenate([ahead[::-1], [[1.0], [2.0]]]))}, flux, config)
    assert _scores(again, "oracle") == rmse


def test_left_out_days_are_counted() -> None:
    values = np.random.default_rng(6).uniform(70, 90, 1200)
    flux = _flux("2010-01-01", values)
    flux.values[(_days("2011-01-10", "2011-06-10") - flux.times[0]).astype(int)] = np.nan
    config = ForecastConfig(**_SMALL | {"horizons": (2,), "regression_history": 1, "gap_days": 0})
    calendar = config.calendar()
    features = np.random.default_rng(7).normal(size=(calendar.size, 3))
    features[calendar == np.datetime64("2011-01-20"), 1] = np.nan
    there = calendar != np.datetime64("2012-01-20")
    counts = run({"noise": (calendar[there], features[there])}, flux, config).counts[2]
    # Test: two days without features; 10 January without flux, and 8 January without a target.
    assert counts["test"] == {
        "planned": 62, "no features": 2, "no flux today": 1, "no flux on target day": 1, "no flux history": 0, "gap": 0,
        "used": 58,
    }  # fmt: skip
    # Training: 10 and 8 June, and on 4 February and 5 July, 25 days after missing ones, the recurrence. Gap: 2 days on
    # either side of four months, none of them left out for another reason.
    assert counts["train"] == {
        "planned": 945 - 4 * 31, "no features": 0, "no flux today": 1, "no flux on target day": 1, "no flux history": 2,
        "gap": 16, "used": 945 - 124 - 20,
    }  # fmt: skip
    for count in counts.values():
        assert count["planned"] == sum(number for name, number in count.items() if name != "planned")


def test_forests_are_those_of_scikit_learn_1_0() -> None:
    config = ForecastConfig(trees=(3, 7), random_state=2)
    random = np.random.default_rng(3)
    x, y, new = random.normal(size=(60, 4)).astype(np.float32), random.normal(size=60), random.normal(size=(9, 4))
    predictions = forest_predictions((x, y), new, config)
    # The first trees of the largest forest are the smaller forest.
    for trees in (3, 7):
        np.testing.assert_allclose(predictions[trees], forest(trees, config).fit(x, y).predict(new), rtol=1e-12)
    # Signature of 1.0; its max_features="auto" is all features for regression.
    defaults = {
        "bootstrap": False, "ccp_alpha": 0.0, "criterion": "squared_error", "max_depth": None, "max_features": 1.0,
        "max_leaf_nodes": None, "max_samples": None, "min_impurity_decrease": 0.0, "min_samples_leaf": 1,
        "min_samples_split": 2, "min_weight_fraction_leaf": 0.0, "oob_score": False, "warm_start": False,
    }  # fmt: skip
    found = forest(7, config).get_params()
    assert {name: found[name] for name in defaults} == defaults


def test_trees_are_chosen_on_validation_days() -> None:
    values = np.random.default_rng(8).uniform(70, 90, 1200)
    flux, config = _flux("2010-01-01", values), ForecastConfig(**_SMALL | {"trees": (1, 30), "horizons": (1,)})
    calendar = config.calendar()
    table = run({"noise": (calendar, flux.on_days(calendar + 1)[:, None] + 5)}, flux, config)
    (score,) = table.of("noise")
    masks = splits(calendar, config)
    x, y = flux.on_days(calendar + 1)[:, None] + 5, flux.on_days(calendar + 1)
    by_trees = {
        trees: forest(trees, config).fit(x[masks["train"]], y[masks["train"]]).predict(x[masks["validation"]])
        for trees in config.trees
    }
    rmse = {trees: float(np.sqrt(np.mean((p - y[masks["validation"]]) ** 2))) for trees, p in by_trees.items()}
    assert score.trees == min(rmse, key=lambda trees: rmse[trees]) == 30
    assert score.validation_rmse == pytest.approx(rmse[30])


def test_same_seed_same_table() -> None:
    random = np.random.default_rng(9)
    flux, config = _flux("2010-01-01", random.uniform(70, 90, 1200)), {**_SMALL, "horizons": (2,), "flux_history": 2}
    calendar = ForecastConfig(**config).calendar()
    features = {"noise": (calendar, random.normal(size=(calendar.size, 4)))}
    one, threads, other = (
        run(features, flux, ForecastConfig(**config | change)) for change in ({}, {"n_jobs": 2}, {"random_state": 1})
    )
    assert one.scores == threads.scores
    assert one.scores != other.scores
    assert one.features == {"noise + flux": 6}


def test_real_flux(real_flux: RadioFlux) -> None:
    config = ForecastConfig(trees=(10, 20), horizons=(1, 2, 4, 7), draws=200, gap_days=0)
    calendar = config.calendar()
    past = np.stack([real_flux.on_days(calendar - lag) for lag in (1, 2, 3, 27)], axis=1)
    table = run({"past flux": (calendar, past)}, real_flux, config)
    rmse = _scores(table, "persistence")
    assert rmse[1] < rmse[2] < rmse[4] < rmse[7]
    # Persistence once more, day by day; days are those of the table.
    missing = {int(day.astype(int)) for day in real_flux.times[np.isnan(real_flux.values)]}
    for horizon in config.horizons:
        squares = []
        for year in range(2011, 2019):
            first = int(np.datetime64(f"{year}-01-01").astype(int))
            for day in range(first, first + 31):
                lags = {day + horizon, day + horizon - 27, *range(day - 4, day + 1), day - 27}
                if not lags & missing:
                    today, later = real_flux.on_days(np.array([day, day + horizon], "datetime64[D]"))
                    squares.append((later - today) ** 2)
        (score,) = (score for score in table.of("persistence") if score.horizon == horizon)
        assert score.days == len(squares)
        assert score.rmse == pytest.approx(math.sqrt(np.mean(squares)))
        low, high = score.rmse_interval
        assert low < score.rmse < high
        assert table.blocks[horizon] == 8
    # The file ends on 2018-04-30: later days of the protocol are counted, none silently dropped.
    train = table.counts[7]["train"]
    assert train["planned"] == 2640
    # 24 to 30 April 2018, and the 25th of December 2010 and 2011, a week before days without a value.
    assert train["no flux on target day"] == 7 + 2
    assert sum(number for name, number in train.items() if name != "planned") == 2640


def test_table_is_written(tmp_path: Path) -> None:
    random = np.random.default_rng(10)
    flux, config = _flux("2010-01-01", random.uniform(70, 90, 1200)), ForecastConfig(**_SMALL | {"horizons": (1, 3)})
    calendar = config.calendar()
    table = run({name: (calendar, random.normal(size=(calendar.size, 2))) for name in "abc"}, flux, config)
    paths = table.write(tmp_path / "new")
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    data = json.loads((tmp_path / "new" / "radio_flux.json").read_text())
    assert data == json.loads(json.dumps(table.to_data()))
    assert len(data["scores"]) == 6 * 2
    assert data["config"]["trees"] == [4, 8]
    assert data["counts"]["3"]["test"]["used"] == 62
    assert "published" in data["split"]
    text = (tmp_path / "new" / "radio_flux.txt").read_text()
    assert all(f"{horizon} d ahead" in text for horizon in (1, 3))
    assert all(text.count(f"\n{method} ") == 2 for method in table.methods)
    pictures = [path.read_bytes() for path in paths if path.suffix == ".png"]
    assert pictures == [figure(table), figure(table, dark=True)]
    for picture in pictures:
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert pictures[0] != pictures[1]
    assert "share no day" in Table(**{**vars(table), "config": ForecastConfig(gap_days=0)}).split()


def test_numbers_that_do_not_exist() -> None:
    # Where persistence is exact there is no skill against it.
    table = run({}, _flux("2010-01-01", np.full(1200, 70.0)), ForecastConfig(**_SMALL | {"horizons": (1,)}))
    data = table.to_data()
    assert data["scores"][0]["rmse"] == 0
    assert data["scores"][0]["skill"] is None
    assert figure(table).startswith(b"\x89PNG")


def test_refusals() -> None:
    flux, config = _flux("2010-01-01", np.full(1200, 70.0)), ForecastConfig(**_SMALL)
    calendar = config.calendar()
    ones = np.ones((calendar.size, 1))
    with pytest.raises(UsageError, match="name of a baseline"):
        run({"persistence": (calendar, ones)}, flux, config)
    with pytest.raises(UsageError, match="one row of features a day"):
        run({"twice": (np.concatenate([calendar, calendar[:1]]), np.ones((calendar.size + 1, 1)))}, flux, config)
    early = calendar < np.datetime64("2011-01-01")
    with pytest.raises(UsageError, match="No days are left for validation, 1 days ahead: 62 planned, 62 no features"):
        run({"early": (calendar[early], ones[early])}, flux, config)
    for change, message in (
        ({"horizons": (0,)}, "1 to 27"),
        ({"horizons": (28,)}, "1 to 27"),
        ({"horizons": (1, 1)}, "1 to 27"),
        ({"test_month": 3}, "two months"),
        ({"gap_days": -1}, "gap_days"),
        ({"trees": ()}, "trees"),
        ({"regression_history": 0}, "regression_history"),
        ({"confidence": 1.0}, "confidence"),
    ):
        with pytest.raises(UsageError, match=message):
            ForecastConfig(**change)
