"""From a recipe to a dataset, in one process: contents, accounting, resuming, refusing, extending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import sdoml_dist
from sdoml_dist.engine.run import build
from sdoml_dist.errors import EnvironmentFault, ExitCode, StoreError, UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.report.quicklook import quicklook
from sdoml_dist.report.text import inspect_report, status_report, versions_report
from sdoml_dist.report.validate import validate
from sdoml_dist.solar.scene import SunModel
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.sources.simulator import mission_frames
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.reader import open_product, open_products
from sdoml_dist.store.repository import create_tag, open_repository, session_at
from tests.conftest import small

pytestmark = pytest.mark.usefixtures("ray_cluster")
Maker = Callable[..., Recipe]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> Recipe:
    recipe = parse_recipe(small(str(tmp_path_factory.mktemp("built") / "dataset")))
    summary = build(recipe)
    assert summary.exit_code is ExitCode.FRAMES_FAILED
    return recipe


def contents(url: str, **options: Any) -> dict[str, np.ndarray]:
    """Return every array of a dataset by path; arrays over a year within the period and 500 slots around it."""
    arrays = {}
    for opened in open_products(url, **options):
        years = Plan(opened.recipe).years()
        for path, node in opened.group.members(max_depth=None):
            if isinstance(node, zarr.Array):
                start, stop = 0, node.shape[0]
                if node.shape[0] > 20_000:
                    start, stop = years[int(path.split("/")[0])]
                    start, stop = max(start - 500, 0), stop + 500
                arrays[f"{opened.name}/{path}"] = node[start:stop]
    return arrays


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Assert that two datasets are equal bit for bit."""
    assert one.keys() == other.keys()
    for path, array in one.items():
        if array.dtype.kind == "f":
            assert array.tobytes() == other[path].tobytes(), path
        else:
            np.testing.assert_array_equal(array, other[path], err_msg=path)


def test_every_frame_is_accounted_for_as_it_was_simulated(built: Recipe) -> None:
    table = sdoml_dist.frames(built.store.url, details=True)
    assert len(table) == 40
    expected = {None: "ok", "missing": "missing_no_frame", "flagged": "rejected_quality", "corrupt": "failed_read"}
    config = built.source.simulation  # type: ignore[union-attr]
    planned = list(mission_frames(config, built.channels, built.period.first, built.period.last))
    assert {frame.fault for frame in planned} == set(expected)
    for frame in planned:
        row = table[(table.time == frame.nominal) & (table.channel == frame.channel)].iloc[0]
        assert row.reason == expected[frame.fault]
    counts = sdoml_dist.accounting(built.store.url)
    assert (counts[["ok", "missing", "rejected", "failed"]].sum(axis=1) == counts.planned).all()


def test_pixels_are_the_truth(built: Recipe) -> None:
    ds = sdoml_dist.open_dataset(built.store.url)
    sun = SunModel(0)
    good = np.flatnonzero(ds.status.sel(channel="171A").values == int(FrameStatus.OK))
    for index in good[:3]:
        image = ds["171A"][index].values
        moment = ds["T_OBS"].sel(channel="171A").values[index]
        truth = sun.truth("171A", moment, 64, samples=32)
        # Frames of 128 pixels sample the scene coarsely; tests/test_calibrate.py holds full frames to 0.2 %.
        assert image.sum(dtype=float) == pytest.approx(truth.sum(dtype=float), rel=0.03)
        assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.97


def test_the_dataset_reads_as_xarray_lazily(built: Recipe) -> None:
    ds = sdoml_dist.open_dataset(built.store.url)
    assert ds.sizes == {"time": 20, "y": 64, "x": 64, "channel": 2}
    assert ds["171A"].dtype == np.float32
    assert not ds["171A"].variable._in_memory
    assert ds.time.values[0] == np.datetime64("2011-02-15T00:00", "ns")
    assert np.diff(ds.time.values).astype("timedelta64[s]").astype(int).tolist() == [360] * 19
    assert ds.attrs["recipe"]["name"] == "small"
    assert ds["T_OBS"].dtype.kind == "M"
    lazy = sdoml_dist.open_dataset(built.store.url, channels=["304A"], chunks={})
    assert lazy["304A"].data.chunks[0] == (1,) * 20
    assert "171A" not in lazy
    with pytest.raises(UsageError, match="no channel '94A'"):
        sdoml_dist.open_dataset(built.store.url, channels=["94A"])


