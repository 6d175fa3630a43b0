"""Timelines in the published layouts, written and read back; on the real series where they are at hand."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from sdoml_dist.errors import StoreError
from sdoml_dist.solar.emergence import BENCHMARK_TEST, BENCHMARK_TRAIN, Scaling, Timeline, joined, windows
from sdoml_dist.solar.tiles import without_baseline
from sdoml_dist.solar.times import tai_to_utc
from sdoml_dist.store.emergence_export import read_npz, write_hdf5, write_npz


def timeline(region: int = 11158, steps: int = 140, seed: int = 0, tiles: int = 81) -> Timeline:
    rng = np.random.default_rng([region, seed])
    # Middles of windows: 18:59:37.5 TAI is 34 seconds later than UTC in 2011.
    times = np.datetime64("2011-02-08T18:59:03.500", "ns") + np.arange(steps) * np.timedelta64(3600, "s")
    power = rng.normal(1e8, 1e7, (4, tiles, steps)).astype(np.float32)
    return Timeline(region, times, power, *(rng.normal(size=(2, tiles, steps)) + np.array([90, 5e4])[:, None, None]))


def same(found: Timeline, wanted: Timeline) -> None:
    assert found.region == wanted.region
    assert (found.times == wanted.times).all()
    for name in ("power", "flux", "intensity"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_files_are_those_that_were_published(tmp_path: Path) -> None:
    region = timeline(steps=5)
    paths = write_npz({11158: region}, tmp_path)
    names = ["mean_pmdop11158", "mean_mag11158", "mean_int11158"]
    assert paths == [tmp_path / "AR11158" / f"{name}{end}.npz" for end in ("", "_flat") for name in names]
    assert sorted(tmp_path.rglob("*.npz")) == sorted(paths)
    assert [path.name for path in tmp_path.iterdir()] == ["AR11158"]
    with np.load(paths[3]) as data:
        assert sorted(data) == [f"arr_{number}" for number in range(5)]
        assert data["arr_0"].dtype == np.float64
        for band in range(4):
            np.testing.assert_array_equal(data[f"arr_{band}"], without_baseline(region.power[band].astype(np.float64)))
        assert not data["arr_2"].reshape(9, 9, 5)[[0, 8]].any()
        # The published stamp, in TAI, and as the object that the published files have pickled.
        assert data["arr_4"].dtype == "datetime64[us]"
        assert data["arr_4"].astype(datetime)[0] == datetime(2011, 2, 8, 18, 59, 37, 500_000)
    for path, values in ((paths[1], region.flux), (paths[2], region.intensity)):
        with np.load(path) as data:
            assert sorted(data) == ["arr_0", "arr_1"]
            np.testing.assert_array_equal(data["arr_0"], values)
    with np.load(write_npz({11158: region}, tmp_path / "utc", scale="utc")[0]) as data:
        assert data["arr_4"][0] == np.datetime64("2011-02-08T18:59:03.500")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    regions = {11158: timeline(steps=6), 13165: timeline(13165, 7)}
    regions[13165].flux[3, 2] = np.nan
    written = write_npz(regions, tmp_path, ("", "flat", "d", "dflat"))
    found = read_npz(tmp_path, "")
    assert list(found) == [11158, 13165]
    for number, region in regions.items():
        same(found[number], region)
    flat, slope = read_npz(tmp_path, "flat")[11158], read_npz(tmp_path, "d")[11158]
    np.testing.assert_array_equal(flat.intensity, without_baseline(regions[11158].intensity))
    # numpy.gradient: half the step over two in the middle, the step at the ends.
    flux = regions[11158].flux
    np.testing.assert_allclose(slope.flux[:, 2], (flux[:, 3] - flux[:, 1]) / 2)
    np.testing.assert_allclose(slope.flux[:, 0], flux[:, 1] - flux[:, 0])
    np.testing.assert_allclose(read_npz(tmp_path, "dflat")[11158].flux, np.gradient(flat.flux, axis=1))
    # Equal timelines give equal bytes; taking the baseline off again changes nothing but the last digit.
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_npz(regions, tmp_path, ("", "flat", "d", "dflat"))] == before
    write_npz({11158: flat}, tmp_path / "again", ("flat",), scale="utc")
    same(read_npz(tmp_path / "again", scale="utc")[11158], flat)


def test_what_cannot_be_written_or_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="variants are some of"):
        write_npz({11158: timeline()}, tmp_path, ("flat", "flatter"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="80 tiles"):
        write_npz({11158: timeline(tiles=80)}, tmp_path)
    with pytest.raises(ValueError, match="too few"):
        write_npz({11158: timeline(steps=1)}, tmp_path, ("d",))
    with pytest.raises(StoreError, match="no regions in"):
        read_npz(tmp_path)
    power, flux, _ = write_npz({11158: timeline(steps=4)}, tmp_path, ("flat",))
    good = flux.read_bytes()
    flux.unlink()
    with pytest.raises(StoreError, match=r"no file .*mean_mag11158_flat"):
        read_npz(tmp_path)
    flux.write_bytes(good[:300])
    with pytest.raises(StoreError, match=r"cannot read .*mean_mag11158_flat"):
        read_npz(tmp_path)
    np.savez(flux, np.zeros((81, 4)), np.arange(4).astype("datetime64[us]"))
    with pytest.raises(StoreError, match="other times than the power"):
        read_npz(tmp_path)
    np.savez(flux, np.zeros((81, 4)), np.zeros(4))
    with pytest.raises(StoreError, match="not the times"):
        read_npz(tmp_path)
    np.savez(flux, np.zeros((81, 4)))
    with pytest.raises(StoreError, match="no array arr_1"):
        read_npz(tmp_path)
    # As published: times are pickled objects, which are not loaded.
    np.savez(power, *[np.zeros((81, 1))] * 4, np.array([datetime(2011, 2, 8)], dtype=object))
    with pytest.raises(StoreError, match="pickled Python objects"):
        read_npz(tmp_path)


def test_examples_are_as_the_published_reader_wants_them(tmp_path: Path) -> None:
    regions = {11158: timeline(), 11130: timeline(11130, 139)}
    regions[11158].intensity[40, 134] = np.nan
    path = tmp_path / "deep" / "test.h5"
    # 8 and 7 windows; one target (index 3 of 11158, step 3 + 131) and, by the baseline, none of its column is missing.
    assert write_hdf5(regions, path) == 14
    assert [entry.name for entry in path.parent.iterdir()] == ["test.h5"]
    prepared = windows(Timeline(0, regions[11130].times, *flat(regions[11130])))
    with h5py.File(path, "r") as file:
        # By name, not by number.
        assert list(file)[:4] == ["index_0", "index_1", "index_10", "index_11"]
        assert file.attrs["time_scale"] == "TAI"
        assert [file[f"index_{number}"].attrs["region"] for number in (0, 6, 7, 13)] == [11130, 11130, 11158, 11158]
        group = file["index_5"]
        assert group["input_matrix"].shape == (120, 5, 63)
        assert group["output_matrix"].shape == (63,)
        assert group["input_matrix"].dtype == np.float64
        np.testing.assert_array_equal(group["input_matrix"][:], prepared.inputs[5])
        np.testing.assert_array_equal(group["output_matrix"][:], prepared.targets[5])
        assert group["input_times"].shape == (120,)
        assert group["input_times"][0] == b"2011-02-08 23:59:37.500000"
        # Step 5 + 131 = 136 after the first: five days and sixteen hours.
        assert group["output_time"][()] == group["outout_time"][()] == b"2011-02-14 10:59:37.500000"
        assert datetime.fromisoformat(group["output_time"][()].decode()).minute == 59
        # Example 3 of 11158 was left out: the one after the third is the fifth.
        assert file["index_10"]["input_times"][0] == b"2011-02-08 22:59:37.500000"
    with pytest.raises(ValueError, match=r"no timelines of the regions \[11999\]"):
        write_hdf5(regions, path, [11999])
    with pytest.raises(ValueError, match="no complete example"):
        write_hdf5({1: timeline(1, 132)}, path)
    # What was there stays whole.
    assert [entry.name for entry in path.parent.iterdir()] == ["test.h5"]
    with h5py.File(path, "r") as file:
        assert len(file) == 14


def flat(region: Timeline, grid: int = 9) -> list[np.ndarray]:
    parts = (region.power, region.flux, region.intensity)
    return [without_baseline(values.astype(np.float64), grid) for values in parts]


def test_other_grids_and_scales_of_values(tmp_path: Path) -> None:
    region = timeline(7, 30, tiles=25)
    scaling = Scaling.of(windows(Timeline(7, region.times, *flat(region, 5)), 6, 2, 5))
    path = tmp_path / "small.h5"
    assert write_hdf5({7: region}, path, scaling=scaling, input_steps=6, horizon=2, scale="utc", dtype="float32") == 22
    with h5py.File(path, "r") as file:
        inputs = np.stack([file[f"index_{number}"]["input_matrix"][:] for number in range(22)])
        assert inputs.shape == (22, 6, 5, 15)
        assert inputs.dtype == np.float32
        np.testing.assert_array_equal(inputs.min(axis=(0, 1, 3)), 0)
        np.testing.assert_array_equal(inputs.max(axis=(0, 1, 3)), 1)
        assert file["index_0"]["input_times"][0] == b"2011-02-08 18:59:03.500000"
        np.testing.assert_array_equal(file.attrs["input_maximum"], scaling.input_maximum)
        assert file.attrs["target_minimum"] == scaling.target_minimum


@pytest.fixture(scope="module")
def real(real_data: Path) -> dict[int, Timeline]:
    found = {}
    for path in sorted((real_data / "solared").glob("AR1[12]*.npz")):
        with np.load(path) as data:
            times = tai_to_utc(data["time"].astype("datetime64[ns]"))
            region = int(path.stem[2:])
            found[region] = Timeline(region, times, data["power"], data["unsigned_flux"], data["continuum"])
    return found


def test_the_real_series_come_back(real: dict[int, Timeline], real_data: Path, tmp_path: Path) -> None:
    # One whole, one with a gap in time, two with missing values. All are without baseline already.
    chosen = {number: real[number] for number in (11158, 11726, 11162, 12144)}
    write_npz(chosen, tmp_path, ("flat",))
    found = read_npz(tmp_path)
    for number, region in chosen.items():
        same(found[number], region)
        with np.load(real_data / "solared" / f"AR{number}.npz") as data:
            with np.load(tmp_path / f"AR{number}" / f"mean_pmdop{number}_flat.npz") as written:
                np.testing.assert_array_equal(written["arr_3"], data["power"][3])
                assert (written["arr_4"] == data["time"]).all()
            with np.load(tmp_path / f"AR{number}" / f"mean_int{number}_flat.npz") as written:
                np.testing.assert_array_equal(written["arr_0"], data["continuum"])


def test_the_test_half_of_the_benchmark(real: dict[int, Timeline], tmp_path: Path) -> None:
    test = joined([windows(real[number]) for number in BENCHMARK_TEST])
    # The extrema of the benchmark's own class: those of the training windows (to five digits).
    scaling = Scaling(
        np.array([-7.4745e07, -3.6508e08, -1.6605e08, -3.5536e07, -7.0342e01]),
        np.array([2.3280e07, 1.4658e08, 5.8470e07, 2.7218e07, 4.9013e02]),
        -12419.5938,
        2505.3042,
    )
    path = tmp_path / "test.h5"
    assert write_hdf5(real, path, BENCHMARK_TEST, scaling=scaling, dtype="float32") == 208
    with h5py.File(path, "r") as file:
        # As the published dataset lists them, and by number.
        assert len(list(file.keys())) == 208
        groups = [file[f"index_{number}"] for number in range(208)]
        assert [int(group.attrs["region"]) for group in groups] == list(test.region)
        inputs = np.stack([group["input_matrix"][:] for group in groups])
        targets = np.stack([group["output_matrix"][:] for group in groups])
        stamps = [group["output_time"][()].decode() for group in groups]
        assert groups[0]["input_times"][0] == b"2013-03-07 18:59:37.000000"
    np.testing.assert_allclose(inputs, scaling.inputs(test.inputs), atol=2e-6)
    np.testing.assert_allclose(targets, scaling.targets(test.targets), atol=2e-6)
    assert (tai_to_utc(np.array(stamps, dtype="datetime64[ns]")) == test.times).all()
    # The training half is 3240: nothing is lost to missing values, and nothing of it needs writing here.
    assert all(real[number].complete for number in BENCHMARK_TRAIN)
    assert sum(real[number].times.size - 132 for number in BENCHMARK_TRAIN) == 3240
