"""Image translation of the Sun without networks: ranges of values, the limb, magnetic flux, regions, and reference times.

Protocols are those of Kim et al. 2019 (Nature Astronomy 3, 397; AISFM 1.0), Jeong et al. 2020 (ApJL 903, L25; 2.0) and
2022 (ApJS 262, 50; 3.0), and Park et al. 2019 (ApJL 884, L23; HMI to AIA). Three defects of their released code are not
repeated: grey levels never enter a flux (the code of 1.0 takes grey 255 for +410 G), a logarithm is always taken before
values are brought to -1 to 1 (the code of 3.0 does it after, which makes most of the input NaN), and no 8-bit images are
written in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.geometry import FIELD_ARCSEC, RSUN_REF_M

GRID_RADIUS_ARCSEC = 976.0
"""Solar radius on the grid that these networks see, SDOML's (Galvez et al. 2019)."""
LIMB = 0.98
"""Share of the solar radius beyond which the published magnetograms have no values."""
MEDIAN_LEVEL = 100.0
"""What the median over the disc is brought to, so that degradation and instruments drop out (Jeong et al. 2020)."""
NOISE_GAUSS = 10.0
"""Weaker fields do not count in the total unsigned flux (code of Kim et al. 2019)."""
SYNODIC_DAYS = 27.2753
"""Synodic rotation period of the Carrington system (Meeus 1998, Astronomical Algorithms, chapter 29)."""
BLOCK, PATCH, PUBLISHED_PIXELS = 8, 128, 1024
"""Pixels that are averaged before pixels are correlated, side of the patches, and side of the images they are meant for."""

# A patch is of an active region if this share of its pixels has this field; it is quiet if none has.
_STRONG_GAUSS, _STRONG_SHARE = 100.0, 0.005
_COVERED = 0.9
_QUIET_RADIUS = 0.8


@dataclass(frozen=True)
class ValueRange:
    """How physical values become numbers from -1 to 1: a limit, then a logarithm, then an affine map, in this order.

    Attributes
    ----------
    kind : {"linear", "log10", "log2"}
        What is taken of the limited value.
    low, high : float
        Limits of value + offset; they become -1 and 1.
    offset : float
        Added to the value first.
    limited : bool
        Whether values beyond the limits are set to them; a logarithm always is.

    Examples
    --------
    >>> RANGES["field-3000"].to_network(np.array([1500.0, -6000.0])).tolist()
    [0.5, -1.0]
    """

    kind: Literal["linear", "log10", "log2"]
    low: float
    high: float
    offset: float = 0.0
    limited: bool = True

    def _stretched(self, values: np.ndarray) -> np.ndarray:
        return values if self.kind == "linear" else (np.log10 if self.kind == "log10" else np.log2)(values)

    def _ends(self) -> tuple[float, float]:
        low, high = self._stretched(np.array([self.low, self.high], np.float64)).tolist()
        return low, high

    def to_network(self, values: np.ndarray) -> np.ndarray:
        """Return network values of physical ones, any shape; NaN stays NaN."""
        shifted = values + values.dtype.type(self.offset)
        if self.limited or self.kind != "linear":
            shifted = np.clip(shifted, self.low, self.high)
        low, high = self._ends()
        result: np.ndarray = ((self._stretched(shifted) - low) * (2.0 / (high - low)) - 1.0).astype(values.dtype)
        return result

    def to_physical(self, values: np.ndarray) -> np.ndarray:
        """Return physical values of network ones: the inverse within the limits."""
        low, high = self._ends()
        stretched = (values.astype(np.float64) + 1.0) * ((high - low) / 2.0) + low
        if self.kind != "linear":
            stretched = (10.0 if self.kind == "log10" else 2.0) ** stretched
        result: np.ndarray = (stretched - self.offset).astype(values.dtype)
        return result


RANGES = {
    "field-100": ValueRange("linear", -100.0, 100.0),
    "field-3000": ValueRange("linear", -3000.0, 3000.0),
    "field-1500": ValueRange("linear", -1500.0, 1500.0, limited=False),
    "euv-200": ValueRange("log10", 1.0, 200.0),
    "aia": ValueRange("log2", 1.0, 2.0**14, offset=1.0),
    "continuum": ValueRange("linear", 0.0, 2.0),
}
"""By name: field of AISFM 1.0, of 2.0 and of Park et al. 2019, and of 3.0; EUV with a median of 100 (2.0 and 3.0); AIA in DN
(Park et al. 2019: log2(DN + 1) / 7 - 1); continuum over that of the quiet Sun, which becomes 0, as there is off the disc."""


