"""Daily summaries of regions, the selection of emerging ones, tables of regions, and patches that cover the disc."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.solar.activity import CARRINGTON_DEG_PER_DAY, rotation_deg_per_day
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.region_selection import Selection, central_meridian_passage, dense_pack, select_regions
from sdoml_dist.solar.region_summaries import SrsEntry, read_harp_noaa, read_srs
from sdoml_dist.solar.region_tables import read_regions, write_regions
from sdoml_dist.solar.regions import Region
from sdoml_dist.solar.times import tai_to_utc

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def at(text: str) -> np.datetime64:
    return np.datetime64(text, "ns")


def srs(day: str, rows: Iterable[str] = (), plages: Iterable[str] = ()) -> str:
    """Return the summary issued at 00:30 of a day."""
    issued = np.datetime64(day, "D")
    year, month, number = str(issued).split("-")
    before = str(issued - 1)[8:]
    name = _MONTHS[int(month) - 1]
    return "\n".join(
        [
            f":Product: {month}{number}SRS.txt",
            f":Issued: {year} {name} {number} 0030 UTC",
            "# Prepared jointly by the U.S. Dept. of Commerce, NOAA,",
            "Joint USAF/NOAA Solar Region Summary",
            f"SRS Number 1 Issued at 0030Z on {number} {name} {year}",
            f"I.  Regions with Sunspots.  Locations Valid at {before}/2400Z ",
            "Nmbr Location  Lo  Area  Z   LL   NN Mag Type",
            *(list(rows) or ["None"]),
            f"IA. H-alpha Plages without Spots.  Locations Valid at {before}/2400Z {name}",
            "Nmbr  Location  Lo",
            *(list(plages) or ["None"]),
            "II. Regions Due to Return",
            "Nmbr Lat    Lo",
            "1221 S18    253",
            "",
        ]
    )


def row(printed: int, latitude: float, west: float, carrington: float, area: int = 200) -> str:
    place = (
        f"{'N' if latitude >= 0 else 'S'}{abs(round(latitude)):02d}{'W' if west >= 0 else 'E'}{abs(round(west)):02d}"
    )
    return f"{printed:04d} {place}   {round(carrington) % 360:03d}  {area:04d} Dao  10   08 Beta"


def passage_of(
    number: int, latitude: float, carrington: float, days: Iterable[str], areas: Iterable[int]
) -> dict[str, str]:
    """Return a region's rows by day: it rotates with the Sun."""
    rows = {}
    first = None
    for day, area in zip(days, areas, strict=True):
        time = at(day)
        first = time if first is None else first
        drift = (
            (float(rotation_deg_per_day(latitude)) - CARRINGTON_DEG_PER_DAY)
            * float((time - first).astype(int))
            / 864e11
        )
        west = (carrington + drift - ephemeris(time).l0_deg + 180) % 360 - 180
        rows[day] = row(number, latitude, west, carrington + drift, area)
    return rows


def test_the_real_summary(real_data: Path) -> None:
    entries = read_srs((real_data / "tables" / "20110607SRS.txt").read_text(), "20110607SRS.txt")
    # Five with spots; four plages and a region due to return are not among them.
    assert [entry.number for entry in entries] == [11226, 11227, 11228, 11232, 11233]
    assert entries[0] == SrsEntry(at("2011-06-07"), 11226, -22, 52, 36, 80, "Dao", "Beta")
    assert entries[3] == SrsEntry(at("2011-06-07"), 11232, 8, -7, 337, 40, "Cso", "Beta")
    # 06/2400Z is midnight of the 7th: Carrington longitude and distance from the meridian agree then, to their rounding.
    centre = ephemeris(entries[0].time).l0_deg
    for entry in entries:
        assert abs((entry.carrington_longitude_deg - entry.cm_longitude_deg - centre + 180) % 360 - 180) < 1
    early = ephemeris(entries[0].time - np.timedelta64(1, "D")).l0_deg
    assert abs((entries[0].carrington_longitude_deg - entries[0].cm_longitude_deg - early + 180) % 360 - 180) > 12


