"""The recipe: everything that determines a dataset, in one strict and frozen YAML file.

Each field is documented in place; ``sdoml schema`` prints the same text as a JSON schema for editors.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL, PRODUCTS, Bundle, Product
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.times import parse_fits_time, slots_per_day

_DURATION = re.compile(r"^\s*(\d+)\s*(s|sec|min|h|d)\s*$")
_UNIT_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB|KiB|MiB|GiB|TiB)\s*$")
_SIZE_BYTES = {
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_SECRET_WORDS = ("secret", "password", "token", "access_key", "key_id", "credential")


class Section(BaseModel):
    """Base of every part of a recipe: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


def parse_duration(value: object) -> int:
    """Read ``"6min"``, ``"12s"``, ``"1d"`` or a whole number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"a duration is written like 6min, 90s or 1d, not {value!r}")
    if isinstance(value, int):
        return value
    match = _DURATION.match(value)
    if match is None:
        raise ValueError(f"a duration is written like 6min, 90s or 1d, not {value!r}")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Read ``"2GB"``, ``"512MiB"`` or a whole number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"a size is written like 2GB or 512MiB, not {value!r}")
    return int(float(match[1]) * _SIZE_BYTES[match[2]])


def _parse_time(value: object) -> str:
    """Bring a time to ``YYYY-MM-DDTHH:MM:SS`` UTC; YAML may have made a date or datetime of it."""
    text = str(value).replace(" ", "T").removesuffix("+00:00")
    time = parse_fits_time(text)
    if "TAI" in text.upper():
        raise ValueError(f"the period is in UTC, not TAI: {value}")
    if time != time.astype("datetime64[s]"):
        raise ValueError(f"the period has whole seconds: {value}")
    return str(time.astype("datetime64[s]"))


class Period(Section):
    """The stretch of the mission to build, in UTC."""

    start: str
    """First instant, for example ``2010-05-13`` or ``2011-02-15T06:00``. UTC."""
    end: str
    """End, exclusive. UTC."""

    _times = field_validator("start", "end", mode="before")(_parse_time)

    @model_validator(mode="after")
    def _ordered(self) -> Period:
        if self.first >= self.last:
            raise ValueError(f"the period ends ({self.end}) before it starts ({self.start})")
        if self.first < np.datetime64("2010-01-01") or self.last > np.datetime64("2100-01-01"):
            raise ValueError(f"the period {self.start} to {self.end} is outside the mission, which began in 2010")
        return self

    @property
    def first(self) -> np.datetime64:
        """Start as ``datetime64[ns]`` UTC."""
        return np.datetime64(self.start, "ns")

    @property
    def last(self) -> np.datetime64:
        """Exclusive end as ``datetime64[ns]`` UTC."""
        return np.datetime64(self.end, "ns")


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


class Network(Section):
    """How a remote server is treated."""

    concurrency: int = Field(4, ge=1, le=64)
    """Requests under way at once from one process."""
    retries: int = Field(6, ge=0, le=30)
    """Attempts after the first one, with exponential backoff and jitter."""
    backoff_s: float = Field(1.0, ge=0)
    """First pause; it doubles with every attempt, up to `backoff_maximum_s`."""
    backoff_maximum_s: float = Field(120.0, gt=0)
    """Longest pause."""
    connect_timeout_s: float = Field(10.0, gt=0)
    """Time to connect."""
    read_timeout_s: float = Field(60.0, gt=0)
    """Longest silence in the middle of an answer."""
    total_timeout_s: float = Field(900.0, gt=0)
    """Longest time for one attempt at one file, however slowly it trickles in."""


def _no_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse credentials in a recipe."""
    for key in json.dumps(options).lower().split('"')[1::2]:
        if key in ("key", "secret") or any(word in key for word in _SECRET_WORDS):
            raise ValueError(
                f"{key!r} looks like a secret, and the recipe is stored inside the dataset; "
                "give credentials by the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...)"
            )
    return options


