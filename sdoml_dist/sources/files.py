"""FITS files in a folder or object store, found by an index that is kept as Parquet."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdoml_dist.atomic import put
from sdoml_dist.errors import EnvironmentFault
from sdoml_dist.recipe_sources import FilesConfig
from sdoml_dist.solar.calibrate import observation_time
from sdoml_dist.solar.keywords import number
from sdoml_dist.solar.products import Product
from sdoml_dist.solar.status import FrameError
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.sources.download import attempts, fetch_bytes
from sdoml_dist.sources.fits import read_header
from sdoml_dist.sources.naming import CHANNEL_BY_WAVELENGTH, read_name

logger = logging.getLogger("sdoml")

# Where the header of a compressed SDO image ends: a primary header and some 200 cards, with room.
_HEADER_BYTES = 64 * 2880
_MD5 = re.compile(r"^[0-9a-f]{32}$")
_SCHEMA = pa.schema(
    [
        ("bundle", pa.string()),
        ("segment", pa.string()),
        ("time", pa.timestamp("ns", tz="UTC")),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("checksum", pa.string()),
        ("quality", pa.int64()),
        ("version", pa.string()),
        ("state", pa.string()),
        ("problem", pa.string()),
    ]
)
_RECORD_COLUMNS = ["time", "segment", "path", "size", "checksum", "quality", "version", "state"]
_ROWS_PER_GROUP = 20_000
_UNSETTLED = "unsettled"
"""State of a file that could not be opened: it is tried again next time."""


class FilesSource:
    """Frames from files.

    Parameters
    ----------
    config : FilesConfig
        Where and how.
    product : Product
        What the files hold.
    index_url : str
        Folder for the index, anywhere fsspec reaches.
    index_options : dict
        Options of fsspec for that folder.
    """

    sees_changes = True

    def __init__(
        self, config: FilesConfig, product: Product, index_url: str, index_options: dict[str, object] | None = None
    ) -> None:
        self.config, self.product = config, product
        identity = f"{product.name}|{config.url}|{config.glob}|{config.index}|{config.name_pattern}"
        key = hashlib.sha256(identity.encode()).hexdigest()
        self.index_url = f"{(config.index_cache or index_url).rstrip('/')}/{key[:16]}.parquet"
        self._index_options = {} if config.index_cache else dict(index_options or {})

    def _listing(self) -> list[tuple[str, dict[str, Any]]]:
        """Return path below the root and details of every file."""
        filesystem, root = fsspec.core.url_to_fs(self.config.url, **self.config.storage_options)
        filesystem.invalidate_cache()
        root = root.rstrip("/")
        try:
            if not filesystem.isdir(root):
                raise EnvironmentFault(
                    f"There is no folder {self.config.url} with files.",
                    "The recipe takes its frames from there.",
                    "Correct source.url, or make the files there (a simulated mission: 'sdoml simulate').",
                )
            found = filesystem.glob(f"{root}/{self.config.glob}", detail=True)
            if self.config.url.startswith(("http://", "https://")):
                # A web server's listing gives names only: each file's size and ETag must be asked for.
                with ThreadPoolExecutor(self.config.network.concurrency) as pool:
                    found = dict(zip(found, pool.map(filesystem.info, found), strict=True))
        except EnvironmentFault:
            raise
        except Exception as error:
            raise EnvironmentFault(
                f"The files at {self.config.url} cannot be listed: {type(error).__name__}: {error}",
                "", "Check address, network and credentials.",
            ) from error  # fmt: skip
        return sorted(
            (path[len(root) :].lstrip("/"), details)
            for path, details in found.items()
            if details.get("type") != "directory"
        )

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Bring the index up to date; only new and changed files are looked into.

        Raises
        ------
        EnvironmentFault
            If the files cannot be listed or the index cannot be written.
        """
        before = self.read_index() if self._has_index() else _SCHEMA.empty_table()
        known = {
            (path, state): row
            for row, (path, state) in enumerate(zip(_strings(before, "path"), _strings(before, "state"), strict=True))
        }
        kept: list[int] = []
        fresh: list[tuple[str, dict[str, Any], str]] = []
        for path, details in self._listing():
            state = "|".join(str(details.get(key)) for key in ("size", "mtime", "ETag", "LastModified", "created"))
            place = known.get((path, state))
            if place is None:
                fresh.append((path, details, state))
            else:
                kept.append(place)
        if not fresh and len(kept) == before.num_rows and self._has_index():
            return
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(self.config.network.concurrency) as pool:
            try:
                rows.extend(pool.map(lambda item: self._look_into(*item), fresh))
            finally:
                pool.shutdown(cancel_futures=True)
                self._write_index(before.take(pa.array(kept, pa.int64())), rows)
        lost = [row for row in rows if row["bundle"] is None]
        if lost:
            logger.warning(
                "%d of %d new files cannot be placed in time and are left out; the first: %s: %s",
                len(lost), len(rows), lost[0]["path"], lost[0]["problem"],
            )  # fmt: skip

    def _write_index(self, kept: pa.Table, rows: list[dict[str, Any]]) -> None:
        table = pa.concat_tables([kept, pa.Table.from_pylist(rows, _SCHEMA)])
        order = [(name, "ascending") for name in ("bundle", "time", "version", "path")]
        buffer = io.BytesIO()
        pq.write_table(table.sort_by(order), buffer, row_group_size=_ROWS_PER_GROUP)
        filesystem, target = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        put(filesystem, target, buffer.getvalue())

    def _look_into(self, path: str, details: dict[str, Any], state: str) -> dict[str, Any]:
        """Return a file's row of the index."""
        etag = str(details.get("ETag", "")).strip('"')
        summed = self.config.verify_etag and self.config.url.startswith("s3://") and _MD5.match(etag)
        row: dict[str, Any] = {
            "bundle": None, "segment": None, "time": None, "path": path, "size": details.get("size"), "quality": None,
            "version": "", "checksum": f"md5:{etag}" if summed else None, "state": state, "problem": None,
        }  # fmt: skip
        try:
            if self.config.index == "header" and self.product.kind == "images":
                self._by_header(row)
            else:
                self._by_name(row)
        except (FrameError, ValueError, FileNotFoundError, PermissionError) as error:
            row["problem"] = f"{type(error).__name__}: {error}"
            if isinstance(error, OSError):
                row["state"] = _UNSETTLED
            if self.config.index == "header":
                # A file that cannot be read but whose name says when and what it is becomes a failed frame in its slot.
                try:
                    self._by_name(row)
                except ValueError:
                    logger.debug("%s has no telling name either", path)
        return row

    def _beginning(self, path: str) -> bytes:
        """Return the first bytes of a file, where its header is.

        Raises
        ------
        FileNotFoundError, PermissionError
            If just this file cannot be read.
        EnvironmentFault
            If the place does not answer after all retries. The index would be wrong without the file.
        """
        filesystem, root = fsspec.core.url_to_fs(self.config.url, **self.config.storage_options)
        for failures in attempts(self.config.network):  # noqa: B007 - told after the last one
            try:
                start: bytes = filesystem.cat_file(f"{root.rstrip('/')}/{path}", start=0, end=_HEADER_BYTES)
                return start
            except Exception as error:
                if isinstance(error, FileNotFoundError | PermissionError):
                    raise
                problem = error
        raise EnvironmentFault(
            f"{self.config.url}: {path} cannot be read: {type(problem).__name__}: {problem} ({failures} attempts)",
            "The index needs the header of every file.",
            "Try again later; headers that were read are kept.",
        )

    def _by_header(self, row: dict[str, Any]) -> None:
        header = read_header(self._beginning(row["path"]))
        if self.product.name == "aia":
            wavelength = number(header.get("WAVELNTH"))
            bundle, segment = CHANNEL_BY_WAVELENGTH.get(int(wavelength or 0)), "image"
            if bundle is None:
                raise ValueError(f"WAVELNTH is {header.get('WAVELNTH')!r}")
        else:
            # Headers of HMI do not say which segment a file is; its name does.
            named = read_name(row["path"], self.product, self.config.name_pattern)
            bundle, segment = named.bundle, named.segment
        quality = header.get("QUALITY")
        row |= {
            "time": _utc(observation_time(header)), "bundle": bundle, "segment": segment,
            "quality": quality if isinstance(quality, int) else None, "version": str(header.get("DATE") or ""),
        }  # fmt: skip

    def _by_name(self, row: dict[str, Any]) -> None:
        named = read_name(row["path"], self.product, self.config.name_pattern)
        row |= {"time": _utc(named.time), "bundle": named.bundle, "segment": named.segment}

    def _has_index(self) -> bool:
        filesystem, target = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        return bool(filesystem.exists(target))

    def read_index(self) -> pa.Table:
        """Return the index as it was last written, sorted by channel, time, version and path."""
        filesystem, target = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        return pq.read_table(io.BytesIO(filesystem.cat_file(target)))

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the records of a bundle with ``start <= time < end``, sorted by time, then version.

        Only those row groups of the index are read that can hold them, so that a worker's memory does not grow with
        the number of files.
        """
        filesystem, target = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        low, high = (pa.scalar(_utc(moment), pa.timestamp("ns", tz="UTC")) for moment in (start, end))
        wanted = (pc.field("bundle") == bundle) & (pc.field("time") >= low) & (pc.field("time") < high)
        with filesystem.open(target, "rb") as file:
            table = pq.read_table(file, columns=_RECORD_COLUMNS, filters=wanted)
        times = table["time"].cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False)
        segments = table["segment"].to_pylist()
        columns = [table[name].to_pylist() for name in _RECORD_COLUMNS[2:]]
        files = [
            FrameRecord(bundle, moment, path, size, checksum, quality, version, state=state)
            for moment, path, size, checksum, quality, version, state in zip(times, *columns, strict=True)
        ]
        if len(self.product.bundle(bundle).segments) == 1:
            return files
        return _joined(files, segments)

    def stage(self, records: Sequence[FrameRecord]) -> None:
        """Nothing to do: files are fetched one by one."""

    def fetch(self, record: FrameRecord) -> bytes:
        """Return the bytes of a file."""
        if ".." in record.locator.split("/"):
            raise ValueError(f"{record.locator} leaves the source's folder")
        return fetch_bytes(
            f"{self.config.url.rstrip('/')}/{record.locator}", self.config.network, size=record.size,
            checksum=record.checksum, storage_options=self.config.storage_options,
        )  # fmt: skip


def _joined(files: list[FrameRecord], segments: list[str]) -> list[FrameRecord]:
    """Join files of one time to records; of a segment that is there twice the last version counts."""
    groups: dict[np.datetime64, dict[str, FrameRecord]] = {}
    for file, segment in zip(files, segments, strict=True):
        groups.setdefault(file.time, {})[segment] = file
    return [
        dataclasses.replace(
            min(group.values(), key=lambda file: file.locator), size=None, checksum=None,
            quality=next((file.quality for file in group.values() if file.quality), None),
            version=max(file.version for file in group.values()), segments=tuple(sorted(group.items())),
            state="|".join(file.state for _, file in sorted(group.items())),
        )
        for group in groups.values()
    ]  # fmt: skip


def _utc(moment: np.datetime64) -> int:
    return int(moment.astype("datetime64[ns]").astype(np.int64))


def _strings(table: pa.Table, name: str) -> list[str]:
    values: list[str] = table[name].to_pylist()
    return values
