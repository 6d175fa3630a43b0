"""Decode RICE_1 tile rows of compressed FITS images.

The format is that of the FITS standard 4.0, section 10.4.1 (Rice & Plaunt adapted by White & Percival): per row the
first pixel as it is, then for every block of pixels a code length and the mapped differences of neighbours.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

# Code-length field, its escape value and the raw width by bytes per pixel (FITS standard 4.0, table 37).
_PARAMETERS = {1: (3, 6, 8), 2: (4, 14, 16), 4: (5, 25, 32)}
# Pixels per block: 16 or 32 in the standard's table 36, with room for writers that chose more.
_MOST_BLOCK = 256
PADDING = 16
"""Bytes that must follow the compressed data, so that reading a word at its end stays inside the buffer."""


@intrinsic
def _word(typing_context: Any, address: Any, offset: Any) -> Any:
    """Read 8 bytes at any address as a big-endian number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(builder.add(*arguments), ir.IntType(64).as_pointer())
        word = builder.load(place)
        word.align = 1
        return builder.bswap(word)

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def _leading_zeros(typing_context: Any, word: Any) -> Any:
    """Count the leading zero bits of a word; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@numba.njit(cache=True, nogil=True)
def _decode(
    data: np.ndarray, starts: np.ndarray, lengths: np.ndarray, block: int, fs_bits: int, fs_max: int, bits: int,
    out: np.ndarray,
) -> int:  # fmt: skip
    """Decode rows; returns -1, or the first row that is damaged."""
    address = data.ctypes.data
    limit = data.size - PADDING
    rows, width = out.shape
    one = np.uint64(1)
    for row in range(rows):
        start, length = starts[row], lengths[row]
        if start < 0 or length * 8 < bits or start + length > limit:
            return row
        position = start * 8 + bits
        end = (start + length) * 8
        last = np.int64(_word(address, start) >> np.uint64(64 - bits))
        column = 0
        while column < width:
            if position > end:
                return row
            stop = min(column + block, width)
            # The next bits of the stream, left-aligned; at least 57 of them are valid after a refill.
            buffer = _word(address, position >> 3) << np.uint64(position & 7)
            code = np.int64(buffer >> np.uint64(64 - fs_bits)) - 1
            position += fs_bits
            if code < 0:
                for index in range(column, stop):
                    out[row, index] = last
            elif code == fs_max:
                for index in range(column, stop):
                    if position > end:
                        return row
                    value = np.int64((_word(address, position >> 3) << np.uint64(position & 7)) >> np.uint64(64 - bits))
                    position += bits
                    last += (value >> 1) ^ -(value & 1)
                    out[row, index] = last
            elif code > fs_max:
                return row
            else:
                shift = np.uint64(code)
                tail = np.uint64(63 - code)
                mask = (one << shift) - one
                buffer <<= np.uint64(fs_bits)
                valid = 57 - fs_bits
                for index in range(column, stop):
                    zeros = _leading_zeros(buffer)
                    if zeros + 1 + code > valid:
                        if position > end:
                            return row
                        buffer = _word(address, position >> 3) << np.uint64(position & 7)
                        valid = 57
                        zeros = _leading_zeros(buffer)
                        if zeros + 1 + code > valid:
                            zeros = 0
                            while True:
                                buffer = _word(address, position >> 3) << np.uint64(position & 7)
                                run = _leading_zeros(buffer)
                                if run < 57:
                                    break
                                zeros += 56
                                position += 56
                                if position > end:
                                    return row
                            zeros += run
                            position += run
                            value = (zeros << code) | np.int64(
                                ((_word(address, position >> 3) << np.uint64(position & 7)) >> tail) & mask
                            )
                            position += 1 + code
                            last += (value >> 1) ^ -(value & 1)
                            out[row, index] = last
                            valid = 0
                            continue
                    used = zeros + 1 + code
                    value = (zeros << code) | np.int64(((buffer << np.uint64(zeros)) >> tail) & mask)
                    buffer <<= np.uint64(used)
                    valid -= used
                    position += used
                    last += (value >> 1) ^ -(value & 1)
                    out[row, index] = last
            column = stop
        if position > end:
            return row
    return -1


_ROW_PADDING = 64


def decode_rows(
    data: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width: int, bytes_per_pixel: int, block: int
) -> np.ndarray:
    """Decode an image whose every row is one RICE_1 tile.

    Parameters
    ----------
    data : numpy.ndarray
        The heap of the table, uint8, followed by `PADDING` bytes.
    starts, lengths : numpy.ndarray
        Where each row's bytes lie in `data`, int64, shape (rows,).
    width : int
        Pixels per row.
    bytes_per_pixel : int
        1, 2 or 4.
    block : int
        Pixels per block, usually 32.

    Returns
    -------
    numpy.ndarray
        Shape (rows, width); uint8, int16 or int32.

    Raises
    ------
    ValueError
        If the data are damaged. No byte outside `data` is ever read.
    """
    if bytes_per_pixel not in _PARAMETERS or not 1 <= block <= _MOST_BLOCK:
        raise ValueError(f"RICE_1 with {bytes_per_pixel} bytes per pixel and blocks of {block} is not defined")
    # Every block begins with a code, so an image that is larger than its bytes allow is known before it takes memory.
    code_bits, _, first_bits = _PARAMETERS[bytes_per_pixel]
    short = np.flatnonzero(lengths * 8 < first_bits + code_bits * -(-width // block))
    if short.size:
        raise ValueError(f"row {short[0]} of the compressed image is damaged or cut off")
    dtype = {1: np.uint8, 2: np.int16, 4: np.int32}[bytes_per_pixel]
    # Rows whose starts lie a multiple of 4096 bytes apart would evict each other from the processor's first cache when
    # a filter reads several rows at once.
    padding = _ROW_PADDING if width * bytes_per_pixel % 4096 == 0 else 0
    out = np.empty((starts.size, width + padding), dtype=dtype)[:, :width]
    damaged = _decode(data, starts, lengths, block, *_PARAMETERS[bytes_per_pixel], out)
    if damaged >= 0:
        raise ValueError(f"row {damaged} of the compressed image is damaged or cut off")
    return out
