"""EVE: the table of lines, means over minutes, and reading simulated and real files."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.solar.activity import flares
from sdoml_dist.solar.eve import FLAG_MEGS_A_MISSING, FLAG_MEGS_B_MISSING, LINES, MEGS_A_END, minute_means
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources.eve_fits import EveSeries, read_eve
from sdoml_dist.sources.eve_simulator import NOISE, eve_file_name, eve_lines_fits, true_irradiance

HOUR = np.datetime64("2011-02-15T12:00", "ns")
SECOND = np.timedelta64(1_000_000_000, "ns")
ESP = "tables/eve_l1_esp_2011046_00_truncated.fits"
NAMES = [line.name for line in LINES]


@lru_cache
def simulated(hour: str = "2011-02-15T12", seed: int = 0) -> bytes:
    return eve_lines_fits(SimulationConfig(seed=seed), np.datetime64(hour, "ns"))


def read(data: bytes, name: str = "EVL_L2_2011046_12_000_01.fit.gz", strict: bool = True) -> EveSeries:
    return read_eve(data, name, strict)


def changed(change: Callable[[fits.HDUList], None]) -> bytes:
    """Return the simulated file after a change, not packed."""
    with fits.open(io.BytesIO(gzip.decompress(simulated())), memmap=False) as units:
        change(units)
        buffer = io.BytesIO()
        units.writeto(buffer)
    return buffer.getvalue()


def status(data: bytes, strict: bool = True) -> FrameStatus:
    with pytest.raises(FrameError) as caught:
        read(data, strict=strict)
    return caught.value.status


def level_0cs() -> str:
    from sunpy.data.test import get_test_filepath

    return Path(get_test_filepath("EVE_L0CS_DIODES_1m_truncated.txt")).read_text("ascii")


# Lines


def test_the_lines_are_those_of_sdoml_in_its_order() -> None:
    expected = """Fe XVIII, Fe VIII, Fe XX, Fe IX, Fe X, Fe XI, Fe XII, Fe XIII, Fe XIV, He II, Fe XV, He II_2, Fe XVI, Fe XVI_2,
        Mg IX, S XIV, Ne VII, Si XII, Si XII_2, O III, He I, O IV, Fe XX_2, He I_2, Fe XIX, O III_2, Mg X, Mg X_2, O V,
        O II, Fe XX_3, Ne VIII, O IV_2, O II_2, H I, H I_2, C III, H I_3, O VI"""
    assert [" ".join(name.split()) for name in expected.split(",")] == NAMES
    assert len(LINES) == 39
    assert all(line.name.split("_")[0] == line.ion for line in LINES)
    wavelengths = [line.wavelength_nm for line in LINES]
    assert wavelengths == sorted(wavelengths)
    assert [line.detector for line in LINES] == ["MEGS-A"] * 15 + ["MEGS-B"] * 24


@pytest.mark.parametrize(
    ("name", "wavelength", "log_t"),
    [
        ("Fe XVIII", 9.3926, 6.81),
        ("Fe XII", 19.512, 6.13),
        ("Fe XIV", 21.1331, 6.27),
        ("He II_2", 30.3783, 4.70),
        ("H I_3", 102.572, 3.84),
    ],
)
def test_wavelength_and_temperature_of_lines(name: str, wavelength: float, log_t: float) -> None:
    line = LINES[NAMES.index(name)]
    assert (line.wavelength_nm, line.log_t) == (wavelength, log_t)


def test_the_simulated_levels_are_those_published(real_data: Path) -> None:
    published = json.loads((real_data / "tables/sdomlv2_statistics_12min.json").read_text())["EVE"]
    times = np.datetime64("2010-05-01", "ns") + np.arange(0, 1400, 5) * np.timedelta64(1, "D")
    means = true_irradiance(0, times).mean(axis=0)
    for name, mean in zip(NAMES, means, strict=True):
        if name != "Fe XVI_2":
            assert mean == pytest.approx(published[name]["mean"], rel=0.1)


# Means over minutes


def test_minute_means_by_hand() -> None:
    slots = HOUR + np.arange(4) * 60 * SECOND
    seconds = np.array([-1, 0, 10, 59, 60, 110, 130, 240])
    values = np.array([[9, 9], [1, 4], [2, np.nan], [6, 8], [5, np.nan], [7, np.nan], [np.nan, np.nan], [9, 9]])
    flags = np.array([64, 0, 1, 2, 0, 0, 8, 64])
    order = np.array([3, 0, 7, 5, 1, 6, 2, 4])
    means, counts, joined = minute_means(HOUR + seconds[order] * SECOND, values[order], flags[order], slots)
    np.testing.assert_array_equal(
        means, np.array([[3, 6], [6, np.nan], [np.nan, np.nan], [np.nan, np.nan]], np.float32)
    )
    assert means.dtype == np.float32
    assert counts.tolist() == [[3, 2], [2, 0], [0, 0], [0, 0]]
    assert counts.dtype == np.uint8
    # The sample of the third minute has no value, and its flag says why.
    assert joined.tolist() == [3, 0, 8, 0]


def test_minutes_with_gaps_between_them() -> None:
    slots = HOUR + np.array([0, 3600]) * SECOND
    times = HOUR + np.array([59, 60, 1800, 3659, 3660]) * SECOND
    means, counts, _ = minute_means(times, np.array([[1.0], [2], [3], [4], [5]]), np.zeros(5, np.int64), slots)
    assert means.ravel().tolist() == [1, 4]
    assert counts.ravel().tolist() == [1, 1]


def test_minutes_of_nothing() -> None:
    slots = HOUR + np.arange(2) * 60 * SECOND
    none = np.array([], "datetime64[ns]")
    means, counts, flags = minute_means(none, np.zeros((0, 3)), np.zeros(0, np.int64), slots)
    assert np.isnan(means).all()
    assert (means.shape, counts.sum(), flags.tolist()) == ((2, 3), 0, [0, 0])
    assert minute_means(slots, np.ones((2, 3)), np.zeros(2, np.int64), none)[0].shape == (0, 3)


def test_more_samples_than_a_byte_counts() -> None:
    times = HOUR + np.arange(400) * SECOND // 10
    means, counts, _ = minute_means(times, np.arange(400.0)[:, None], np.zeros(400, np.int64), np.array([HOUR]))
    assert (means[0, 0], counts[0, 0]) == (199.5, 255)


@pytest.mark.parametrize("step", [59, 0, -60])
def test_minutes_must_not_overlap(step: int) -> None:
    slots = HOUR + np.arange(2) * step * SECOND
    with pytest.raises(ValueError, match="overlap"):
        minute_means(slots, np.ones((2, 1)), np.zeros(2, np.int64), slots)


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="shapes"):
        minute_means(np.array([HOUR]), np.ones((2, 1)), np.zeros(2, np.int64), np.array([HOUR]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_minute_is_the_mean_of_its_present_samples(data: st.DataObject) -> None:
    number, columns = data.draw(st.integers(0, 25)), data.draw(st.integers(1, 3))
    slots = HOUR + np.cumsum(data.draw(st.lists(st.integers(60, 100), max_size=6))).astype(np.int64) * SECOND
    seconds = data.draw(st.lists(st.integers(-10, 700), min_size=number, max_size=number))
    value = st.one_of(st.just(float("nan")), st.floats(1e-9, 1e-3))
    rows = [data.draw(st.lists(value, min_size=columns, max_size=columns)) for _ in range(number)]
    flags = data.draw(st.lists(st.integers(0, 255), min_size=number, max_size=number))
    times = HOUR + np.array(seconds, np.int64) * SECOND
    means, counts, joined = minute_means(
        times, np.array(rows).reshape(number, columns), np.array(flags, np.int64), slots
    )
    for place, slot in enumerate(slots):
        within = [index for index in range(number) if slot <= times[index] < slot + 60 * SECOND]
        union = 0
        for index in within:
            union |= flags[index]
        assert joined[place] == union
        for column in range(columns):
            present = [rows[index][column] for index in within if not np.isnan(rows[index][column])]
            assert counts[place, column] == len(present)
            assert np.isnan(means[place, column]) == (not present)
            if present:
                assert means[place, column] == pytest.approx(sum(present) / len(present), rel=1e-6)


# Simulated level 2


def test_a_simulated_hour_reads_back() -> None:
    series = read(simulated())
    assert series.names == tuple(NAMES)
    assert series.values.shape == (360, 39)
    assert (series.version, series.units[0], series.metadata["lines_missing"]) == ("000_01", "W/m^2", ())
    assert series.times[0] == HOUR + np.timedelta64(484, "ms")
    assert np.all(np.diff(series.times) == 10 * SECOND)
    deviation = series.values / true_irradiance(0, series.times) - 1
    measured = [index for index, name in enumerate(NAMES) if name != "Fe XVI_2"]
    assert np.isnan(deviation[:, NAMES.index("Fe XVI_2")]).all()
    assert np.abs(np.nanmean(deviation[:, measured], axis=0)).max() < 5 * NOISE / np.sqrt(360)
    np.testing.assert_allclose(np.nanstd(deviation[:, measured]), NOISE, rtol=0.05)
    # The whole hour has MEGS-B; MEGS-A lacks what FLAGS say and nothing else.
    missing = (series.flags & FLAG_MEGS_A_MISSING) > 0
    np.testing.assert_array_equal(np.isnan(series.values[:, 0]), missing)
    assert 0 < missing.sum() < 10
    assert not np.isnan(series.values[:, 15:]).any()


def test_minute_means_of_a_simulated_hour() -> None:
    series = read(simulated())
    slots = HOUR + np.arange(60) * 60 * SECOND
    means, counts, _ = minute_means(series.times, series.values, series.flags, slots)
    truth = true_irradiance(0, slots + 25 * SECOND)
    assert counts[:, 15].tolist() == [6] * 60
    assert np.nanmax(np.abs(means / truth - 1)) < 5 * NOISE


def test_megs_b_rests_most_of_the_day() -> None:
    series = read(simulated("2011-02-15T02"))
    on = series.times < np.datetime64("2011-02-15T02:05", "ns")
    assert on.sum() == 30
    assert not np.isnan(series.values[on, 15:]).any()
    assert np.isnan(series.values[~on, 15:]).all()
    np.testing.assert_array_equal((series.flags & FLAG_MEGS_B_MISSING) > 0, ~on)


def test_eclipses_are_missing_and_flagged() -> None:
    series = read(simulated("2011-03-20T06"))
    dark = series.sc_flags > 0
    assert 0 < dark.sum() < 360
    assert np.isnan(series.values[dark]).all()


def test_megs_a_ends() -> None:
    before, after = read(simulated("2014-05-25T13")), read(simulated("2014-05-26T13"))
    assert before.times[-1] < MEGS_A_END <= after.times[0]
    assert np.isfinite(before.values[:, 0]).any()
    assert np.isnan(after.values[:, :15]).all()
    assert np.all(after.flags & FLAG_MEGS_A_MISSING)
    assert np.isfinite(after.values[:, 15:]).all()


def test_hot_lines_flare_more_than_cool_ones() -> None:
    day, _, strength = flares(0)
    best = 1.0
    for peak in day[np.argsort(strength)[-6:]]:
        time = np.datetime64("2009-11-01", "ns") + np.timedelta64(int(peak * 86_400e9), "ns")
        rise = true_irradiance(0, time + np.array([-3600, 0]) * SECOND)
        growth = rise[1] / rise[0]
        # Behind the limb a flare is not seen.
        best = max(best, growth[NAMES.index("Fe XX")])
        assert growth[NAMES.index("Fe IX")] < 1.3
    assert best > 3


def test_the_simulation_depends_on_its_seed_alone() -> None:
    again = eve_lines_fits(SimulationConfig(seed=0), HOUR)
    assert again == simulated()
    assert again != simulated(seed=1)
    exact = read(eve_lines_fits(SimulationConfig(noise=False), HOUR))
    np.testing.assert_allclose(exact.values[5, 15:], true_irradiance(0, exact.times)[5, 15:], rtol=1e-6)


def test_file_names() -> None:
    assert eve_file_name(HOUR) == "EVL_L2_2011046_12_000_01.fit.gz"
    assert eve_file_name(np.datetime64("2012-12-31T23")) == "EVL_L2_2012366_23_000_01.fit.gz"
    for call in (eve_file_name, lambda hour: eve_lines_fits(SimulationConfig(), hour)):
        with pytest.raises(ValueError, match="full hour"):
            call(HOUR + SECOND)


def test_the_hour_with_a_leap_second() -> None:
    data = simulated("2012-06-30T23")
    with fits.open(io.BytesIO(gzip.decompress(data)), memmap=False) as units:
        tai = np.array(units["LinesData"].data["TAI"])
        seconds = np.array(units["LinesData"].data["SOD"])
    assert tai.size == 361
    np.testing.assert_allclose(np.diff(tai), 10)
    assert seconds[-1] == pytest.approx(86400.484)
    # TAI - UTC was 34 s before the leap second and 35 s after it.
    epoch = Time("1958-01-01", scale="tai")
    np.testing.assert_allclose(tai[[0, 359]] - (Time("2012-06-30T23:00:00.484", scale="utc") - epoch).sec, [0, 3590])
    series = read(data)
    assert series.times[359] == np.datetime64("2012-06-30T23:59:50.484", "ns")
    assert series.times[360] == np.datetime64("2012-06-30T23:59:59.999999999", "ns")
    following = read(simulated("2012-07-01T00"))
    assert following.times[0] == np.datetime64("2012-07-01T00:00:00.484", "ns")
    slots = np.datetime64("2012-06-30T23:00", "ns") + np.arange(60) * 60 * SECOND
    counts = minute_means(series.times, np.ones((361, 1)), series.flags, slots)[1]
    assert counts.ravel().tolist() == [6] * 59 + [7]


# Level 2 as it may come


def test_lines_are_found_in_any_order_among_others() -> None:
    def shuffle(units: fits.HDUList) -> None:
        rng = np.random.default_rng(3)
        meta, data = units["LinesMeta"].data, units["LinesData"].data
        order = rng.permutation(39)
        centres, ions = meta["WAVE_CENTER"][order], meta["NAME"][order]
        # Another version's lines: a second Fe IX further off, centres a little different, an unknown ion.
        centres = np.concatenate([centres + 0.02, [17.22, 40.0]]).astype(np.float32)
        ions = np.array([*ions, "Fe IX", "Ca XVI"])
        irradiance = np.concatenate([data["LINE_IRRADIANCE"][:, order], np.ones((360, 2), np.float32)], axis=1)
        units["LinesMeta"] = fits.BinTableHDU.from_columns(
            [fits.Column("WAVE_CENTER", "E", array=centres), fits.Column("NAME", "12A", array=ions)], name="LinesMeta"
        )
        columns = [
            column if column.name != "LINE_IRRADIANCE" else fits.Column(column.name, "41E", array=irradiance)
            for column in units["LinesData"].columns
        ]
        units["LinesData"] = fits.BinTableHDU.from_columns(columns, name="LinesData")

    series = read(changed(shuffle), "EVL_L2_2011046_12_007_02.fit")
    np.testing.assert_array_equal(series.values, read(simulated()).values)
    assert series.version == "007_02"


def test_a_line_that_is_not_there_is_nan() -> None:
    def rename(units: fits.HDUList) -> None:
        units["LinesMeta"].data["NAME"][2] = "Fe XXI"
        units["LinesMeta"].data["WAVE_CENTER"][3] += 0.5

    series = read(changed(rename))
    assert series.metadata["lines_missing"] == ("Fe XX", "Fe IX")
    assert np.isnan(series.values[:, 2:4]).all()
    np.testing.assert_array_equal(np.delete(series.values, [2, 3], 1), np.delete(read(simulated()).values, [2, 3], 1))


def test_what_is_not_positive_is_missing() -> None:
    def spoil(units: fits.HDUList) -> None:
        units["LinesData"].data["LINE_IRRADIANCE"][:5, 20] = [-1, 0, np.nan, np.inf, -1e-5]

    assert np.isnan(read(changed(spoil)).values[:, 20]).tolist() == [True] * 5 + [False] * 355


def test_rows_without_a_time_are_left_out() -> None:
    def spoil(units: fits.HDUList) -> None:
        units["LinesData"].data["TAI"][7] = -1

    series = read(changed(spoil))
    assert (series.times.size, series.metadata["rows_without_time"]) == (359, 1)
    np.testing.assert_array_equal(series.values, np.delete(read(simulated()).values, 7, 0))


@pytest.mark.parametrize(("column", "value"), [("TAI", 5.0), ("TAI", 1e12), ("SOD", 1e4), ("YYYYDOY", 2012046)])
def test_times_that_contradict_each_other(column: str, value: float) -> None:
    def spoil(units: fits.HDUList) -> None:
        units["LinesData"].data[column][7] = value

    assert status(changed(spoil)) is FrameStatus.FAILED_TIME


@pytest.mark.parametrize("table", ["LinesMeta", "LinesData"])
def test_a_table_is_absent(table: str) -> None:
    assert status(changed(lambda units: units.pop(table))) is FrameStatus.FAILED_KEYWORD


def test_lines_that_do_not_fit_the_data() -> None:
    def cut(units: fits.HDUList) -> None:
        units["LinesMeta"] = fits.BinTableHDU(units["LinesMeta"].data[:30], name="LinesMeta")

    def other(units: fits.HDUList) -> None:
        units["LinesMeta"].data["NAME"][:] = "Xx I"

    assert status(changed(cut)) is FrameStatus.FAILED_KEYWORD
    assert status(changed(other)) is FrameStatus.FAILED_KEYWORD


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", FrameStatus.FAILED_NOT_FITS),
        (b"<html>503 Service Unavailable</html>", FrameStatus.FAILED_NOT_FITS),
        (b"\x1f\x8b", FrameStatus.FAILED_READ),
        (b"\x1f\x8b" + b"garbage" * 20, FrameStatus.FAILED_READ),
        (gzip.compress(b"<html>"), FrameStatus.FAILED_NOT_FITS),
        (b"SIMPLE  =                    T", FrameStatus.FAILED_READ),
        (b"; only a comment\n", FrameStatus.FAILED_KEYWORD),
    ],
)
def test_what_is_no_file_of_eve(data: bytes, expected: FrameStatus) -> None:
    assert status(data) is expected
    assert status(data, strict=False) is expected


def test_an_image_is_no_series() -> None:
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.zeros((8, 8), np.int16)).writeto(buffer)
    assert status(buffer.getvalue()) is FrameStatus.FAILED_KEYWORD


def test_files_that_end_early() -> None:
    packed = simulated()
    plain = gzip.decompress(packed)
    for share in (0.02, 0.3, 0.7, 0.99):
        assert status(packed[: int(len(packed) * share)]) is FrameStatus.FAILED_READ
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    assert status(bytes(damaged)) is FrameStatus.FAILED_READ
    with fits.open(io.BytesIO(plain), memmap=False) as units:
        info, row_bytes = units["LinesData"].fileinfo(), units["LinesData"].header["NAXIS1"]
    begin = info["datLoc"]
    for end in (3000, begin - 100, begin + 10, begin + 100 * row_bytes + 5):
        assert status(plain[:end]) is FrameStatus.FAILED_READ
    series = read(plain[: begin + 100 * row_bytes + 5], strict=False)
    assert (series.times.size, series.metadata["rows_missing"]) == (100, 260)
    np.testing.assert_array_equal(series.values, read(packed).values[:100])
    empty = read(plain[: begin + 5], strict=False)
    assert (empty.values.shape, empty.metadata["rows_missing"]) == ((0, 39), 360)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_hostile_bytes_give_a_status(data: st.DataObject) -> None:
    plain = bytearray(data.draw(st.sampled_from([gzip.decompress(simulated()), level_0cs().encode()])))
    for _ in range(data.draw(st.integers(1, 12))):
        plain[data.draw(st.integers(0, min(len(plain), 30_000) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(plain[: data.draw(st.integers(0, len(plain)))])
    try:
        series = read(cut, strict=data.draw(st.booleans()))
    except FrameError as error:
        assert error.status.outcome == "failed"
    else:
        assert series.values.shape == (series.times.size, len(series.names))


# Real files


def test_esp_as_astropy_reads_it(real_data: Path) -> None:
    data = (real_data / ESP).read_bytes()
    series = read(data, "eve_l1_esp_2011046_00_truncated.fits")
    table = fits.getdata(io.BytesIO(data), 1)
    assert series.names == ("QD", "CH_18", "CH_26", "CH_30", "CH_36", "Q_0", "Q_1", "Q_2", "Q_3")
    assert series.units == ("W/m^2",) * 5 + ("1",) * 4
    assert (series.metadata["product"], series.metadata["rows_missing"], series.version) == ("ESP", 0, "006_06")
    for index, name in enumerate(series.names):
        raw = np.array(table[name], np.float64)
        np.testing.assert_array_equal(series.values[:, index], np.where(raw > 0, raw, np.nan))
    # By hand, the first row: 6250.032 s of day 46 of 2011.
    assert series.times[0] == np.datetime64("2011-02-15T01:44:10.032172", "ns")
    np.testing.assert_allclose(
        series.values[0, [0, 1, 2, 3, 5]], [6.4171e-4, 6.0841e-4, 3.7658e-4, 8.0312e-4, 0.28380924], rtol=1e-5
    )
    assert np.isnan(series.values[0, 4])
    assert abs(series.times[0] - np.datetime64(series.metadata["T_OBS"][:-1], "ns")) < SECOND
    # The header gives its beginning both as TAI and as UTC: the epoch of TAI is 1958-01-01.
    tai = np.datetime64("1958-01-01", "ns") + np.timedelta64(round(series.metadata["TAI_OBS"] * 1e3), "ms")
    assert tai - 34 * SECOND == np.datetime64(series.metadata["DATE_OBS"][:-1], "ns")


def test_esp_that_ends_early(real_data: Path) -> None:
    data = (real_data / ESP).read_bytes()
    with pytest.raises(FrameError, match="should have at least"):
        read(data[:50_000])
    series = read(data[:50_000], strict=False)
    assert (series.times.size, series.metadata["rows_missing"]) == (306, 319)
    np.testing.assert_array_equal(series.values, read(data).values[:306])


def test_level_0cs_as_pandas_reads_it() -> None:
    text = level_0cs()
    series = read(text.encode(), "20160610_EVE_L0CS_DIODES_1m.txt")
    rows = text.partition("2016 162 06 10\n")[2]
    table = pd.read_csv(io.StringIO(rows), sep=r"\s+", header=None, dtype={0: str})
    assert table.shape == (10, 20)
    times = [np.datetime64(f"2016-06-10T{clock[:2]}:{clock[2:]}", "ns") for clock in table[0]]
    np.testing.assert_array_equal(series.times, times)
    values = table.iloc[:, 1:].to_numpy(np.float64)
    np.testing.assert_array_equal(series.values, np.where(values == -1.0, np.nan, values))
    assert (series.version, series.metadata["product"], series.metadata["rows_missing"]) == ("4.0", "L0CS", 0)
    units = dict(zip(series.names, series.units, strict=True))
    assert (units["30.4ESP"], units["darkESP"], units["q0ESP"], units["CMLat"]) == ("W/m^2", "counts", "1", "deg")


def test_level_0cs_by_hand() -> None:
    series = read(level_0cs().encode(), "20160610_EVE_L0CS_DIODES_1m.txt")
    assert series.times[3] == np.datetime64("2016-06-10T00:03", "ns")
    assert series.values[3, series.names.index("XRS-B proxy")] == 2.27e-07
    assert series.values[3, series.names.index("36.6ESP")] == 4.32e-04
    assert series.values[8, series.names.index("CMLat")] == -10.9
    assert np.isnan(series.values[:, series.names.index("121.6MEGS-P")]).all()


def test_level_0cs_that_is_damaged() -> None:
    text = level_0cs()
    cut = text[: len(text) - 40]
    assert status(cut.encode()) is FrameStatus.FAILED_READ
    series = read(cut.encode(), strict=False)
    assert (series.times.size, series.metadata["rows_missing"]) == (9, 1)
    assert status(text.replace("2016 162 06 10", "2016 163 06 10").encode()) is FrameStatus.FAILED_TIME
    assert status(text.replace("\n0003 ", "\n2503 ").encode()) is FrameStatus.FAILED_TIME
    assert status(text.replace("2.27e-07", "2.27e-0x", 1).encode()) is FrameStatus.FAILED_READ
    assert status(text[: text.index("2016 162")].encode()) is FrameStatus.FAILED_READ


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 86_399), st.integers(1, 366))
def test_calendar_and_tai_agree(second: int, day: int) -> None:
    """YEAR, DOY and SOD of an ESP table against Python's own calendar."""
    columns = {"YEAR": ("I", 2016), "DOY": ("I", day), "SOD": ("D", float(second))}
    names = ("QD", "CH_18", "CH_26", "CH_30", "CH_36", "Q_0", "Q_1", "Q_2", "Q_3")
    unit = fits.BinTableHDU.from_columns(
        [fits.Column(name, form, array=[value]) for name, (form, value) in columns.items()]
        + [fits.Column(name, "E", array=[1.0]) for name in names]
    )
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(buffer)
    moment = datetime(2016, 1, 1, tzinfo=UTC) + timedelta(days=day - 1, seconds=second)
    assert read(buffer.getvalue()).times[0] == np.datetime64(moment.replace(tzinfo=None), "ns")
