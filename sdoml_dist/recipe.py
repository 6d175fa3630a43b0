"""The recipe: everything that determines a dataset, in one strict and frozen YAML file.

Each field is documented in place; ``sdoml schema`` prints the same text as a JSON schema for editors.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sdoml_dist.recipe_base import Period, Resources, Section, Store, canonical_json, parse_duration
from sdoml_dist.recipe_sources import (
    FilesConfig,
    JsocConfig,
    NetworkConfig,
    PublishedConfig,
    SimulatorConfig,
    SourceConfig,
    SynopticConfig,
)
from sdoml_dist.solar.activity import MAGNETIC_FEATURES_DEG_PER_DAY
from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL, PRODUCTS, Bundle, Product
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.times import slots_per_day


class Grid(Section):
    """The images: size, scale and what a pixel value means."""

    pixels: int = Field(512, ge=16, le=4096)
    """Pixels per axis. The field of view is always that of AIA, 2457.6 arcsec where the Sun has `solar_radius_arcsec`."""
    solar_radius_arcsec: float = Field(976.0, gt=800, lt=1200)
    """Angular solar radius that every frame is brought to; 976 is that of SDOML (Galvez et al. 2019)."""
    convention: Literal["mean", "sum"] = "mean"
    """``mean``: DN/s per source pixel, as SDOML v2. ``sum``: DN/s per target pixel, as SDOML v1."""
    negative: Literal["keep", "mask"] = "keep"
    """``keep``: unbiased average. ``mask``: pixels <= 0 do not count, as in the published SDOML code."""
    minimum_valid_fraction: float = Field(0.5, gt=0, le=1)
    """A target pixel with less valid area than this is NaN."""


class Selection(Section):
    """Which frames are taken."""

    minimum_exposure_s: float = Field(0.0, ge=0)
    """Frames with EXPTIME at or below this are rejected."""
    maximum_exposure_s: float = Field(60.0, gt=0)
    """Frames with EXPTIME above this are rejected."""


class VectorField(Section):
    """How HMI's vector field is made; for product ``hmi`` only."""

    disambiguation: Literal["potential", "random", "radial"] = "radial"
    """Which solution for pixels of weak field, where the 180 degree ambiguity is not solved: bit 0 (acute angle to a
    potential field), 1 (random) or 2 (acute angle to the radial direction) of the ``disambig`` segment. SDOML took bit 2."""
    orientation: Literal["header", "published"] = "header"
    """``header``: azimuths are turned by the frame's CROTA2. ``published``: by 180 degrees, as in SDOML's formulas."""


class StackSection(Section):
    """How magnetograms are averaged; for product ``hmi_stack`` only."""

    before: int = Field(10, ge=0, le=120)
    """Magnetograms before the one at the slot's time; published: 10 (Park et al. 2020)."""
    after: int = Field(10, ge=0, le=120)
    """Magnetograms after it; published: 10."""
    minimum: int = Field(15, ge=1)
    """Fewer good magnetograms make no mean: the slot is ``missing_too_few``."""
    rotation: tuple[float, float, float] = MAGNETIC_FEATURES_DEG_PER_DAY
    """Sidereal rotation A, B, C of ``A + B sin^2 + C sin^4`` of the latitude, degrees a day (Snodgrass & Ulrich 1990). What SDO
    sees of it, the synodic part, follows from the headers."""
    minimum_mu: float = Field(0.1, gt=0, lt=1)
    """Nearer to the limb than this cosine of the heliocentric angle there is no mean."""

    @model_validator(mode="after")
    def _enough(self) -> StackSection:
        if self.minimum > self.frames:
            raise ValueError(f"a stack of {self.frames} magnetograms never has {self.minimum}")
        return self

    @property
    def frames(self) -> int:
        """Magnetograms of a full stack."""
        return self.before + 1 + self.after

    @property
    def reach_s(self) -> int:
        """How far from the slot a stack reaches, seconds, with half a cadence of 45 s to spare."""
        return (max(self.before, self.after) + 1) * 45


class Pinned(Section):
    """A calibration file that is pinned by its hash."""

    url: str
    """Path or URL of the file. Relative paths are relative to the recipe."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the bytes. ``sdoml prefetch`` prints it. Without it the file is used as found and its hash recorded."""