def test_other_forms_of_summaries() -> None:
    assert read_srs(srs("2011-01-01")) == []
    # The day named is in the month, and year, before.
    (entry,) = read_srs(srs("2011-01-01", ["1138 N12W70   324  0010 Bxo  02   02 Beta"], ["1137  N17W77   061"]))
    assert (entry.time, entry.number) == (at("2011-01-01"), 11138)
    old = (
        "JOINT USAF/NOAA SOLAR REGION SUMMARY\r\nSRS NUMBER 158 ISSUED AT 0030Z ON 07 JUN 1996\r\n"
        "I.  REGIONS WITH SUNSPOTS.  LOCATIONS VALID AT 06/2400Z\r\nNMBR LOCATION  LO  AREA  Z   LL   NN MAG TYPE\r\n"
        "7968 N05E120  360  0020 BXO  05   04 BETA-GAMMA\r\n"
        "7969 S11W03   021  0000           ALPHA\r\nIA. H-ALPHA PLAGES WITHOUT SPOTS.\r\nNMBR  LOCATION  LO\r\nNONE"
    )
    first, second = read_srs(old)
    assert first == SrsEntry(at("1996-06-07"), 7968, 5, -120, 0, 20, "BXO", "BETA-GAMMA")
    assert second == SrsEntry(at("1996-06-07"), 7969, -11, 3, 21, 0, "", "ALPHA")
    # Without a time of validity it is the midnight before the issue; the last section may end the file.
    bare = ":Issued: 2026 Sep 22 0030 UTC\nI.  Regions with Sunspots.\n4538 N11W09   123  0010 Bxo  04   03 Beta"
    assert read_srs(bare)[0].time == at("2026-09-22")


@pytest.mark.parametrize(
    ("day", "printed", "number"),
    [
        ("2002-05-20", 9950, 9950),  # five digits were not needed yet
        ("2002-06-20", 9999, 9999),
        ("2002-06-20", 3, 10003),  # printed 0003
        ("2005-01-01", 720, 10720),
        ("2014-10-20", 2192, 12192),
        ("2027-06-01", 5001, 15001),  # from 2010 on all of them are beyond 10000
        ("2024-05-08", 13664, 13664),  # somebody wrote all digits
    ],
)
def test_numbers_have_five_digits(day: str, printed: int, number: int) -> None:
    assert [entry.number for entry in read_srs(srs(day, [row(printed, 10, 5, 100)]))] == [number]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>not found</html>", "a.txt: no date of issue"),
        (":Issued: 2011 Jun 07 0030 UTC\nnothing", "a.txt: no section"),
        (srs("2011-06-07", ["1226 S22W52   036  many Dao  10   08 Beta"]), r"a.txt, line 8: not a region .*many"),
        (srs("2011-06-07", ["1226 S92W52   036  0080 Dao  10   08 Beta"]), "line 8: location outside the Sun"),
        (srs("2011-06-07").replace("06/2400Z ", "16/2400Z "), "line 6: valid on day 16, but issued on 2011-06-07"),
        (":Issued: 2011 Jun 31 0030 UTC\nI. Regions", "no date of issue"),
    ],
)
def test_damaged_summaries_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_srs(text, "a.txt")


def test_harps_and_noaa_numbers() -> None:
    assert read_harp_noaa("HARPNUM NOAA_ARS\n1 11034,11035\n377 11158\n\n") == {1: (11034, 11035), 377: (11158,)}
    with pytest.raises(ValueError, match=r"line 2: expected '377 11158'.*'377'"):
        read_harp_noaa("HARPNUM NOAA_ARS\n377\n")
    with pytest.raises(ValueError, match="line 3: HARP 377 is there twice"):
        read_harp_noaa("HARPNUM NOAA_ARS\n377 11158\n377 11159\n")


DAYS = [f"2011-02-{day:02d}" for day in range(5, 20)]


def month(**more: dict[str, str]) -> list[SrsEntry]:
    """Return the entries of two weeks with regions of every kind."""
    regions = {
        # L0 falls from 154 degrees on 5 February to -30 on the 19th, 13.2 a day.
        "good": passage_of(1158, -20, 37, DAYS[7:14], [60, 100, 180, 400, 600, 500, 300]),
        "first day": passage_of(1150, 10, 150, DAYS[:6], [300] * 6),
        "east": passage_of(1160, 15, 15, DAYS[5:11], [300] * 6),
        "brief": passage_of(1161, 12, 100, DAYS[4:7], [300] * 3),
        "small": passage_of(1162, 17, 90, DAYS[4:9], [10, 50, 190, 199, 20]),
        "hosted": passage_of(1163, -19, 38, DAYS[8:13], [250] * 5),
        **more,
    }
    rows = {day: [lines[day] for lines in regions.values() if day in lines] for day in DAYS}
    # In whatever order the files come.
    return [entry for day in DAYS[::-1] for entry in read_srs(srs(day, rows[day]), day)]