def test_a_map_has_right_world_coordinates(built: Recipe) -> None:
    import astropy.units as u

    ds = sdoml_dist.open_dataset(built.store.url)
    good = ds.time.values[np.flatnonzero(ds.status.sel(channel="171A").values == 1)[0]]
    sun = sdoml_dist.to_map(ds, "171A", good)
    assert sun.wavelength == 171 * u.angstrom
    centre = sun.wcs.pixel_to_world(31.5, 31.5)
    assert abs(centre.Tx.to_value("arcsec")) < 1e-6
    assert abs(centre.Ty.to_value("arcsec")) < 1e-6
    # The limb is 976/2457.6 of the image's width from the centre, whatever the season.
    limb = sun.wcs.pixel_to_world(31.5 + 64 * 976 / 2457.6, 31.5)
    assert limb.Tx.to_value("arcsec") == pytest.approx(sun.rsun_obs.to_value("arcsec"), abs=0.5)
    assert sun.observer_coordinate.radius.to_value("m") == pytest.approx(
        ds["DSUN_OBS"].sel(channel="171A", time=good).item()
    )
    bad = ds.time.values[np.flatnonzero(ds.status.sel(channel="171A").values != 1)[0]]
    with pytest.raises(UsageError, match="is not there"):
        sdoml_dist.to_map(ds, "171A", bad)


def test_all_keywords_are_kept(built: Recipe) -> None:
    table = sdoml_dist.frames(built.store.url)
    good = table[(table.outcome == "ok") & (table.channel == "171A")].iloc[0]
    record = sdoml_dist.header(built.store.url, "171A", np.datetime64(good.time))
    assert record["source"].startswith("simulator:171A/")
    assert len(record["header"]) > 150
    assert record["header"]["WAVELNTH"] == 171


def test_building_again_changes_nothing(built: Recipe) -> None:
    before = versions_report(built.store.url, as_json=True)
    summary = build(built)
    assert summary.outcomes.total() == 0
    assert summary.resumed_frames == 40
    assert versions_report(built.store.url, as_json=True) == before


def test_it_validates_and_damage_is_found(built: Recipe, tmp_path: Path) -> None:
    import shutil

    assert validate(built.store.url, sample=0).valid
    copy = tmp_path / "copy"
    shutil.copytree(built.store.url, copy)
    session = open_repository(built.store.model_copy(update={"url": str(copy)})).writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    status = root["aia/2011/status"]
    row = int(np.flatnonzero(status[:, 0] == 1)[0])
    root["aia/2011/171A"][row] = np.zeros((64, 64), np.float32)
    status[0, 0] = 1
    session.commit("damage")
    result = validate(str(copy), sample=0)
    assert not result.valid
    assert "FAIL" in result.text()


def test_reports_and_quicklook(built: Recipe, tmp_path: Path) -> None:
    from matplotlib.image import imread

    text, code = status_report(built.store.url, failed=True, as_json=False)
    assert code == ExitCode.FRAMES_FAILED
    assert "failed_read" in text
    assert "latest run: build" in text
    assert "100.0%" in inspect_report(built.store.url, None, as_json=False)
    picture = imread(quicklook(built.store.url, tmp_path / "q.png"))
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05
    table = sdoml_dist.frames(built.store.url)
    for time, group in table.groupby("time"):
        if not (group.outcome == "ok").any():
            with pytest.raises(UsageError, match="No channel has a frame"):
                quicklook(built.store.url, tmp_path / "x.png", time=str(time))


def test_another_recipe_is_refused_with_a_diff(built: Recipe) -> None:
    changed = parse_recipe(small(built.store.url, tolerance="30s"))
    with pytest.raises(StoreError, match="tolerance: 60 -> 30"):
        build(changed)
    longer = parse_recipe(small(built.store.url, period={"start": "2011-02-15T00:00", "end": "2011-02-15T03:00"}))
    with pytest.raises(StoreError, match="sdoml update"):
        build(longer)
    shorter = built.extended(end="2011-02-15T01:00:00")
    with pytest.raises(StoreError, match="would cut"):
        build(shorter, extend=True)


