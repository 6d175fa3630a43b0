"""The channels of the Atmospheric Imaging Assembly that make up SDOML.

Wavelengths, cadences and JSOC series are those of Lemen et al. 2012 (Solar Physics 275, 17) and the JSOC series list.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Channel:
    """One AIA channel.

    Attributes
    ----------
    name : str
        Name in the dataset, as in SDOML v2, for example ``"171A"``.
    wavelength_angstrom : int
        Nominal wavelength, the value of the FITS keyword WAVELNTH.
    series : str
        JSOC level-1 series.
    native_cadence_s : int
        Cadence of the instrument in seconds.
    """

    name: str
    wavelength_angstrom: int
    series: str
    native_cadence_s: int

    @property
    def colormap(self) -> str:
        """Name of the SDO colour table registered by sunpy."""
        return f"sdoaia{self.wavelength_angstrom}"


_EUV = ("aia.lev1_euv_12s", 12)
_UV = ("aia.lev1_uv_24s", 24)

AIA: dict[str, Channel] = {
    f"{wavelength}A": Channel(f"{wavelength}A", wavelength, *(_UV if wavelength in (1600, 1700) else _EUV))
    for wavelength in (94, 131, 171, 193, 211, 304, 335, 1600, 1700)
}
"""The nine AIA channels of SDOML by name, in order of wavelength."""
