"""Write and read latent catalogs; :mod:`sdoml_dist.store.catalog_schema` says what they are.

Examples
--------
>>> catalog = open_catalog("catalog", start="2011-02-01", end="2011-03-01")  # doctest: +SKIP
>>> catalog.latents().shape, catalog.times.shape  # doctest: +SKIP
((3342, 256), (3342,))
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from sdoml_dist.errors import StoreError, UsageError, ValidationError
from sdoml_dist.recipe_base import Store, store_at
from sdoml_dist.solar.status import FrameStatus, has_outcome
from sdoml_dist.solar.times import parse_fits_time
from sdoml_dist.store.catalog_compact import CompactSummary as CompactSummary
from sdoml_dist.store.catalog_compact import compact as compact
from sdoml_dist.store.catalog_folder import CatalogFile, CatalogFolder, month_folder, unit_file
from sdoml_dist.store.catalog_folder import CatalogUnit as CatalogUnit
from sdoml_dist.store.catalog_folder import catalog_units as catalog_units
from sdoml_dist.store.catalog_schema import (
    INFO,
    PARTITIONS,
    CatalogInfo,
    catalog_table,
    parquet_bytes,
    sorted_by_time,
    time_scalar,
    times_of,
)
from sdoml_dist.store.storage import environment_fault

_BLOCK_ROWS = 65_536
_OUTCOMES = ("ok", "missing", "rejected", "failed")


class CatalogWriter:
    """Writes units of a catalog, from any number of processes at once.

    Parameters
    ----------
    url : str or Store
        Local folder, ``s3://`` or ``gs://`` address.
    info : CatalogInfo
        What the catalog is made of.
    **options
        Options of the store: ``endpoint_url``, ``region``.
    """

    def __init__(self, url: str | Store, info: CatalogInfo, **options: Any) -> None:
        store = url if isinstance(url, Store) else store_at(str(url), **options)
        self.folder, self.info = CatalogFolder(store), info

    def begin(self) -> set[str]:
        """Claim the folder, or check that the catalog in it is the same one.

        Called once, before workers write.

        Returns
        -------
        set of str
            Names of the units that are there, merged ones too; what is left to do is the rest.

        Raises
        ------
        StoreError
            If a catalog of another snapshot, encoder, transform, dtype or setting is there.
        """
        before = self.folder.info()
        if before is None:
            self.folder.put(INFO, json.dumps(self.info.describe(), indent=1).encode())
        elif lines := self.info.differences(before.describe()):
            raise StoreError(
                f"{self.folder.url} holds another catalog:\n" + "\n".join(lines),
                "Latents of two encoders or versions cannot be compared.",
                f"Write to another folder, or go on with that one (snapshot {before.snapshot}, weights {before.checkpoint}).",
            )
        return {unit for month in self.folder.months().values() for unit in month.units}

    def write(
        self, unit: str, times: np.ndarray, latents: np.ndarray, log_variances: np.ndarray | None = None, *,
        status: np.ndarray | None = None,
    ) -> int:  # fmt: skip
        """Write a unit as one file, whole or not at all; a repeated unit replaces its own.

        A unit that was merged by :func:`~sdoml_dist.store.catalog_compact.compact` stays as it was merged.

        Parameters
        ----------
        unit : str
            Its name, unique in the catalog; letters, digits, ``-`` and ``_``.
        times, latents, log_variances, status
            As in :func:`~sdoml_dist.store.catalog_schema.catalog_table`: a row for every planned slot, all of one month.

        Returns
        -------
        int
            Bytes of the file.
        """
        table = catalog_table(self.info, times, latents, log_variances, status)
        path = unit_file(unit, np.asarray(times))
        data = parquet_bytes(self.info, table)
        self.folder.put(path, data)
        return len(data)


def parse_moment(value: object) -> np.datetime64:
    """Read a UTC time from text, datetime64, datetime or a pandas timestamp."""
    if isinstance(value, np.datetime64):
        moment: np.datetime64 = value.astype("datetime64[ns]")
        return moment
    try:
        return parse_fits_time(str(value).strip().replace(" ", "T").removesuffix("+00:00"))
    except ValueError as error:
        raise UsageError(f"{value!r} is no time: {error}", "", "For example 2011-02-15T06:00 (UTC).") from None


class Catalog:
    """A catalog, or a stretch of it, as it was when it was opened. Made by :func:`open_catalog`.

    Attributes
    ----------
    url : str
        Where it is.
    info : CatalogInfo
        What it was made of.
    files : list of CatalogFile
        Files that count: of the months asked for.
    leftover : list of str
        Files that do not count; compaction removes them.
    """

    def __init__(
        self, folder: CatalogFolder, info: CatalogInfo, columns: Sequence[str] | None, start: np.datetime64 | None,
        end: np.datetime64 | None,
    ) -> None:  # fmt: skip
        self.folder, self.info, self.url = folder, info, folder.url
        known = [*info.schema.names, *PARTITIONS.names]
        unknown = [name for name in columns or () if name not in known]
        if unknown:
            raise UsageError(f"The catalog has no column {unknown[0]!r}; it has {', '.join(known)}.")
        self.columns = list(columns) if columns is not None else info.schema.names
        self._start, self._end = start, end
        months = folder.months("" if start is None else month_folder(start), "~" if end is None else month_folder(end))
        self.files: list[CatalogFile] = [file for month in months.values() for file in month.files]
        self.leftover: list[str] = [path for month in months.values() for path in month.leftover]

    def __repr__(self) -> str:
        info = self.info
        return f"<Catalog {self.url}: {info.model}, {info.latent} x {info.dtype}, {len(self.files)} files>"

    @property
    def metadata(self) -> dict[str, Any]:
        """What the catalog was made of, as plain data."""
        return self.info.describe()

    @property
    def stored_bytes(self) -> int:
        """Bytes of the files that count."""
        return sum(file.size for file in self.files)

    def dataset(self) -> pads.Dataset:
        """Return the files that count as a pyarrow dataset, not cut to start and end."""
        schema = pa.schema([*self.info.schema, *PARTITIONS], metadata=self.info.schema.metadata)
        return self.folder.dataset((file.path for file in self.files), schema)

    def scan(self, columns: Sequence[str], rows: int = _BLOCK_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most `rows` rows, file after file; row groups outside start and end are not read.

        Parameters
        ----------
        columns : sequence of str
            What to read.
        rows : int
            Most rows of a batch.

        Raises
        ------
        StoreError
            If a file vanished or is none.
        EnvironmentFault
            If one cannot be read.
        """
        if not self.files:
            return
        kept: pc.Expression | None = None
        for bound, operator in ((self._start, pc.Expression.__ge__), (self._end, pc.Expression.__lt__)):
            if bound is not None:
                condition = operator(pc.field("time"), time_scalar(bound))
                kept = condition if kept is None else kept & condition
        # By default 16 batches of 4 files are read ahead, which would be most of what a search holds in memory.
        with self._explained():
            yield from self.dataset().to_batches(
                columns=list(columns), filter=kept, batch_size=rows, batch_readahead=1, fragment_readahead=1
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(
                f"A file of {self.url} vanished: {' '.join(str(error).split())[:300]}",
                "A compaction removes files that it has merged.", "Open the catalog again.",
            ) from error  # fmt: skip
        except pa.ArrowInvalid as error:
            raise StoreError(
                f"A file of {self.url} cannot be read: {' '.join(str(error).split())[:300]}", "",
                "Catalog.validate names it; remove it and encode its unit again.",
            ) from error  # fmt: skip
        except OSError as error:
            raise environment_fault(error, self.folder.store, "Reading the catalog") from error

    def table(self) -> pa.Table:
        """Return the columns asked for as an Arrow table, a row per planned slot, sorted by time."""
        extra = [] if "time" in self.columns else ["time"]
        batches = [batch for batch in self.scan([*self.columns, *extra]) if batch.num_rows]
        schema = pa.schema([*self.info.schema, *PARTITIONS], metadata=self.info.schema.metadata)
        schema = pa.schema([schema.field(name) for name in [*self.columns, *extra]], metadata=schema.metadata)
        table = pa.Table.from_batches(batches, schema=schema) if batches else schema.empty_table()
        return sorted_by_time(table).select(self.columns)

    def to_pandas(self) -> pd.DataFrame:
        """Return the same as a pandas frame; a latent is an array, or None where the slot is not ok."""
        return self.table().to_pandas()

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Times and status codes of all rows, in the order of files."""
        batches = list(self.scan(["time", "status"]))
        if not batches:
            return np.zeros(0, "datetime64[ns]"), np.zeros(0, np.uint8)
        return (
            np.concatenate([times_of(batch) for batch in batches]),
            np.concatenate([batch.column("status").to_numpy() for batch in batches]),
        )

    @cached_property
    def times(self) -> np.ndarray:
        """Times of the slots that have a latent, ``datetime64[ns]`` UTC, ascending, shape (n,).

        Raises
        ------
        ValidationError
            If a slot is there twice.
        """
        times, status = self._index
        found: np.ndarray = np.sort(times[status == int(FrameStatus.OK)])
        if (found[1:] == found[:-1]).any():
            raise ValidationError(f"{self.url} has slots twice.", "", "Catalog.validate names them.")
        return found

    def accounting(self) -> dict[str, int]:
        """Count slots by outcome: ``planned = ok + missing + rejected + failed``."""
        _, status = self._index
        return {"planned": int(status.size)} | {name: int(has_outcome(status, name).sum()) for name in _OUTCOMES}

    def blocks(self, rows: int = _BLOCK_ROWS, column: str = "latent") -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield latents piece by piece, in the order of files, which may not be that of time.

        Parameters
        ----------
        rows : int
            Most rows of a block. Blocks end with row groups, so memory is bounded by a few of them and one block.
        column : {"latent", "log_variance"}
            What to yield.

        Yields
        ------
        times, values : numpy.ndarray
            Of slots that are ok: shapes (b,) and (b, latent). Values are read-only views of Arrow's memory.
        """
        for batch in self.scan(["time", "status", column], rows):
            if not batch.num_rows:
                continue
            there = batch.column("status").to_numpy() == int(FrameStatus.OK)
            times = times_of(batch)
            # Without nulls this is a view; with nulls it is a copy without them.
            values = batch.column(column).flatten().to_numpy().reshape(-1, self.info.latent)
            if values.shape[0] != int(there.sum()):
                raise ValidationError(
                    f"{self.url}: {column} and status disagree between {times[0]} and {times[-1]}.", "",
                    "Catalog.validate names the file.",
                )  # fmt: skip
            yield times[there], values

    def latents(self, column: str = "latent") -> np.ndarray:
        """Return the latents of :attr:`times`, shape (n, latent), in the catalog's dtype.

        Values are copied once, from Arrow's memory to where they stay; besides them a block is in memory.

        Parameters
        ----------
        column : {"latent", "log_variance"}
            What to return.
        """
        if column not in self.info.schema.names[2:]:
            raise UsageError(f"The catalog has no column {column!r} of numbers.")
        found = np.empty((self.times.size, self.info.latent), self.info.dtype)
        for times, values in self.blocks(column=column):
            found[np.searchsorted(self.times, times)] = values
        return found

    def log_variances(self) -> np.ndarray:
        """Return the log-variances of :attr:`times`, shape (n, latent)."""
        return self.latents("log_variance")

    def between(self, start: object | None, end: object | None) -> Catalog:
        """Return the same catalog cut to another stretch; it is listed again."""
        bounds = [None if value is None else parse_moment(value) for value in (start, end)]
        return Catalog(self.folder, self.info, self.columns, *bounds)

    def validate(self) -> list[str]:
        """Check the laws of a catalog, reading every row of the stretch that was opened.

        Returns
        -------
        list of str
            What breaks one, empty if nothing does: schema and metadata of every file, times ascending in it and in the
            month of its folder, no slot twice, final status, latents null exactly where a slot is not ok, finite numbers.
        """
        from sdoml_dist.store.catalog_check import problems

        return problems(self)


def open_catalog(
    url: str | Store, *, columns: Sequence[str] | None = None, start: object | None = None, end: object | None = None,
    **options: Any,
) -> Catalog:  # fmt: skip
    """Open a catalog.

    Parameters
    ----------
    url : str
        Local folder, ``s3://`` or ``gs://`` address.
    columns : sequence of str, optional
        Columns of :meth:`Catalog.table`: ``time``, ``status``, ``latent``, ``log_variance``, ``year``, ``month``; by default
        those that files hold.
    start, end : str or datetime64, optional
        Stretch of time, UTC, the end exclusive. Files of other months are not opened, and row groups outside not read.
    **options
        Options of the store: ``endpoint_url``, ``region``, ``anonymous``.

    Returns
    -------
    Catalog
        Reads when asked.

    Raises
    ------
    StoreError
        If there is no catalog, or one of an unknown layout.
    UsageError
        If it has no such column, or a time is none.
    """
    folder = CatalogFolder(url if isinstance(url, Store) else store_at(str(url), **options))
    bounds = [None if value is None else parse_moment(value) for value in (start, end)]
    return Catalog(folder, folder.existing(), columns, *bounds)
