"""Hostile files: whatever the bytes are, reading ends in an image or in the status to record, within bounds of memory.

`SDOML_FUZZ` multiplies the number of examples; the slow lane has a test of its own with many more.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numcodecs
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sdoml_dist.solar.calibrate import observation_time
from sdoml_dist.solar.keywords import copied, number
from sdoml_dist.solar.region_tables import read_regions
from sdoml_dist.solar.status import FrameError
from sdoml_dist.solar.times import parse_fits_time
from sdoml_dist.sources import bounded
from sdoml_dist.sources.eve_fits import read_eve
from sdoml_dist.sources.fits import read_fits, read_header
from sdoml_dist.sources.published_layout import read_frame_path, read_npz
from sdoml_dist.sources.rice import PADDING, decode_rows

MANY = int(os.environ.get("SDOML_FUZZ", "1"))
FAST = settings(max_examples=60 * MANY, deadline=None, suppress_health_check=list(HealthCheck))
# What reading a small file may take at most: an honest image of 8192 x 8192 pixels is the largest that is read.
MOST = 400_000_000


@contextmanager
def little_memory(most: int = MOST) -> Iterator[None]:
    """Fail if numpy or Python take more memory than that in the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def outcome(read: Callable[[], Any], *allowed: type[Exception]) -> Any:
    """Return what reading gives, or None for one of the errors that it may raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy warns about what it then refuses
        try:
            return read()
        except (FrameError, *allowed):
            return None


def written(unit: Any) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(buffer)
    return buffer.getvalue()


IMAGE = np.arange(48 * 40, dtype=np.int16).reshape(48, 40)
SEEDS = [
    written(fits.CompImageHDU(IMAGE, compression_type="RICE_1", tile_shape=(1, 40))),
    written(fits.CompImageHDU(IMAGE, compression_type="RICE_1", tile_shape=(16, 20))),
    written(fits.CompImageHDU(IMAGE, compression_type="GZIP_1", tile_shape=(1, 40))),
    written(fits.CompImageHDU(IMAGE.astype(np.float32) * 1.5, compression_type="GZIP_2")),
    written(fits.ImageHDU(IMAGE)),
    written(fits.ImageHDU(IMAGE.astype(np.float64))),
]
LIES = [
    "NAXIS", "NAXIS1", "NAXIS2", "BITPIX", "PCOUNT", "GCOUNT", "TFIELDS", "TFORM1", "THEAP", "ZNAXIS", "ZNAXIS1", "ZNAXIS2",
    "ZTILE1", "ZTILE2", "ZBITPIX", "ZVAL1", "ZVAL2", "ZNAME1", "ZCMPTYPE", "BSCALE", "BZERO", "BLANK", "ZBLANK", "NAXIS3",
]  # fmt: skip
VALUES = st.one_of(
    st.integers(-(10**20), 10**20), st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, 2**40, 2**63, 10**69]), st.booleans(),
    st.floats(), st.sampled_from(["'1PB(9)'", "'1QB'", "'GZIP_2'", "'PLIO_1'", "'HCOMPRESS_1'", "'RICE_1'", "''", "1e999"]),
)  # fmt: skip


def with_card(data: bytes, key: str, value: object, repeat: bool) -> bytes:
    """Return a file whose second header says something else: its card is replaced, or one more stands before the end."""
    text = value if isinstance(value, str) else ("T" if value else "F") if isinstance(value, bool) else repr(value)
    card = f"{key:<8}= {text:>20}"[:80].ljust(80).encode()
    start = data.index(b"XTENSION")
    end = data.index(b"END" + b" " * 77, start)
    place = data.find(f"{key:<8}=".encode(), start, end)
    if repeat or place < 0:
        # Behind the last card there is room where it does not fill its block.
        return data if (end - start) // 80 % 36 == 35 else data[:end] + card + data[end : end + 80] + data[end + 160 :]
    return data[:place] + card + data[place + 80 :]


@FAST
@given(seed=st.sampled_from(SEEDS), lies=st.lists(st.tuples(st.sampled_from(LIES), VALUES, st.booleans()), max_size=4))
def test_headers_that_lie(seed: bytes, lies: list[tuple[str, object, bool]]) -> None:
    for key, value, repeat in lies:
        seed = with_card(seed, key, value, repeat)
    with little_memory():
        found = outcome(lambda: read_fits(seed))
        outcome(lambda: read_header(seed[: 64 * 2880]))
    if found is not None:
        assert found[0].ndim == 2
        assert found[0].dtype.kind in "iuf"


@FAST
@given(
    seed=st.sampled_from(SEEDS), cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)), max_size=8),
)  # fmt: skip
def test_files_that_are_damaged(seed: bytes, cut: float, changes: list[tuple[float, bytes]]) -> None:
    data = bytearray(seed)
    for place, value in changes:
        at = int(place * len(data))
        data[at : at + len(value)] = value
    whole = bytes(data[: int(cut * len(data))] if cut < 0.5 else data)
    with little_memory():
        outcome(lambda: read_fits(whole))
        outcome(lambda: read_eve(whole, "EVL_L2_2011046_00_007_01.fit"))


@FAST
@given(
    data=st.binary(max_size=200), width=st.integers(1, 2000), size=st.sampled_from([1, 2, 4]), block=st.integers(-1, 300),
    rows=st.lists(st.tuples(st.integers(-9, 220), st.integers(-9, 220)), min_size=1, max_size=4),
)  # fmt: skip
def test_rice_never_reads_beyond_its_buffer(
    data: bytes, width: int, size: int, block: int, rows: list[tuple[int, int]]
) -> None:
    """The same bytes decode to the same, whatever lies behind them in memory."""
    starts, lengths = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    found = []
    for behind in (0x00, 0xFF, 0x5A):
        memory = np.full(len(data) + PADDING + 4096, behind, np.uint8)
        memory[: len(data)] = np.frombuffer(data, np.uint8)
        memory[len(data) : len(data) + PADDING] = 0
        heap = memory[: len(data) + PADDING]
        found.append(outcome(lambda heap=heap: decode_rows(heap, starts, lengths, width, size, block), ValueError))
    assert len({None if image is None else image.tobytes() for image in found}) == 1


def claiming(seed: bytes, repeat: bool = False, **values: object) -> bytes:
    for key, value in values.items():
        seed = with_card(seed, key, value, repeat)
    return seed


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (claiming(SEEDS[0], ZNAXIS1=2**20, ZTILE1=2**20), "damaged or cut off"),
        (claiming(SEEDS[0], ZNAXIS1=2**20, ZTILE1=2**20, ZVAL1=2**31 - 1), "blocks of 2147483647"),
        (claiming(SEEDS[0], ZNAXIS1=2**30, ZTILE1=2**30), "an image of"),
        (claiming(SEEDS[1], ZNAXIS1=2**20, ZNAXIS2=2**20), "failed_read"),
        (claiming(SEEDS[1], repeat=True, ZNAXIS1=40), None),
        (claiming(SEEDS[2], ZTILE1=2**16, ZTILE2=2**16), "failed_read"),
        (claiming(SEEDS[3], ZCMPTYPE="'HCOMPRESS_1'"), "not read"),
        (claiming(SEEDS[4], NAXIS1=2**13, NAXIS2=2**13), "only"),
        (claiming(SEEDS[4], NAXIS=999), "failed"),
    ],
)
def test_a_small_file_cannot_claim_a_large_image(data: bytes, reason: str | None) -> None:
    with little_memory(60_000_000), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if reason is None:
            np.testing.assert_array_equal(read_fits(data)[0], IMAGE)
        else:
            with pytest.raises(FrameError, match=reason):
                read_fits(data)


def test_a_tile_cannot_unpack_to_a_terabyte() -> None:
    """A tile of zeros packed by gzip, put in the place of an honest one."""
    bomb = zlib.compress(bytes(300_000_000), 9, wbits=31)
    unit = fits.CompImageHDU(IMAGE, compression_type="GZIP_1", tile_shape=(48, 40))
    data = bytearray(written(unit))
    with fits.open(io.BytesIO(bytes(data)), disable_image_compression=True) as units:
        info, header = units[1].fileinfo(), units[1].header
        heap = info["datLoc"] + header["NAXIS1"] * header["NAXIS2"]
    packed = claiming(bytes(data[:heap]), PCOUNT=len(bomb))
    descriptor = struct.pack(">ii", len(bomb), 0)
    data = bytearray(packed + bomb + bytes(-len(packed + bomb) % 2880))
    data[info["datLoc"] : info["datLoc"] + 8] = descriptor
    with little_memory(60_000_000), pytest.raises(FrameError, match="unpacks to more than"):
        read_fits(bytes(data))


@FAST
@given(st.text(max_size=90), st.one_of(VALUES, st.text(max_size=70), st.none()))
def test_keywords_and_times(text: str, value: object) -> None:
    found = number(value)
    assert found is None or np.isfinite(found)
    copied(dict.fromkeys(("DSUN_OBS", "QUALITY", "CRLN_OBS", "RECNUM", "CALVER64"), value))
    time = outcome(lambda: parse_fits_time(text), ValueError)
    assert time is None or not np.isnat(time)
    outcome(lambda: observation_time({"T_OBS": text, "DATE-OBS": value}))
    read_frame_path(text)


@FAST
@given(
    st.tuples(st.integers(0, 9999), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)),
    st.sampled_from(["", "Z", "_TAI", "_UTC"]),
)
@example((1677, 12, 31, 0, 0), "")
@example((2262, 1, 1, 0, 0), "Z")
def test_a_time_that_is_read_is_the_one_that_was_written(parts: tuple[int, ...], suffix: str) -> None:
    year, month, day, hour, minute = parts
    text = f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:00"
    time = outcome(lambda: parse_fits_time(text + suffix), ValueError)
    if time is not None:
        assert abs(np.datetime64(text, "s") - time.astype("datetime64[s]")) < np.timedelta64(60, "s")


_CELLS = st.sampled_from(
    ["11158", "-1", "1e400", "nan", "12.5", "", "2011-02-08T15:00", "9999-99-99", "x" * 70, '"', "\0", "2011-02-12", "0x10"]
)


@FAST
@given(st.one_of(st.text(max_size=300), st.lists(st.lists(_CELLS, min_size=5, max_size=8), max_size=4)))
def test_tables_of_regions(rows: str | list[list[str]]) -> None:
    head = "region,latitude_deg,longitude_deg,reference,start,end\n"
    text = rows if isinstance(rows, str) else head + "\n".join(",".join(cells) for cells in rows)
    regions = outcome(lambda: read_regions(text), ValueError)
    for region in regions or ():
        assert -90 <= region.latitude_deg <= 90
        assert region.start < region.end


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Trap:
    """What happens when it is loaded by pickle."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


