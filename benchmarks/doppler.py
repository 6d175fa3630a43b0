"""Acoustic power per hop: sums that follow the window, against a Fourier transform of every window; one core.

python benchmarks/doppler.py        (three minutes; set OPENBLAS_NUM_THREADS=1 to keep BLAS to one core)
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import numpy as np
import scipy.fft

from sdoml_dist.solar.helioseismology import BANDS_MILLIHERTZ, band_bins, band_power, reference_band_power

PIXELS, WINDOW = 512, 640


def published(part: np.ndarray) -> np.ndarray:
    """Take the complex transform of every pixel of a window in double precision, as the published code does."""
    spectrum = np.abs(np.fft.fft(np.diff(part, axis=0), axis=0)[: WINDOW // 2]) ** 2
    return collected(spectrum)


def quick(part: np.ndarray) -> np.ndarray:
    """Take the real transform in single precision."""
    spectrum = scipy.fft.rfft(np.diff(part, axis=0), axis=0)
    return collected(spectrum.real**2 + spectrum.imag**2)


def collected(spectrum: np.ndarray) -> np.ndarray:
    """Sum bins to bands."""
    bins, weights = band_bins(WINDOW, 45.0, BANDS_MILLIHERTZ, "solared")
    parts = zip(bins, weights, strict=True)
    return np.array([np.tensordot(weight.astype(spectrum.dtype), spectrum[chosen], 1) for chosen, weight in parts])


def timed(function: object, *arguments: object) -> tuple[float, np.ndarray]:
    """Return seconds and result of one call."""
    start = time.perf_counter()
    result = function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - start, result


def matrix_rate() -> float:
    """Return the machine's single-precision rate of a large matrix product, operations a second."""
    a = np.ones((2048, 2048), np.float32)
    a @ a
    return 2 * 2048**3 / min(timed(np.matmul, a, a)[0] for _ in range(3))


def main() -> None:
    """Compare results, then times per hop."""
    rng = np.random.default_rng(0)
    series = rng.normal(0, 400, (WINDOW + 16 * 40, PIXELS, PIXELS)).astype(np.float32)
    band_power(series[:, :8, :8], hop=16)
    rate = matrix_rate()
    whole, theirs = timed(published, series[:WINDOW].astype(np.float64))
    real, single = timed(quick, series[:WINDOW])
    expected = reference_band_power(series[:WINDOW, :64, :64])[0]
    print(f"a window of {WINDOW} frames, {PIXELS} x {PIXELS}: numpy fft {whole:.2f} s, scipy rfft float32 {real:.2f} s")
    assert np.allclose(theirs[:, :64, :64], expected, rtol=1e-9)
    assert np.allclose(single[:, :64, :64], expected, rtol=1e-4)
    for hop in (16, 80):
        frames = WINDOW + (40 if hop == 16 else 8) * hop
        first, _ = timed(band_power, series[:WINDOW], 45.0, WINDOW, hop)
        seconds, found = timed(band_power, series[:frames], 45.0, WINDOW, hop)
        windows = found.start.size  # type: ignore[attr-defined]
        worst = max(
            float(np.abs(found.power[index, :, :64, :64] / reference_band_power(  # type: ignore[attr-defined]
                series[index * hop : index * hop + WINDOW, :64, :64])[0] - 1).max())
            for index in (0, windows // 2, windows - 1)
        )  # fmt: skip
        per_hop = (seconds - first) / (windows - 1)
        work = (
            2
            * 2
            * sum(chosen.size for chosen in band_bins(WINDOW, 45.0, BANDS_MILLIHERTZ, "solared")[0])
            * hop
            * PIXELS**2
        )
        print(
            f"hop {hop}: {per_hop * 1e3:.0f} ms a window ({worst:.1e} from double precision): {whole / per_hop:.0f} x numpy fft, "
            f"{real / per_hop:.1f} x scipy rfft; {work / per_hop / rate:.0%} of the matrix rate ({rate / 1e9:.0f} Gflop/s)"
        )


if __name__ == "__main__":
    main()
