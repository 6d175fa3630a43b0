"""Random reads of single frames: one image per chunk, against SDOML v2's 120 images per chunk.

python benchmarks/reading.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle

FRAMES, PIXELS, READS = 240, 512, 24


def main() -> None:
    """Write the same frames in both layouts, read single ones at random, compare."""
    rng = np.random.default_rng(0)
    scene = rng.gamma(2.0, 60.0, (PIXELS, PIXELS)).astype(np.float32)
    images = np.stack([scene + rng.normal(0, 3, scene.shape).astype(np.float32) for _ in range(FRAMES)])
    zstd = [BloscCodec(cname="zstd", clevel=3, shuffle=BloscShuffle.bitshuffle)]
    with tempfile.TemporaryDirectory() as folder:
        ours = zarr.create_array(
            Path(folder) / "ours", shape=images.shape, chunks=(1, PIXELS, PIXELS), shards=images.shape, dtype="f4",
            compressors=zstd,
        )  # fmt: skip
        theirs = zarr.create_array(
            Path(folder) / "v2", shape=images.shape, chunks=(120, PIXELS, PIXELS), dtype="f4", compressors=zstd
        )
        ours[:] = images
        theirs[:] = images
        order = rng.integers(0, FRAMES, READS)
        seconds = []
        for array in (ours, theirs):
            array[0]
            start = time.perf_counter()
            for index in order:
                assert np.array_equal(array[int(index)], images[index])
            seconds.append((time.perf_counter() - start) / READS)
    ours_ms, theirs_ms = (value * 1e3 for value in seconds)
    print(f"one frame: {ours_ms:.1f} ms here, {theirs_ms:.0f} ms in chunks of 120: {theirs_ms / ours_ms:.0f} x")


if __name__ == "__main__":
    main()