def test_published_images_are_never_unpickled() -> None:
    import pickle

    for data in (npy(np.array([Trap()], dtype=object)), npz(x=npy(np.array([Trap()], dtype=object)))):
        with pytest.raises(FrameError, match="objects"):
            read_npz(data)
    meta = {"chunks": [4], "dtype": "<i4", "compressor": {"id": "pickle"}, "filters": None}
    with pytest.raises(ValueError, match="not read"):
        bounded.decode_chunk(pickle.dumps(Trap()), meta)
    with pytest.raises(ValueError, match="not read"):
        bounded.decode_chunk(pickle.dumps(Trap()), meta | {"compressor": None, "filters": [{"id": "pickle"}]})
    assert not Trap.sprung
    # The trap is one: older versions of numcodecs load it for whoever asks for the codec.
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung


def test_published_images_take_no_more_than_they_may() -> None:
    honest = npy(np.ones((8, 8), np.float32))
    np.testing.assert_array_equal(read_npz(npz(x=honest)), np.ones((8, 8)))
    np.testing.assert_array_equal(read_npz(honest), np.ones((8, 8)))
    huge = honest.replace(b"(8, 8), }" + b" " * 9, b"(800000, 80000), }")
    assert len(huge) == len(honest) != huge.count(b"800000") == 1
    with little_memory(60_000_000):
        for data in (huge, npz(x=huge), npz(y=honest), npz(x=b"")):
            with pytest.raises(FrameError):
                read_npz(data)
        with pytest.raises(ValueError, match="more than"):
            bounded.read_npz(npz(x=bytes(50_000_000)), "x", 1_000_000)


