"""Names in the layouts that SDOML was published in: stores of v2, paths of v1."""

from __future__ import annotations

import re

import numpy as np

from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.products import PRODUCTS

STORES = {"aia": "sdomlv2.zarr", "hmi": "sdomlv2_hmi.zarr", "eve": "sdomlv2_eve.zarr"}
"""Names of v2's Zarr stores by product."""

EVE_GROUP = "MEGS-A"
"""Group of the lines in v2; it holds those of MEGS-B, too."""

EVE_FILES = ("name.npy", "wavelength.npy", "logt.npy", "jd.npy", "iso.npy", "irradiance.npy")
"""Tables of the lines in v1; the values come last."""

_AIA_NAME = re.compile(r"(?:^|/)AIA(\d{4})(\d{2})(\d{2})_(\d{2})(\d{2})_(\d{4})\.npz$")
_HMI_NAME = re.compile(r"(?:^|/)HMI(\d{4})(\d{2})(\d{2})_(\d{2})(\d{2})_([a-z][a-z0-9_]*)\.npz$")
_WAVELENGTH = {name: f"{channel.wavelength_angstrom:04d}" for name, channel in AIA.items()}
_CHANNEL = {text: name for name, text in _WAVELENGTH.items()}
_LOWER = {name.lower(): name for key in ("hmi", "hmi_720s", "hmi_45s") for name in PRODUCTS[key].channels}


def frame_path(channel: str, time: np.datetime64) -> str:
    """Return the path of an image in v1's tree, with the time in UTC."""
    text = re.sub(r"\D", "", str(time.astype("datetime64[m]")))
    instrument, name = ("AIA", _WAVELENGTH[channel]) if channel in AIA else ("HMI", channel.lower())
    folder = f"{text[:4]}/{instrument}/{name}/{text[4:6]}/{text[6:8]}"
    return f"{folder}/{instrument}{text[:8]}_{text[8:]}_{name}.npz"


def read_frame_path(path: str) -> tuple[str, np.datetime64] | None:
    """Return channel and time of an image in v1's tree, or None if the name is none of its names."""
    match, known = _AIA_NAME.search(path), _CHANNEL
    if match is None:
        match, known = _HMI_NAME.search(path), _LOWER
    if match is None or match[6] not in known:
        return None
    try:
        time = np.datetime64(f"{match[1]}-{match[2]}-{match[3]}T{match[4]}:{match[5]}", "ns")
    except ValueError:
        return None
    return known[match[6]], time
