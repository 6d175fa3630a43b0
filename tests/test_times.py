"""Time scales, leap seconds and the grid of slots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdoml_dist.solar import times


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2011-02-15T00:00:00.34Z", "2011-02-15T00:00:00.34"),
        ("2011-02-15T00:00:00.34", "2011-02-15T00:00:00.34"),
        # TAI was 34 s ahead of UTC in 2011, 35 s from July 2012, 36 s from July 2015, 37 s from 2017.
        ("2011.02.15_00:00:00_TAI", "2011-02-14T23:59:26"),
        ("2012.07.01_00:00:35_TAI", "2012-07-01T00:00:00"),
        ("2017.01.01_00:00:37_TAI", "2017-01-01T00:00:00"),
        ("2016.12.31_23:59:59_TAI", "2016-12-31T23:59:23"),
        # 60 seconds where there was no leap second is the pipeline's rounding of 59.996.
        ("2012-01-01T00:00:60Z", "2012-01-01T00:01:00"),
        ("2012.01.01", "2012-01-01"),
    ],
)
def test_reads_the_times_of_headers(text: str, utc: str) -> None:
    assert times.parse_fits_time(text) == np.datetime64(utc, "ns")


@pytest.mark.parametrize("text", ["2016-12-31T23:59:60.50Z", "2017.01.01_00:00:36.50_TAI"])
def test_a_leap_second_stays_in_its_day(text: str) -> None:
    assert times.parse_fits_time(text) == np.datetime64("2016-12-31T23:59:59.999999999", "ns")


@pytest.mark.parametrize("text", ["", "yesterday", "2011-02-15T25:00:00", "2011-02-15T00:61:00", "2011-13-01", "1066-10-14"])
def test_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.parse_fits_time(text)


@given(st.integers(0, 17 * 365 * 86400))
def test_tai_and_back(seconds: int) -> None:
    utc = np.datetime64("2010-01-01", "ns") + np.timedelta64(seconds, "s")
    assert times.tai_to_utc(times.utc_to_tai(utc)) == utc


def test_tai_runs_on_through_a_leap_second() -> None:
    day = np.array(["2016-12-31T23:59:59", "2017-01-01T00:00:00"], "datetime64[ns]")
    assert np.diff(times.utc_to_tai(day))[0] == np.timedelta64(2, "s")


def test_times_before_1972_are_refused() -> None:
    with pytest.raises(ValueError, match="1972"):
        times.utc_to_tai(np.datetime64("1971-01-01", "ns"))


def test_writes_rounded() -> None:
    assert times.format_fits_time(np.datetime64("2011-02-15T00:00:59.996", "ns")) == "2011-02-15T00:01:00.00"
    assert times.format_fits_time(np.datetime64("2011-02-15T00:00:59.4", "ns"), 0) == "2011-02-15T00:00:59"


@given(st.sampled_from([12, 24, 45, 60, 360, 720, 3600, 86400]), st.integers(2010, 2030), st.data())
def test_slot_index_inverts_slot_times(cadence: int, year: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, times.year_slots(year, cadence) - 1))
    time = times.slot_times(year, cadence, index, index + 1)[0]
    assert times.slot_index(time, cadence) == (year, index)
    assert times.slot_index(time, cadence, round_up=True) == (year, index)
    if cadence > 1:
        later = time + np.timedelta64(1, "ns")
        assert times.slot_index(later, cadence) == (year, index)
        assert times.slot_index(later, cadence, round_up=True) == (year, index + 1)


def test_a_year_of_six_minutes() -> None:
    assert times.year_slots(2011, 360) == 365 * 240
    assert times.year_slots(2012, 360) == 366 * 240


def test_a_cadence_divides_the_day() -> None:
    with pytest.raises(ValueError, match="does not divide a day"):
        times.slots_per_day(7 * 60)