_CODECS: list[dict[str, Any] | None] = [
    {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 2, "blocksize": 0}, {"id": "zlib", "level": 1},
    {"id": "zstd", "level": 1}, {"id": "gzip", "level": 1}, {"id": "lz4", "acceleration": 1}, None,
]  # fmt: skip


@pytest.mark.parametrize("codec", _CODECS, ids=lambda codec: codec["id"] if codec else "plain")
def test_chunks_decode_as_they_were_packed_and_not_beyond(codec: dict[str, Any] | None) -> None:
    image = np.arange(600, dtype=np.float32).reshape(2, 15, 20)
    packed = image.tobytes() if codec is None else bytes(numcodecs.get_codec(codec).encode(image))
    meta = {"chunks": [2, 15, 20], "dtype": "<f4", "compressor": codec, "filters": None, "order": "C"}
    np.testing.assert_array_equal(bounded.decode_chunk(packed, meta), image)
    for other in ([1, 15, 20], [3, 15, 20]):
        with pytest.raises(ValueError, match=r"unpack|early"):
            bounded.decode_chunk(packed, meta | {"chunks": other})


_META = st.one_of(
    st.lists(st.integers(-2, 2**40), max_size=4), st.none(),
    st.sampled_from(["<f8", "|O", "|S0", "<f4", "F", "?", "<M8[ns]"]),
)  # fmt: skip


