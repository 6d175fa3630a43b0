"""Each fault of a file gets its status, and nothing is lost or counted twice."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import sdoml_dist
from sdoml_dist.engine.run import build
from sdoml_dist.errors import EnvironmentFault, ExitCode
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.hmi_simulator import hmi_file_name, hmi_fits, planned_records
from sdoml_dist.sources.simulator import level1_fits, planned_frame
from tests.conftest import small

START = np.datetime64("2011-02-15T00:00", "ns")
STEP = np.timedelta64(360, "s")


def image_file(slot: int, **keywords: object) -> bytes:
    """Return a simulated frame's file with some keywords changed (None removes one)."""
    data = level1_fits(SimulationConfig(pixels=128), planned_frame(SimulationConfig(), "171A", START + slot * STEP))
    with fits.open(io.BytesIO(data)) as units:
        header, image = units[1].header.copy(), units[1].data
    pixels = keywords.pop("pixels", image)
    for name, value in keywords.items():
        if value is None:
            del header[name]
        else:
            header[name] = value
    buffer = io.BytesIO()
    if getattr(pixels, "dtype", None) == np.float32:
        del header["BLANK"]
        fits.HDUList([fits.PrimaryHDU(pixels, header)]).writeto(buffer, output_verify="silentfix")
    else:
        unit = fits.CompImageHDU(pixels, header, compression_type="RICE_1", tile_shape=(1, pixels.shape[1]))
        fits.HDUList([fits.PrimaryHDU(), unit]).writeto(buffer, output_verify="silentfix")
    return buffer.getvalue()


