"""Read one FITS image from bytes, fast for the Rice-compressed frames of SDO and safely for anything else."""

from __future__ import annotations

import io
import math
import re
import warnings
import zlib
from typing import Any

import numpy as np

from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources.rice import PADDING, decode_rows

Header = dict[str, Any]

_BLOCK = 2880
_CARD = 80
_MOST_HEADER_BLOCKS = 400
# Decoders of other forms trust sizes inside the packed bytes, so these are left to files that are trusted.
_OTHER_FORMS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")
# Four times SDO's 4096 x 4096; a compressed image of this size takes 256 MB.
_MOST_PIXELS = 2**26
_STRING = re.compile(r"'((?:[^']|'')*)'")
_DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
# What the compressed table says about itself; the image's own values stand under the names with Z.
_TABLE_KEYWORDS = frozenset(
    [
        "XTENSION",
        "BITPIX",
        "NAXIS",
        "NAXIS1",
        "NAXIS2",
        "PCOUNT",
        "GCOUNT",
        "TFIELDS",
        "TTYPE1",
        "TFORM1",
        "THEAP",
        "ZIMAGE",
        "ZCMPTYPE",
        "ZTILE1",
        "ZTILE2",
        "ZNAME1",
        "ZVAL1",
        "ZNAME2",
        "ZVAL2",
        "EXTNAME",
        "CHECKSUM",
        "DATASUM",
        "ZHECKSUM",
        "ZDATASUM",
        "ZTENSION",
        "ZPCOUNT",
        "ZGCOUNT",
    ]
)


class _NotFits(Exception):
    """The bytes are not a FITS file."""


class _Damaged(Exception):
    """The bytes end too early or contradict themselves."""


def _value(text: str) -> Any:
    """Read the value field of a card."""
    text = text.strip()
    if text.startswith("'"):
        match = _STRING.match(text)
        return match[1].replace("''", "'").rstrip() if match else text[1:].rstrip()
    text = text.split("/", 1)[0].strip()
    if text == "T":
        return True
    if text == "F":
        return False
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.replace("D", "E").replace("d", "e"))
    except ValueError:
        return text or None


def parse_header(data: bytes | memoryview, start: int) -> tuple[Header, int]:
    """Read the cards of a header unit.

    Parameters
    ----------
    data : bytes
        The file, or at least this header of it.
    start : int
        Where the header begins.

    Returns
    -------
    tuple of (dict, int)
        Values by keyword (COMMENT and HISTORY joined, the last of repeated keywords), and where the data begin.
    """
    if bytes(data[start : start + 8]).rstrip() not in (b"SIMPLE", b"XTENSION"):
        raise _NotFits
    header: Header = {}
    texts: dict[str, list[str]] = {}
    previous = ""
    limit = min(len(data), start + _MOST_HEADER_BLOCKS * _BLOCK)
    for offset in range(start, limit - _CARD + 1, _CARD):
        card = bytes(data[offset : offset + _CARD]).decode("ascii", "replace")
        key = card[:8].rstrip()
        if key == "END":
            return header | {name: "\n".join(lines) for name, lines in texts.items()}, _padded(offset + _CARD, start)
        if card[8:10] == "= ":
            header[key] = _value(card[10:])
            previous = key
        elif key == "CONTINUE" and isinstance(header.get(previous), str):
            header[previous] = header[previous].removesuffix("&") + str(_value(card[8:]))
        elif key in ("COMMENT", "HISTORY"):
            texts.setdefault(key, []).append(card[8:].rstrip())
    raise _Damaged("the header does not end")