def test_every_region_is_selected_or_refused_with_a_reason() -> None:
    entries = month()
    harps = {377: (11158, 11163), 380: (11161,)}
    found = select_regions(entries, harps=harps)
    assert [region.number for region in found.regions] == [11158]
    assert found.areas == {11158: 600}
    assert set(found.refused) | {11158} == {entry.number for entry in entries}
    assert found.refused == {
        11150: "already there on the first day of the table (2011-02-05): its emergence was not seen",
        # L0 is 88.6 on 10 February, so 15 degrees of Carrington longitude are 74 degrees east.
        11160: "first recorded 74 degrees east of the central meridian, more than 30",
        11161: "recorded with spots on 3 days only, fewer than 4",
        11162: "largest area 199 millionths of the hemisphere, less than 200",
        11163: "inside HARP 377 of the earlier region 11158",
    }
    # Each threshold does what it says, at its edge.
    assert [region.number for region in select_regions(entries).regions] == [11158, 11163]
    numbers = [region.number for region in select_regions(entries, minimum_area_msh=199).regions]
    assert numbers == [11158, 11162, 11163]
    assert 11161 not in select_regions(entries, minimum_days=3).refused
    assert 11160 not in select_regions(entries, maximum_longitude_deg=74).refused
    assert 11160 in select_regions(entries, maximum_longitude_deg=73).refused
    # A table that is known to begin earlier, with a day without regions, lets the first ones in.
    assert 11150 not in select_regions(entries, since=at("2011-02-04")).refused
    assert select_regions([]) == Selection((), {}, {})
    with pytest.raises(ValueError, match="two records of 2011-02-18T00"):
        select_regions([*entries, next(entry for entry in entries if entry.number == 11158)])


def test_the_period_is_centred_on_the_meridian() -> None:
    (region,) = [region for region in select_regions(month()).regions if region.number == 11158]
    assert region.reference == region.emergence == at("2011-02-12")
    assert region.latitude_deg == -20
    assert abs(region.longitude_deg - 37) < 0.3  # the mean of seven records rounded to a degree
    assert region.end - region.start == np.timedelta64(10, "D")
    middle = region.start + (region.end - region.start) // 2
    assert middle == middle.astype("datetime64[h]")
    # By hand: L0 is 62.0 on 12 February, so the region is 25 degrees east, and a day is 13.2 + 0.2 degrees of approach.
    assert abs((middle - at("2011-02-13T21")) / np.timedelta64(1, "h")) <= 2
    west = (region.longitude_deg - ephemeris(middle).l0_deg + 180) % 360 - 180
    assert abs(west) < 1.0
    longer = {region.number: region for region in select_regions(month(), days=247 / 24).regions}[11158]
    assert longer.end - longer.start == np.timedelta64(247, "h")


def test_longitudes_average_across_zero() -> None:
    entries = month(wrapped=passage_of(1170, 5, 359.6, DAYS[10:15], [300] * 5))
    (region,) = [region for region in select_regions(entries).regions if region.number == 11170]
    assert abs((region.longitude_deg - 359.6 + 180) % 360 - 180) < 0.6


_HOURS = st.integers(0, 16 * 365 * 24).map(lambda hours: at("2010-05-01") + np.timedelta64(hours, "h"))


@settings(max_examples=40, deadline=None)
@given(st.floats(-60, 60), st.floats(0, 359.99), _HOURS)
def test_the_passage_is_where_the_meridian_is(latitude: float, longitude: float, reference: np.datetime64) -> None:
    time = central_meridian_passage(latitude, longitude, reference)
    days = float((time - reference).astype(np.int64)) / 864e11
    carried = longitude + (float(rotation_deg_per_day(latitude)) - CARRINGTON_DEG_PER_DAY) * days
    assert abs((carried - ephemeris(time).l0_deg + 180) % 360 - 180) < 1e-4
    assert abs(days) < 20  # the nearest one: half a synodic turn, 30 days at high latitudes