def disc_radius(pixels: int, solar_radius_arcsec: float = GRID_RADIUS_ARCSEC) -> float:
    """Return the solar radius in pixels on the dataset's grid."""
    return pixels * solar_radius_arcsec / FIELD_ARCSEC


def disc_mask(pixels: int, share: float = LIMB, solar_radius_arcsec: float = GRID_RADIUS_ARCSEC) -> np.ndarray:
    """Return where pixels' centres lie within a share of the solar radius, bool, shape (pixels, pixels)."""
    squares = (np.arange(pixels) - (pixels - 1) / 2) ** 2
    radius = share * disc_radius(pixels, solar_radius_arcsec)
    mask: np.ndarray = squares[:, None] + squares < radius**2
    return mask


def to_disc_median(images: np.ndarray, mask: np.ndarray, level: float = MEDIAN_LEVEL) -> np.ndarray:
    """Divide each image so that its median over the disc is a given level.

    Parameters
    ----------
    images : numpy.ndarray
        Intensities, shape (..., Y, X), NaN where there is no data.
    mask : numpy.ndarray
        The disc, bool, shape (Y, X).
    level : float
        The median wanted.

    Raises
    ------
    UsageError
        If the median of an image is not positive: it shows no Sun.
    """
    with np.errstate(invalid="ignore"):
        values = np.where(np.isfinite(images[..., mask]), images[..., mask], np.nan)
    empty: np.ndarray = np.asarray(~np.isfinite(values).any(axis=-1))
    median = np.asarray(np.nanmedian(np.where(empty[..., None], 0.0, values), axis=-1))
    dark = np.asarray(median <= 0)
    if dark.any():
        raise UsageError(
            f"The median over the disc is {float(median.min()):g} in {int(dark.sum())} of {median.size} images.",
            "Intensities are brought to one median; these have none.",
            "Leave the frames or the channel out.",
        )
    scaled: np.ndarray = (images * (level / median)[..., None, None]).astype(images.dtype)
    return scaled


def pixel_area_cm2(pixels: int, solar_radius_arcsec: float = GRID_RADIUS_ARCSEC) -> float:
    """Return the area of a pixel at the disc's centre, cm^2, without the foreshortening that papers leave out as well."""
    return (RSUN_REF_M * 100.0 / disc_radius(pixels, solar_radius_arcsec)) ** 2


def unsigned_flux(field: np.ndarray, area_cm2: float, threshold_gauss: float = NOISE_GAUSS) -> np.ndarray:
    """Return the total unsigned magnetic flux, Mx: the sum of |B| above a threshold times the area of a pixel.

    Parameters
    ----------
    field : numpy.ndarray
        Gauss, shape (..., Y, X), NaN where there is no value.
    area_cm2 : float
        Area of a pixel.
    threshold_gauss : float
        Weaker fields do not count.
    """
    strength = np.abs(np.nan_to_num(field.astype(np.float64)))
    total: np.ndarray = np.where(strength > threshold_gauss, strength, 0.0).sum(axis=(-2, -1)) * area_cm2
    return total


def net_flux(field: np.ndarray, area_cm2: float) -> np.ndarray:
    """Return the net magnetic flux, Mx, of fields of shape (..., Y, X)."""
    total: np.ndarray = np.nan_to_num(field.astype(np.float64)).sum(axis=(-2, -1)) * area_cm2
    return total


