"""Sources against real servers on loopback: the real drms client, the real S3 client, HTTP with faults."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from sdoml_dist.errors import EnvironmentFault, UsageError
from sdoml_dist.pipelines.prefetch import prefetch
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.recipe_sources import FilesConfig, JsocConfig, Network, SynopticConfig
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import utc_to_tai
from sdoml_dist.sources import files
from sdoml_dist.sources.download import fetch_bytes, public_url
from sdoml_dist.sources.files import FilesSource
from sdoml_dist.sources.hmi_simulator import hmi_fits, planned_records
from sdoml_dist.sources.jsoc import JsocSource
from sdoml_dist.sources.simulator import level1_fits, planned_frame
from sdoml_dist.sources.synoptic import SynopticSource
from tests.conftest import small
from tests.servers.jsoc import Jsoc, serve

NETWORK = {"retries": 4, "backoff_s": 0.01, "connect_timeout_s": 2.0, "read_timeout_s": 2.0}
QUICK = Network.model_validate(NETWORK)
START = np.datetime64("2011-02-15T00:00", "ns")
END = START + np.timedelta64(3600, "s")
STEP = np.timedelta64(360, "s")


@lru_cache
def frame_file(slot: int, channel: str = "171A") -> bytes:
    return level1_fits(
        SimulationConfig(pixels=64, jitter_s=0),
        planned_frame(SimulationConfig(jitter_s=0), channel, START + slot * STEP),
    )


@pytest.fixture
def jsoc() -> Iterator[Jsoc]:
    """A JSOC that has ten records of 171 A, the fourth flagged, and one of the synoptic tree's files."""
    rows = []
    for slot in range(10):
        time = START + slot * STEP
        record = str(utc_to_tai(time).astype("datetime64[s]")).replace("-", ".").replace("T", "_") + "_TAI"
        rows.append(
            {
                "T_REC": record,
                "T_OBS": f"{time.astype('datetime64[s]')}Z",
                "QUALITY": "0x00000100" if slot == 3 else "0x00000000",
                "DATE": "2011-03-01T00:00:00Z",
                "*recnum*": 1000 + slot,
                "record": f"aia.lev1_euv_12s[{record}][171]{{image}}",
                "file": frame_file(slot),
            }  # fmt: skip
        )
    server = Jsoc(records={("aia.lev1_euv_12s", 171): rows})
    server.tree["/data/aia/synoptic/2011/02/15/H0000/AIA20110215_0006_0171.fits"] = frame_file(1)
    with serve(server) as running:
        yield running


def jsoc_source(jsoc: Jsoc, cache: Path, **options: Any) -> JsocSource:
    data = {"kind": "jsoc", "url": jsoc.url, "email": "known@example.org", "network": NETWORK} | options
    return JsocSource(JsocConfig.model_validate(data), PRODUCTS["aia"], str(cache))


def test_jsoc_lists_records_once(jsoc: Jsoc, tmp_path: Path) -> None:
    source = jsoc_source(jsoc, tmp_path)
    jsoc.failures["rs_list"] = 2
    records = source.candidates("171A", START, END)
    assert [record.time for record in records] == [START + slot * STEP for slot in range(10)]
    assert [record.quality for record in records] == [0, 0, 0, 256, 0, 0, 0, 0, 0, 0]
    asked = jsoc.requests["rs_list"]
    again = pickle.loads(pickle.dumps(source))
    assert again.candidates("171A", START, END) == records
    assert jsoc.requests["rs_list"] == asked