def test_the_middle_of_a_published_series_is_near_the_passage(real_data: Path) -> None:
    """HARP 377 (region 11158) has LON_FWT 12.78 and CRLN_OBS 21.73 on 2011-02-15T02:00 TAI: Carrington longitude 34.5."""
    passage = central_meridian_passage(-20.2, 21.725103 + 12.77996, at("2011-02-15T01:59:26"))
    assert passage.astype("datetime64[h]") == np.datetime64("2011-02-14T02", "h")
    with np.load(real_data / "solared" / "AR11158.npz") as data:
        times = tai_to_utc(data["time"].astype("datetime64[ns]"))
    middle = times[0] + (times[-1] - times[0]) // 2
    assert np.timedelta64(8, "h") < passage - middle < np.timedelta64(9, "h")
    # First NOAA records of the five test regions: within the 30 degrees (2.3 days) of the middle that the selection asks.
    records = {11698: "2013-03-15", 11726: "2013-04-20", 13165: "2022-12-12", 13179: "2022-12-30", 13183: "2023-01-06"}
    for number, day in records.items():
        with np.load(real_data / "solared" / f"AR{number}.npz") as data:
            times = data["time"].astype("datetime64[ns]")
        away = (at(day) - (times[0] + (times[-1] - times[0]) // 2)) / np.timedelta64(1, "D")
        assert -1 < away < 30 / 13.2


TABLE = """region,latitude_deg,longitude_deg,reference,start,end,emergence,area_msh
11158,-20.5,37.0,2011-02-12,2011-02-08T22:00:00,2011-02-18T22:00:00,2011-02-12T00:00,600
11726,13,323,2013-04-20T00:00:00Z,2013-04-15,2013-04-25T12:30,,
"""


def test_a_table_of_regions() -> None:
    first, second = read_regions(TABLE)
    assert first == Region(
        11158, -20.5, 37, at("2011-02-12"), at("2011-02-08T22"), at("2011-02-18T22"), at("2011-02-12")
    )
    assert (second.latitude_deg, second.reference, second.end) == (13, at("2013-04-20"), at("2013-04-25T12:30"))
    assert np.isnat(second.emergence)
    written = write_regions([first, second])
    assert written == (
        "region,latitude_deg,longitude_deg,reference,start,end,emergence\n"
        "11158,-20.5,37.0,2011-02-12T00:00:00,2011-02-08T22:00:00,2011-02-18T22:00:00,2011-02-12T00:00:00\n"
        "11726,13.0,323.0,2013-04-20T00:00:00,2013-04-15T00:00:00,2013-04-25T12:30:00,\n"
    )
    assert write_regions([first], {11158: 600}).endswith(",2011-02-12T00:00:00,600\n")
    assert repr(read_regions(write_regions([second], {}))) == repr([second])
    # As spreadsheets save it, with columns in another order and an optional one left out.
    lean = "\ufeffend,start,region,latitude_deg,longitude_deg,reference\r\n2011-02-02,2011-02-01,7,1,360,2011-02-01\r\n\r\n"
    assert read_regions(lean)[0].longitude_deg == 0
    with pytest.raises(ValueError, match="region 11158 is there twice"):
        write_regions([first, first])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("latitude_deg", "latitude", "line 1: unknown column 'latitude'; did you mean 'latitude_deg'"),
        ("area_msh", "colour", "unknown column 'colour'; columns are region"),
        ("reference,", "end,", "line 1: no column 'reference'"),
        ("emergence", "end", "a column is there twice"),
        ("-20.5", "south", "line 2, column latitude_deg: not a number: 'south'"),
        ("-20.5", "-95", "line 2, column latitude_deg: -95 is not between -90 and 90"),
        ("37.0", "nan", "line 2, column longitude_deg: nan is not between"),
        (",323,", ",-37,", "line 3, column longitude_deg: -37 is not between"),
        ("2013-04-15,", "yesterday,", "line 3, column start: not a UTC time"),
        ("2013-04-15,", "2013-02-30,", "line 3, column start: not a UTC time"),
        ("2013-04-20T00:00:00Z", "2013.04.20_00:00:00_TAI", "line 3, column reference: times are UTC, not TAI"),
        ("2013-04-25T12:30", "2013-04-15", r"line 3, column end: region 11726 ends \(2013-04-15\) before"),
        ("11726", "11158", "line 3, column region: region 11158 is there twice"),
        ("11726", "AR1", "line 3, column region: not a number of a region: 'AR1'"),
        (",600", ",much", "line 2, column area_msh: not a number"),
        (",600", "", "line 2: 7 values for 8 columns"),
    ],
)
def test_damaged_tables_are_refused(old: str, new: str, message: str) -> None:
    assert old in TABLE
    with pytest.raises(ValueError, match=message):
        read_regions(TABLE.replace(old, new, 1))


_TIMES = st.integers(0, 2**59).map(lambda ns: at("2010-01-01") + np.timedelta64(ns, "ns"))


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            lambda number, latitude, longitude, reference, start, length, seen: Region(
                number, latitude, longitude, reference, start, start + np.timedelta64(length, "ns"), seen
            ),
            st.integers(1, 10**7), st.floats(-90, 90), st.floats(0, 360, exclude_max=True), _TIMES, _TIMES,
            st.integers(1, 10**15), st.none().map(lambda _: np.datetime64("NaT", "ns")) | _TIMES,
        ),
        max_size=5, unique_by=lambda region: region.number,
    )
)  # fmt: skip
def test_tables_come_back_as_they_were(regions: list[Region]) -> None:
    # NaT is not equal to itself; its text is.
    assert repr(read_regions(write_regions(regions))) == repr(regions)


