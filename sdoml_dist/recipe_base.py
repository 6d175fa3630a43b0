"""What all recipes are made of: strict sections, durations and sizes, the period, the store, the resources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sdoml_dist.errors import UsageError
from sdoml_dist.redact import has_secret, redact
from sdoml_dist.solar.times import parse_fits_time

_DURATION = re.compile(r"^\s*(\d+)\s*(s|sec|min|h|d)\s*$")
_UNIT_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB|KiB|MiB|GiB|TiB)\s*$")
_SIZE_BYTES = {
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


class Section(BaseModel):
    """Base of every part of a recipe: frozen, and unknown keys and secrets are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, hide_input_in_errors=True
    )

    @model_validator(mode="after")
    def _without_secrets(self) -> Self:
        for name in type(self).model_fields:
            for text in _texts(getattr(self, name)):
                if has_secret(text):
                    raise ValueError(
                        f"{name} holds a password, a signature or a key, and recipes are stored inside the dataset: "
                        f"{redact(text)}; give credentials by the environment (AWS_ACCESS_KEY_ID, "
                        "AWS_SECRET_ACCESS_KEY, ~/.netrc)"
                    )
        return self


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings in plain data; sections look after their own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


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


def parse_time(value: object) -> str:
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

    _times = field_validator("start", "end", mode="before")(parse_time)

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


def store_at(url: str, **options: Any) -> Store:
    """Return the place of a dataset from its URL and options of :class:`Store`.

    Raises
    ------
    UsageError
        If it cannot be one.
    """
    try:
        return Store(url=url, **options)
    except ValidationError as error:
        told = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors(include_input=False))
        raise UsageError(f"{redact(url)} cannot be used: {told}") from None


class Resources(Section):
    """What a run may use. Does not change the dataset."""

    minimum_actors: int = Field(1, ge=1)
    """Actors that are kept."""
    maximum_actors: int | None = Field(None, ge=1)
    """Actors at most; by default as many as the cluster has CPUs, and on a cluster that grows as many as it grows to."""
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
    wait_for_nodes_s: float = Field(900.0, ge=0)
    """How long to wait for a cluster that grows, where no actor fits on any node that it has."""

    @field_validator("memory_per_actor", mode="before")
    @classmethod
    def _size(cls, value: object) -> int | None:
        return None if value is None else parse_size(value)


def canonical_json(data: object) -> str:
    """Write plain data as JSON with one possible text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


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