class FilesConfig(Section):
    """FITS files in a folder or object store, anywhere fsspec reaches (local, http, s3, gs)."""

    kind: Literal["files"]
    url: str
    """Folder or prefix, for example ``/data/aia``, ``s3://bucket/aia`` or ``https://host/aia/``."""
    level: Literal["1", "1.5"] = "1"
    """``1``: native pointing. ``1.5``: registered, as the AIA synoptic product."""
    pixels: int | None = Field(4096, ge=16)
    """Expected size of the images; other sizes fail. None accepts any square image."""
    glob: str = "**/*.fits"
    """Which files below `url` count."""
    index: Literal["header", "name"] = "header"
    """``header``: read T_OBS, WAVELNTH and QUALITY from every file once. ``name``: read them off the file names."""
    name_pattern: str | None = None
    """Regular expression for names, with groups ``time`` (YYYYmmdd_HHMM[SS]) and ``wavelength`` for AIA (UTC);
    ``time`` (TAI), ``series`` and ``segment`` for HMI; ``time`` (YYYYDDD_HH) for EVE. By default as JSOC and LASP name
    their files."""
    index_cache: str | None = None
    """Where the index is kept as Parquet. By default ``<store>/sdoml/index``."""
    verify_etag: bool = True
    """Take an object's ETag as its MD5 sum where it looks like one. Buckets that encrypt by KMS or a customer's key
    need ``false``: their ETags look like sums and are none."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """Options for fsspec, for example ``{anon: true}`` or ``{endpoint_url: ...}``. Never put secrets here."""
    network: Network = Network.model_validate({})

    _secrets = field_validator("storage_options")(_no_secrets)


class SynopticConfig(Section):
    """The AIA synoptic tree at JSOC: level 1.5, 1024 pixels, every 2 minutes. The source of SDOML v2."""

    kind: Literal["synoptic"]
    url: str = "http://jsoc.stanford.edu/data/aia/synoptic"
    """Root of the tree ``YYYY/MM/DD/HHH00/AIAYYYYMMDD_HHMM_WWWW.fits``."""
    cadence_s: int = Field(120, ge=12)
    """Spacing of the files."""
    pixels: int | None = Field(1024, ge=16)
    """Expected size of the images."""
    cache: str | None = None
    """Folder for downloaded files (``sdoml prefetch`` fills it); none streams them."""
    network: Network = Network.model_validate({})


class JsocConfig(Section):
    """Level-1 records of JSOC by DRMS queries and exports."""

    kind: Literal["jsoc"]
    url: str = "http://jsoc.stanford.edu"
    """JSOC's address."""
    email: str | None = None
    """Address registered at JSOC for exports. The variable ``JSOC_EMAIL`` overrides it."""
    series: dict[str, str] = Field(default_factory=dict)
    """Series by channel where the default (aia.lev1_euv_12s, aia.lev1_uv_24s) is not wanted."""
    pixels: int | None = Field(4096, ge=16)
    """Expected size of the images."""
    cache: str | None = None
    """Folder for exported files and the state of exports. By default ``<store>/sdoml/jsoc``."""
    export_timeout_s: float = Field(6 * 3600.0, gt=0)
    """How long to wait for one export."""
    network: Network = Network.model_validate({})


class SimulatorConfig(Section):
    """Simulated level-1 frames, rendered on demand."""

    kind: Literal["simulator"]
    simulation: SimulationConfig = SimulationConfig.model_validate({})
    """The simulated Sun, spacecraft and faults."""


class PublishedConfig(Section):
    """A dataset in one of SDOML's published layouts, whose images are calibrated already; for ``sdoml import``."""

    kind: Literal["published"]
    layout: Literal["sdoml-v1", "sdoml-v2"]
    """``sdoml-v1``: tree of .npz files. ``sdoml-v2``: Zarr with keywords as lists in the attributes."""
    url: str
    """Folder or bucket of the tree or of the Zarr store."""
    pixels: int | None = Field(512, ge=16)
    """Size of the images."""
    index_cache: str | None = None
    """Where the index is kept as Parquet. By default ``<store>/sdoml/index``."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """Options for fsspec, for example ``{anon: true}``. Never put secrets here."""
    network: Network = Network.model_validate({})

    _secrets = field_validator("storage_options")(_no_secrets)


SourceConfig = Annotated[
    FilesConfig | SynopticConfig | JsocConfig | SimulatorConfig | PublishedConfig, Field(discriminator="kind")
]


class Store(Section):
    """Where the dataset is."""

    url: str
    """Local folder or ``s3://bucket/prefix`` or ``gs://bucket/prefix``."""
    region: str | None = None
    """Region of the bucket."""
    endpoint_url: str | None = None
    """Address of an S3-compatible server. ``AWS_ENDPOINT_URL`` is used where this is not given."""
    anonymous: bool = False
    """Read without credentials."""