@FAST
@given(
    codec=st.sampled_from(_CODECS), cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    meta=st.dictionaries(st.sampled_from(["chunks", "dtype", "filters", "order"]), _META, max_size=2),
)  # fmt: skip
def test_damaged_chunks(
    codec: dict[str, Any] | None, cut: float, changes: list[tuple[float, int]], meta: dict[str, Any]
) -> None:
    image = np.arange(600, dtype=np.float32)
    data = bytearray(image.tobytes() if codec is None else bytes(numcodecs.get_codec(codec).encode(image)))
    for place, value in changes:
        data[int(place * len(data))] = value
    whole = bytes(data[: int(cut * len(data))] if cut < 0.3 else data)
    stated = {"chunks": [600], "dtype": "<f4", "compressor": codec, "filters": None, "order": "C"} | meta
    with little_memory(60_000_000):
        found = outcome(lambda: bounded.decode_chunk(whole, json.loads(json.dumps(stated))), *bounded.UNREADABLE)
    assert found is None or found.nbytes <= 600 * 8


_MAGIC = [b"", b"SIMPLE  =", b"; ", b"\x1f\x8b\x08", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"PK\x03\x04"]


@FAST
@given(st.binary(max_size=4000), st.sampled_from(_MAGIC))
def test_any_bytes_at_all(data: bytes, magic: bytes) -> None:
    whole = magic + data
    with little_memory():
        outcome(lambda: read_fits(whole))
        outcome(lambda: read_eve(whole, "any.fit"))
        outcome(lambda: read_npz(whole))


@pytest.mark.slow
@pytest.mark.timeout(620)
def test_the_same_with_many_more_examples() -> None:
    """All properties above, with six times the examples, in a process of their own."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env={**os.environ, "SDOML_FUZZ": "6"}, capture_output=True, text=True, timeout=600
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
