"""Emergence by the published criterion, and the pictures and page about emerging regions."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from sdoml_dist.report.emergence import MapSet, RegionView, write_report
from sdoml_dist.report.emergence_charts import tiles_shown, timeline_figure
from sdoml_dist.report.emergence_maps import power_figure, power_sequence_figure
from sdoml_dist.solar.emergence import Timeline
from sdoml_dist.solar.emergence_flag import emergence_slope, emergence_step, emergence_times, normalised, typical_step
from sdoml_dist.solar.regions import Region
from tests.test_report import _WIDE, browser, opened, read  # noqa: F401 - the browser is a fixture

HOUR = np.timedelta64(3600, "s")
FIRST = np.datetime64("2013-04-15T14:59:37", "s")


def ramp(slope: float, steps: int = 80, start: int = 50, stop: int = 80) -> np.ndarray:
    """Return 1 up to `start`, then a fall of `slope` per step up to `stop`."""
    return 1.0 - slope * np.clip(np.arange(steps) - start, 0, stop - start)


def test_the_criterion_by_hand() -> None:
    # With a fall of 0.06 per step from step 50 on, the mean of five is 1, 0.988, 0.964, 0.928, 0.88 at steps 48 to 52,
    # its gradient -0.006, -0.018, -0.03, -0.042, -0.054 there and 0 before, and the mean of five of that
    # -(0.006 + 0.018) / 5 = -0.0048 at step 47 and -(0.006 + 0.018 + 0.03) / 5 = -0.0108 at step 48.
    slope = emergence_slope(ramp(0.06))
    np.testing.assert_allclose(slope[45:51], [0, -0.0012, -0.0048, -0.0108, -0.0192, -0.03], atol=1e-12)
    assert emergence_step(ramp(0.06)) == 48
    # Half the slope halves it all: -0.0096 at step 49 does not count, -0.015 at step 50 does.
    assert emergence_step(ramp(0.03)) == 50
    assert emergence_step(ramp(0.009)) is None
    assert emergence_step(1 - ramp(0.06)) is None
    # One mean fewer would see it a step later: the gradient of the smoothed intensity is -0.006 at step 48.
    assert emergence_step(ramp(0.06), smooth=1) == 50


def test_a_fall_must_last() -> None:
    # A fall of 0.02 in one step: at most 0.004 after the first mean, never 0.01.
    assert emergence_step(ramp(0.02, stop=51)) is None
    short = np.ones(60)
    short[30:] = 0.96
    slope = emergence_slope(short)
    # Means of a step of -0.04: gradients of -0.004, -0.008, -0.008, -0.008, -0.008, -0.004, then means of five of these.
    assert slope.min() == pytest.approx(-0.0072)
    # With -0.09: gradients of -0.009, -0.018 (four times), -0.009 at steps 27 to 32, and means of -0.009, -0.0126, -0.0162,
    # -0.0162, -0.0126, -0.009: four steps count.
    short[30:] = 0.91
    np.testing.assert_allclose(emergence_slope(short)[27:33], [-0.009, -0.0126, -0.0162, -0.0162, -0.0126, -0.009])
    assert emergence_step(short) == 28
    assert emergence_step(short, run=5) is None


def test_gaps_end_runs_and_nothing_is_carried_over_them() -> None:
    values = ramp(0.06)
    values[51] = np.nan
    # The values before the gap do not fall; those behind it do from their first step on.
    assert np.isnan(emergence_slope(values)[51])
    assert emergence_step(values) == 52
    # A jump across a gap is no fall.
    jump = np.where(np.arange(60) < 30, 1.0, 0.2)
    jump[30:33] = np.nan
    assert emergence_step(jump) is None
    assert emergence_step(np.where(np.arange(60) < 30, 1.0, 0.2)) is not None
    # Runs of three and three around a gap are no run of four.
    holed = ramp(0.03, start=0)
    holed[3::4] = np.nan
    assert np.nanmax(emergence_slope(holed)) < -0.01
    assert emergence_step(holed) is None
    assert emergence_step(holed, run=3) == 0
    assert emergence_step(np.full(20, np.nan)) is None
    lone = np.full(9, np.nan)
    lone[4] = 0.5
    assert np.isnan(emergence_slope(lone)).all()
    with pytest.raises(ValueError, match="odd"):
        emergence_step(values, smooth=4)
    with pytest.raises(ValueError, match="one tile"):
        emergence_step(np.zeros((2, 9)))


def test_normalised() -> None:
    np.testing.assert_array_equal(normalised(np.array([2.0, np.nan, 6.0, 3.0])), [0, np.nan, 1, 0.25])
    np.testing.assert_array_equal(normalised(np.array([3.0, 3.0])), [0, 0])
    assert np.isnan(normalised(np.full(2, np.nan))).all()


def timeline(step: np.timedelta64 = HOUR, steps: int = 80) -> Timeline:
    """Return a region in which tile 40 darkens from step 50 on and gains flux, on a baseline of each column and a trend."""
    times = FIRST + np.arange(steps) * step
    rng = np.random.default_rng(0)
    power = 1e8 * (1 + 0.01 * rng.standard_normal((4, 81, steps)))
    flux, intensity = np.full((81, steps), 5.0), np.full((81, steps), 5e4)
    flux += np.linspace(0, 3, steps)
    intensity += 100 * np.arange(81)[:, None] % 9 + np.linspace(0, 800, steps)
    part = 1 - ramp(1 / 30, steps, steps * 5 // 8, steps)
    flux[40] += 200 * part
    intensity[40] -= 3000 * part
    return Timeline(11726, times, power.astype(np.float32), flux, intensity)


@pytest.mark.parametrize(("step", "steps"), [(HOUR, 80), (np.timedelta64(720, "s"), 400)])
def test_flags_do_not_depend_on_the_cadence(step: np.timedelta64, steps: int) -> None:
    region = timeline(step, steps)
    if steps > 80:  # the same fall per hour
        part = np.interp(np.arange(steps) / 5, np.arange(80), 1 - ramp(1 / 30))
        intensity = np.full((81, steps), 5e4)
        intensity[40] -= 3000 * part
        region = replace(region, intensity=intensity)
    found = emergence_times(region)
    assert np.flatnonzero(~np.isnat(found)).tolist() == [40]
    # The range is that of the fall, 29 steps of 1/30: 1/29 per hour; -0.0345 / 5 (0.1 + 0.3 + 0.5 + 0.7) = -0.011 at step 49.
    assert abs(found[40] - (FIRST + 49 * HOUR)) <= step
    assert typical_step(region.times) == step


def test_a_region_without_times_or_with_gaps() -> None:
    region = timeline()
    keep = np.ones(80, bool)
    keep[20:25] = False
    gapped = Timeline(1, region.times[keep], region.power[..., keep], region.flux[:, keep], region.intensity[:, keep])
    np.testing.assert_array_equal(emergence_times(gapped), emergence_times(region))
    assert typical_step(region.times[:1]) == HOUR


# Observed first emergence in the figures of the published code, by the number of the tile (counted from 1); all are at
# minute 59 of the hour. Those of 11726 use the steps as if there were no gap.
PUBLISHED = {
    11698: {49: "2013-03-14T09", 51: "2013-03-15T09", 52: "2013-03-16T11"},
    11726: {
        40: "2013-04-24T05", 41: "2013-04-20T16", 42: "2013-04-19T18", 43: "2013-04-20T23", 44: "2013-04-21T02"
    },
    13165: {31: "2022-12-14T16", 32: "2022-12-11T05", 33: "2022-12-11T22", 34: "2022-12-15T02"},
    13179: {40: "2022-12-30T00", 41: "2022-12-29T05", 42: "2022-12-29T18"},
    13183: {40: "2023-01-06T06", 41: "2023-01-05T06", 42: "2023-01-05T09", 43: "2023-01-06T17"},
}  # fmt: skip


def real(real_data: Path, number: int) -> Timeline:
    with np.load(real_data / "solared" / f"AR{number}.npz") as data:
        return Timeline(number, data["time"], data["power"], data["unsigned_flux"], data["continuum"])


@pytest.mark.parametrize("number", PUBLISHED)
def test_the_published_emergence_times(number: int, real_data: Path) -> None:
    region = real(real_data, number)
    intensity = normalised(region.intensity[9:72].astype(np.float64))
    for tile, hour in PUBLISHED[number].items():
        step = emergence_step(intensity[tile - 10])
        assert step is not None
        assert str(region.times[step])[:13] == hour
    found = emergence_times(region)
    for tile, hour in PUBLISHED[number].items():
        if (number, tile) == (11726, 40):
            # The published flag is the jump over the nine hours without data that begin an hour later.
            assert np.isnat(found[39])
            assert np.diff(region.times)[208] == 9 * HOUR
            assert str(region.times[208])[:13] == "2013-04-24T06"
        else:
            assert str(found[tile - 1])[:13] == hour
    assert np.isnat(found[:9]).all()
    assert np.isnat(found[72:]).all()


def maps(time: np.datetime64, size: int = 90, hole: bool = False) -> MapSet:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:size, :size] / size - 0.5
    spot = np.exp(-((x - 0.05) ** 2 + y**2) / 0.004)
    field = 1500 * spot - 1500 * np.exp(-((x + 0.1) ** 2 + y**2) / 0.004) + rng.normal(0, 8, (size, size))
    power = rng.chisquare(8, (4, size, size)) / 8 * (1 - 0.8 * spot) * np.array([3e7, 1e8, 2e7, 1e-3])[:, None, None]
    continuum = 5e4 * (1 - 0.6 * spot)
    if hole:
        power[:, 10:30, 10:30] = np.nan
        power[2] = np.nan
        field[:5] = np.nan
        continuum[:] = np.nan
    return MapSet(time, power.astype(np.float32), field, continuum, 0.97 if hole else 1.0)


@pytest.fixture(scope="module")
def view() -> RegionView:
    region = timeline()
    times = region.times
    holes = region.intensity.copy(), region.flux.copy(), region.power.copy()
    for values in holes:
        values[..., 10:14] = np.nan
        values[..., 16:20] = np.nan
    holes[2][3, 41, 60] = np.nan
    start = FIRST.astype("datetime64[ns]")
    place = Region(11726, -13.2, 323.4, start, start, start + 80 * HOUR, start + 52 * HOUR)
    moments = tuple(maps(times[at].astype("datetime64[ns]"), hole=at == 30) for at in (5, 30, 79))
    gapped = Timeline(11726, times, holes[2], holes[1], holes[0])
    accounting = {"V": {"ok": 6000, "missing": 380, "failed": 20}, "M": {"ok": 80}, "Ic": {"ok": 79, "rejected": 1}}
    return RegionView(place, gapped, moments, 30.66, "(m/s)^2 s per bin, summed over bins", accounting=accounting)


def pixels(data: bytes, folder: Path) -> np.ndarray:
    (folder / "figure.png").write_bytes(data)
    return (imread(folder / "figure.png")[..., :3] * 255).round().astype(int)


@pytest.mark.parametrize("dark", [False, True])
def test_figures_of_arrays_with_holes(view: RegionView, dark: bool, tmp_path: Path) -> None:
    for figure in (
        power_figure(view, view.maps[1], tiles=(40, 41), dark=dark),
        power_sequence_figure(view, tiles=(40,), dark=dark),
        timeline_figure(view, dark=dark),
        timeline_figure(view, (39, 40, 41), dark=dark),
    ):
        picture = pixels(figure, tmp_path)
        assert 15_000 < len(figure) < 200_000
        assert 300 < picture.shape[0] < 1200
        assert 700 < picture.shape[1] < 1300
        # The ground is that of the page, exactly.
        assert picture[0, 0].tolist() == ([0x14, 0x17, 0x1B] if dark else [255, 255, 255])
    assert power_figure(view) == power_figure(view, view.maps[-1])


def test_a_view_with_nothing_in_it() -> None:
    empty = np.full((90, 90), np.nan)
    nothing = MapSet(FIRST.astype("datetime64[ns]"), np.full((4, 90, 90), np.nan, np.float32), empty, empty, 0.0)
    start = FIRST.astype("datetime64[ns]")
    hours = FIRST + np.arange(6) * HOUR
    bare = RegionView(
        Region(1, 5.0, 10.0, start, start, start + 6 * HOUR),
        Timeline(1, hours, np.full((4, 81, 6), np.nan), np.full((81, 6), np.nan), np.full((81, 6), np.nan)),
        (nothing,), 30.0, "(m/s)^2",
    )  # fmt: skip
    for figure in (power_figure(bare), power_sequence_figure(bare), timeline_figure(bare)):
        assert figure.startswith(b"\x89PNG")
    assert bare.complete_windows() == (0, 6)


def test_the_flagged_moment_is_marked_where_it_is(view: RegionView, tmp_path: Path) -> None:
    # One tile, which fills the height: the marks lie, in each of three panels, at step 49 of the 80, the first record at 52.
    found = emergence_times(view.timeline)
    assert found[40] == FIRST + 49 * HOUR
    assert tiles_shown(view)[0] <= 40 <= tiles_shown(view)[-1]
    picture = pixels(timeline_figure(view, (40,)), tmp_path)
    red = np.array([0xB7, 0x1C, 0x27])
    rows = picture[int(0.55 * len(picture)) : int(0.7 * len(picture))]
    marked = np.flatnonzero((np.abs(rows - red).max(axis=2) < 40).all(axis=0))
    across = 104 * np.array([0.72, 0.72 + 3.17, 0.72 + 6.34])
    expected = across + 104 * 2.75 * 49 / (79 * (1 + 1 / 200))
    assert {int(np.abs(expected - column).argmin()) for column in marked} == {0, 1, 2}
    assert all(np.abs(expected - column).min() < 2 for column in marked)
    # A region that never emerged has no such line.
    calm = replace(view, timeline=replace(view.timeline, intensity=np.full((81, 80), 5e4)))
    rows = pixels(timeline_figure(calm, (40,)), tmp_path)[int(0.55 * len(picture)) : int(0.7 * len(picture))]
    assert not (np.abs(rows - red).max(axis=2) < 40).all(axis=0).any()


def test_gaps_are_not_drawn_over(view: RegionView, tmp_path: Path) -> None:
    # Steps 10 to 13 and 16 to 19 are missing: between them lie two steps, so the ink of the flux has two gaps.
    picture = pixels(timeline_figure(view, (40,)), tmp_path)
    left, width = 104 * (0.72 + 3.17), 104 * 2.75 / (79 * (1 + 1 / 200))
    low, high = int(0.6 * len(picture)), int(0.81 * len(picture))
    ink = (picture[low:high].max(axis=2) < 110).any(axis=0)
    found = [bool(ink[int(left + width * step)]) for step in (5, 11.5, 14.5, 17.5, 25)]
    assert found == [True, False, True, False, True]


@pytest.fixture(scope="module")
def page(view: RegionView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    region = replace(view.region, number=11698, emergence=np.datetime64("NaT", "ns"))
    other = replace(view, region=region, maps=(), accounting={"V": {"ok": 3, "pending": 1}})
    no_steps = Timeline(3, view.timeline.times[:0], np.empty((4, 81, 0)), np.empty((81, 0)), np.empty((81, 0)))
    third = replace(view, region=replace(region, number=3), timeline=no_steps, maps=(), accounting={})
    return write_report(
        [view, other, third], tmp_path_factory.mktemp("page") / "deep" / "report.html", title="Regions <b> & more",
        provenance={"Source": "simulator <1>", "Recipe": "abc"}, foot="Written by a test & nobody.",
    )  # fmt: skip


def test_the_page_is_whole_and_needs_nothing_else(page: Path) -> None:
    reader = read(page)
    assert not reader.faults
    assert not reader.open
    html = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 3 * 400_000
    addresses = reader.references + re.findall(r'srcset="([^"]*)"', html)
    assert len(addresses) > 8
    assert not [value for value in addresses if not value.startswith(("data:", "#"))]
    ids = [found["id"] for _, found in reader.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert {"overview", "AR11726", "AR11698", "AR3", "provenance"} <= set(ids)
    for value in reader.references:
        assert not value.startswith("#") or value[1:] in ids
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|https?:", html)
    assert [path.name for path in page.parent.iterdir()] == [page.name]
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    images = [found for tag, found in reader.tags if tag == "img"]
    assert len(images) == 4
    for found in images:
        assert len(str(found["alt"])) > 80
        assert int(str(found["width"])) > 700


def test_the_page_tells_the_counts(page: Path, view: RegionView) -> None:
    text = " ".join(" ".join(read(page).text).split())
    # Dopplergrams of 11726: 6000 of 6400; of all frames, 6000 + 80 + 79 + 3 of 6400 + 80 + 80 + 4.
    assert "Dopplergrams 6,400 6,000 380 0 20 0" in text
    assert "93.8 % 380 missing , 20 failed" in text
    assert f"{6400 + 80 + 80 + 4:,} frames planned" in text
    assert "13.2° S, 323.4°" in text
    # Eight steps of the 80 are missing, and at step 60 a power of an inner tile.
    assert view.complete_windows() == (71, 80)
    assert "71 of 80" in text
    assert view.examples() == (0, 0)
    # 49 hours after the first step.
    assert "1 of 63; first tile 41, 2013-04-17 15:59:37 UTC" in text
    assert "Regions <b> & more" in text
    assert "simulator <1>" in text


def test_a_real_browser_shows_it(page: Path, browser: str, tmp_path: Path) -> None:  # noqa: F811 - the fixture
    async def look() -> None:
        async with opened(browser) as tab:
            shown = []
            for width in (1400, 400):
                for scheme in ("light", "dark"):
                    await tab.load(page, width, scheme)
                    assert await tab.run("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
                    assert await tab.run(_WIDE) == []
                    assert await tab.run("[...document.images].every((e) => e.complete && e.naturalWidth > 700)")
                    shown.append(await tab.run("document.images[document.images.length - 1].currentSrc.slice(-400)"))
                    await tab.screenshot(tmp_path / f"{scheme}{width}.png")
                    assert (tmp_path / f"{scheme}{width}.png").stat().st_size > 20_000
            # Dark screens get a dark timeline.
            assert shown[0] != shown[1]
            assert shown[:2] == shown[2:]
            assert tab.faults() == []
            assert set(tab.requests()) == {page.absolute().as_uri()}

    asyncio.run(look())