def test_a_second_driver_is_refused_by_name(built: Recipe) -> None:
    with (
        Lease(built.store, "sdoml build"),
        pytest.raises(EnvironmentFault, match=r"in use: sdoml build by .* process \d+"),
    ):
        build(built)


def test_an_update_extends_and_old_versions_stay(make_recipe: Maker) -> None:
    recipe = make_recipe(period={"start": "2011-12-31T23:00", "end": "2011-12-31T23:36"})
    build(recipe)
    repository = open_repository(recipe.store)
    create_tag(repository, "v1", session_at(repository, None).snapshot_id)
    before = sdoml_dist.open_dataset(recipe.store.url, "v1").load()
    summary = build(recipe.extended(end="2012-01-01T00:30:00"), extend=True, verb="update")
    assert summary.resumed_frames == 12
    after = sdoml_dist.open_dataset(recipe.store.url)
    assert after.sizes["time"] == 15
    assert after.time.values[-1] == np.datetime64("2012-01-01T00:24", "ns")
    assert validate(recipe.store.url, sample=0).valid
    again = sdoml_dist.open_dataset(recipe.store.url, "v1").load()
    xr.testing.assert_identical(before, again)
    # In one go it becomes the same dataset.
    whole = make_recipe(
        store=recipe.store.url + "-whole", period={"start": "2011-12-31T23:00", "end": "2012-01-01T00:30"}
    )
    build(whole)
    same(contents(recipe.store.url), contents(whole.store.url))
    with pytest.raises(StoreError, match="has a version 'v1' already"):
        create_tag(repository, "v1", session_at(repository, None).snapshot_id)
    with pytest.raises(StoreError, match="no version 'v9'"):
        sdoml_dist.open_dataset(recipe.store.url, "v9")


def test_the_sum_convention_is_flux_per_target_pixel(make_recipe: Maker) -> None:
    simulation = {"kind": "simulator", "simulation": {"pixels": 128}}
    period = {"start": "2011-02-15T00:00", "end": "2011-02-15T00:12"}
    mean = make_recipe(source=simulation, period=period, channels=["171A"])
    total = make_recipe(store=mean.store.url + "-sum", source=simulation, period=period, channels=["171A"],
                        grid={"pixels": 64, "convention": "sum"})  # fmt: skip
    assert build(mean).exit_code is ExitCode.COMPLETE
    assert build(total).exit_code is ExitCode.COMPLETE
    one, two = (sdoml_dist.open_dataset(recipe.store.url)["171A"] for recipe in (mean, total))
    np.testing.assert_allclose(two.values, 4 * one.values, rtol=1e-6)
    assert (one.units, two.units) == ("DN/s per source pixel", "DN/s per pixel")


def test_on_s3_it_is_the_same_dataset(built: Recipe, s3_server: str) -> None:
    recipe = parse_recipe(small("s3://sdoml/one", store={"url": "s3://sdoml/one", "endpoint_url": s3_server}))
    build(recipe)
    remote = contents("s3://sdoml/one", endpoint_url=s3_server)
    same(contents(built.store.url), remote)
    assert validate("s3://sdoml/one", endpoint_url=s3_server, sample=0).valid
    with Lease(recipe.store, "first"), pytest.raises(EnvironmentFault, match="in use: first"):
        build(recipe)


def test_an_unwritable_place_is_a_fault_of_the_environment(make_recipe: Maker) -> None:
    with pytest.raises(EnvironmentFault):
        build(make_recipe(store="/proc/sdoml"))


def test_what_does_not_fit_is_refused_before_it_starts(make_recipe: Maker) -> None:
    with pytest.raises(EnvironmentFault, match="an actor takes 64 CPUs"):
        build(make_recipe(resources={"cpus_per_actor": 64}))
    with pytest.raises(EnvironmentFault, match="an actor takes 10 TB of memory"):
        build(make_recipe(store=make_recipe().store.url + "-2", resources={"memory_per_actor": "9999GB"}))


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no dataset"):
        sdoml_dist.open_dataset(str(tmp_path / "none"))


def test_the_plan_is_what_was_written(built: Recipe) -> None:
    group = open_product(built.store.url).group
    start, stop = Plan(built).years()[2011]
    status = group["2011/status"][:]
    assert (status[start:stop] != 0).all()
    assert not status[:start].any()
    assert not status[stop:].any()
