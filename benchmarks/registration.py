"""Calibrating one 4096 x 4096 AIA frame on one core, against aiapy and against the fastest decoders at hand.

python benchmarks/registration.py        (needs the dev extra; imagecodecs and fitsio are compared where installed)
"""

from __future__ import annotations

import io
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
from aiapy.calibrate import register
from astropy.io import fits
from sunpy.map import Map

from sdoml_dist.solar.calibrate import CalibrationTables, calibrate, frame_pointing
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.degradation import DegradationTable
from sdoml_dist.solar.geometry import source_transform
from sdoml_dist.solar.pointing import PointingTable
from sdoml_dist.solar.registration import register_and_bin
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.fits import read_fits
from sdoml_dist.sources.simulator import level1_fits, planned_frame, pointing_table, response_table

CHANNEL, SETTINGS = AIA["171A"], CalibrationSettings()


def best(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the shortest time of some repeats after a first one, and the result."""
    result = work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


def decoders(data: bytes) -> dict[str, Callable[[], np.ndarray]]:
    """Return the ways to decode the frame from its bytes."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "sdoml_dist": lambda: read_fits(data)[0],
        "astropy": lambda: np.asarray(fits.open(io.BytesIO(data))[1].data),
    }
    try:
        import imagecodecs
    except ImportError:
        return ways
    table = fits.open(io.BytesIO(data), disable_image_compression=True)[1]
    rows = table.data["COMPRESSED_DATA"]
    packed = [np.asarray(row, np.uint8).tobytes() for row in rows]

    def by_imagecodecs() -> np.ndarray:
        out = np.empty((4096, 4096), np.int16)
        for index, row in enumerate(packed):
            imagecodecs.rcomp_decode(row, shape=(4096,), dtype="i2", nblock=32, out=out[index])
        return out

    ways["imagecodecs (tiles at hand)"] = by_imagecodecs
    return ways


def main() -> None:
    """Run all comparisons and print them."""
    warnings.simplefilter("ignore")
    config = SimulationConfig()
    nominal = np.datetime64("2011-07-15T00:00", "ns")
    data = level1_fits(config, planned_frame(config, "171A", nominal))
    day = np.timedelta64(1, "D")
    tables = CalibrationTables(
        DegradationTable.from_response_table(response_table()),
        PointingTable.from_csv(pointing_table(config, nominal - day, nominal + day)),
    )
    raw, header = read_fits(data)
    frame = calibrate(raw, header, CHANNEL, SETTINGS, tables)
    pointing, _ = frame_pointing(header, CHANNEL, frame.time, SETTINGS, tables.pointing)
    meta = header | {
        "crpix1": pointing.crpix1, "crpix2": pointing.crpix2, "cdelt1": pointing.cdelt1, "cdelt2": pointing.cdelt2,
        "crota2": pointing.crota2,
    }  # fmt: skip

    def ours_kernel() -> np.ndarray:
        return register_and_bin(raw, source_transform(pointing, 512, 976.0), 512, blank=-32768)

    def theirs_kernel(image: np.ndarray = raw) -> np.ndarray:
        prepared = register(Map(image.astype(np.float32), meta), missing=0.0)
        size = prepared.data.shape[0] // 8 * 8
        return prepared.data[:size, :size].reshape(size // 8, 8, size // 8, 8).mean(axis=(1, 3))

    def theirs_frame() -> np.ndarray:
        image = np.asarray(fits.open(io.BytesIO(data))[1].data)
        return theirs_kernel(image) / float(header["EXPTIME"]) / frame.keywords["DEG_COR"]

    def ours_frame() -> np.ndarray:
        image, keywords = read_fits(data)
        return calibrate(image, keywords, CHANNEL, SETTINGS, tables).image

    # aiapy keeps 0.6 arcsec per pixel, we the solar radius: with the radius of this date both grids are one.
    same = register_and_bin(raw, source_transform(pointing, 512, pointing.rsun_obs), 512, blank=-32768)
    other = theirs_kernel()[:512, :512]
    bright = same > 50
    difference = np.median(np.abs(same - other)[bright] / same[bright])
    assert difference < 1e-2, difference
    print(f"frame {len(data) / 1e6:.1f} MB compressed; median relative difference to aiapy {difference:.1e}")

    kernel, _ = best(ours_kernel, 7)
    peer, _ = best(theirs_kernel, 2)
    print(
        f"registration and binning  {kernel * 1e3:7.1f} ms   aiapy register + mean {peer * 1e3:7.0f} ms   {peer / kernel:6.0f} x"
    )
    decoded = {name: best(way, 5) for name, way in decoders(data).items()}
    for name, (seconds, image) in decoded.items():
        assert np.array_equal(image, raw), name
        print(f"decode by {name:<28} {seconds * 1e3:7.1f} ms")
    fastest = min(seconds for seconds, _ in decoded.values())
    whole, _ = best(ours_frame, 7)
    route, _ = best(theirs_frame, 2)
    print(f"bytes to calibrated frame {whole * 1e3:7.1f} ms   {whole / fastest:.2f} x the fastest decode   aiapy's way "
          f"{route * 1e3:.0f} ms = {route / whole:.0f} x")  # fmt: skip


if __name__ == "__main__":
    main()
