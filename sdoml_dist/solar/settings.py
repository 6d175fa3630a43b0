"""What the calibration of a frame needs to know besides the frame and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal


@dataclass(frozen=True)
class CalibrationSettings:
    """Settings of the calibration.

    Attributes
    ----------
    pixels : int
        Pixels per axis of the target grid.
    solar_radius_arcsec : float
        Angular solar radius that frames are brought to, arcsec.
    convention : {"mean", "sum"}
        ``mean``: DN/s per source pixel (SDOML v2); ``sum``: DN/s per target pixel (SDOML v1).
    negative : {"keep", "mask"}
        Whether values <= 0 take part in the average.
    minimum_valid_fraction : float
        Valid area below which a target pixel is NaN.
    minimum_exposure_s, maximum_exposure_s : float
        Frames with EXPTIME at or below the first, or above the second, are rejected.
    exposure_floor_s : float
        Smallest exposure that is divided by, as in the published SDOML code.
    correct_degradation : bool
        Whether to divide by the degradation factor.
    input_level : {"1", "1.5"}
        Level 1 has native pointing, level 1.5 is registered.
    expected_shape : tuple of int, optional
        Shape of the input; other shapes fail.
    """

    pixels: int = 512
    solar_radius_arcsec: float = 976.0
    convention: Literal["mean", "sum"] = "mean"
    negative: Literal["keep", "mask"] = "keep"
    minimum_valid_fraction: float = 0.5
    minimum_exposure_s: float = 0.0
    maximum_exposure_s: float = inf
    exposure_floor_s: float = 0.01
    correct_degradation: bool = True
    input_level: Literal["1", "1.5"] = "1"
    expected_shape: tuple[int, int] | None = None
