"""From the dataset back to a sunpy Map whose world coordinates are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.geometry import RSUN_REF_M
from sdoml_dist.solar.hmi import WAVELENGTH_ANGSTROM
from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL, PRODUCTS
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import format_fits_time

if TYPE_CHECKING:
    import xarray as xr
    from sunpy.map import GenericMap

_NUMBERS = (
    "CRPIX1", "CRPIX2", "CDELT1", "CDELT2", "CRVAL1", "CRVAL2", "CROTA2", "EXPTIME", "QUALITY", "RSUN_OBS", "R_SUN",
    "DSUN_OBS", "HGLN_OBS", "HGLT_OBS", "CRLN_OBS", "CRLT_OBS", "DEG_COR",
)  # fmt: skip


def map_header(ds: xr.Dataset, channel: str, time: str | np.datetime64) -> dict[str, Any]:
    """Return the FITS header of one frame on the dataset's grid.

    Parameters
    ----------
    ds : xarray.Dataset
        From :func:`sdoml_dist.open_dataset`.
    channel : str
        Channel.
    time : str or numpy.datetime64
        Slot time, UTC; the nearest slot is taken.

    Raises
    ------
    UsageError
        If the channel is not there or the frame is not ok.
    """
    if channel not in ds.data_vars:
        raise UsageError(f"The dataset has no channel {channel!r}; it has {', '.join(map(str, ds.channel.values))}.")
    row = ds.sel(channel=channel).sel(time=np.datetime64(str(time), "ns"), method="nearest")
    code = FrameStatus(int(row["status"]))
    if code is not FrameStatus.OK:
        raise UsageError(
            f"The frame of {channel} at {row.time.values} is not there: {code.label}.",
            "Nothing is ever substituted.",
            "Choose among the frames that are ok: ds.status == 1.",
        )
    header: dict[str, Any] = {
        "SIMPLE": True, "NAXIS": 2, "CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN", "CUNIT1": "arcsec", "CUNIT2": "arcsec",
        "WAVEUNIT": "angstrom", "RSUN_REF": RSUN_REF_M, "TIMESYS": "UTC", **_instrument(channel),
    }  # fmt: skip
    for name in _NUMBERS:
        value = row[name].values.item() if name in row else None
        if value is not None and np.isfinite(value):
            header[name] = value
    # Level-1 headers of AIA give DATE-OBS as the start of the exposure and T_OBS as its middle.
    observed = row["T_OBS"].values.astype("datetime64[ns]")
    header["T_OBS"] = format_fits_time(observed) + "Z"
    half = np.timedelta64(int(header.get("EXPTIME", 0.0) * 0.5e9), "ns")
    header["DATE-OBS"] = format_fits_time(observed - half, 3)
    return header | _made(ds[channel].attrs, channel)


def _made(attributes: dict[str, Any], channel: str) -> dict[str, Any]:
    """Return what says that an image was made by a network; nothing for what was observed.

    An image of a channel that the network saw is still one of that instrument; any other is of none.
    """
    if "made_by" not in attributes:
        return {}
    inputs = attributes["made_of"]
    told = (
        f"made by sdoml_dist's network {attributes['made_by']} (weights {attributes['checkpoint']}) of "
        f"{', '.join(inputs)} in version {attributes['made_of_snapshot']} of a dataset"
    )
    if channel in inputs:
        return {"HISTORY": told}
    return {"HISTORY": told, "TELESCOP": "sdoml_dist", "INSTRUME": attributes["made_by"], "OBSRVTRY": "sdoml_dist"}


def _instrument(channel: str) -> dict[str, Any]:
    """Return the keywords that name the instrument and the unit."""
    if channel in AIA:
        return {"TELESCOP": "SDO/AIA", "INSTRUME": "AIA", "WAVELNTH": AIA[channel].wavelength_angstrom, "LVL_NUM": 1.5,
                "BUNIT": "DN/s"}  # fmt: skip
    spec = PRODUCTS[PRODUCT_OF_CHANNEL[channel]].channels[channel]
    content = {"M": "MAGNETOGRAM", "V": "DOPPLERGRAM", "I": "CONTINUUM INTENSITY"}.get(channel[0], f"{channel.upper()}")
    return {"TELESCOP": "SDO/HMI", "INSTRUME": "HMI", "WAVELNTH": WAVELENGTH_ANGSTROM, "CONTENT": content,
            "BUNIT": spec.unit}  # fmt: skip


def to_map(ds: xr.Dataset, channel: str, time: str | np.datetime64) -> GenericMap:
    """Return one frame as a sunpy Map.

    Parameters
    ----------
    ds : xarray.Dataset
        From :func:`sdoml_dist.open_dataset`.
    channel : str
        Channel, for example ``"171A"``.
    time : str or numpy.datetime64
        Slot time, UTC; the nearest slot is taken.

    Returns
    -------
    sunpy.map.GenericMap
        An AIA map in DN/s or an HMI map in G, m/s or DN/s, north up, with the observer of the frame. What a network made says
        so in HISTORY; if it made a channel that it had not seen, the map is of neither instrument.

    Raises
    ------
    UsageError
        If the channel is not there or the frame is not ok.
    """
    from sunpy.map import Map

    header = map_header(ds, channel, time)
    image = ds[channel].sel(time=np.datetime64(str(time), "ns"), method="nearest").values
    result: GenericMap = Map(image, header)
    return result
