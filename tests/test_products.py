"""AIA, HMI and EVE in one dataset: built, accounted for, resumed, aligned, selected, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdoml_dist
from sdoml_dist.cli import main
from sdoml_dist.engine.run import build
from sdoml_dist.engine.simulate import write_mission
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.report.quicklook import quicklook
from sdoml_dist.report.validate import validate
from sdoml_dist.sources.eve_simulator import true_irradiance
from sdoml_dist.store.align import nearest_good
from sdoml_dist.store.statistics import bin_edges
from tests.conftest import small
from tests.test_build import contents, same

PERIOD = {"start": "2014-03-01T12:00", "end": "2014-03-01T15:00"}
SIMULATED = {"kind": "simulator", "simulation": {"pixels": 128, "missing_rate": 0.1, "corrupt_rate": 0.1}}


def recipes(store: str) -> dict[str, Recipe]:
    common = {"period": PERIOD, "source": SIMULATED, "grid": {"pixels": 32}, "chunking": {"shard_slots": 5}}
    return {
        "aia": parse_recipe(small(store, **common)),
        "hmi": parse_recipe(small(store, **common, product="hmi", cadence="12min", tolerance="2min", channels=[])
                            | {"channels": ["Bx", "By", "Bz"]}),
        "hmi_45s": parse_recipe(small(store, **common, product="hmi_45s", cadence="45s", tolerance="22s", channels=["V_45s"])
                                | {"period": {"start": "2014-03-01T12:00", "end": "2014-03-01T12:15"}}),
        "eve": parse_recipe(small(store, **common, product="eve", cadence="1min", tolerance="0s")
                            | {"channels": ["Fe XX", "He II_2", "C III"], "chunking": {"shard_slots": 100}}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> dict[str, Recipe]:
    made = recipes(str(tmp_path_factory.mktemp("products") / "d"))
    for recipe in made.values():
        build(recipe)
    return made


def test_every_product_is_accounted_for(dataset: dict[str, Recipe]) -> None:
    url = dataset["aia"].store.url
    table = sdoml_dist.accounting(url)
    planned = {
        "171A": 30,
        "304A": 30,
        "Bx": 15,
        "By": 15,
        "Bz": 15,
        "V_45s": 20,
        "Fe XX": 180,
        "He II_2": 180,
        "C III": 180,
    }
    assert table.planned.drop("all").to_dict() == planned
    assert (table[["ok", "missing", "rejected", "failed"]].sum(axis=1) == table.planned).all()
    # What one record makes is there or not there together.
    codes = sdoml_dist.frames(url, product="hmi").pivot(index="time", columns="channel", values="reason")
    assert (codes["Bx"] == codes["Bz"]).all()
    assert "ok" in set(codes["Bx"])
    assert set(sdoml_dist.frames(url).outcome) == {"ok", "missing", "failed"}
    result = validate(url)
    assert result.valid, result.text()


def test_eve_gives_minute_means_and_says_what_is_missing(dataset: dict[str, Recipe]) -> None:
    url = dataset["eve"].store.url
    ds = sdoml_dist.open_dataset(url, product="eve")
    assert ds["Fe XX"].attrs["ion"] == "Fe XX"
    assert ds["Fe XX"].attrs["detector"] == "MEGS-A"
    assert {"wavelength_nm", "logT", "units"} <= set(ds["C III"].attrs)
    good = ds.status.sel(channel="Fe XX").values == 1
    assert 0 < good.sum() <= 180
    seconds = ds.time.values[good][:, None] + np.arange(0, 60, 10).astype("timedelta64[s]")
    names = [str(name) for name in ds.channel.values]
    from sdoml_dist.solar.eve import LINES

    column = [line.name for line in LINES].index("Fe XX")
    true = true_irradiance(0, seconds.ravel())[:, column].reshape(seconds.shape).mean(axis=1)
    assert np.median(np.abs(ds["Fe XX"].values[good] / true - 1)) < 0.01
    assert np.isnan(ds["Fe XX"].values[~good]).all()
    assert names == ["Fe XX", "He II_2", "C III"]
    reasons = set(sdoml_dist.frames(url, product="eve").reason)
    assert reasons <= {"ok", "missing_no_frame", "missing_no_sample", "failed_read"}


def test_megs_a_after_its_end_is_missing_not_zero(tmp_path: Path, ray_cluster: Any) -> None:
    data = small(
        str(tmp_path / "d"), product="eve", cadence="1min", tolerance="0s",
        channels=["Fe XX", "C III"], source={"kind": "simulator"}, chunking={"shard_slots": 1440},
    )  # fmt: skip
    recipe = parse_recipe(data | {"period": {"start": "2014-05-25T23:00", "end": "2014-05-27T14:00"}})
    assert build(recipe).exit_code is ExitCode.COMPLETE
    table = sdoml_dist.frames(recipe.store.url)
    after = table[(table.channel == "Fe XX") & (table.time >= np.datetime64("2014-05-26"))]
    assert set(after.reason) == {"missing_no_sample"}
    before = table[(table.channel == "Fe XX") & (table.time < np.datetime64("2014-05-26"))]
    assert (before.reason == "ok").all()
    ds = sdoml_dist.open_dataset(recipe.store.url)
    assert np.isnan(ds["Fe XX"].sel(time=slice("2014-05-26", None))).all()
    # MEGS-B goes on, on its duty cycle.
    assert np.isfinite(ds["C III"].sel(time="2014-05-26T13:30"))


def test_one_call_brings_everything_to_one_grid(dataset: dict[str, Recipe]) -> None:
    url = dataset["aia"].store.url
    ds = sdoml_dist.open_dataset(url, channels=["171A", "304A", "Bx", "Bz", "Fe XX"])
    assert ds.sizes["time"] == 15  # the coarsest cadence, 12 minutes
    assert [str(name) for name in ds.channel.values] == ["171A", "304A", "Bx", "Bz", "Fe XX"]
    assert ds["171A"].chunks is not None  # lazy
    aia, hmi = (sdoml_dist.open_dataset(url, product=name) for name in ("aia", "hmi"))
    for name, native in (("171A", aia), ("Bz", hmi)):
        valid = ds.valid.sel(channel=name).values
        assert valid.any()
        assert not valid.all()
        assert (np.isfinite(ds[name]).any(("y", "x")).values == valid).all()
        for time in ds.time.values[valid]:
            observed = native["T_OBS"].sel(channel=name).values.astype("datetime64[ns]")
            row = int(np.flatnonzero(observed == ds.observed.sel(channel=name, time=time).values)[0])
            np.testing.assert_array_equal(ds[name].sel(time=time).values, native[name].values[row])
            assert abs(observed[row] - time) <= np.timedelta64(360, "s")
    assert np.isnan(ds["EXPTIME"].sel(channel="Bz")).all()
    fine = sdoml_dist.open_dataset(url, channels=["171A", "Fe XX"], cadence="1min", tolerance="30s")
    assert fine.sizes["time"] == 180
    assert int(fine.valid.sel(channel="171A").sum()) <= 30
    with pytest.raises(UsageError, match="no channel '172A'"):
        sdoml_dist.open_dataset(url, channels=["172A"])


def test_nearest_means_nearest_in_utc() -> None:
    """The published join keeps the first sample that rounds to a slot, half a step early, and takes TAI for UTC."""
    grid = np.datetime64("2014-03-01T00:00", "ns") + np.arange(3) * np.timedelta64(720, "s")
    minutes = np.datetime64("2014-02-28T23:54", "ns") + np.arange(60) * np.timedelta64(60, "s")
    found = nearest_good(grid, minutes, np.ones(60, bool), 360)
    assert (minutes[found] == grid).all()
    # Unordered rows, as SDOML v2 has them, change nothing.
    order = np.random.default_rng(0).permutation(60)
    assert (minutes[order][nearest_good(grid, minutes[order], np.ones(60, bool), 360)] == grid).all()
    # A bad frame is never taken, however near; too far is nothing.
    good = minutes != grid[1]
    assert minutes[nearest_good(grid, minutes, good, 360)[1]] == grid[1] - np.timedelta64(60, "s")
    assert (nearest_good(grid, minutes, good, 30) == [6, -1, 30]).all()
    assert (nearest_good(grid, minutes, np.zeros(60, bool), 1e9) == -1).all()


def test_frames_are_selected_by_keywords_without_reading_images(dataset: dict[str, Recipe]) -> None:
    ds = sdoml_dist.open_dataset(dataset["aia"].store.url, product="aia", chunks={})
    short = ds["171A"][(ds.EXPTIME.sel(channel="171A") <= 2.0).values]
    assert short.chunks is not None
    assert short.sizes["time"] == int((ds.EXPTIME.sel(channel="171A") <= 2.0).sum()) > 0
    assert short.mean().compute() > 0


def test_maps_and_pictures_of_hmi(dataset: dict[str, Recipe], tmp_path: Path) -> None:
    url = dataset["hmi"].store.url
    ds = sdoml_dist.open_dataset(url, product="hmi")
    time = ds.time.values[int(np.flatnonzero(ds.status.sel(channel="Bz").values == 1)[0])]
    seen = sdoml_dist.to_map(ds, "Bz", time)
    assert seen.detector == "HMI"
    assert seen.unit == "G"
    assert seen.rsun_obs.to_value("arcsec") / seen.scale[0].to_value("arcsec / pix") == pytest.approx(32 * 976 / 2457.6)
    assert quicklook(url, tmp_path / "b.png", product="hmi").stat().st_size > 2000
    with pytest.raises(UsageError, match="no images"):
        quicklook(url, tmp_path / "e.png", product="eve")


@pytest.mark.slow
def test_a_product_resumes_beside_the_others(tmp_path: Path, dataset: dict[str, Recipe], ray_cluster: Any) -> None:
    """Built in another order and in two parts, the dataset is the same bit for bit."""
    made = recipes(str(tmp_path / "d"))
    for name in ("eve", "hmi", "aia", "hmi_45s"):
        whole = made[name]
        if name == "hmi":
            build(whole.extended(end="2014-03-01T13:00"))
            build(whole, extend=True)
        else:
            build(whole)
    same(contents(dataset["aia"].store.url), contents(made["aia"].store.url))
    # A second product does not disturb the identity of the first.
    assert build(made["aia"]).outcomes.total() == 0


@pytest.mark.slow
def test_files_of_hmi_and_eve_are_found_by_name(tmp_path: Path, dataset: dict[str, Recipe], ray_cluster: Any) -> None:
    """Written as files and read back through the index, the records give the same dataset as straight from the simulator."""
    for name in ("hmi", "eve"):
        recipe = dataset[name]
        config = recipe.source.simulation  # type: ignore[union-attr]
        margin = np.timedelta64(3600, "s")
        write_mission(
            config, recipe.contents, tmp_path / "files", [bundle.name for bundle in recipe.bundles],
            recipe.period.first - margin, recipe.period.last + margin,
        )  # fmt: skip
        data = recipe.model_dump(mode="json")
        data["source"] = {
            "kind": "files",
            "url": str(tmp_path / "files"),
            "pixels": 128,
            "glob": "**/*.fit*",
            "index": "name",
        }
        data["store"] = {"url": str(tmp_path / name)}
        again = parse_recipe(data)
        build(again)
        ours, theirs = contents(recipe.store.url), contents(again.store.url)
        values = [path for path in theirs if path.rsplit("/", 1)[1] in (*recipe.channels, "status")]
        assert len(values) > len(recipe.channels)
        same({path: ours[path] for path in values}, {path: theirs[path] for path in values})


def test_the_command_line_knows_products(dataset: dict[str, Recipe], capsys: pytest.CaptureFixture[str]) -> None:
    url = dataset["aia"].store.url
    assert main(["inspect", url]) == 0
    out = capsys.readouterr().out
    for title in ("AIA", "HMI vector field", "EVE lines", "Fe XX"):
        assert title in out
    assert main(["status", url]) in (0, 3)
    assert "C III" in capsys.readouterr().out


def test_the_histogram_holds_fields_of_both_signs() -> None:
    assert bin_edges()[0] == pytest.approx(-1e4)
    assert bin_edges()[-1] == pytest.approx(1e7)


def test_diodes_from_real_files(tmp_path: Path, real_data: Path, ray_cluster: Any) -> None:
    """ESP level 1 of 2011-02-15 (15 s around a flare) and level 0CS of 2016-06-10, as LASP gives them."""
    import sunpy.data.test

    folder = tmp_path / "files"
    folder.mkdir()
    esp = real_data / "tables/eve_l1_esp_2011046_00_truncated.fits"
    (folder / "esp_L1_2011046_006.fit").write_bytes(esp.read_bytes())
    text = Path(sunpy.data.test.rootdir) / "EVE_L0CS_DIODES_1m_truncated.txt"
    (folder / "20160610_EVE_L0CS_DIODES_1m.txt").write_bytes(text.read_bytes())
    recipe = parse_recipe(
        {
            "name": "diodes", "product": "eve_diodes", "cadence": "1min", "tolerance": "0s",
            "period": {"start": "2016-06-10", "end": "2016-06-10T00:12"}, "chunking": {"shard_slots": 1440},
            "source": {"kind": "files", "url": str(folder), "glob": "*"}, "store": {"url": str(tmp_path / "d")},
        }
    )  # fmt: skip
    assert build(recipe).exit_code is ExitCode.COMPLETE
    ds = sdoml_dist.open_dataset(recipe.store.url)
    rows = [line.split() for line in text.read_text().splitlines() if line and not line.startswith(";")][1:]
    # Columns of level 0CS: HHMM, XRS-B, XRS-A, SEM, 0.1-7, 17.1, 25.7, 30.4, 36.6, dark, 121.6 ...
    first = {row[0]: [float(value) for value in row[1:]] for row in rows if len(row) > 10}
    assert float(ds["ESP_17.1nm"][0]) == pytest.approx(first["0000"][4], rel=1e-6)
    assert float(ds["ESP_30.4nm"][0]) == pytest.approx(first["0000"][6], rel=1e-6)
    assert ds.status.sel(channel="ESP_17.1nm").values.tolist() == [1] * 10 + [12, 12]
    early = parse_recipe(
        recipe.model_dump(mode="json") | {"period": {"start": "2011-02-15T01:40", "end": "2011-02-15T02:30"},
                                          "store": {"url": str(tmp_path / "e")}}
    )  # fmt: skip
    build(early)
    ds = sdoml_dist.open_dataset(early.store.url)
    seen = np.isfinite(ds["ESP_0.1-7nm"].values)
    assert 35 < seen.sum() < 50
    # The soft X-rays rise in the X2.2 flare of 2011-02-15, 01:56 UT.
    curve = ds["ESP_0.1-7nm"].to_series().dropna()
    assert "01:5" in str(curve.idxmax())
    assert curve.max() > 2 * curve.iloc[0]
