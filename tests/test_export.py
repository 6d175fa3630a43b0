"""Exports in the published layouts, used as the published notebooks use them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import sunpy.map
import zarr

import sdoml_dist
from sdoml_dist.engine.export import export
from sdoml_dist.engine.run import build
from sdoml_dist.errors import ExitCode, StoreError, UsageError
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.eve import LINES
from sdoml_dist.solar.times import parse_fits_time
from sdoml_dist.store.export import Exporter, published_factor
from sdoml_dist.store.reader import open_products
from sdoml_dist.store.template import NOT_A_TIME
from tests.conftest import small

PERIOD = {"start": "2014-03-01T12:00", "end": "2014-03-01T15:00"}
PIXELS = 64


def build_small(store: str) -> None:
    """Build 30 slots of two channels, 15 of the vector field and 180 minutes of three lines."""
    rates = {"pixels": 128, "missing_rate": 0.1, "flagged_rate": 0.05, "corrupt_rate": 0.05}
    common = {
        "period": PERIOD, "source": {"kind": "simulator", "simulation": rates}, "chunking": {"shard_slots": 15},
        "resources": {},
    }  # fmt: skip
    build(parse_recipe(small(store, **common)))
    field = {"product": "hmi", "cadence": "12min", "tolerance": "2min", "channels": ["Bx", "By", "Bz"]}
    build(parse_recipe(small(store, **common, **field)))
    lines = {"product": "eve", "cadence": "1min", "tolerance": "0s", "channels": ["Fe XX", "He II_2", "C III"]}
    build(parse_recipe(small(store, **common | lines | {"chunking": {"shard_slots": 100}})))


def shared_dataset(factory: pytest.TempPathFactory) -> str:
    """Return the small dataset that exports and imports are tested with, built once per session."""
    place = factory.getbasetemp() / "exported-dataset"
    if not place.exists():
        build_small(str(place))
    return str(place)


def shared_export(factory: pytest.TempPathFactory) -> Path:
    """Return its export to Zarr, made once per session; it is only read."""
    folder = factory.getbasetemp() / "published-v2"
    if not folder.exists():
        summary = export(shared_dataset(factory), str(folder), chunk_frames=10)
        assert summary.exit_code is ExitCode.COMPLETE
        assert summary.resumed_units == 0
        stores = {Path(place).name for place in summary.places}
        assert stores == {"sdomlv2.zarr", "sdomlv2_hmi.zarr", "sdomlv2_eve.zarr"}
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> str:
    return shared_dataset(tmp_path_factory)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> Path:
    return shared_export(tmp_path_factory)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def good(url: str, channel: str) -> tuple[np.ndarray, np.ndarray]:
    """Return times and values of the good frames."""
    ds = sdoml_dist.open_dataset(url, product={"B": "hmi"}.get(channel[0], "eve" if " " in channel else "aia"))
    ok = ds.status.sel(channel=channel).values == 1
    return ds.time.values[ok], ds[channel].values[ok]


def test_the_first_published_notebook_runs(url: str, exported: Path) -> None:
    root = zarr.open(str(exported / "sdomlv2.zarr"), mode="r")
    assert root.metadata.zarr_format == 2
    assert "171A" in str(root.tree())
    assert sorted(root) == ["2014"]
    data = root["2014"]["171A"]
    _, values = good(url, "171A")
    assert data.shape == (len(values), PIXELS, PIXELS)
    assert data.dtype == np.float32
    assert data.chunks == (10, PIXELS, PIXELS)
    compressor = json.loads((exported / "sdomlv2.zarr/2014/171A/.zarray").read_text())["compressor"]
    assert (compressor["cname"], compressor["clevel"], compressor["shuffle"]) == ("zstd", 5, 2)
    np.testing.assert_array_equal(data[:], np.nan_to_num(values))
    # Exposure times as a list, and images chosen by it through dask.
    lazy = da.from_array(data)
    assert lazy.shape == data.shape
    exposure = data.attrs["EXPTIME"]
    assert isinstance(exposure, list)
    chosen = np.array(exposure) < 2.0
    assert len(exposure) == len(values)
    np.testing.assert_array_equal(lazy[chosen].compute(), np.nan_to_num(values)[chosen])
    # A stretch of the data and of every attribute.
    part, attributes = lazy[5:15], {key: value[5:15] for key, value in data.attrs.items()}
    assert part.mean(axis=(1, 2)).compute().shape == (10,)
    assert {len(value) for value in attributes.values()} == {10}
    assert part[:, ::2, ::2].shape == (10, PIXELS // 2, PIXELS // 2)


def test_frames_are_found_by_the_nearest_t_obs(url: str, exported: Path) -> None:
    times, values = good(url, "304A")
    data = zarr.open(str(exported / "sdomlv2.zarr"), mode="r")["2014/304A"]
    observed = np.array([parse_fits_time(text) for text in data.attrs["T_OBS"]])
    assert (np.diff(observed) > np.timedelta64(0, "ns")).all()
    for time_, image in zip(times, values, strict=True):
        index = int(np.abs(observed - time_).argmin())
        assert abs(observed[index] - time_) < np.timedelta64(60, "s")
        np.testing.assert_array_equal(data[index], np.nan_to_num(image))


def test_maps_have_the_right_limb_and_date(url: str, exported: Path) -> None:
    times, _ = good(url, "171A")
    data = zarr.open(str(exported / "sdomlv2.zarr"), mode="r")["2014/171A"]
    attributes = dict(data.attrs)
    header = {key: values[3] for key, values in attributes.items()}
    seen = sunpy.map.Map((data[3], header))
    assert seen.rsun_obs.to_value("arcsec") / seen.scale[0].to_value("arcsec / pix") == pytest.approx(
        PIXELS * 976 / 2457.6
    )
    assert seen.reference_pixel.x.to_value("pix") == pytest.approx((PIXELS - 1) / 2)
    assert abs(seen.date.datetime64 - times[3]) < np.timedelta64(60, "s")
    assert seen.dimensions.x.value == header["NAXIS1"] == PIXELS
    assert str(seen.unit) == "DN / s"
    assert header["DEG_COR"] == 1.0
    assert header["R_SUN"] == pytest.approx(PIXELS * 976 / 2457.6)
    assert header["TEMPCCD"] is not None
    assert not {"SIMPLE", "KEYCOMMENTS"} & set(attributes)
    assert all(key == key.upper() for key in attributes)


def test_hmi_and_eve_are_read_as_published(url: str, exported: Path) -> None:
    root = zarr.open(str(exported / "sdomlv2_hmi.zarr"), mode="r")
    assert sorted(root["2014"]) == ["Bx", "By", "Bz"]
    times, values = good(url, "Bz")
    data = root["2014/Bz"]
    np.testing.assert_array_equal(data[:], np.nan_to_num(values))
    header = {key: entries[0] for key, entries in data.attrs.items()}
    assert header["T_OBS"].endswith("_TAI")
    assert header["PIXLUNIT"] == "Gauss"
    seen = sunpy.map.Map((data[0], header))
    assert seen.detector == "HMI"
    assert abs(parse_fits_time(header["T_OBS"]) - times[0]) < np.timedelta64(90, "s")
    # DATE-OBS is the beginning of the 12 minutes that a record of HMI is made from.
    assert abs(seen.date.datetime64 - times[0]) < np.timedelta64(12, "m")
    lines = zarr.open(str(exported / "sdomlv2_eve.zarr"), mode="r")["MEGS-A"]
    assert sorted(lines) == ["C III", "Fe XX", "He II_2", "Time"]
    assert lines["Time"].dtype == np.dtype("<U23")
    assert dict(lines["He II_2"].attrs) == {"wavelength": "30.3783 nm", "logT": "4.7 MK", "ion": "He II"}
    ds = sdoml_dist.open_dataset(url, product="eve")
    rows = (ds.status.values == 1).any(axis=1)
    np.testing.assert_array_equal(lines["Time"][:].astype("datetime64[ns]"), ds.time.values[rows])
    for name in ("Fe XX", "C III"):
        assert lines[name].dtype == np.float32
        np.testing.assert_array_equal(lines[name][:], np.nan_to_num(ds[name].values[rows], nan=-1))


def test_an_interrupted_export_goes_on_to_the_same_bytes(url: str, exported: Path, tmp_path: Path) -> None:
    for name in ("sdomlv2.zarr", "sdomlv2_eve.zarr"):
        shutil.copytree(exported / name, tmp_path / name)
    for name in ("aia", "eve"):
        shutil.copy(exported / f"sdoml-export-{name}.json", tmp_path)
    whole = files(tmp_path)
    channels = ["171A", "304A", "Fe XX", "He II_2", "C III"]
    again = export(url, str(tmp_path), channels=channels, chunk_frames=10)
    assert again.units == 0
    assert again.resumed_units >= 16
    chunks = [path for path in whole if path.endswith(".0.0")]
    for path in chunks[::2]:
        (tmp_path / path).unlink()
    (tmp_path / "sdomlv2_eve.zarr/MEGS-A/Time/0").unlink()
    stamps = {path: (tmp_path / path).stat().st_mtime_ns for path in chunks[1::2]}
    resumed = export(url, str(tmp_path), channels=channels, chunk_frames=10)
    # The chunks, and the attributes of their arrays, which stand for completeness.
    arrays = {path.rsplit("/", 1)[0] for path in chunks[::2]}
    assert resumed.units == len(chunks[::2]) + len(arrays) + 2
    assert files(tmp_path) == whole
    assert {path: (tmp_path / path).stat().st_mtime_ns for path in stamps} == stamps


def test_another_version_or_other_options_are_refused(url: str, exported: Path) -> None:
    before = files(exported)
    with pytest.raises(StoreError, match="chunk_frames: 10 -> 20"):
        export(url, str(exported), chunk_frames=20)
    old = open_products(url)[0].session
    root = zarr.open_group(old.store, mode="r")
    assert "aia" in root
    from sdoml_dist.store.reader import as_store
    from sdoml_dist.store.repository import BRANCH, open_repository

    history = [entry.id for entry in open_repository(as_store(url)).ancestry(branch=BRANCH)]
    with pytest.raises(StoreError, match="snapshot"):
        export(url, str(exported), version=history[1], chunk_frames=10)
    with pytest.raises(UsageError, match="no layout"):
        export(url, str(exported), layout="sdoml-v3")  # type: ignore[arg-type]
    assert files(exported) == before


def test_v1_is_the_sum_over_synoptic_pixels(url: str, exported: Path, tmp_path: Path) -> None:
    summary = export(url, str(tmp_path), layout="sdoml-v1")
    times, values = good(url, "171A")
    assert len(list((tmp_path / "2014/AIA/0171/03/01").iterdir())) == len(times)
    for time_, image in zip(times, values, strict=True):
        stamp = str(time_.astype("datetime64[m]"))[11:].replace(":", "")
        loaded = np.load(tmp_path / f"2014/AIA/0171/03/01/AIA20140301_{stamp}_0171.npz")["x"]
        assert loaded.dtype == np.float32
        np.testing.assert_allclose(loaded, np.nan_to_num(image) * (1024 / PIXELS) ** 2, rtol=1e-6)
    recipe = open_products(url)[0].recipe
    halved = recipe.model_copy(update={"grid": recipe.grid.model_copy(update={"pixels": 512})})
    assert published_factor(halved, "sdoml-v1") == 4 * published_factor(halved, "sdoml-v2") == 4
    summed = halved.model_copy(update={"grid": halved.grid.model_copy(update={"convention": "sum"})})
    assert published_factor(summed, "sdoml-v1") == 4 * published_factor(summed, "sdoml-v2")
    times, values = good(url, "By")
    stamp = str(times[0].astype("datetime64[m]"))[11:].replace(":", "")
    np.testing.assert_array_equal(
        np.load(tmp_path / f"2014/HMI/by/03/01/HMI20140301_{stamp}_by.npz")["x"], np.nan_to_num(values[0])
    )
    irradiance = np.load(tmp_path / "EVE/irradiance.npy")
    assert irradiance.shape[1] == len(LINES) == len(np.load(tmp_path / "EVE/name.npy"))
    assert (irradiance[:, 0] == -1).all()
    column = [line.name for line in LINES].index("Fe XX")
    lines = zarr.open(str(exported / "sdomlv2_eve.zarr"), mode="r")["MEGS-A"]
    np.testing.assert_array_equal(irradiance[:, column], lines["Fe XX"][:])
    np.testing.assert_array_equal(np.load(tmp_path / "EVE/iso.npy"), lines["Time"][:])
    assert np.load(tmp_path / "EVE/jd.npy")[0] == pytest.approx(2456718.0, abs=0.2)
    # A day with a hole is done again, and with the same bytes.
    whole = files(tmp_path)
    next((tmp_path / "2014/AIA/0304/03/01").iterdir()).unlink()
    assert export(url, str(tmp_path), layout="sdoml-v1").units == 1
    assert files(tmp_path) == whole
    assert summary.frames == len(list(tmp_path.rglob("*.npz"))) + len(irradiance)


@pytest.mark.slow
def test_an_object_store_takes_the_export(url: str, exported: Path, s3_server: str) -> None:
    place = "s3://sdoml/exports"
    options = {"endpoint_url": s3_server}
    summary = export(url, place, product="aia", chunk_frames=10, **options)
    assert summary.units > 0
    assert export(url, place, product="aia", chunk_frames=10, **options).units == 0
    root = zarr.open(f"{place}/sdomlv2.zarr", mode="r", storage_options=options)
    local = zarr.open(str(exported / "sdomlv2.zarr"), mode="r")
    np.testing.assert_array_equal(root["2014/171A"][:], local["2014/171A"][:])
    assert dict(root["2014/171A"].attrs) == dict(local["2014/171A"].attrs)


@pytest.mark.slow
def test_a_signal_drains_and_the_same_command_goes_on(url: str, exported: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom sdoml_dist.engine.export import export\nfrom sdoml_dist.errors import SdomlError\n"
        "try: export(sys.argv[1], sys.argv[2], product='aia', chunk_frames=1, cpus=1)\n"
        "except SdomlError as error: print(error); sys.exit(int(error.exit_code))"
    )
    command = [sys.executable, "-c", script, url, str(tmp_path)]
    environment = {**os.environ}
    environment.pop("RAY_ADDRESS", None)
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.0.0")) and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=90)
    assert run.returncode == ExitCode.STOPPED, out
    before = files(tmp_path)
    written = [path for path in before if path.endswith(".0.0")]
    assert 0 < len(written) < 40
    summary = export(url, str(tmp_path), product="aia", chunk_frames=1)
    assert summary.resumed_units == len(written)
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    ours, theirs = (zarr.open(str(folder / "sdomlv2.zarr"), mode="r") for folder in (exported, tmp_path))
    for channel in ("171A", "304A"):
        np.testing.assert_array_equal(theirs[f"2014/{channel}"][:], ours[f"2014/{channel}"][:])
        assert dict(theirs[f"2014/{channel}"].attrs) == dict(ours[f"2014/{channel}"].attrs)


def test_frames_without_t_obs_get_the_stored_one() -> None:
    observed = np.array([np.datetime64("2014-03-01T12:00:01.25", "ns").astype(np.int64), NOT_A_TIME])
    for aia, expected in ((True, "2014-03-01T12:00:01.25Z"), (False, "2014.03.01_12:00:36_TAI")):
        columns: dict[str, list[Any]] = {}
        Exporter._complete_times(columns, observed, aia=aia)
        assert columns["T_OBS"] == [expected, None]