def block_means(images: np.ndarray, block: int) -> np.ndarray:
    """Average blocks of pixels; those with fewer than half of their pixels valid become NaN.

    Parameters
    ----------
    images : numpy.ndarray
        Shape (..., Y, X); rows and columns beyond the last whole block are left out.
    block : int
        Side of a block.
    """
    rows, columns = (size // block for size in images.shape[-2:])
    cut = images[..., : rows * block, : columns * block].astype(np.float64)
    parts = cut.reshape(*images.shape[:-2], rows, block, columns, block)
    valid = np.isfinite(parts)
    count = valid.sum(axis=(-3, -1))
    total = np.where(valid, parts, 0.0).sum(axis=(-3, -1))
    means: np.ndarray = np.where(2 * count >= block**2, total / np.maximum(count, 1), np.nan)
    return means


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Return Pearson's correlation over what is finite in both; NaN where it is not defined."""
    both = np.isfinite(left) & np.isfinite(right)
    a, b = left[both].astype(np.float64), right[both].astype(np.float64)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


@dataclass(frozen=True)
class Patch:
    """A square of pixels."""

    row: int
    column: int
    size: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the patch of an image of shape (..., Y, X)."""
        return image[..., self.row : self.row + self.size, self.column : self.column + self.size]


def active_patches(field: np.ndarray, size: int, most: int = 16) -> list[Patch]:
    """Find the active regions of a magnetogram: patches with the most flux, that do not overlap.

    The papers chose their 1033 patches of active regions from 825 images by rules that are not published. Here a patch is
    one if at least 0.5 % of its pixels have 100 G or more, and 90 % lie on the disc.

    Parameters
    ----------
    field : numpy.ndarray
        Gauss, shape (Y, X), NaN off the disc.
    size : int
        Side of a patch.
    most : int
        Patches at most.
    """
    sums, covered, strong = _box_sums(field, size)
    fit = (covered >= _COVERED * size**2) & (strong >= max(1.0, _STRONG_SHARE * size**2))
    score = np.where(fit, sums, -np.inf)
    found: list[Patch] = []
    while len(found) < most and score.size and np.isfinite(score.max()):
        row, column = (int(one) for one in np.unravel_index(int(np.argmax(score)), score.shape))
        found.append(Patch(row, column, size))
        score[max(0, row - size + 1) : row + size, max(0, column - size + 1) : column + size] = -np.inf
    return found


def quiet_patch(field: np.ndarray, size: int, solar_radius_arcsec: float = GRID_RADIUS_ARCSEC) -> Patch | None:
    """Return the patch with the least flux inside 0.8 radii, or None where each has a pixel of 100 G or more."""
    sums, covered, strong = _box_sums(field, size)
    if not sums.size:
        return None
    near = _box_sums(np.where(disc_mask(field.shape[0], _QUIET_RADIUS, solar_radius_arcsec), 0.0, np.nan), size)[1]
    fit = (covered == size**2) & (near == size**2) & (strong == 0)
    if not fit.any():
        return None
    row, column = np.unravel_index(int(np.argmin(np.where(fit, sums, np.inf))), sums.shape)
    return Patch(int(row), int(column), size)


def _box_sums(field: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sums of |B|, numbers of valid and of strong pixels of all squares, by their first row and column."""
    strength = np.abs(np.nan_to_num(field.astype(np.float64)))
    layers = []
    for layer in (strength, np.isfinite(field).astype(np.float64), (strength >= _STRONG_GAUSS).astype(np.float64)):
        total = np.zeros((field.shape[0] + 1, field.shape[1] + 1))
        total[1:, 1:] = layer.cumsum(0).cumsum(1)
        layers.append(total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size])
    return layers[0], np.rint(layers[1]), np.rint(layers[2])


def refuse_empty(valid: np.ndarray, what: str) -> None:
    """Refuse images without a single value on the disc.

    Parameters
    ----------
    valid : numpy.ndarray
        Where there are values, bool, shape (images, ..., Y, X).
    what : str
        What the values are.

    Raises
    ------
    UsageError
        If an image has none.
    """
    empty = ~valid.any(axis=(-2, -1))
    if empty.any():
        raise UsageError(
            f"There is no {what} on the disc in {int(empty.sum())} of {empty.size} images.",
            "Anything made of them would be made of nothing.",
            "Leave the frames out.",
        )


def reference_delay_days(separation_deg: float, *, front: bool = False) -> float:
    """Return how long ago the longitudes that a spacecraft sees faced Earth, days.

    Parameters
    ----------
    separation_deg : float
        Heliographic longitude of the spacecraft minus that of Earth, west positive.
    front : bool
        Whether one whole rotation is meant: training on the front side takes its reference from 27.3 days before.

    Examples
    --------
    STEREO-B on 2011-03-05 (Jeong et al. 2022):

    >>> round(reference_delay_days(-94.78), 2)
    20.09
    """
    return SYNODIC_DAYS if front else SYNODIC_DAYS * (separation_deg % 360.0) / 360.0


def reference_reach_s(cadence_s: int) -> int:
    """Return how far a reference may be from its time, seconds: half a step of the observations, or half a degree of rotation."""
    return max(cadence_s // 2, 3600)


def reference_times(times: np.ndarray, separation_deg: float = 0.0, *, front: bool = False) -> np.ndarray:
    """Return when the longitudes seen at some times faced Earth, ``datetime64[ns]``."""
    delay = np.timedelta64(round(reference_delay_days(separation_deg, front=front) * 86_400e9), "ns")
    earlier: np.ndarray = times.astype("datetime64[ns]") - delay
    return earlier