class Calibration(Section):
    """Calibration tables. They are fetched by ``sdoml prefetch``, never during a build."""

    degradation: Pinned | None = None
    """AIA response table (``aia_V*_response_table.txt``), or none to leave the degradation in the data."""
    pointing: Pinned | None = None
    """Master pointing table (3-hourly) as CSV, for level 1 only; none keeps the pointing of the frame's header."""
    cache: str | None = None
    """Where fetched tables are kept: a folder that every node can read. By default ``<store>/sdoml/calibration``."""


class Chunking(Section):
    """Layout of the image arrays. A chunk is one image; a shard is one object in the store and one unit of work."""

    shard_slots: int | None = Field(None, ge=1, le=100_000)
    """Slots per shard; by default one day of images, 32 days of EVE."""
    compression_level: int = Field(3, ge=1, le=9)
    """Level of Blosc zstd with bit shuffle."""


class Recipe(Section):
    """Everything that determines one product of a dataset. A dataset may hold several, each made by a recipe of its own."""

    product: Literal["aia", "hmi", "hmi_720s", "hmi_45s", "hmi_stack", "eve", "eve_diodes"] = "aia"
    """What to build: AIA images; the HMI vector field (Bx, By, Bz); HMI line-of-sight magnetograms, Dopplergrams and
    continuum at 720 s or 45 s; means of co-rotated 45-second magnetograms; EVE's lines; EVE's broadband diodes (ESP and
    MEGS-P)."""
    name: str = Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name of the dataset."""
    description: str = ""
    """One sentence for people."""
    period: Period
    cadence: int
    """Spacing of the time slots, for example ``6min``. It divides a day."""
    tolerance: int
    """Largest distance between a slot and the frame taken for it, for example ``3min``."""
    channels: tuple[str, ...] = ()
    """Channels of the product; by default all."""
    grid: Grid = Grid.model_validate({})
    selection: Selection = Selection.model_validate({})
    source: SourceConfig
    calibration: Calibration = Calibration.model_validate({})
    vector: VectorField = VectorField.model_validate({})
    stack: StackSection = StackSection.model_validate({})
    store: Store
    chunking: Chunking = Chunking.model_validate({})
    resources: Resources = Resources.model_validate({})

    _durations = field_validator("cadence", "tolerance", mode="before")(parse_duration)

    @field_validator("channels", mode="before")
    @classmethod
    def _known_channels(cls, channels: object, info: ValidationInfo) -> tuple[str, ...]:
        product = PRODUCTS[info.data.get("product", "aia")]
        if channels == ():
            return tuple(product.channels)
        if not isinstance(channels, list | tuple) or not channels:
            raise ValueError(f"give a list of channels, for example [{', '.join(list(product.channels)[:2])}]")
        for name in channels:
            if name not in product.channels:
                elsewhere = PRODUCT_OF_CHANNEL.get(str(name))
                near = difflib.get_close_matches(str(name), list(product.channels), 1, 0.3)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"unknown channel {name!r}"
                    + (f" of product {product.name!r}; it belongs to {elsewhere!r}" if elsewhere else hint)
                )
        if len(set(channels)) != len(channels):
            raise ValueError("a channel is listed twice")
        return tuple(name for name in product.channels if name in channels)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        slots_per_day(self.cadence)
        if not 0 <= self.tolerance <= self.cadence / 2:
            raise ValueError(
                f"the tolerance ({self.tolerance} s) must lie between 0 and half the cadence ({self.cadence} s), "
                "else one frame could fill two slots"
            )
        if self.calibration.pointing is not None and self.level != "1":
            raise ValueError("calibration.pointing is for level 1; level 1.5 frames are registered already")
        signed = [name for name in self.channels if self.contents.channels[name].symmetric]
        if signed and self.grid.negative == "mask":
            raise ValueError(
                f"grid.negative: mask would drop half of {', '.join(signed)}, whose values have both signs"
            )
        if signed and self.grid.convention == "sum":
            raise ValueError("grid.convention: sum is for intensities; a magnetic field or velocity is averaged")
        if self.product != "aia":
            if self.calibration.degradation is not None or self.calibration.pointing is not None:
                raise ValueError(f"calibration tables are for product 'aia', not for {self.product!r}")
            if isinstance(self.source, SynopticConfig):
                raise ValueError(f"the synoptic tree holds AIA only, nothing of product {self.product!r}")
        if self.product == "hmi_stack" and isinstance(self.source, PublishedConfig):
            raise ValueError("stacks are made of full-disc magnetograms of 45 s, which are not published as images")
        if isinstance(self.source, PublishedConfig) and self.calibration.degradation is not None:
            raise ValueError("published images are corrected for degradation already")
        if isinstance(self.source, NetworkConfig) and (
            self.calibration.degradation is not None or self.contents.kind == "series"
        ):
            raise ValueError("a network makes images, which no calibration table applies to")
        if self.product == "eve_diodes" and isinstance(self.source, SimulatorConfig):
            raise ValueError("the diodes are not simulated; take files of ESP level 1 or EVE level 0CS")
        if self.contents.kind == "series" and isinstance(self.source, JsocConfig):
            raise ValueError("EVE is not at JSOC; take its files with source.kind: files")
        return self

    @property
    def contents(self) -> Product:
        """What the product is."""
        return PRODUCTS[self.product]

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """The bundles that make the channels; those that only make others are left out."""
        return tuple(
            dataclasses.replace(bundle, channels=wanted)
            for bundle in self.contents.bundles
            if (wanted := tuple(name for name in bundle.channels if name in self.channels))
        )

    def bundle(self, name: str) -> Bundle:
        """Return one of `bundles` by its name."""
        return next(bundle for bundle in self.bundles if bundle.name == name)

    @property
    def level(self) -> Literal["1", "1.5"]:
        """Processing level of the source frames; published images and those of a network are past both."""
        if isinstance(self.source, FilesConfig):
            return self.source.level
        if isinstance(self.source, PublishedConfig | NetworkConfig):
            return "1.5"
        return "1.5" if isinstance(self.source, SynopticConfig) else "1"

    @property
    def shard_slots(self) -> int:
        """Slots per shard: by default a day of images, or 32 days of numbers."""
        days = 1 if self.contents.kind == "images" else 32
        return self.chunking.shard_slots or days * slots_per_day(self.cadence)

    @property
    def settings(self) -> CalibrationSettings:
        """What the calibration needs to know."""
        pixels = self.source.simulation.pixels if isinstance(self.source, SimulatorConfig) else self.source.pixels
        return CalibrationSettings(
            **self.grid.model_dump(),
            **self.selection.model_dump(),
            correct_degradation=self.calibration.degradation is not None,
            input_level=self.level,
            expected_shape=None if pixels is None else (pixels, pixels),
        )

    def identity(self) -> dict[str, Any]:
        """Return the part of the recipe that determines pixel values, as plain data.

        The period (``sdoml update`` extends it), the place of the store, resources and how servers are treated are
        left out: they may change from run to run.
        """
        series = {"vector", "selection", "grid", "stack"}
        unused = {
            "aia": {"vector", "stack"}, "hmi": {"selection", "stack"}, "hmi_stack": {"vector", "selection"}, "eve": series,
            "eve_diodes": series,
        }  # fmt: skip
        data: dict[str, Any] = self.model_dump(
            mode="json",
            exclude={"period", "store", "resources", "description"} | unused.get(self.product, {"vector", "selection", "stack"}),
        )
        for key in ("network", "cache", "index_cache", "email", "storage_options", "verify_etag", "export_timeout_s"):
            data["source"].pop(key, None)
        if isinstance(self.source, NetworkConfig):
            data["source"].pop("url")
        data["calibration"].pop("cache")
        for pin in ("degradation", "pointing"):
            if data["calibration"][pin] and data["calibration"][pin]["sha256"]:
                data["calibration"][pin].pop("url")
        return data

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity, 16 hexadecimal digits."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()[:16]

    def extended(self, **period: str) -> Recipe:
        """Return this recipe for another period."""
        data = self.model_dump(mode="json")
        return Recipe.model_validate(data | {"period": data["period"] | period})


def calibration_terms(recipe: Recipe, calibration: dict[str, Any]) -> dict[str, Any]:
    """Return what pixel values depend on besides the source: grid, selection, vector field, tables."""
    identity = recipe.identity()
    terms = {name: identity[name] for name in ("grid", "selection", "vector", "stack") if name in identity}
    return terms | {"tables": calibration}


def calibration_id(recipe: Recipe, calibration: dict[str, Any]) -> int:
    """Return the number that marks frames of one calibration; positive, 60 bits."""
    text = canonical_json(calibration_terms(recipe, calibration))
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)
