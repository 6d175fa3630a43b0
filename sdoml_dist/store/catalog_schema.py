"""What a latent catalog is on disk: its schema, its files, and the rule that says which of them count.

A catalog is what an encoder makes of a dataset: Parquet files with one row per time slot::

    <catalog>/_catalog.json                                  what it was made of; written once
    <catalog>/year=2011/month=02/unit-<id>.parquet           rows that one unit of work wrote
    <catalog>/year=2011/month=02/part-<digest>-<n>.parquet   rows of many units, merged by compaction
    <catalog>/year=2011/month=02/_compacted.json             which parts count, and which units are in them

Columns: ``time`` (UTC), ``status`` (:class:`~sdoml_dist.solar.status.FrameStatus`), ``latent`` (the means of the posterior) and
where asked for ``log_variance``; ``year`` and ``month`` come from the folders. There is a row for every planned slot. Latents
are null exactly where the status is not ok, so ``planned = ok + missing + rejected + failed`` is counted from the rows.

**Which files count.** A part counts if ``_compacted.json`` of its month lists it; a unit counts unless it is listed there as
merged. That file is replaced as a whole, between writing parts and removing units, so that a reader of this package sees every
row once whenever a compaction breaks off. Names that start with ``_`` or ``.`` are ignored by pyarrow, pandas and Spark: to
them a catalog is a plain folder of Parquet. They know nothing of the rule, and see rows twice after a compaction that broke
off, until it is repeated.
"""

from __future__ import annotations

import io
import json
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from sdoml_dist import __version__
from sdoml_dist.errors import StoreError, UsageError, ValidationError
from sdoml_dist.recipe_base import Section, canonical_json, difference
from sdoml_dist.solar.status import FrameStatus

SCHEMA_VERSION = 1
INFO, COMPACTED = "_catalog.json", "_compacted.json"
METADATA_KEY = b"sdoml_dist.catalog"
"""Key of the metadata in every file."""
# A row group is the least that a query of a few slots reads. About 4 MiB take an object store as long as its answer to a
# request (some 50 ms at 100 MB/s), so smaller ones would save nothing; a month of 256 numbers every 12 minutes is one.
_ROW_GROUP_BYTES = 4 * 2**20
_MOST_ROWS, _LEAST_ROWS = 65_536, 256
FINAL = np.array([int(code) for code in FrameStatus if code is not FrameStatus.PENDING], dtype=np.uint8)
"""Status codes that a slot of a catalog can have."""
TIME = pa.timestamp("ns", "UTC")
PARTITIONS = pa.schema([("year", pa.int16()), ("month", pa.int8())])