def _padded(offset: int, start: int) -> int:
    return start + -(-(offset - start) // _BLOCK) * _BLOCK


def _integer(header: Header, key: str, default: int | None = None) -> int:
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise _Damaged(f"{key} is {value!r}")
    return value


def _data_bytes(header: Header) -> int:
    axes = _integer(header, "NAXIS", 0)
    if axes == 0:
        return 0
    size = 1
    for axis in range(1, min(axes, 999) + 1):
        size *= _integer(header, f"NAXIS{axis}")
    return abs(int(header.get("BITPIX", 8))) // 8 * (size + _integer(header, "PCOUNT", 0))


def image_header(data: bytes | memoryview) -> tuple[Header, int]:
    """Return the raw header of the first unit with an image, and where its data begin; needs only the file's start."""
    offset = 0
    while offset < len(data):
        header, begin = parse_header(data, offset)
        if header.get("ZIMAGE") is True or (
            header.get("XTENSION", "IMAGE") == "IMAGE" and int(header.get("NAXIS") or 0) >= 2
        ):
            return header, begin
        offset = begin + -(-_data_bytes(header) // _BLOCK) * _BLOCK
    raise _NotFits


def read_header(data: bytes) -> Header:
    """Return the header of the first image from the first bytes of a file.

    Raises
    ------
    FrameError
        FAILED_NOT_FITS or FAILED_READ.
    """
    return _guard(data, lambda: _restore(image_header(data)[0]))


def _restore(header: Header) -> Header:
    """Give a compressed image the header of the image it holds."""
    if header.get("ZIMAGE") is not True:
        return header
    plain = {key: value for key, value in header.items() if key not in _TABLE_KEYWORDS}
    for key in [key for key in plain if key in ("ZBITPIX", "ZBLANK") or key.startswith("ZNAXIS")]:
        value = plain.pop(key)
        plain.setdefault(key[1:], value) if key == "ZBLANK" else plain.__setitem__(key[1:], value)
    plain.pop("ZSIMPLE", None)
    return {"SIMPLE": True, **plain}


def _rice(data: bytes, header: Header, begin: int) -> np.ndarray | None:
    """Decode the common form: integers, one Rice tile per row. None means that it is another form."""
    width, rows = _integer(header, "ZNAXIS1"), _integer(header, "ZNAXIS2")
    simple = (
        header.get("ZCMPTYPE") in ("RICE_1", "RICE_ONE")
        and header.get("ZNAXIS") == 2
        and _integer(header, "ZTILE1", width) == width
        and _integer(header, "ZTILE2", 1) == 1
        and header.get("TFIELDS") == 1
        and str(header.get("TFORM1", "")).startswith(("1PB", "PB"))
        and header.get("ZBITPIX") in (8, 16, 32)
    )
    if not simple:
        return None
    if not 0 < width * rows <= _MOST_PIXELS:
        raise _Damaged(f"an image of {width} x {rows} pixels")
    parameters = {header.get(f"ZNAME{i}"): header.get(f"ZVAL{i}") for i in (1, 2)}
    bytes_per_pixel = int(parameters.get("BYTEPIX") or int(header["ZBITPIX"]) // 8)
    row_bytes, table_rows, heap_size = (_integer(header, key) for key in ("NAXIS1", "NAXIS2", "PCOUNT"))
    if row_bytes != 8 or table_rows != rows or bytes_per_pixel * 8 != header["ZBITPIX"]:
        return None
    theap = _integer(header, "THEAP", row_bytes * rows)
    end = begin + row_bytes * rows + heap_size
    if len(data) < end:
        raise _Damaged(f"the file has {len(data)} bytes and should have at least {end}")
    descriptors = np.frombuffer(data, ">i4", 2 * rows, begin).reshape(rows, 2).astype(np.int64)
    gap = theap - row_bytes * rows
    if not 0 <= gap <= heap_size:
        raise _Damaged(f"THEAP is {theap}")
    heap = np.empty(heap_size - gap + PADDING, np.uint8)
    heap[: heap_size - gap] = np.frombuffer(data, np.uint8, heap_size - gap, begin + theap)
    heap[heap_size - gap :] = 0
    lengths, starts = np.ascontiguousarray(descriptors[:, 0]), np.ascontiguousarray(descriptors[:, 1])
    try:
        return decode_rows(heap, starts, lengths, width, bytes_per_pixel, int(parameters.get("BLOCKSIZE") or 32))
    except ValueError as error:
        raise _Damaged(str(error)) from None


def _plain(data: bytes, header: Header, begin: int) -> np.ndarray:
    if _integer(header, "NAXIS") != 2:
        raise FrameError(FrameStatus.FAILED_SHAPE, f"the image has {header.get('NAXIS')} axes instead of 2")
    shape = _integer(header, "NAXIS2"), _integer(header, "NAXIS1")
    bitpix = header.get("BITPIX")
    if bitpix not in _DTYPES or not 0 < shape[0] * shape[1] <= _MOST_PIXELS:
        raise _Damaged(f"BITPIX is {bitpix!r} and the shape {shape}")
    dtype = np.dtype(_DTYPES[bitpix])
    if len(data) < begin + shape[0] * shape[1] * dtype.itemsize:
        raise _Damaged(f"the file has only {len(data)} bytes for an image of {shape[1]} x {shape[0]}")
    image = np.frombuffer(data, dtype, shape[0] * shape[1], begin).reshape(shape)
    return image.astype(dtype.newbyteorder("="))


def _other_compression(data: bytes) -> np.ndarray:
    """Decode other forms of compression by astropy."""
    from astropy.io import fits

    # A header that repeats keywords can say one thing to us and another to astropy, so the size is taken from astropy.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with fits.open(io.BytesIO(data), memmap=False) as units:
                for unit in units:
                    if isinstance(unit, fits.CompImageHDU):
                        _check_tiles(data, unit)
                        return np.asarray(unit.data)
        except (_Damaged, FrameError):
            raise
        except Exception as error:  # noqa: BLE001 - hostile bytes can raise anything
            raise _Damaged(f"{type(error).__name__}: {error}") from None
    raise _Damaged("the compressed image cannot be decoded")


def _check_tiles(data: bytes, unit: Any) -> None:
    """Refuse a compressed image that would take more memory than an image may, whatever its header says."""
    from astropy.io import fits

    if unit.compression_type not in _OTHER_FORMS:
        raise _Damaged(f"images packed by {unit.compression_type} are not read")
    shape, tile = unit.shape, unit.tile_shape
    if len(shape) != 2:
        raise FrameError(FrameStatus.FAILED_SHAPE, f"the image has {len(shape)} axes instead of 2")
    if not 0 < math.prod(shape) <= _MOST_PIXELS or not all(0 < t <= s for t, s in zip(tile, shape, strict=True)):
        raise _Damaged(f"an image of {shape} pixels in tiles of {tile}")
    # What a packed tile unpacks to is known by unpacking it only: zlib stops at the limit.
    most = math.prod(tile) * 8 + 4096
    with fits.open(io.BytesIO(data), memmap=False, disable_image_compression=True) as units:
        table = next(one for one in units if one.header.get("ZIMAGE") is True).data
        for name in table.names if "GZIP" in str(unit.compression_type) else ("GZIP_COMPRESSED_DATA",):
            for cell in table[name] if name in table.names and name.endswith("COMPRESSED_DATA") else ():
                packed = np.asarray(cell, np.uint8).tobytes()
                if len(zlib.decompressobj(wbits=47).decompress(packed, most + 1)) > most:
                    raise _Damaged(f"a tile unpacks to more than {most} bytes")


def _scaled(image: np.ndarray, header: Header) -> np.ndarray:
    scale, zero = float(header.get("BSCALE") or 1.0), float(header.get("BZERO") or 0.0)
    if scale == 1.0 and zero == 0.0:
        return image
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and no pixel
        values = (image * scale + zero).astype(np.float32)
    blank = header.pop("BLANK", None)
    if isinstance(blank, int) and np.issubdtype(image.dtype, np.integer):
        values[image == blank] = np.nan
    for key in ("BSCALE", "BZERO"):
        header.pop(key, None)
    return values


def _guard(data: bytes, work: Any) -> Any:
    """Turn what goes wrong with hostile bytes into the status to record."""
    try:
        return work()
    except _NotFits:
        status = FrameStatus.FAILED_NOT_FITS
        raise FrameError(status, f"{len(data)} bytes beginning with {bytes(data[:16])!r}") from None
    except _Damaged as error:
        raise FrameError(FrameStatus.FAILED_READ, str(error)) from None
    except (ValueError, TypeError, OverflowError, MemoryError, KeyError) as error:
        raise FrameError(FrameStatus.FAILED_READ, f"{type(error).__name__}: {error}") from None


def read_fits(data: bytes) -> tuple[np.ndarray, Header]:
    """Read the first image of a FITS file.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    tuple of (numpy.ndarray, dict)
        The image, shape (y, x), in its native type (float32 where BSCALE or BZERO apply), and its keywords. BLANK
        stays in the header of integer images.

    Raises
    ------
    FrameError
        FAILED_NOT_FITS, FAILED_READ or FAILED_SHAPE; never anything else, whatever the bytes are.
    """

    def work() -> tuple[np.ndarray, Header]:
        raw_header, begin = image_header(data)
        if raw_header.get("ZIMAGE") is True:
            image = _rice(data, raw_header, begin)
            if image is None:
                image = _other_compression(data)
            header = _restore(raw_header)
            if image.dtype.kind == "f":
                header.pop("BLANK", None)
                return image, header
        else:
            header = dict(raw_header)
            image = _plain(data, raw_header, begin)
        if image.ndim != 2:
            raise FrameError(FrameStatus.FAILED_SHAPE, f"the image has {image.ndim} axes instead of 2")
        return _scaled(image, header), header

    result: tuple[np.ndarray, Header] = _guard(data, work)
    return result
