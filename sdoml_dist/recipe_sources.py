"""Where level-1 frames come from: the part of a recipe that says so."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sdoml_dist.recipe_base import Section
from sdoml_dist.solar.simulation import SimulationConfig

_SECRET_WORDS = ("secret", "password", "token", "access_key", "key_id", "credential")


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
    series: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z]\w*(\.\w+)+$")]] = Field(default_factory=dict)
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


class NetworkConfig(Section):
    """Images that a trained network made, by ``sdoml decode`` for example. The verb that made them goes on with them."""

    kind: Literal["network"]
    experiment: str
    """Which experiment the network was trained for."""
    checkpoint: str = Field(pattern="^[0-9a-f]{16}$")
    """SHA-256 of its weights, 16 hexadecimal digits."""
    url: str
    """What it was applied to: a dataset, or a catalog of latents. May be moved."""
    snapshot: str
    """Version of the dataset that the network's input is from."""
    channels: tuple[str, ...]
    """Channels of the input, in the order in which the network takes them."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What else pixels depend on, as plain data."""
    pixels: int | None = Field(None, ge=16)
    """Side of the images that the network makes."""


SourceConfig = Annotated[
    FilesConfig | SynopticConfig | JsocConfig | SimulatorConfig | PublishedConfig | NetworkConfig,
    Field(discriminator="kind"),
]
