"""The recipe of an emergence dataset: tracked regions, their acoustic power, and the timelines that forecasts learn from."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from sdoml_dist.recipe_base import Period, Resources, Section, Store, canonical_json, parse_duration, parse_time
from sdoml_dist.recipe_sources import FilesConfig, JsocConfig, SimulatorConfig
from sdoml_dist.solar.helioseismology import BANDS_MILLIHERTZ, band_bins
from sdoml_dist.solar.products import PRODUCTS, Product
from sdoml_dist.solar.region_selection import dense_pack
from sdoml_dist.solar.regions import Region

CADENCE_S = 45
"""Spacing of HMI's 45-second series, on a grid in TAI."""


class RegionEntry(Section):
    """One region to follow."""

    number: int = Field(ge=1)
    """NOAA number, or any number that names the region."""
    latitude_deg: float = Field(ge=-90, le=90)
    """Heliographic latitude of the centre."""
    longitude_deg: float = Field(ge=0, lt=360)
    """Carrington longitude of the centre at `reference`."""
    reference: str
    """Time of the position, UTC."""
    start: str
    """First instant that is followed, UTC."""
    end: str
    """End, exclusive, UTC."""
    emergence: str | None = None
    """When the region was first seen, UTC."""

    @field_validator("reference", "start", "end", "emergence", mode="before")
    @classmethod
    def _time(cls, value: object) -> str | None:
        return None if value is None else parse_time(value)

    @model_validator(mode="after")
    def _ordered(self) -> RegionEntry:
        if self.region.start >= self.region.end:
            raise ValueError(f"region {self.number} ends ({self.end}) before it starts ({self.start})")
        return self

    @classmethod
    def of(cls, region: Region) -> RegionEntry:
        """Return the entry of a region."""
        times = {name: str(getattr(region, name).astype("datetime64[s]")) for name in ("reference", "start", "end")}
        seen = None if np.isnat(region.emergence) else str(region.emergence.astype("datetime64[s]"))
        return cls(
            number=region.number, latitude_deg=region.latitude_deg, longitude_deg=region.longitude_deg % 360.0,
            emergence=seen, **times,
        )  # fmt: skip

    @property
    def region(self) -> Region:
        """The region."""
        reference, start, end = (np.datetime64(text, "ns") for text in (self.reference, self.start, self.end))
        emergence = np.datetime64(self.emergence or "NaT", "ns")
        return Region(self.number, self.latitude_deg, self.longitude_deg, reference, start, end, emergence)


class DensePack(Section):
    """Patches that cover the whole disc, each followed for a while, as ring-diagram pipelines have them."""

    period: Period
    """What to cover."""
    spacing_deg: float = Field(24.0, gt=0, le=90)
    """Heliographic degrees between centres."""
    reach_deg: float = Field(60.0, gt=0, lt=90)
    """Largest distance of a centre from that of the disc."""
    days: float = Field(1.0, gt=0, le=14)
    """How long a patch is followed."""


class Tracking(Section):
    """The maps that follow a region."""

    pixels: int = Field(512, ge=16, le=4096)
    """Pixels per axis."""
    scale_deg: float = Field(30.66 / 512, gt=0, le=1)
    """Heliographic degrees per pixel at the centre; SOLARED has 30.66 degrees over 512 pixels."""
    projection: Literal["postel", "cea"] = "postel"
    """``postel``: azimuthal equidistant. ``cea``: cylindrical equal area about the centre, as SHARPs."""
    rate_deg_per_day: float | None = None
    """Sidereal rotation that is followed; by default that of the centre's latitude (Snodgrass & Ulrich 1990)."""
    minimum_mu: float = Field(0.1, ge=0, lt=1)
    """Pixels nearer to the limb (cosine of the angle to the line of sight) are NaN."""


class Power(Section):
    """Acoustic power of hopping windows."""

    window: int = Field(640, ge=3)
    """Frames of a window: 640 of 45 s are 8 hours."""
    step: int = 3600
    """From one window to the next: ``1h`` as the published series are, or ``12min``."""
    bands_millihertz: tuple[tuple[float, float], ...] = BANDS_MILLIHERTZ
    """Edges of the bands, mHz."""
    convention: Literal["solared", "psd"] = "solared"
    """What power is; see :func:`sdoml_dist.solar.helioseismology.band_bins`."""
    gaps: Literal["mask", "zero", "strict"] = "mask"
    """What missing samples do; see :func:`sdoml_dist.solar.helioseismology.band_power`."""
    minimum_duty_cycle: float = Field(0.5, ge=0, le=1)
    """Windows with a smaller share of samples have no power (``mask``)."""
    background: Literal["none", "spacecraft", "model"] = "none"
    """What is taken off Dopplergrams before: nothing, as published (differences in time remove slow trends); the
    spacecraft's velocity; or that with rotation and limb shift fitted to each frame."""

    _duration = field_validator("step", mode="before")(parse_duration)

    @model_validator(mode="after")
    def _fits(self) -> Power:
        if self.step % CADENCE_S:
            raise ValueError(f"a step of {self.step} s is no whole number of frames of {CADENCE_S} s")
        band_bins(self.window, CADENCE_S, self.bands_millihertz, self.convention)
        return self

    @property
    def hop(self) -> int:
        """Frames from one window to the next."""
        return self.step // CADENCE_S