def test_the_pack_covers_the_disc() -> None:
    start, end = at("2011-02-15"), at("2011-02-17T06:00")
    patches = dense_pack(start, end, spacing_deg=15)
    assert patches == dense_pack(start, end, spacing_deg=15)
    # 15 February 2011 is day 410 (365 + 31 + 14) after 1 January 2010; the third interval is a quarter of a day.
    intervals = {number: [patch for patch in patches if patch.number // 1000 == number] for number in (410, 411, 412)}
    assert sum(len(part) for part in intervals.values()) == len(patches) == len({patch.number for patch in patches})
    assert [patch.number for patch in intervals[410]] == list(range(410_001, 410_001 + len(intervals[410])))
    assert {(patch.start, patch.end) for patch in intervals[412]} == {(at("2011-02-17"), end)}
    assert intervals[412][0].reference == at("2011-02-17T03")
    for part in intervals.values():
        observer = ephemeris(part[0].reference)
        latitude = np.radians([patch.latitude_deg for patch in part])
        west = np.radians([patch.longitude_deg - observer.l0_deg for patch in part])
        b0 = np.radians(observer.b0_deg)
        cosine = np.sin(b0) * np.sin(latitude) + np.cos(b0) * np.cos(latitude) * np.cos(west)
        assert np.degrees(np.arccos(cosine)).max() <= 60 + 1e-6
        # One on the equator at the meridian; rows 15 degrees apart; B0 is -6.8, so one more row in the south.
        assert np.hypot(latitude, np.angle(np.exp(1j * west))).min() < 1e-9
        assert sorted({round(float(value)) for value in np.degrees(latitude)}) == [-60, -45, -30, -15, 0, 15, 30, 45]
        # Along a row the same length on the Sun: 15 degrees of longitude at the equator, 21.2 at latitude 45.
        for chosen, step in ((0, 15.0), (-45, 15 * np.sqrt(2))):
            row_west = np.degrees(np.angle(np.exp(1j * west[np.round(np.degrees(latitude)) == chosen])))
            np.testing.assert_allclose(np.diff(row_west), step)
            assert row_west.size >= 3
        # No place within reach is farther from a centre than half the diagonal of a cell.
        rng = np.random.default_rng(0)
        away, turn = np.radians(50) * np.sqrt(rng.uniform(size=300)), rng.uniform(0, 2 * np.pi, 300)
        north = np.arcsin(np.sin(b0) * np.cos(away) + np.cos(b0) * np.sin(away) * np.cos(turn))
        aside = np.arctan2(np.sin(turn) * np.sin(away) * np.cos(b0), np.cos(away) - np.sin(b0) * np.sin(north))
        between = np.sin(north)[:, None] * np.sin(latitude) + (
            np.cos(north)[:, None] * np.cos(latitude) * np.cos(aside[:, None] - west)
        )
        assert np.degrees(np.arccos(between.clip(-1, 1))).min(axis=1).max() < 15 * np.sqrt(0.5) + 0.8
    assert all(np.isnat(patch.emergence) for patch in patches)
    assert all(0 <= patch.longitude_deg < 360 for patch in patches)


def test_numbers_of_patches_stay_with_their_interval() -> None:
    whole = dense_pack(at("2011-02-10"), at("2011-02-20"), spacing_deg=30, days=1 / 3)
    part = dense_pack(at("2011-02-14T16:00"), at("2011-02-15"), spacing_deg=30, days=1 / 3)
    assert repr(part) == repr([patch for patch in whole if patch.start == at("2011-02-14T16")])
    assert len({patch.number for patch in whole}) == len(whole)
    # A grid of one row and one column where nothing else is in reach.
    assert len(dense_pack(at("2011-02-10"), at("2011-02-11"), spacing_deg=40, reach_deg=20)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": at("2011-02-16")}, "before the end"),
        ({"start": at("2009-12-31")}, "2010 or later"),
        ({"spacing_deg": 0.0}, "spacing_deg=0"),
        ({"reach_deg": 90.0}, "reach_deg=90"),
        ({"days": 0.0}, "days=0"),
        ({"spacing_deg": 2.0}, "patches per interval"),
    ],
)
def test_impossible_packs_are_refused(changes: dict[str, object], message: str) -> None:
    wanted = {"start": at("2011-02-15"), "end": at("2011-02-16"), "spacing_deg": 15.0} | changes
    with pytest.raises(ValueError, match=message):
        dense_pack(**wanted)  # type: ignore[arg-type]
