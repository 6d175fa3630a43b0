"""What the names of files say: which bundle and segment they hold, and when."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.products import Product
from sdoml_dist.solar.times import parse_fits_time

CHANNEL_BY_WAVELENGTH = {channel.wavelength_angstrom: name for name, channel in AIA.items()}
"""AIA channels by WAVELNTH."""

_AIA = r"AIA(?P<time>\d{8}_\d{4}(?:\d{2})?)_(?P<wavelength>\d{4})\.fits$"
_HMI = r"(?P<series>hmi\.[A-Za-z0-9_]+)\.(?P<time>\d{8}_\d{6})_TAI(?:\.\d+)?\.(?P<segment>[A-Za-z]+)\.fits$"
_EVE = r"EVL_L2_(?P<time>\d{7}_\d{2})_\d+_\d+\.fits?(?:\.gz)?$"
_DIODES = r"(?:esp_L1_)?(?P<time>\d{7,8})_(?:\d+\.fits?(?:\.gz)?|EVE_L0CS_DIODES_1m(?:_\w+)?\.txt)$"
# The synoptic tree, JSOC's exports, LASP's level-2 products.
PATTERNS = {"aia": _AIA, "hmi": _HMI, "hmi_720s": _HMI, "hmi_45s": _HMI, "hmi_stack": _HMI, "eve": _EVE,
            "eve_diodes": _DIODES}  # fmt: skip
"""Default patterns by product."""


@dataclass(frozen=True)
class Named:
    """What a name says."""

    bundle: str
    segment: str
    time: np.datetime64


def read_name(path: str, product: Product, pattern: str | None = None) -> Named:
    """Read the name of a file.

    Parameters
    ----------
    path : str
        Path; its end is what counts.
    product : Product
        What the files hold.
    pattern : str, optional
        Regular expression with the groups of the default one.

    Raises
    ------
    ValueError
        If the name does not follow the pattern or speaks of something else.
    """
    match = re.search(pattern or PATTERNS[product.name], path)
    if match is None:
        raise ValueError("the name does not follow source.name_pattern")
    digits = re.sub(r"\D", "", match["time"])
    if product.kind == "series":
        # Year and date, or year, day of the year, and hour.
        if len(digits) == 8:
            day = np.datetime64(f"{digits[:4]}-{digits[4:6]}-{digits[6:]}", "D")
            return Named(product.bundles[0].name, product.bundles[0].segments[0], day.astype("datetime64[ns]"))
        day = np.datetime64(f"{digits[:4]}-01-01", "D") + (int(digits[4:7]) - 1)
        hour = np.timedelta64(int(digits[7:9] or 0), "h")
        return Named(product.bundles[0].name, product.bundles[0].segments[0], day.astype("datetime64[ns]") + hour)
    digits = digits.ljust(14, "0")
    text = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:10]}:{digits[10:12]}:{digits[12:14]}"
    if product.name == "aia":
        name = CHANNEL_BY_WAVELENGTH.get(int(match["wavelength"]))
        if name is None:
            raise ValueError(f"there is no channel of {match['wavelength']} Angstrom")
        return Named(name, "image", parse_fits_time(text))
    for bundle in product.bundles:
        if match["series"].lower() == bundle.series.lower() and match["segment"] in bundle.segments:
            return Named(bundle.name, match["segment"], parse_fits_time(text, "tai"))
    raise ValueError(f"{match['series']} {match['segment']} is not part of product {product.name!r}")