class Layout(Section):
    """Layout of the arrays, which is also that of the work. Fixed when the dataset is made."""

    block_frames: int = Field(80, ge=1)
    """Frames of Dopplergrams per shard: one unit of tracking. A divisor or a multiple of the hop."""
    block_windows: int = Field(24, ge=1)
    """Magnetograms and continuum images per shard."""
    tile_pixels: int = Field(64, ge=8)
    """Pixels per axis of a tile, whose whole history one unit of power reads. Divides the patch."""
    segment_windows: int = Field(240, ge=1)
    """Windows that one unit of power makes at a time; bounds its memory."""
    compression_level: int = Field(3, ge=1, le=9)
    """Level of Blosc zstd with bit shuffle."""


class EmergenceRecipe(Section):
    """Everything that determines an emergence dataset."""

    product: Literal["emergence"] = "emergence"
    """Kind of the dataset."""
    name: str = Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name of the dataset."""
    description: str = ""
    """One sentence for people."""
    regions: tuple[RegionEntry, ...] = ()
    """Regions to follow: a list, or the path of a CSV table, relative to the working directory (``sdoml emergence regions``
    makes one)."""
    dense_pack: DensePack | None = None
    """Patches that cover the disc, instead of regions."""
    source: FilesConfig | JsocConfig | SimulatorConfig = Field(discriminator="kind")
    """Where full-disc frames of HMI's 45-second series come from."""
    tolerance: int = 22
    """Largest distance between a time of the grid and the frame taken for it, seconds."""
    tracking: Tracking = Tracking.model_validate({})
    power: Power = Power.model_validate({})
    snapshot: Literal["middle", "published"] = "middle"
    """Which frame of a window flux and continuum are taken from: the middle one, or frame 120, which the published
    processing takes (half the number of files of its ten days, not half a window)."""
    layout: Layout = Layout.model_validate({})
    store: Store
    """Where the dataset is."""
    resources: Resources = Resources.model_validate({})

    _tolerance = field_validator("tolerance", mode="before")(parse_duration)

    @model_validator(mode="after")
    def _consistent(self) -> EmergenceRecipe:
        if bool(self.regions) == (self.dense_pack is not None):
            raise ValueError("give either regions or dense_pack")
        numbers = [entry.number for entry in self.regions]
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        if twice:
            raise ValueError(f"regions are listed twice: {twice}")
        hop, block = self.power.hop, self.layout.block_frames
        if hop % block and block % hop:
            raise ValueError(
                f"layout.block_frames ({block}) must divide the hop of {hop} frames or be a multiple of it"
            )
        if self.tracking.pixels % self.layout.tile_pixels:
            raise ValueError(
                f"layout.tile_pixels ({self.layout.tile_pixels}) does not divide the patch of {self.tracking.pixels} pixels"
            )
        if not 0 <= self.tolerance <= CADENCE_S / 2:
            raise ValueError(f"the tolerance ({self.tolerance} s) must lie between 0 and half of {CADENCE_S} s")
        if self.snapshot == "published" and self.power.window <= 120:
            raise ValueError("snapshot: published takes frame 120 of a window; the window is shorter")
        return self

    def all_regions(self) -> tuple[Region, ...]:
        """Return the regions to follow."""
        pack = self.dense_pack
        if pack is None:
            return tuple(entry.region for entry in self.regions)
        return tuple(
            dense_pack(
                pack.period.first,
                pack.period.last,
                spacing_deg=pack.spacing_deg,
                reach_deg=pack.reach_deg,
                days=pack.days,
            )
        )

    @property
    def contents(self) -> Product:
        """HMI's 45-second series."""
        return PRODUCTS["hmi_45s"]

    @property
    def snapshot_frame(self) -> int:
        """Frame of a window that flux and continuum are taken from."""
        return self.power.window // 2 if self.snapshot == "middle" else 120

    @property
    def source_pixels(self) -> int | None:
        """Pixels per axis of the full-disc frames, if known."""
        return self.source.simulation.pixels if isinstance(self.source, SimulatorConfig) else self.source.pixels

    def identity(self) -> dict[str, Any]:
        """Return the part of the recipe that determines values and layout; regions may be added, and are left out."""
        data: dict[str, Any] = self.model_dump(
            mode="json", exclude={"regions", "dense_pack", "store", "resources", "description"}
        )
        for key in ("network", "cache", "index_cache", "email", "storage_options", "verify_etag", "export_timeout_s"):
            data["source"].pop(key, None)
        return data

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity, 16 hexadecimal digits."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()[:16]
