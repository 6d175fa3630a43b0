"""Acoustic power per hop: sums that follow the window, against a Fourier transform of every window; one core.

python benchmarks/doppler.py        (a minute; least processor time of several runs: other work counts little)
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import time
from collections.abc import Callable

import numpy as np
import scipy.fft
from scipy.linalg.blas import sgemm

from sdoml_dist.solar.helioseismology import BANDS_MILLIHERTZ, band_bins, band_power, reference_band_power

PIXELS, WINDOW, HOPS = 512, 640, (16, 80)
BINS, WEIGHTS = band_bins(WINDOW, 45.0, BANDS_MILLIHERTZ, "solared")
USED = np.unique(np.concatenate(BINS)).size


def published(part: np.ndarray) -> np.ndarray:
    """Take the complex transform of every pixel of a window in double precision, as the published code does."""
    return collected(np.abs(np.fft.fft(np.diff(part, axis=0), axis=0)[: WINDOW // 2]) ** 2)


def quick(part: np.ndarray) -> np.ndarray:
    """Take the real transform in single precision."""
    spectrum = scipy.fft.rfft(np.diff(part, axis=0), axis=0)
    return collected(spectrum.real**2 + spectrum.imag**2)


def collected(spectrum: np.ndarray) -> np.ndarray:
    """Sum bins to bands."""
    parts = zip(BINS, WEIGHTS, strict=True)
    return np.array([np.tensordot(weight.astype(spectrum.dtype), spectrum[chosen], 1) for chosen, weight in parts])


def least(function: Callable[[], object], runs: int) -> float:
    """Return the processor seconds of the quickest call; nothing here waits, so that on a free core it is the time."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def matrix_rate() -> float:
    """Return the machine's single-precision rate of a large matrix product, operations a second."""
    a = np.ones((2048, 2048), np.float32)
    return 2 * 2048**3 / least(lambda: a @ a, 5)


def thin_rate(hop: int) -> float:
    """Return the rate of the products of a hop alone, added to sums in place, at the best of some tiles."""
    rates = []
    for pixels in (256, 512, 1024, 4096):
        sums = np.zeros((pixels, 2 * USED), np.float32, order="F")
        a, b = np.ones((pixels, hop), np.float32, order="F"), np.ones((hop, 2 * USED), np.float32, order="F")

        def repeat(sums: np.ndarray = sums, a: np.ndarray = a, b: np.ndarray = b) -> None:
            for _ in range(2**17 // sums.shape[0]):
                sgemm(1.0, a, b, 1.0, sums, overwrite_c=1)

        rates.append(2 * 2 * USED * hop * 2**17 / least(repeat, 10))
    return max(rates)


def check(series: np.ndarray) -> None:
    """Compare all routes with the double-precision transform."""
    small = series[:, :64, :64]
    expected = reference_band_power(small[:WINDOW])[0]
    for function, part in ((published, small[:WINDOW].astype(np.float64)), (quick, small[:WINDOW])):
        error = np.abs(function(part) / expected - 1).max()
        print(f"{function.__name__}: {error:.1e} from double precision")
        assert error < 1e-4
    for hop in HOPS:
        found = band_power(small, hop=hop)
        chosen = [0, found.start.size // 2, found.start.size - 1]
        windows = [reference_band_power(small[begin : begin + WINDOW])[0] for begin in found.start[chosen]]
        error = np.abs(found.power[chosen] / np.array(windows) - 1).max()
        print(f"band_power, hop {hop}: {error:.1e} from double precision")
        assert error < 1e-5


def main() -> None:
    """Compare results, then times per window."""
    series = np.random.default_rng(0).standard_normal((2 * WINDOW, PIXELS, PIXELS), dtype=np.float32)
    series *= 400
    check(series)
    rate = matrix_rate()
    # A quarter of the pixels, times four: the whole would be slower still, for want of memory.
    quarter = series[:WINDOW, : PIXELS // 4].astype(np.float64)
    slow, real = 4 * least(lambda: published(quarter), 2), least(lambda: quick(series[:WINDOW]), 3)
    print(f"{PIXELS} x {PIXELS} pixels, windows of {WINDOW} frames, milliseconds a window, one core")
    print(f"numpy.fft.fft (published route) {slow * 1e3:.0f}, scipy.fft.rfft float32 {real * 1e3:.0f}")
    print(f"large matrix product: {rate / 1e9:.0f} Gflop/s")
    for hop in HOPS:
        begin = least(lambda hop=hop: band_power(series[:WINDOW], hop=hop), 4)  # type: ignore[misc]
        whole = least(lambda hop=hop: band_power(series, hop=hop), 4)  # type: ignore[misc]
        each = (whole - begin) / (WINDOW // hop)
        # The products, real times (cosine, sine); folding them about the middle of a piece takes 40 for every 64, turning
        # included, and squares 5 once.
        work = 2 * 2 * USED * hop * PIXELS**2 / each
        done = USED * (40 * hop / 16 + 5) * PIXELS**2 / each
        print(
            f"hop {hop}: band_power {each * 1e3:.1f} ms a window and {begin * 1e3:.0f} ms every 12 windows' length; "
            f"{slow / each:.0f} x numpy, {real / each:.1f} x scipy; {work / 1e9:.0f} Gflop/s of products, "
            f"{work / rate:.0%} of the matrix rate ({done / rate:.0%} by operations done); "
            f"sgemm alone with inner dimension {hop}: {thin_rate(hop) / 1e9:.0f} Gflop/s"
        )


if __name__ == "__main__":
    main()
