"""From true emission to the counts of an AIA camera."""

from __future__ import annotations

import numpy as np

# Counts per detected photon: the column DNPERPHT of the AIA response tables (V8 and V10 agree).
DN_PER_PHOTON = {
    "94A": 1.977, "131A": 1.471, "171A": 1.122, "193A": 0.951, "211A": 0.878, "304A": 0.611, "335A": 0.575,
    "1600A": 0.120, "1700A": 0.113,
}  # fmt: skip
READ_NOISE_DN = 1.2
"""Noise of the read-out, about 20 electrons at 17.7 electrons per count (Boerner et al. 2012)."""
SATURATION_DN = 16383
"""Largest value of the 14-bit converter."""


def expose(
    emission: np.ndarray, channel: str, exposure_s: float, degradation: float, rng: np.random.Generator | None
) -> np.ndarray:
    """Return the counts of one exposure.

    Parameters
    ----------
    emission : numpy.ndarray
        DN/s, shape (y, x), float32; overwritten.
    channel : str
        Channel.
    exposure_s : float
        Exposure time.
    degradation : float
        Sensitivity over that at the start of the mission.
    rng : numpy.random.Generator or None
        Source of photon and read noise; None gives the expectation.

    Returns
    -------
    numpy.ndarray
        Shape (y, x), int16, as level 1 has them: the pedestal is subtracted, so that noise goes below zero.
    """
    emission *= np.float32(exposure_s * degradation)
    if rng is not None:
        # Photon noise in the normal approximation together with read noise: one draw per pixel.
        deviation = emission * np.float32(DN_PER_PHOTON[channel])
        deviation += np.float32(READ_NOISE_DN**2)
        np.sqrt(deviation, out=deviation)
        deviation *= rng.standard_normal(emission.shape, dtype=np.float32)
        emission += deviation
    np.rint(emission, out=emission)
    np.clip(emission, -200, SATURATION_DN, out=emission)
    return emission.astype(np.int16)
