"""Arrays of foreign files: read without running anything that they hold, and without more memory than they may take.

A file of a few kilobytes can claim a terabyte, or unpack to it; and some formats of arrays can hold pickled objects, whose
loading runs code. Here every size is compared with what is there or allowed before memory is taken.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from typing import Any

import numcodecs
import numpy as np

MOST_BYTES = 2**30
"""What one image or chunk may take unpacked: SDOML v2's chunks of 120 images of 512 x 512 pixels take 126 MB."""
UNREADABLE = (
    ValueError, TypeError, RuntimeError, OSError, EOFError, KeyError, IndexError, AttributeError, OverflowError,
    MemoryError, ZeroDivisionError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading damaged files can raise."""
_MOST_NPY_HEADER = 10_000
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def read_npy(data: bytes) -> np.ndarray:
    """Return the array in the bytes of a ``.npy``, read-only.

    Parameters
    ----------
    data : bytes
        The file.

    Raises
    ------
    ValueError
        If it is none, holds Python objects, or has fewer values than its shape says.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, _MOST_NPY_HEADER)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file, _MOST_NPY_HEADER)
    else:
        raise ValueError(f"version {version} of the .npy format is not read")
    if dtype.hasobject:
        raise ValueError("the array holds Python objects, and loading these could run code")
    count, there = math.prod(shape), len(data) - file.tell()
    if min(shape, default=0) < 0 or dtype.itemsize == 0 or count * dtype.itemsize > there:
        raise ValueError(f"{shape} values of {dtype} are announced, {there} bytes are there")
    return np.frombuffer(data, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C")


def read_npz(data: bytes, key: str, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Return an array in the bytes of a ``.npz``, read-only.

    Parameters
    ----------
    data : bytes
        The file.
    key : str
        Name of the array.
    most_bytes : int
        What it may take unpacked.

    Raises
    ------
    ValueError, KeyError, zipfile.BadZipFile
        If it is none, has no such array, or the array is damaged or too large.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(f"{key}.npy") as member:
        plain = member.read(most_bytes + 1)
    if len(plain) > most_bytes:
        raise ValueError(f"{key} unpacks to more than {most_bytes} bytes")
    return read_npy(plain)


def chunk_bytes(meta: dict[str, Any]) -> int:
    """Return what a chunk of a Zarr 2 array takes unpacked, by its ``.zarray``.

    Raises
    ------
    ValueError, TypeError, KeyError
        If it says nothing that makes sense, or more than `MOST_BYTES`.
    """
    chunks, dtype = meta["chunks"], np.dtype(meta["dtype"])
    if not chunks or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in chunks):
        raise ValueError(f"chunks are {chunks!r}")
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"values of type {meta['dtype']!r} are not read")
    size = math.prod(chunks) * dtype.itemsize
    if size > MOST_BYTES:
        raise ValueError(f"a chunk of {chunks} values of {dtype} takes more than {MOST_BYTES} bytes")
    return size


def decode_chunk(data: bytes, meta: dict[str, Any]) -> np.ndarray:
    """Return a chunk of a Zarr 2 array.

    Parameters
    ----------
    data : bytes
        The stored chunk.
    meta : dict
        What ``.zarray`` says of the array.

    Raises
    ------
    ValueError
        If the chunk has another size than its array says, or is packed in a way that is not read. Zarr 2 names codecs by
        their name in a registry that holds pickle, too: only the codecs named here are used.
    """
    size = chunk_bytes(meta)
    plain = _unpack(data, meta["compressor"], size)
    for codec in reversed(meta.get("filters") or []):
        if codec.get("id") != "shuffle":
            raise ValueError(f"the filter {codec.get('id')!r} is not read")
        plain = bytes(memoryview(numcodecs.get_codec(codec).decode(plain)))
    if len(plain) != size:
        raise ValueError(f"the chunk unpacks to {len(plain)} bytes instead of {size}")
    order = meta.get("order", "C")
    return np.frombuffer(plain, np.dtype(meta["dtype"])).reshape(meta["chunks"], order=order)


def _unpack(data: bytes, codec: dict[str, Any] | None, size: int) -> bytes:
    """Unpack a chunk to the size that it should have."""
    if codec is None:
        return data
    name = codec.get("id")
    if name in ("zlib", "gzip"):
        unpacker = zlib.decompressobj(wbits=31 if name == "gzip" else 15)
        plain = unpacker.decompress(data, size + 1)
        if not unpacker.eof and len(plain) <= size:
            raise ValueError("the chunk ends early")
        return plain
    claimed = {"blosc": _blosc_size, "lz4": _lz4_size, "zstd": _zstd_size}.get(str(name))
    if claimed is None:
        raise ValueError(f"chunks packed by {name!r} are not read")
    if claimed(data) != size:
        raise ValueError(f"the chunk claims to unpack to {claimed(data)} bytes instead of {size}")
    return bytes(memoryview(numcodecs.get_codec(codec).decode(data)))


def _blosc_size(data: bytes) -> int:
    """Return the size that the header of a Blosc 1 buffer gives (bytes 4 to 7; the packed size follows)."""
    if len(data) < 16 or int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError("not a whole Blosc buffer")
    return int.from_bytes(data[4:8], "little")


def _lz4_size(data: bytes) -> int:
    """Return the size that numcodecs writes before an LZ4 block."""
    if len(data) < 4:
        raise ValueError("not an LZ4 buffer")
    return int.from_bytes(data[:4], "little")


def _zstd_size(data: bytes) -> int:
    """Return the content size that the header of a Zstandard frame gives (RFC 8878, section 3.1.1.1)."""
    if len(data) < 6 or data[:4] != _ZSTD_MAGIC:
        raise ValueError("not a Zstandard frame")
    flag, single, dictionary = data[4] >> 6, data[4] >> 5 & 1, (0, 1, 2, 4)[data[4] & 3]
    width = (single, 2, 4, 8)[flag]
    begin = 5 + (0 if single else 1) + dictionary
    if width == 0 or len(data) < begin + width:
        raise ValueError("the Zstandard frame does not say its size")
    return int.from_bytes(data[begin : begin + width], "little") + (256 if width == 2 else 0)