class CatalogInfo(Section):
    """What a catalog was made of."""

    dataset: str
    """Address of the dataset."""
    snapshot: str
    """Its version."""
    channels: tuple[str, ...] = Field(min_length=1)
    """Channels in the order in which the encoder takes them."""
    products: tuple[str, ...] = ()
    """Products that they belong to."""
    checkpoint: str
    """Hash of the encoder's weights."""
    model: str
    """Name of the encoder."""
    latent: int = Field(ge=1)
    """Numbers per slot."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the numbers."""
    log_variance: bool = False
    """Whether the logarithm of the posterior's variance is kept besides its mean."""
    transform: dict[str, Any] = Field(default_factory=dict)
    """How images were prepared for the encoder, as plain data."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What else rows depend on, as plain data: grid of times, parting into units, precision of the encoder."""
    sdoml_dist: str = __version__
    """Version of this package."""
    schema_version: int = SCHEMA_VERSION
    """Version of the layout on disk."""

    def describe(self) -> dict[str, Any]:
        """Return plain data, as JSON gives it back."""
        data: dict[str, Any] = json.loads(canonical_json(self.model_dump(mode="json")))
        return data

    def differences(self, other: dict[str, Any]) -> list[str]:
        """List what of another catalog's description means other rows.

        A dataset that was moved, and another version of this package, are no difference: snapshot and weights are named.
        """
        mine, theirs = self.describe(), dict(other)
        for name in ("dataset", "sdoml_dist"):
            mine.pop(name)
            theirs.pop(name, None)
        return difference(theirs, mine)

    @classmethod
    def parse(cls, data: bytes | str, place: str) -> CatalogInfo:
        """Read a description.

        Raises
        ------
        StoreError
            If it is none, or of a layout that this version does not know.
        """
        try:
            plain = json.loads(data)
            version = plain["schema_version"]
            if version == SCHEMA_VERSION:
                return cls.model_validate(plain)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{place} does not describe a catalog: {' '.join(str(error).split())[:300]}") from None
        raise StoreError(
            f"{place} describes a catalog of layout {version}; this version reads {SCHEMA_VERSION}.", "",
            "Install a newer sdoml_dist.",
        )  # fmt: skip

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's numbers in memory."""
        return self.latent * np.dtype(self.dtype).itemsize * (1 + self.log_variance)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of every file."""
        numbers = pa.list_(pa.field("element", pa.from_numpy_dtype(np.dtype(self.dtype))), self.latent)
        fields = [
            pa.field("time", TIME, nullable=False), pa.field("status", pa.uint8(), nullable=False),
            pa.field("latent", numbers),
        ]  # fmt: skip
        if self.log_variance:
            fields.append(pa.field("log_variance", numbers))
        return pa.schema(fields, metadata={METADATA_KEY: canonical_json(self.describe())})


def catalog_table(
    info: CatalogInfo, times: np.ndarray, latents: np.ndarray, log_variances: np.ndarray | None = None,
    status: np.ndarray | None = None,
) -> pa.Table:  # fmt: skip
    """Return the rows of slots, sorted by time.

    Parameters
    ----------
    info : CatalogInfo
        Says latent size and dtype; wider floats are rounded to it.
    times : numpy.ndarray
        ``datetime64[ns]`` UTC, shape (n,).
    latents, log_variances : numpy.ndarray
        Shape (n, latent); rows of slots that are not ok are not looked at.
    status : numpy.ndarray, optional
        Codes of FrameStatus, shape (n,); by default every slot is ok.

    Raises
    ------
    UsageError
        If shapes or codes do not fit.
    ValidationError
        If a number is not finite, for example too large for float16.
    """
    times = np.asarray(times).astype("datetime64[ns]")
    codes = np.full(times.shape, int(FrameStatus.OK)) if status is None else np.asarray(status)
    if times.ndim != 1 or not times.size or codes.shape != times.shape:
        raise UsageError(f"Rows need times and as many status codes, not {times.shape} and {codes.shape}.")
    if not np.isin(codes, FINAL).all() or np.isnat(times).any():
        raise UsageError(
            "Every slot of a catalog has a time and a final status.", "", "See FrameStatus; none is pending."
        )
    if info.log_variance != (log_variances is not None):
        raise UsageError(
            f"The catalog has {'a' if info.log_variance else 'no'} column log_variance: give values "
            f"{'for it too' if info.log_variance else 'of the means only'}."
        )
    order = np.argsort(times, kind="stable")
    times, codes = times[order], codes[order].astype(np.uint8)
    if (times[1:] == times[:-1]).any():
        raise UsageError(f"The slot {times[1:][times[1:] == times[:-1]][0]} is there twice.")
    there = codes == int(FrameStatus.OK)
    columns = [pa.array(times).cast(TIME), pa.array(codes)]
    for name, values in (("latent", latents), ("log_variance", log_variances)):
        if values is not None:
            columns.append(_lists(info, name, np.asarray(values), order, there))
    return pa.Table.from_arrays(columns, schema=info.schema)


def _lists(info: CatalogInfo, name: str, values: np.ndarray, order: np.ndarray, there: np.ndarray) -> pa.Array:
    """Return a column of lists of fixed size, null where nothing is there."""
    if values.shape != (order.size, info.latent) or values.dtype.kind != "f":
        raise UsageError(
            f"{name} has shape {values.shape} of {values.dtype}; the catalog takes floats of shape "
            f"({order.size}, {info.latent})."
        )
    ready = np.zeros(values.shape, info.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        ready[there] = values[order[there]]
    bad = int((~np.isfinite(ready)).any(axis=1).sum())
    if bad:
        raise ValidationError(
            f"{name} of {bad} of {int(there.sum())} slots is not finite in {info.dtype}.",
            "Distances to it could not be computed.",
            "Use float32 if numbers exceed 65504, else look at the encoder's input.",
        )
    return pa.FixedSizeListArray.from_arrays(
        pa.array(ready.ravel()), type=info.schema.field(name).type, mask=None if there.all() else pa.array(~there)
    )


def parquet_bytes(info: CatalogInfo, table: pa.Table) -> bytes:
    """Return a Parquet file: zstd, row groups of about 4 MiB; equal rows give equal bytes.

    float32 is stored byte by byte (BYTE_STREAM_SPLIT), which makes normally distributed numbers 9 % smaller. float16 is
    not, because fewer readers know that.
    """
    out = io.BytesIO()
    rows = min(max(_ROW_GROUP_BYTES // info.row_bytes, _LEAST_ROWS), _MOST_ROWS)
    numbers = [name for name in table.column_names if name in ("latent", "log_variance")]
    split = [f"{name}.list.element" for name in numbers] if info.dtype == "float32" else []
    pq.write_table(
        table, out, row_group_size=rows, compression="zstd", use_dictionary=["status"], write_statistics=["time", "status"],
        column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT") or None, sorting_columns=[pq.SortingColumn(0)],
    )  # fmt: skip
    return out.getvalue()


def file_info(schema: pa.Schema) -> dict[str, Any]:
    """Return what a file says that it was made of; empty if it does not say."""
    text = (schema.metadata or {}).get(METADATA_KEY)
    about: dict[str, Any] = json.loads(text) if text else {}
    return about


def time_scalar(time: np.datetime64) -> pa.Scalar:
    """Return a time as Arrow compares it with those of files."""
    return (
        pa.scalar(int(time.astype("datetime64[ns]").astype(np.int64)), pa.int64()).cast(pa.timestamp("ns")).cast(TIME)
    )


def times_of(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Return the times of rows, ``datetime64[ns]`` UTC."""
    times: np.ndarray = rows.column("time").cast(pa.int64()).to_numpy().view("datetime64[ns]")
    return times


def sorted_by_time(table: pa.Table) -> pa.Table:
    """Sort rows, without a copy where that is their order already."""
    times = times_of(table)
    return table if (times[1:] >= times[:-1]).all() else table.sort_by("time")