class Chunking(Section):
    """Layout of the image arrays. A chunk is one image; a shard is one object in the store and one unit of work."""

    shard_slots: int | None = Field(None, ge=1, le=100_000)
    """Slots per shard; by default one day of images, 32 days of EVE."""
    compression_level: int = Field(3, ge=1, le=9)
    """Level of Blosc zstd with bit shuffle."""


class Resources(Section):
    """What a run may use. Does not change the dataset."""

    minimum_actors: int = Field(1, ge=1)
    """Actors that are kept."""
    maximum_actors: int | None = Field(None, ge=1)
    """Actors at most; by default as many as the cluster has CPUs."""
    cpus_per_actor: float = Field(1.0, gt=0)
    """CPUs that one actor takes."""
    memory_per_actor: int | None = None
    """Memory that one actor may take, for example ``2GB``; by default what the plan projects."""
    commit_every_units: int = Field(16, ge=1)
    """Commit after this many units at the latest,"""
    commit_every_s: float = Field(30.0, gt=0)
    """or after this many seconds."""
    drain_s: float = Field(120.0, ge=0)
    """How long a stopping run waits for units under way."""

    @field_validator("memory_per_actor", mode="before")
    @classmethod
    def _size(cls, value: object) -> int | None:
        return None if value is None else parse_size(value)


class Recipe(Section):
    """Everything that determines one product of a dataset. A dataset may hold several, each made by a recipe of its own."""

    product: Literal["aia", "hmi", "hmi_720s", "hmi_45s", "eve", "eve_diodes"] = "aia"
    """What to build: AIA images; the HMI vector field (Bx, By, Bz); HMI line-of-sight magnetograms, Dopplergrams and
    continuum at 720 s or 45 s; EVE's lines; EVE's broadband diodes (ESP and MEGS-P)."""
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
        if isinstance(self.source, PublishedConfig) and self.calibration.degradation is not None:
            raise ValueError("published images are corrected for degradation already")
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
        """Processing level of the source frames; published images are past both."""
        if isinstance(self.source, FilesConfig):
            return self.source.level
        if isinstance(self.source, PublishedConfig):
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
        series = {"vector", "selection", "grid"}
        unused = {"aia": {"vector"}, "hmi": {"selection"}, "eve": series, "eve_diodes": series}
        data: dict[str, Any] = self.model_dump(
            mode="json",
            exclude={"period", "store", "resources", "description"} | unused.get(self.product, {"vector", "selection"}),
        )
        for key in ("network", "cache", "index_cache", "email", "storage_options", "verify_etag", "export_timeout_s"):
            data["source"].pop(key, None)
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


def canonical_json(data: object) -> str:
    """Write plain data as JSON with one possible text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def calibration_terms(recipe: Recipe, calibration: dict[str, Any]) -> dict[str, Any]:
    """Return what pixel values depend on besides the source: grid, selection, vector field, tables."""
    identity = recipe.identity()
    terms = {name: identity[name] for name in ("grid", "selection", "vector") if name in identity}
    return terms | {"tables": calibration}


def calibration_id(recipe: Recipe, calibration: dict[str, Any]) -> int:
    """Return the number that marks frames of one calibration; positive, 60 bits."""
    text = canonical_json(calibration_terms(recipe, calibration))
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """List what differs between two nested dictionaries, one readable line per leaf."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        name, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += difference(before, after, f"{name}.")
        elif before != after:
            lines.append(f"  {name}: {before!r} -> {after!r}")
    return lines
