"""Small pictures of the Sun in the colours of SDO, as PNG with a palette."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from sdoml_dist.report.quicklook import stretched

_PIXELS = 288


def reduced(image: np.ndarray, pixels: int = _PIXELS) -> np.ndarray:
    """Return the image binned by the smallest whole factor that leaves at most `pixels` per axis."""
    factor = -(-max(image.shape) // pixels)
    rows, columns = (size // factor for size in image.shape)
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    valid = np.isfinite(blocks)
    number = valid.sum(axis=(1, 3))
    total = np.where(valid, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def palette_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """Write a PNG of 8-bit palette indices, shape (rows, columns), top row first; palette of shape (256, 3), uint8."""
    rows, columns = indices.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), indices], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", palette.tobytes())
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def tile(image: np.ndarray, colormap: str, signed: bool = False) -> bytes:
    """Return a picture of an image, north up, as PNG."""
    import matplotlib as mpl
    import sunpy.visualization.colormaps  # noqa: F401 - registers the colour tables of SDO

    palette = (mpl.colormaps[colormap](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
    shade = np.nan_to_num(np.clip(stretched(reduced(image), signed), 0, 1) * 255).round().astype(np.uint8)
    return palette_png(shade[::-1], palette)
