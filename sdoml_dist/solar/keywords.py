"""The keywords that the dataset keeps as typed columns, for selection and for building maps.

Meanings are those of the AIA/SDO FITS Keyword Document (JSOC, AIA02840). Every other keyword stays in the frame's
header record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class KeywordSpec:
    """How one keyword is stored.

    Attributes
    ----------
    description, unit : str
        Meaning and unit.
    dtype : str
        Type of the column.
    """

    description: str
    unit: str = ""
    dtype: str = "f8"

    @property
    def is_time(self) -> bool:
        """Whether values are times (UTC, nanoseconds since 1970)."""
        return self.unit == "time"

    @property
    def fill(self) -> float | int:
        """Value where there is no frame or the frame lacks the keyword."""
        if self.is_time:
            return int(np.iinfo(np.int64).min)
        return float("nan") if self.dtype.startswith("f") else -1


_OUTPUT = {
    "T_OBS": KeywordSpec("middle of the exposure, UTC", "time", "i8"),
    "EXPTIME": KeywordSpec("exposure time that the image was divided by", "s"),
    "QUALITY": KeywordSpec("quality bits; 0 is good", dtype="i8"),
    "DEG_COR": KeywordSpec("degradation factor that the image was divided by, 1 if none"),
    "RSUN_OBS": KeywordSpec("angular radius of the Sun as seen by SDO", "arcsec"),
    "R_SUN": KeywordSpec("radius of the Sun in the stored image", "pixel"),
    "CDELT1": KeywordSpec("plate scale of the stored image along x", "arcsec/pixel"),
    "CDELT2": KeywordSpec("plate scale of the stored image along y", "arcsec/pixel"),
    "CRPIX1": KeywordSpec("Sun's centre in the stored image, first pixel is 1", "pixel"),
    "CRPIX2": KeywordSpec("Sun's centre in the stored image, first pixel is 1", "pixel"),
    "CRVAL1": KeywordSpec("helioprojective longitude at CRPIX", "arcsec"),
    "CRVAL2": KeywordSpec("helioprojective latitude at CRPIX", "arcsec"),
    "CROTA2": KeywordSpec("rotation of the stored image; 0 is north up", "deg"),
}
_POINTING = {
    "CRPIX1_L1": KeywordSpec("Sun's centre in the source image that was used", "pixel"),
    "CRPIX2_L1": KeywordSpec("Sun's centre in the source image that was used", "pixel"),
    "CDELT1_L1": KeywordSpec("plate scale of the source image that was used", "arcsec/pixel"),
    "CDELT2_L1": KeywordSpec("plate scale of the source image that was used", "arcsec/pixel"),
    "CROTA2_L1": KeywordSpec("rotation of the source image that was used", "deg"),
    "POINTING": KeywordSpec("1 if the pointing is from the master pointing table, 0 if from the header", dtype="i8"),
}
_COPIED = {
    "DSUN_OBS": KeywordSpec("distance from SDO to the Sun's centre", "m"),
    "CRLN_OBS": KeywordSpec("Carrington longitude of SDO", "deg"),
    "CRLT_OBS": KeywordSpec("Carrington latitude of SDO", "deg"),
    "HGLN_OBS": KeywordSpec("Stonyhurst longitude of SDO", "deg"),
    "HGLT_OBS": KeywordSpec("Stonyhurst latitude of SDO", "deg"),
    "CAR_ROT": KeywordSpec("Carrington rotation number"),
    "OBS_VR": KeywordSpec("velocity of SDO away from the Sun", "m/s"),
    "OBS_VW": KeywordSpec("velocity of SDO towards solar west", "m/s"),
    "OBS_VN": KeywordSpec("velocity of SDO towards solar north", "m/s"),
    "HAEX_OBS": KeywordSpec("heliocentric Aries ecliptic position of SDO, x", "m"),
    "HAEY_OBS": KeywordSpec("heliocentric Aries ecliptic position of SDO, y", "m"),
    "HAEZ_OBS": KeywordSpec("heliocentric Aries ecliptic position of SDO, z", "m"),
    "FSN": KeywordSpec("filtergram sequence number"),
    "AECTYPE": KeywordSpec("type of automatic exposure control"),
    "ACS_ECLP": KeywordSpec("whether the attitude control saw an eclipse, 1 for YES"),
    "SAT_ROT": KeywordSpec("rotation of the spacecraft", "deg"),
    "INST_ROT": KeywordSpec("rotation of the telescope", "deg"),
    "TEMPCCD": KeywordSpec("temperature of the CCD", "degC"),
    "TEMPFPAD": KeywordSpec("temperature of the focal plane", "degC"),
    "DATAMIN": KeywordSpec("smallest value of the source image", "DN"),
    "DATAMAX": KeywordSpec("largest value of the source image", "DN"),
    "DATAMEDN": KeywordSpec("median of the source image", "DN"),
    "DATAMEAN": KeywordSpec("mean of the source image", "DN"),
    "DATARMS": KeywordSpec("standard deviation of the source image", "DN"),
    "DATAP99": KeywordSpec("99th percentile of the source image", "DN"),
    "MISSVALS": KeywordSpec("missing pixels of the source image"),
    "PERCENTD": KeywordSpec("share of the source image that was received", "percent"),
    "NSPIKES": KeywordSpec("spikes that were removed from the source image"),
    "NSATPIX": KeywordSpec("saturated pixels of the source image"),
    "LVL_NUM": KeywordSpec("processing level of the source image"),
    "RECNUM": KeywordSpec("JSOC record number"),
}

PROVENANCE: dict[str, KeywordSpec] = {
    "SOURCE_ID": KeywordSpec(
        "hash of the source file's place and state; changes when the file does, -1 for none", dtype="i8"
    ),
    "CALIBRATION": KeywordSpec(
        "which of the product's calibrations made the frame (attribute calibrations)", dtype="i8"
    ),
}
"""Columns that every product has."""

AIA_KEYWORDS: dict[str, KeywordSpec] = {**_OUTPUT, **_POINTING, **_COPIED, **PROVENANCE}
"""Stored columns of AIA frames by name."""

_HMI_ONLY = {
    "T_REC": KeywordSpec("nominal time of the record, UTC (JSOC writes it in TAI)", "time", "i8"),
    "CALVER64": KeywordSpec("version of the calibration, as bits", dtype="i8"),
    "QUALLEV1": KeywordSpec("quality bits of the filtergrams that the observable was made from", dtype="i8"),
    "CRDER1": KeywordSpec("estimated random error of CRPIX1 and CRVAL1", "arcsec"),
    "HCAMID": KeywordSpec("camera", dtype="i8"),
}
_AIA_ONLY = {"EXPTIME", "DEG_COR", "AECTYPE", "ACS_ECLP", "SAT_ROT", "INST_ROT", "TEMPCCD", "TEMPFPAD", "FSN", "NSPIKES",
             "NSATPIX", "POINTING", "DATAP99", "PERCENTD", "LVL_NUM"}  # fmt: skip
HMI_KEYWORDS: dict[str, KeywordSpec] = {
    **{name: spec for name, spec in AIA_KEYWORDS.items() if name not in _AIA_ONLY},
    **_HMI_ONLY,
}
"""Stored columns of HMI frames by name."""

EVE_KEYWORDS: dict[str, KeywordSpec] = {
    **PROVENANCE,
    "SAMPLES": KeywordSpec("samples of 10 s that the minute's mean is over", dtype="i8"),
    "FLAGS": KeywordSpec("all FLAGS of the minute's samples, joined bit by bit; 0 is good", dtype="i8"),
    "SC_FLAGS": KeywordSpec("all SC_FLAGS of the minute's samples, joined bit by bit; 0 is good", dtype="i8"),
}
"""Stored columns of EVE minutes by name (EVE level-2 release notes)."""

_LARGEST = np.finfo(np.float64).max
_WORDS = {"YES": 1.0, "NO": 0.0, "T": 1.0, "F": 0.0}


def number(value: Any) -> float | None:
    """Return a header value as a finite number, or None. Words that mean a truth value count as 1 and 0."""
    if isinstance(value, str):
        return _WORDS.get(value.strip().upper())
    if isinstance(value, bool | int | float):
        # Not by numpy: a header can hold whole numbers of any length.
        return float(value) if abs(value) < _LARGEST else None
    return None


def copied(header: dict[str, Any], stored: dict[str, KeywordSpec] = AIA_KEYWORDS) -> dict[str, float]:
    """Return the stored keywords that are taken over from a source header as they are."""
    names = (name for name in stored if name in _COPIED or (name in _HMI_ONLY and not stored[name].is_time))
    return {name: value for name in names if (value := number(header.get(name))) is not None}