def faulty_files() -> dict[int, tuple[dict[str, bytes], str]]:
    """Return per slot the files (by the end of their names) and the reason expected."""
    good = image_file(1)
    cut = image_file(2)
    return {
        0: ({"": image_file(0)}, "ok"),
        1: ({"": good[: len(good) // 2]}, "failed_read"),
        2: ({"": cut[:100]}, "failed_read"),
        3: ({"": b"<html>503</html>"}, "failed_not_fits"),
        4: ({"": b""}, "failed_not_fits"),
        5: ({"": image_file(5, pixels=np.ones((64, 128), np.int16))}, "failed_shape"),
        6: ({"": image_file(6, pixels=np.full((128, 128), np.nan, np.float32))}, "failed_no_data"),
        7: ({"": image_file(7, EXPTIME=None)}, "failed_keyword"),
        8: ({"": image_file(8, CRPIX1="unknown")}, "failed_keyword"),
        9: ({"": image_file(9, QUALITY=4)}, "rejected_quality"),
        10: ({"": image_file(10, ACS_ECLP="YES")}, "rejected_eclipse"),
        11: ({"": image_file(11, EXPTIME=0.0)}, "rejected_exposure"),
        12: ({"": image_file(12, EXPTIME=99.0)}, "rejected_exposure"),
        13: ({"": image_file(13, WAVELNTH=193)}, "missing_no_frame"),  # indexed as another channel
        14: ({"": image_file(14, IMG_TYPE="DARK")}, "rejected_not_light"),
        15: ({"": image_file(15, T_OBS="2011-02-15T01:33:40.00Z")}, "missing_no_frame"),  # 220 s away
        16: ({"_a": image_file(16, DATE="2011-03-01T00:00:00", EXPTIME=1.0),
              "_b": image_file(16, DATE="2012-03-01T00:00:00")}, "ok"),
        17: ({}, "missing_no_frame"),
        18: ({"": image_file(18, DSUN_OBS=None, RSUN_OBS=None)}, "failed_keyword"),
        19: ({"": image_file(19, pixels=np.full((128, 128), -32768, np.int16))}, "failed_no_data"),
    }  # fmt: skip


def test_the_fault_matrix(tmp_path: Path, ray_cluster: object) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    matrix = faulty_files()
    # Names are in another order than times.
    for slot, (files, _) in reversed(matrix.items()):
        for end, data in files.items():
            time = (
                str((START + slot * STEP).astype("datetime64[s]")).replace("-", "").replace(":", "").replace("T", "_")
            )
            sub = folder / f"{97 - slot:02d}"
            sub.mkdir(exist_ok=True)
            name = f"AIA{time}_0171.fits" if not end else f"other{end}.fits"
            (sub / name).write_bytes(data)
    (folder / "README.fits").write_bytes(b"not a frame at all")
    recipe = parse_recipe(
        small(str(tmp_path / "d"), channels=["171A"], source={"kind": "files", "url": str(folder), "pixels": 128})
    )
    assert build(recipe).exit_code is ExitCode.FRAMES_FAILED
    table = sdoml_dist.frames(recipe.store.url, details=True)
    assert table.reason.tolist() == [reason for _, reason in matrix.values()]
    failed = table[table.outcome == "failed"]
    assert failed.detail.str.len().gt(5).all()
    assert failed.source.str.endswith(".fits").all()
    # Of two records of one time the later processing counts.
    assert table.EXPTIME[16] == pytest.approx(2.0)
    # A file that is mended is taken up when asked, and only that.
    (folder / "96" / "AIA20110215_000600_0171.fits").write_bytes(image_file(1))
    summary = build(recipe, retry=("failed",))
    assert summary.outcomes["ok"] == 1
    assert summary.outcomes.total() == len(failed)


def test_a_source_that_is_not_there(tmp_path: Path, ray_cluster: object) -> None:
    recipe = parse_recipe(small(str(tmp_path / "d"), source={"kind": "files", "url": str(tmp_path / "none")}))
    with pytest.raises(EnvironmentFault, match="There is no folder"):
        build(recipe)


def test_a_leap_second_has_its_frame(tmp_path: Path, ray_cluster: object) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number, time in enumerate(("2016-12-31T23:59:60.34Z", "2017-01-01T00:06:00.34Z")):
        (folder / f"{number}.fits").write_bytes(image_file(number, T_OBS=time))
    recipe = parse_recipe(
        small(
            str(tmp_path / "d"), channels=["171A"], period={"start": "2016-12-31T23:54", "end": "2017-01-01T00:12"},
            source={"kind": "files", "url": str(folder), "pixels": 128},
        )
    )  # fmt: skip
    build(recipe)
    assert sdoml_dist.frames(recipe.store.url).reason.tolist() == ["missing_no_frame", "ok", "ok"]


@pytest.mark.usefixtures("ray_cluster")
def test_faults_of_hmi_records(tmp_path: Path) -> None:
    """A record is as good as the worst of its files, and says which."""
    config = SimulationConfig(pixels=64)
    start = np.datetime64("2014-03-01T00:00", "ns")
    records = list(planned_records(config, "B", 720, start, start + 8 * np.timedelta64(720, "s")))
    segments = PRODUCTS["hmi"].bundle("B").segments
    for number, record in enumerate(records):
        for segment in segments:
            data = hmi_fits(config, record, segment, 720)
            if number == 1 and segment == "azimuth":
                continue  # a file is missing
            if number == 2 and segment == "inclination":
                data = data[: len(data) // 2]
            if number == 3 and segment == "field":
                data = b"<html>503</html>"
            if number == 4 and segment == "disambig":
                data = hmi_fits(SimulationConfig(pixels=32), record, segment, 720)
            if number == 5:
                data = hmi_fits(config, dataclasses.replace(record, fault="flagged"), segment, 720)
            if number == 6:
                data = hmi_fits(config, dataclasses.replace(record, fault="no_keyword"), segment, 720)
            if number == 7:
                data = hmi_fits(config, dataclasses.replace(record, fault="wrong_channel"), segment, 720)
            (tmp_path / hmi_file_name("hmi.B_720s", record, segment)).write_bytes(data)
    recipe = parse_recipe(
        small(
            str(tmp_path / "d"), product="hmi", cadence="12min", tolerance="2min", channels=["Bx", "By", "Bz"],
            period={"start": "2014-03-01", "end": "2014-03-01T01:48"}, chunking={"shard_slots": 9},
            source={"kind": "files", "url": str(tmp_path), "index": "name", "pixels": 64, "glob": "*.fits"},
        )
    )  # fmt: skip
    assert build(recipe).exit_code is ExitCode.FRAMES_FAILED
    table = sdoml_dist.frames(recipe.store.url, details=True)
    # T_REC 00:12:00 TAI is 00:11:25 UTC: the first record is that of the slot 00:12.
    expected = ["missing_no_frame", "ok", "missing_at_source", "failed_read", "failed_not_fits", "failed_shape",
                "rejected_quality", "failed_keyword", "rejected_channel"]  # fmt: skip
    for channel in ("Bx", "By", "Bz"):
        assert table[table.channel == channel].reason.tolist() == expected
    details = table[table.channel == "Bx"].detail.tolist()
    assert "azimuth" in details[2]
    assert "disambig" in details[5]
