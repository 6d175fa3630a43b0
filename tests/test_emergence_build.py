"""Emergence datasets: axes and units by law, and a build by real Ray held against the pieces it is made of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import sdoml_dist
from sdoml_dist.cli import main
from sdoml_dist.emergence_file import load_emergence_recipe
from sdoml_dist.emergence_plan import CADENCE_S, EmergencePlan, frame_number, frame_times
from sdoml_dist.emergence_recipe import EmergenceRecipe
from sdoml_dist.engine.emergence import build_emergence
from sdoml_dist.errors import ExitCode, RecipeError, SdomlError, StoreError, UsageError
from sdoml_dist.solar import photosphere
from sdoml_dist.solar.activity import active_regions
from sdoml_dist.solar.emergence_series import series_of
from sdoml_dist.solar.helioseismology import band_power
from sdoml_dist.solar.hmi import full_disc
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.tiles import tile_means, without_baseline
from sdoml_dist.solar.times import utc_to_tai
from sdoml_dist.solar.tracking import View, tracked
from sdoml_dist.sources.fits import read_fits
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.emergence_export import read_npz
from sdoml_dist.store.emergence_reader import Emergence
from sdoml_dist.store.timeline_folder import dataset_timelines

REGIONS = [
    {"number": 7, "latitude_deg": 10, "longitude_deg": 40, "reference": "2011-02-15T00:00", "start": "2011-02-15T00:10",
     "end": "2011-02-15T01:50", "emergence": "2011-02-15T01:00"},
    {"number": 8, "latitude_deg": -20, "longitude_deg": 10, "reference": "2011-02-15T00:00",
     "start": "2011-02-15T00:30", "end": "2011-02-15T02:10"},
]  # fmt: skip
FAULTS = [
    {"channel": "V_45s", "time": "2011-02-15T00:30:11", "kind": "corrupt"},
    {"channel": "V_45s", "time": "2011-02-15T00:40:41", "kind": "missing"},
    {"channel": "M_45s", "time": "2011-02-15T00:23:26", "kind": "flagged"},
]


def recipe_data(store: str, **changes: Any) -> dict[str, Any]:
    """Return a recipe of two regions that overlap in time, small enough for seconds."""
    return {
        "product": "emergence", "name": "tiny", "regions": REGIONS,
        "source": {"kind": "simulator", "simulation": {"pixels": 128, "faults": FAULTS}},
        "tracking": {"pixels": 32, "scale_deg": 1.0},
        "power": {"window": 64, "step": "12min"},
        "layout": {"block_frames": 16, "block_windows": 4, "tile_pixels": 16, "segment_windows": 4},
        "store": {"url": store},
    } | changes  # fmt: skip


def plan_of(**changes: Any) -> EmergencePlan:
    return EmergencePlan(EmergenceRecipe.model_validate(recipe_data("nowhere", **changes)))


def test_frames_fall_on_the_hours_of_tai() -> None:
    # 2011-02-15 00:00:00 TAI is 34 s earlier in UTC; an hour has 80 frames.
    first = frame_number(np.datetime64("2011-02-14T23:59:26", "ns"))
    assert first % 80 == 0
    times = frame_times(first, 81)
    assert times[0] == np.datetime64("2011-02-14T23:59:26")
    assert times[-1] == np.datetime64("2011-02-15T00:59:26")
    # Across the leap second at the end of June 2015 the grid stays even in TAI.
    across = frame_times(frame_number(np.datetime64("2015-06-30T23:58", "ns")), 8)
    assert set(np.diff(utc_to_tai(across)).astype("timedelta64[s]").astype(int)) == {45}


def test_published_windows_are_centred_as_published() -> None:
    """A window of 640 frames from the hour has its middle 319.5 frames later: 59 min 37.5 s past an hour (TAI)."""
    plan = plan_of(
        power={"window": 640, "step": "1h"}, layout={"block_frames": 80, "tile_pixels": 16},
        regions=[REGIONS[0] | {"end": "2011-02-25T00:00"}],
    )  # fmt: skip
    (axes,) = plan.axes.values()
    stamps = utc_to_tai(plan.window_times(axes))
    assert {str(stamp)[14:23] for stamp in stamps} == {"59:37.500"}
    assert np.unique(np.diff(stamps)).astype("timedelta64[s]").tolist() == [np.timedelta64(3600, "s")]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(16, 16), (16, 8), (16, 48), (80, 80), (80, 40), (80, 240)]), st.integers(3, 700),
    st.integers(1, 9), st.integers(1, 50), st.integers(0, 86_400), st.integers(60, 200_000),
)  # fmt: skip
def test_every_shard_has_one_unit_and_every_window_its_frames(
    sizes: tuple[int, int], window: int, snapshots: int, segment: int, start_s: int, length_s: int
) -> None:
    hop, block = sizes
    start = np.datetime64("2011-02-15", "s") + start_s
    region = REGIONS[0] | {"start": str(start), "end": str(start + length_s)}
    # Windows shorter than 45 have no frequency in some band.
    window = max(window, 45)
    plan = plan_of(
        regions=[region, region | {"number": 9}], power={"window": window, "step": hop * CADENCE_S},
        layout={"block_frames": block, "block_windows": snapshots, "tile_pixels": 16, "segment_windows": segment},
    )  # fmt: skip
    units = list(plan.track_units())
    assert len({unit.unit_id for unit in units}) == len(units)
    for axes in plan.axes.values():
        assert axes.windows.count >= 1
        for quantity in ("V", "M", "Ic"):
            size, axis = plan.block_size(quantity), axes.axis(quantity)  # type: ignore[arg-type]
            blocks = [u.block for u in units if u.quantity == quantity and axes.region.number in u.regions]
            # Blocks of units are the shards of the array, from its beginning to its end.
            assert [block * size - axis.first for block in blocks] == list(range(0, axis.count, size))
        # The region's time is inside its frames, and windows lie inside them too.
        assert axes.frames.first <= frame_number(axes.region.start, round_up=True)
        assert axes.windows.first * hop == axes.frames.first
        assert axes.frames.first + (axes.windows.count - 1) * hop + window <= axes.frames.stop
        assert axes.snapshots.first <= axes.windows.first
        assert axes.snapshots.stop >= axes.windows.stop
        covered = [plan.segment_windows(axes, number) for number in range(plan.segments(axes))]
        assert [part.first for part in covered[1:]] == [part.stop for part in covered[:-1]]
        assert covered[-1].stop == axes.windows.count
        assert plan.segment_frames(axes, len(covered) - 1).stop <= axes.frames.count


@pytest.fixture(scope="module")
def built(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> EmergenceRecipe:
    recipe = EmergenceRecipe.model_validate(recipe_data(str(tmp_path_factory.mktemp("emergence") / "d")))
    summary = build_emergence(recipe)
    assert summary.exit_code == ExitCode.FRAMES_FAILED
    assert set(summary.stages) == {"track", "power", "timelines"}
    return recipe


def by_hand(recipe: EmergenceRecipe, number: int, quantity: str, time: np.datetime64) -> np.ndarray:
    """Cut one frame out of the full disc, step by step."""
    plan = EmergencePlan(recipe)
    source = make_source(recipe)
    bundle = next(bundle for bundle in recipe.contents.bundles if bundle.name == f"{quantity}_45s")
    near = np.timedelta64(20, "s")
    (record,) = source.candidates(bundle.name, time - near, time + near)
    raw, header = read_fits(source.fetch(record.segments[0][1]))
    frame = full_disc(raw, header, bundle, CalibrationSettings(expected_shape=(128, 128)))
    view = View.of(frame.pointing, frame.l0_deg, frame.b0_deg, frame.dsun_obs_m)
    return tracked(frame.image, view, plan.patch(plan.axes[number].region), frame.time)


def test_maps_are_the_frames_cut_out_and_faults_are_accounted_for(built: EmergenceRecipe) -> None:
    dataset = Emergence(built.store)
    for number in (7, 8):
        velocity = dataset.tracked(number, "V")
        times = velocity["time"].values
        bad = velocity["status"].values != 1
        assert bad.sum() == 2
        for index in (0, 17, len(times) - 1):
            np.testing.assert_array_equal(velocity["V"][index], by_hand(built, number, "V", times[index]))
        # A frame that is not there is no data, and nothing else.
        assert np.isnan(velocity["V"].values[bad]).all()
        assert np.isfinite(velocity["V"].values[~bad]).all()
        records = [json.loads(text) for text in dataset.records(number, "V")[bad]]
        assert [bool(record["source"]) for record in records] == [True, False]
        assert dataset.accounting(number)["V"] == {"ok": len(times) - 2, "failed": 1, "missing": 1}
        field = dataset.tracked(number, "M")
        assert dataset.accounting(number)["M"]["rejected"] == 1
        good = int(np.flatnonzero(field["status"].values == 1)[0])
        np.testing.assert_array_equal(field["M"][good], by_hand(built, number, "M", field["time"].values[good]))
        assert float(field["VALID"][good]) == 1.0
        np.testing.assert_allclose(field["tiles"][good], tile_means(np.abs(field["M"][good].values)), rtol=1e-12)


def test_power_is_that_of_the_tracked_series(built: EmergenceRecipe) -> None:
    dataset = Emergence(built.store)
    for number in (7, 8):
        velocity = dataset.tracked(number, "V")["V"].values
        found = band_power(velocity, window=64, hop=16)
        maps = dataset.maps(number)
        np.testing.assert_allclose(maps["power"].values, found.power, rtol=2e-5)
        np.testing.assert_array_equal(maps["duty_cycle"].values, found.duty_cycle)
        # Two of 144 frames are missing: each takes two differences from the windows that hold it.
        assert maps["duty_cycle"].values.min() == pytest.approx(1 - 4 / 63)
        timeline = dataset.timeline(number)
        np.testing.assert_allclose(timeline.power, tile_means(maps["power"].values).transpose(1, 2, 0), rtol=1e-12)
        np.testing.assert_allclose(timeline.flux, tile_means(np.abs(maps["magnetogram"].values)).T, rtol=1e-12)
        np.testing.assert_allclose(timeline.intensity, tile_means(maps["continuum"].values).T, rtol=1e-12)
        np.testing.assert_array_equal(timeline.times, maps["time"].values)


def test_flux_and_intensity_are_of_the_middle_of_the_window(built: EmergenceRecipe) -> None:
    maps, fields = Emergence(built.store).maps(7), Emergence(built.store).tracked(7, "M")
    # The middle of 64 frames lies between two of them; frame 32 is half a step later.
    later = fields["time"].values[:, None] - maps["time"].values
    assert (later == np.timedelta64(22_500, "ms")).any(axis=0).all()


def test_forecasts_read_the_timelines_at_their_version(built: EmergenceRecipe) -> None:
    timelines, snapshot = dataset_timelines(built.store)
    assert snapshot == Emergence(built.store).snapshot
    assert sorted(timelines) == [7, 8]
    region = timelines[7]
    series = series_of(region)  # whole hours of windows that are 12 minutes apart, the baseline taken off
    assert series.values.shape[1:] == (6, 63)
    assert series.times[0] == region.times[0].astype("datetime64[s]")
    flux = without_baseline(region.flux.astype(np.float64))[9:72]
    np.testing.assert_allclose(series.values[0, 4], flux[:, 0], rtol=1e-5, atol=1e-4)
    assert all((later - series.times[0]) % np.timedelta64(1, "h") == np.timedelta64(0) for later in series.times)


def test_the_same_build_again_does_nothing(built: EmergenceRecipe) -> None:
    before = Emergence(built.store).snapshot
    summary = build_emergence(built)
    assert summary.stages == {}
    assert summary.exit_code == ExitCode.FRAMES_FAILED
    assert Emergence(built.store).snapshot == before


def test_regions_can_be_added_and_nothing_is_done_twice(ray_cluster: Any, tmp_path: Path) -> None:
    data = recipe_data(str(tmp_path / "d"), regions=REGIONS[:1])
    build_emergence(EmergenceRecipe.model_validate(data))
    first = Emergence(data["store"]["url"])
    before = first.maps(7).load()
    recipe = EmergenceRecipe.model_validate(data | {"regions": REGIONS[1:]})
    summary = build_emergence(recipe)
    plan = EmergencePlan(recipe)
    assert summary.stages["track"].units == len(list(plan.track_units()))
    assert summary.stages["timelines"].units == 1
    after = Emergence(data["store"]["url"])
    assert list(after.regions) == [7, 8]
    xr.testing.assert_identical(before.drop_attrs(), after.maps(7).load().drop_attrs())
    # The first version is still what it was.
    assert list(Emergence(data["store"]["url"], first.snapshot).regions) == [7]


def test_another_recipe_or_place_is_refused(built: EmergenceRecipe) -> None:
    data = built.model_dump(mode="json")
    with pytest.raises(StoreError, match=r"power\.convention: 'solared' -> 'psd'"):
        build_emergence(EmergenceRecipe.model_validate(data | {"power": data["power"] | {"convention": "psd"}}))
    moved = [data["regions"][0] | {"latitude_deg": 11.0}, data["regions"][1]]
    with pytest.raises(StoreError, match="AR7"):
        build_emergence(EmergenceRecipe.model_validate(data | {"regions": moved}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regions": []}, "either regions or dense_pack"),
        ({"regions": [REGIONS[0], REGIONS[0]]}, "listed twice"),
        ({"layout": {"block_frames": 10}}, "divide the hop"),
        ({"layout": {"tile_pixels": 15}}, "does not divide the patch"),
        ({"power": {"step": "1min"}}, "whole number of frames"),
        ({"power": {"window": 8}}, "no frequency"),
        ({"snapshot": "published"}, "frame 120"),
        ({"tolerance": 23}, "tolerance"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(**changes)


def test_recipe_files_explain_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe_data("d", trakking={"pixels": 32})))
    with pytest.raises(RecipeError, match="did you mean 'tracking'"):
        load_emergence_recipe(path)
    table = tmp_path / "regions.csv"
    table.write_text("region,latitude_deg\n1,2\n")
    path.write_text(yaml.safe_dump(recipe_data("d", regions=str(table))))
    with pytest.raises(RecipeError, match=r"regions\.csv"):
        load_emergence_recipe(path)
    with pytest.raises(SdomlError, match="sdoml emergence plan"):
        sdoml_dist.recipe_file.load_recipes(path)
    path.write_text("product: aia\n")
    with pytest.raises(RecipeError, match="product: emergence"):
        load_emergence_recipe(path)


def test_the_command_line(built: EmergenceRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = built.store.url
    assert main(["emergence", "status", url]) == 0
    out = capsys.readouterr().out
    assert "AR7" in out
    assert "100%" in out
    assert main(["emergence", "quicklook", url, "--number", "8", "-o", str(tmp_path / "q.png")]) == 0
    for name in ("q.png", "q-timelines.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert main(["report", url, "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "AR7" in page
    assert not re.search('(src|href)="http', page)
    assert main(["emergence", "export", url, str(tmp_path / "npz")]) == 0
    back = read_npz(tmp_path / "npz", "")
    dataset = Emergence(url)
    assert set(back) == {7, 8}
    np.testing.assert_array_equal(back[7].power, dataset.timeline(7).power)
    assert main(["emergence", "quicklook", url, "--number", "99"]) == ExitCode.USAGE
    assert "no region 99" in capsys.readouterr().err
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(recipe_data(url)))
    assert main(["emergence", "plan", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"]["timelines"] == 2
    with pytest.raises(UsageError, match="no region 99"):
        dataset.timeline(99)


def test_full_disc_by_patches(ray_cluster: Any, tmp_path: Path) -> None:
    """Patches that cover the disc are regions like others; a full-disc frame is read once for all of them."""
    pack = {"period": {"start": "2011-02-15T00:00", "end": "2011-02-15T01:00"}, "spacing_deg": 40, "reach_deg": 45,
            "days": 1 / 24}  # fmt: skip
    data = recipe_data(str(tmp_path / "d"), dense_pack=pack, regions=[])
    del data["source"]["simulation"]["faults"]
    recipe = EmergenceRecipe.model_validate(data)
    plan = EmergencePlan(recipe)
    assert len(plan.axes) > 2
    summary = build_emergence(recipe)
    assert summary.exit_code == ExitCode.COMPLETE
    frames = plan.estimate().frames
    assert summary.stages["track"].outcomes == {"ok": frames}
    assert frames == sum(plan.block_size(unit.quantity) for unit in plan.track_units())
    dataset = Emergence(recipe.store)
    powers = [np.nanmean(dataset.timeline(number).power) for number in dataset.regions]
    assert np.isfinite(powers).all()


@pytest.mark.slow
def test_the_suppression_of_power_before_emergence_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power in the middle of a patch falls by the model's share, which grows towards the moment of emergence."""
    index = 384
    regions = active_regions(0)
    seen = np.datetime64("2009-11-01", "ns") + np.timedelta64(round((regions.emergence_day[index] - 0.1) * 86_400), "s")
    start = seen.astype("datetime64[m]")
    entry = {"number": 1, "latitude_deg": float(regions.latitude_deg[index]), "reference": str(start),
             "longitude_deg": float(regions.longitude_at(regions.emergence_day[index] - 0.1)[index]),
             "start": str(start), "end": str(start + np.timedelta64(2, "h"))}  # fmt: skip
    data = recipe_data("nowhere", regions=[entry], power={"window": 160, "step": "12min"})
    data["source"]["simulation"] = {"pixels": 256, "noise": False}
    data["tracking"] = {"pixels": 32, "scale_deg": 0.25}
    plan = EmergencePlan(EmergenceRecipe.model_validate(data))
    axes = plan.axes[1]
    powers = []
    for depth in (0.0, 0.35):
        monkeypatch.setattr(photosphere, "_WARNING_DEPTH", depth)
        times = frame_times(axes.frames.first, 160)
        cube = np.stack([by_hand_at(plan, time) for time in times])
        powers.append(band_power(cube, window=160, hop=160).power[0])
    # An hour after the start is the middle of the window.
    near = 1.0 - (0.1 - 1 / 24) / photosphere._WARNING_DAYS
    strength = regions.strength[index]
    lost = 0.35 * near * (1.0 - np.exp(-2.5 * strength))
    middle = (slice(15, 17), slice(15, 17))
    for band in (1, 2):
        ratio = powers[1][band][middle].mean() / powers[0][band][middle].mean()
        assert ratio == pytest.approx(1.0 - lost, rel=0.03)


def by_hand_at(plan: EmergencePlan, time: np.datetime64) -> np.ndarray:
    """Cut one Dopplergram of the simulator out of the full disc."""
    recipe = plan.recipe
    source = make_source(recipe)
    bundle = next(bundle for bundle in recipe.contents.bundles if bundle.name == "V_45s")
    near = np.timedelta64(20, "s")
    (record,) = source.candidates("V_45s", time - near, time + near)
    raw, header = read_fits(source.fetch(record.segments[0][1]))
    frame = full_disc(raw, header, bundle, CalibrationSettings(expected_shape=(256, 256)))
    view = View.of(frame.pointing, frame.l0_deg, frame.b0_deg, frame.dsun_obs_m)
    return tracked(frame.image, view, plan.patch(plan.axes[1].region), frame.time)