def test_jsoc_exports_survive_faults_and_are_taken_up(
    jsoc: Jsoc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = jsoc_source(jsoc, tmp_path)
    records = [record for record in source.candidates("171A", START, END) if not record.quality]
    jsoc.pending, jsoc.cut, jsoc.failures["exp_request"] = 3, 2, 1
    # The run dies after three files.
    saved = source._save
    seen: list[str] = []

    def dying(name: str, data: bytes) -> None:
        if name.startswith("files/"):
            seen.append(name)
            if len(seen) > 3:
                raise KeyboardInterrupt
        saved(name, data)

    monkeypatch.setattr(source, "_save", dying)
    with pytest.raises(KeyboardInterrupt):
        source.export(records)
    exports = len(jsoc.exports)
    downloads = jsoc.requests["file"]
    source = jsoc_source(jsoc, tmp_path)
    source.export(records)
    for slot, record in zip((0, 1, 2, 4, 5, 6, 7, 8, 9), records, strict=True):
        assert source.fetch(record) == frame_file(slot)
    # The open request was taken up, and files that were there were not fetched again.
    assert len(jsoc.exports) <= exports + 1
    assert jsoc.requests["file"] - downloads <= len(records) - 3 + 1
    asked = jsoc.requests.total()
    source.export(records)
    assert jsoc.requests.total() == asked


def test_jsoc_gives_the_segments_of_hmi(tmp_path: Path) -> None:
    """Records of hmi.B_720s have four files and one prime key, T_REC in TAI."""
    config = SimulationConfig(pixels=64)
    planned = list(planned_records(config, "B", 720, START, END))
    rows = []
    for number, record in enumerate(planned):
        files = {name: hmi_fits(config, record, name, 720) for name in PRODUCTS["hmi"].bundle("B").segments}
        rows.append(
            {"T_REC": record.t_rec, "T_OBS": record.t_rec, "QUALITY": "0x00000000", "DATE": "2011-03-01T00:00:00Z",
             "*recnum*": 2000 + number, "record": f"hmi.B_720s[{record.t_rec}]", "file": files}
        )  # fmt: skip
    with serve(Jsoc(records={("hmi.B_720s", None): rows})) as running:
        data = {"kind": "jsoc", "url": running.url, "email": "known@example.org", "network": NETWORK}
        source = JsocSource(JsocConfig.model_validate(data), PRODUCTS["hmi"], str(tmp_path))
        records = source.candidates("B", START, END)
        assert [record.time for record in records] == [record.time for record in planned]
        assert all(len(record.segments) == 4 for record in records)
        source.stage(records)
        assert len(running.exports) == 1
        asked = running.requests.total()
        for record, row in zip(records, rows, strict=True):
            assert {name: source.fetch(file) for name, file in record.segments} == row["file"]
        assert running.requests.total() == asked


def test_jsoc_expired_requests_are_submitted_again(jsoc: Jsoc, tmp_path: Path) -> None:
    source = jsoc_source(jsoc, tmp_path)
    record = source.candidates("171A", START, END)[0]
    source.export([record])
    for path in tmp_path.glob("files/**/*.fits"):
        path.unlink()
    jsoc.exports = {"JSOC_other": []}
    assert source.fetch(record) == frame_file(0)


def test_jsoc_needs_a_registered_address(jsoc: Jsoc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JSOC_EMAIL", raising=False)
    source = jsoc_source(jsoc, tmp_path, email=None)
    records = source.candidates("171A", START, END)
    with pytest.raises(UsageError, match="JSOC_EMAIL"):
        source.export(records)
    with pytest.raises(UsageError, match="does not know the address nobody"):
        jsoc_source(jsoc, tmp_path, email="nobody@example.org").export(records)


def test_jsoc_that_stays_away(tmp_path: Path) -> None:
    config = JsocConfig.model_validate(
        {"kind": "jsoc", "url": "http://127.0.0.1:9", "network": NETWORK | {"retries": 1}}
    )
    with pytest.raises(EnvironmentFault, match="did not answer"):
        JsocSource(config, PRODUCTS["aia"], str(tmp_path)).prepare(["171A"], START, END)


def test_prefetch_through_the_recipe(jsoc: Jsoc, tmp_path: Path) -> None:
    recipe = parse_recipe(
        small(
            str(tmp_path / "d"), channels=["171A"], period={"start": str(START)[:19], "end": str(END)[:19]},
            source={"kind": "jsoc", "url": jsoc.url, "email": "known@example.org", "pixels": 64, "network": NETWORK},
        )
    )  # fmt: skip
    lines = list(prefetch(recipe))
    assert lines[-1].endswith("frames there, 0 not available")
    assert len(list((tmp_path / "d/sdoml/jsoc/files").rglob("*.fits"))) == 9


def test_the_synoptic_tree(jsoc: Jsoc, tmp_path: Path) -> None:
    config = SynopticConfig.model_validate(
        {"kind": "synoptic", "url": f"{jsoc.url}/data/aia/synoptic", "cache": str(tmp_path), "network": NETWORK}
    )
    source = SynopticSource(config)
    records = source.candidates("171A", START + STEP, START + 2 * STEP)
    assert [record.locator[-23:] for record in records] == [
        f"20110215_00{minute:02d}_0171.fits" for minute in (6, 8, 10)
    ]
    jsoc.cut = 2
    jsoc.failures["file"] = 1
    assert source.fetch(records[0]) == frame_file(1)
    asked = jsoc.requests["file"]
    assert source.fetch(records[0]) == frame_file(1)
    assert jsoc.requests["file"] == asked
    with pytest.raises(FrameError) as caught:
        source.fetch(records[1])
    assert caught.value.status is FrameStatus.MISSING_AT_SOURCE


@pytest.mark.parametrize("ranges", [True, False])
def test_downloads_survive_dropped_connections(jsoc: Jsoc, ranges: bool) -> None:
    url = f"{jsoc.url}/data/aia/synoptic/2011/02/15/H0000/AIA20110215_0006_0171.fits"
    jsoc.ranges, jsoc.cut = ranges, 3
    data = frame_file(1)
    assert fetch_bytes(url, QUICK, checksum="sha256:" + hashlib.sha256(data).hexdigest()) == data


def test_downloads_that_stay_wrong_have_their_status(jsoc: Jsoc, tmp_path: Path) -> None:
    url = f"{jsoc.url}/data/aia/synoptic/2011/02/15/H0000/AIA20110215_0006_0171.fits"
    pauses: list[float] = []
    jsoc.failures["file"] = 99
    with pytest.raises(FrameError, match=r"HTTP 500 \(5 attempts\)") as caught:
        fetch_bytes(url, QUICK, sleep=pauses.append)
    assert caught.value.status is FrameStatus.FAILED_DOWNLOAD
    assert len(pauses) == 4
    jsoc.failures["file"] = 0
    with pytest.raises(FrameError) as caught:
        fetch_bytes(url, QUICK, checksum="md5:" + "0" * 32)
    assert caught.value.status is FrameStatus.FAILED_CHECKSUM
    with pytest.raises(FrameError) as caught:
        fetch_bytes("http://127.0.0.1:9/x", QUICK)
    assert caught.value.status is FrameStatus.FAILED_DOWNLOAD
    with pytest.raises(FrameError) as caught:
        fetch_bytes(str(tmp_path / "none"), QUICK)
    assert caught.value.status is FrameStatus.MISSING_AT_SOURCE
    assert public_url("https://user:secret@host/a?token=b") == "https://host/a"


def test_a_file_that_changes_during_a_download_is_never_joined_from_two(jsoc: Jsoc) -> None:
    path = "/data/aia/synoptic/2011/02/15/H0000/AIA20110215_0006_0171.fits"
    old, new = frame_file(1), frame_file(2)
    jsoc.tree[path], jsoc.cut = old, 1
    data = fetch_bytes(jsoc.url + path, QUICK, sleep=lambda _: jsoc.tree.update({path: new}))
    assert data == new != old


def test_servers_that_fall_silent_or_trickle_cost_a_bounded_time(jsoc: Jsoc) -> None:
    url = f"{jsoc.url}/data/aia/synoptic/2011/02/15/H0000/AIA20110215_0006_0171.fits"
    patient = QUICK.model_copy(update={"read_timeout_s": 0.3})
    jsoc.silent = 2
    assert fetch_bytes(url, patient) == frame_file(1)
    hasty = patient.model_copy(update={"total_timeout_s": 0.4, "retries": 1})
    jsoc.trickle_s = 0.05
    started = time.monotonic()
    with pytest.raises(FrameError, match=r"bytes in 0\.4 s") as caught:
        fetch_bytes(url, hasty)
    assert caught.value.status is FrameStatus.FAILED_DOWNLOAD
    assert time.monotonic() - started < 3


def test_silent_jsoc_is_asked_again(jsoc: Jsoc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 0.5)
    jsoc.silent = 1
    assert len(jsoc_source(jsoc, tmp_path).candidates("171A", START, END)) == 10


def test_recent_days_are_asked_about_again(jsoc: Jsoc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day that JSOC may still add to is asked about again after an hour, until the answer is final."""
    source = jsoc_source(jsoc, tmp_path)
    rows = jsoc.records["aia.lev1_euv_12s", 171]
    last = rows.pop()
    observed = (START - np.datetime64(0, "s")) / np.timedelta64(1, "s")
    clock = [observed + 86400.0]
    monkeypatch.setattr("sdoml_dist.sources.jsoc.time.time", lambda: clock[0])
    assert len(source.candidates("171A", START, END)) == 9
    rows.append(last)
    clock[0] += 1800
    assert len(source.candidates("171A", START, END)) == 9
    clock[0] += 3600
    assert len(source.candidates("171A", START, END)) == 10
    clock[0] += 100 * 86400
    source.candidates("171A", START, END)
    asked = jsoc.requests["rs_list"]
    clock[0] += 100 * 86400
    source.candidates("171A", START, END)
    assert jsoc.requests["rs_list"] == asked


def test_one_export_for_the_frames_of_a_unit(jsoc: Jsoc, tmp_path: Path) -> None:
    source = jsoc_source(jsoc, tmp_path)
    records = source.candidates("171A", START, END)[4:8]
    source.stage(records)
    assert len(jsoc.exports) == 1
    assert [source.fetch(record) for record in records] == [frame_file(slot) for slot in range(4, 8)]
    assert len(jsoc.exports) == 1


def test_files_of_a_web_server(jsoc: Jsoc, tmp_path: Path) -> None:
    for slot in range(3):
        jsoc.tree[f"/archive/2011/AIA20110215_{6 * slot:06d}_0171.fits"] = frame_file(slot)
    config = FilesConfig.model_validate(
        {"kind": "files", "url": f"{jsoc.url}/archive/", "pixels": 64, "network": NETWORK}
    )
    source = FilesSource(config, PRODUCTS["aia"], str(tmp_path / "index"))
    source.prepare(["171A"], START, END)
    records = source.candidates("171A", START, END)
    assert [record.time for record in records] == [START + slot * STEP for slot in range(3)]
    assert [source.fetch(record) for record in records] == [frame_file(slot) for slot in range(3)]
    # A file that is replaced has another ETag, so its header is read again.
    jsoc.tree["/archive/2011/AIA20110215_000000_0171.fits"] = frame_file(5)
    source.prepare(["171A"], START, END)
    assert [record.time for record in source.candidates("171A", START, END)] == [
        START + slot * STEP for slot in (1, 2, 5)
    ]


def test_a_place_that_fails_in_the_middle_keeps_the_headers_that_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for slot in range(4):
        (folder / f"{slot}.fits").write_bytes(frame_file(slot))
    network = NETWORK | {"retries": 1, "concurrency": 1}
    config = FilesConfig.model_validate({"kind": "files", "url": str(folder), "pixels": 64, "network": network})
    source = FilesSource(config, PRODUCTS["aia"], str(tmp_path / "index"))
    read: list[str] = []
    cat = LocalFileSystem.cat_file

    def failing(self: LocalFileSystem, path: str, *rest: Any, **options: Any) -> bytes:
        if path.endswith(".fits"):
            read.append(Path(path).name)
            if len(read) > 2 and not healthy:
                raise ConnectionError("gone")
        return cat(self, path, *rest, **options)

    healthy = False
    monkeypatch.setattr(LocalFileSystem, "cat_file", failing)
    with pytest.raises(EnvironmentFault, match=r"ConnectionError: gone \(2 attempts\)"):
        source.prepare(["171A"], START, END)
    healthy = True
    read.clear()
    source.prepare(["171A"], START, END)
    assert read == ["2.fits", "3.fits"]
    assert len(source.candidates("171A", START, END)) == 4


class CountingFile(io.FileIO):
    """A file that counts what is read of it."""

    total = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        CountingFile.total += len(data)
        return data


def test_the_index_reads_only_what_a_unit_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's reads and memory must not grow with the archive."""
    config = FilesConfig.model_validate({"kind": "files", "url": str(tmp_path), "index": "name"})
    source = FilesSource(config, PRODUCTS["aia"], str(tmp_path / "index"))
    count = 200_000
    times = np.datetime64("2010-06-01", "ns") + np.arange(count) * np.timedelta64(360, "s")
    tables = []
    for channel in ("171A", "304A"):
        columns = {
            "bundle": [channel] * count, "segment": ["image"] * count, "time": times,
            "path": [f"{channel}/{index:09d}.fits" for index in range(count)],
            "size": [8_000_000] * count, "checksum": [None] * count, "quality": [0] * count, "version": [""] * count,
            "state": ["x"] * count, "problem": [None] * count,
        }  # fmt: skip
        columns["time"] = pa.array(times).cast(pa.timestamp("ns", tz="UTC"))
        tables.append(pa.table(columns, schema=files._SCHEMA))
    source._write_index(pa.concat_tables(tables), [])
    monkeypatch.setattr(LocalFileSystem, "open", lambda self, path, mode: CountingFile(path, mode))
    day = np.datetime64("2011-02-15", "ns")
    records = source.candidates("304A", day, day + np.timedelta64(1, "D"))
    assert len(records) == 240
    assert {record.locator[:5] for record in records} == {"304A/"}
    assert records[0].time == day
    assert 0 < CountingFile.total < Path(source.index_url).stat().st_size / 5


@pytest.mark.parametrize("index", ["header", "name"])
def test_files_are_indexed_once(tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for slot in range(3):
        (folder / f"AIA20110215_00{6 * slot:02d}00_0171.fits").write_bytes(frame_file(slot))
    config = FilesConfig.model_validate({"kind": "files", "url": str(folder), "index": index, "pixels": 64})
    source = FilesSource(config, PRODUCTS["aia"], str(tmp_path / "index"))
    looked: list[str] = []
    look = FilesSource._look_into
    monkeypatch.setattr(
        FilesSource, "_look_into", lambda self, path, *rest: looked.append(path) or look(self, path, *rest)
    )
    source.prepare(["171A"], START, END)
    assert len(source.candidates("171A", START, END)) == 3
    (folder / "AIA20110215_001800_0171.fits").write_bytes(frame_file(3))
    source.prepare(["171A"], START, END)
    assert len(looked) == 4
    records = source.candidates("171A", START, END)
    assert [record.time for record in records] == [START + slot * STEP for slot in range(4)]
    assert source.fetch(records[3]) == frame_file(3)
    assert source.candidates("94A", START, END) == []


def test_files_in_a_bucket(s3_server: str, tmp_path: Path) -> None:
    import s3fs

    options = {"endpoint_url": s3_server}
    filesystem = s3fs.S3FileSystem(**options)
    for slot in range(2):
        filesystem.pipe_file(f"sdoml/level1/171/{slot}.fits", frame_file(slot))
    config = FilesConfig.model_validate(
        {"kind": "files", "url": "s3://sdoml/level1", "storage_options": options, "pixels": 64, "network": NETWORK}
    )
    source = FilesSource(config, PRODUCTS["aia"], "s3://sdoml/index", options)
    source.prepare(["171A"], START, END)
    records = source.candidates("171A", START, END)
    assert len(records) == 2
    assert records[0].checksum == "md5:" + hashlib.md5(frame_file(0)).hexdigest()
    assert source.fetch(records[1]) == frame_file(1)
    filesystem.pipe_file("sdoml/level1/171/1.fits", b"changed")
    with pytest.raises(FrameError) as caught:
        source.fetch(records[1])
    assert caught.value.status is FrameStatus.FAILED_CHECKSUM
    # ETags of encrypted objects are no MD5 sums, whatever they look like.
    unsummed = FilesSource(
        config.model_copy(update={"verify_etag": False}), PRODUCTS["aia"], "s3://sdoml/index2", options
    )
    unsummed.prepare(["171A"], START, END)
    assert [record.checksum for record in unsummed.candidates("171A", START, END)] == [None]
