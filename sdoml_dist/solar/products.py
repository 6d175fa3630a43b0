"""What a dataset can hold: products, their channels, and the source records that channels are made from.

Names of channels are unique over all products, so that a channel alone says which product it belongs to. Series,
segments and cadences are those of JSOC (Lemen et al. 2012, Solar Physics 275, 17; Schou et al. 2012, Solar Physics 275,
229; Hoeksema et al. 2014, Solar Physics 289, 3483) and of EVE level 2 (Woods et al. 2012, Solar Physics 275, 115).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.eve import LINES
from sdoml_dist.solar.keywords import AIA_KEYWORDS, EVE_KEYWORDS, HMI_KEYWORDS, KeywordSpec


@dataclass(frozen=True)
class ChannelSpec:
    """One stored array.

    Attributes
    ----------
    long_name, unit : str
        Meaning, and unit of the values.
    colormap : str
        Name of a colour table that matplotlib or sunpy has.
    symmetric : bool
        Whether values of both signs are meant, around 0.
    source_names : tuple of str
        What the source calls it, where that is not the name of the channel.
    attributes : dict
        Further attributes of the array.
    """

    long_name: str
    unit: str
    colormap: str = "viridis"
    symmetric: bool = False
    source_names: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """Channels that come from one record of the source, and are therefore made together.

    Attributes
    ----------
    name : str
        Name of the bundle; the name of the channel where it is one.
    channels : tuple of str
        What it makes.
    series : str
        JSOC series, or name of the product at its source.
    segments : tuple of str
        Files of one record, by JSOC's names.
    wavelength : int or None
        Second prime key of the AIA series.
    """

    name: str
    channels: tuple[str, ...]
    series: str
    segments: tuple[str, ...] = ("image",)
    wavelength: int | None = None


@dataclass(frozen=True)
class Product:
    """Channels with one time grid; a group of the dataset.

    Attributes
    ----------
    name : str
        Name of the group.
    title : str
        For people.
    kind : {"images", "series"}
        Whether a channel has an image or a number per time slot.
    channels : dict of str to ChannelSpec
        By name.
    bundles : tuple of Bundle
        In the order of the channels.
    keywords : dict of str to KeywordSpec
        Columns over (time, channel).
    references : str
        Papers.
    file_span_s : int
        For series, how much time one file of the source covers, seconds.
    """

    name: str
    title: str
    kind: Literal["images", "series"]
    channels: dict[str, ChannelSpec]
    bundles: tuple[Bundle, ...]
    keywords: dict[str, KeywordSpec]
    references: str
    file_span_s: int = 0

    def bundle(self, name: str) -> Bundle:
        """Return a bundle by its name."""
        return next(bundle for bundle in self.bundles if bundle.name == name)

    def bundle_of(self, channel: str) -> Bundle:
        """Return the bundle that makes a channel."""
        return next(bundle for bundle in self.bundles if channel in bundle.channels)


def _field(axis: str, towards: str) -> ChannelSpec:
    return ChannelSpec(f"magnetic field along {axis} (towards {towards})", "G", "gray", symmetric=True)


_LOS = {
    "M": ("line-of-sight magnetic field, positive towards SDO", "G", "gray", True, "magnetogram"),
    "V": ("line-of-sight velocity, positive away from SDO", "m/s", "RdBu_r", True, "Dopplergram"),
    "Ic": ("continuum intensity at 6173 Angstrom", "DN/s", "yohkohsxtal", False, "continuum"),
}


def _line_of_sight(name: str, cadence: str) -> Product:
    channels, bundles = {}, []
    for letter, (meaning, unit, colormap, symmetric, segment) in _LOS.items():
        channel = f"{letter}_{cadence}"
        channels[channel] = ChannelSpec(meaning, unit, colormap, symmetric)
        bundles.append(Bundle(channel, (channel,), f"hmi.{letter}_{cadence}", (segment,)))
    return Product(
        name, f"HMI line of sight, {cadence}", "images", channels, tuple(bundles), HMI_KEYWORDS,
        "Schou et al. 2012, Solar Physics 275, 229 (HMI)",
    )  # fmt: skip


# Broadband diodes as the level-1 files of ESP and the level-0CS space weather product call them.
_DIODES = (
    ("ESP_0.1-7nm", "0.1-7 nm", "ESP", ("QD", "0.1-7ESPquad")),
    ("ESP_17.1nm", "17.1 nm", "ESP", ("CH_18", "17.1ESP")),
    ("ESP_25.7nm", "25.7 nm", "ESP", ("CH_26", "25.7ESP")),
    ("ESP_30.4nm", "30.4 nm", "ESP", ("CH_30", "30.4ESP")),
    ("ESP_36.6nm", "36.6 nm", "ESP", ("CH_36", "36.6ESP")),
    ("MEGS-P_121.6nm", "121.6 nm", "MEGS-P", ("121.6MEGS-P",)),
)

PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product(
            "aia",
            "AIA",
            "images",
            {
                name: ChannelSpec(
                    f"AIA {channel.wavelength_angstrom} Angstrom", "DN/s", channel.colormap,
                    attributes={"wavelength_angstrom": channel.wavelength_angstrom},
                )
                for name, channel in AIA.items()
            },
            tuple(
                Bundle(name, (name,), channel.series, wavelength=channel.wavelength_angstrom)
                for name, channel in AIA.items()
            ),
            AIA_KEYWORDS,
            "Galvez et al. 2019, ApJS 242, 7 (SDOML); Lemen et al. 2012, Solar Physics 275, 17 (AIA)",
        ),
        Product(
            "hmi",
            "HMI vector field",
            "images",
            {"Bx": _field("x", "solar west"), "By": _field("y", "solar north"), "Bz": _field("z", "SDO")},
            (
                Bundle(
                    "B", ("Bx", "By", "Bz"), "hmi.B_720s", ("field", "inclination", "azimuth", "disambig")
                ),
            ),
            HMI_KEYWORDS,
            "Galvez et al. 2019, ApJS 242, 7 (SDOML); Hoeksema et al. 2014, Solar Physics 289, 3483 (HMI vector field)",
        ),
        _line_of_sight("hmi_720s", "720s"),
        _line_of_sight("hmi_45s", "45s"),
        Product(
            "hmi_stack",
            "HMI co-rotated means",
            "images",
            {
                "M_stack": ChannelSpec(
                    "mean of the line-of-sight magnetic field around the time, co-rotated; positive towards SDO", "G", "gray",
                    symmetric=True,
                )
            },
            (Bundle("M_45s", ("M_stack",), "hmi.M_45s", ("magnetogram",)),),
            HMI_KEYWORDS | {"FRAMES": KeywordSpec("magnetograms that the mean is over", dtype="i8")},
            "Park et al. 2020, ApJL 891, L4; Schou et al. 2012, Solar Physics 275, 229 (HMI)",
        ),
        Product(
            "eve",
            "EVE lines",
            "series",
            {
                line.name: ChannelSpec(
                    f"irradiance of {line.ion} at {line.wavelength_nm:g} nm", "W m-2",
                    attributes={
                        "ion": line.ion, "wavelength_nm": line.wavelength_nm, "logT": line.log_t,
                        "detector": line.detector,
                    },
                )
                for line in LINES
            },
            (Bundle("lines", tuple(line.name for line in LINES), "EVL_L2"),),
            EVE_KEYWORDS,
            "Galvez et al. 2019, ApJS 242, 7 (SDOML); Woods et al. 2012, Solar Physics 275, 115 (EVE)",
            file_span_s=3600,
        ),
        Product(
            "eve_diodes",
            "EVE diodes",
            "series",
            {
                name: ChannelSpec(
                    f"irradiance of the diode at {band}", "W m-2", source_names=names, attributes={"detector": detector}
                )
                for name, band, detector, names in _DIODES
            },
            (Bundle("diodes", tuple(name for name, *_ in _DIODES), "ESP_L1"),),
            EVE_KEYWORDS,
            "Didkovsky et al. 2012, Solar Physics 275, 179 (ESP); Woods et al. 2012, Solar Physics 275, 115 (EVE)",
            file_span_s=86400,
        ),
    )
}  # fmt: skip
"""All products by name."""

PRODUCT_OF_CHANNEL: dict[str, str] = {
    channel: product.name for product in PRODUCTS.values() for channel in product.channels
}
"""Name of the product by name of the channel."""
