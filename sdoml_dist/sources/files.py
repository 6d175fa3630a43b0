"""FITS files in a folder or object store, found by an index that is kept as Parquet."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sdoml_dist.errors import EnvironmentFault
from sdoml_dist.recipe import FilesConfig
from sdoml_dist.solar.calibrate import observation_time
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.keywords import number
from sdoml_dist.solar.status import FrameError
from sdoml_dist.solar.times import parse_fits_time
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.sources.download import fetch_bytes
from sdoml_dist.sources.fits import read_header

logger = logging.getLogger("sdoml")

# Where the header of a compressed SDO image ends: a primary header and some 200 cards, with room.
_HEADER_BYTES = 64 * 2880
_CHANNEL_BY_WAVELENGTH = {channel.wavelength_angstrom: name for name, channel in AIA.items()}
_MD5 = re.compile(r"^[0-9a-f]{32}$")
_SCHEMA = pa.schema(
    [
        ("channel", pa.string()),
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


class FilesSource:
    """Frames from files.

    Parameters
    ----------
    config : FilesConfig
        Where and how.
    index_url : str
        Folder for the index, anywhere fsspec reaches.
    index_options : dict
        Options of fsspec for that folder.
    """

    def __init__(self, config: FilesConfig, index_url: str, index_options: dict[str, object] | None = None) -> None:
        self.config = config
        key = hashlib.sha256(f"{config.url}|{config.glob}|{config.index}|{config.name_pattern}".encode()).hexdigest()
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

    def prepare(self, channels: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Bring the index up to date; only new and changed files are looked into.

        Raises
        ------
        EnvironmentFault
            If the files cannot be listed or the index cannot be written.
        """
        known = {row["path"]: row for row in self.read_index().to_pylist()} if self._has_index() else {}
        rows: list[dict[str, Any]] = []
        fresh: list[tuple[str, dict[str, Any], str]] = []
        for path, details in self._listing():
            state = "|".join(str(details.get(key)) for key in ("size", "mtime", "ETag", "LastModified", "created"))
            before = known.get(path)
            if before is not None and before["state"] == state:
                rows.append(before)
            else:
                fresh.append((path, details, state))
        with ThreadPoolExecutor(self.config.network.concurrency) as pool:
            rows += pool.map(lambda item: self._look_into(*item), fresh)
        lost = [row for row in rows if row["channel"] is None]
        if lost:
            logger.warning(
                "%d of %d files cannot be placed in time and are left out; the first: %s: %s",
                len(lost), len(rows), lost[0]["path"], lost[0]["problem"],
            )  # fmt: skip
        rows.sort(key=lambda row: (row["channel"] or "", str(row["time"]), row["version"], row["path"]))
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), buffer, row_group_size=50_000)
        filesystem, target = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        temporary = f"{target}.new"
        filesystem.pipe_file(temporary, buffer.getvalue())
        filesystem.mv(temporary, target)
        _load_index.cache_clear()

    def _look_into(self, path: str, details: dict[str, Any], state: str) -> dict[str, Any]:
        """Return a file's row of the index."""
        etag = str(details.get("ETag", "")).strip('"')
        row: dict[str, Any] = {
            "channel": None, "time": None, "path": path, "size": details.get("size"), "quality": None, "version": "",
            "checksum": f"md5:{etag}" if _MD5.match(etag) else None, "state": state, "problem": None,
        }  # fmt: skip
        try:
            if self.config.index == "header":
                self._by_header(row)
            else:
                self._by_name(row)
        except (FrameError, ValueError) as error:
            row["problem"] = str(error)
            if self.config.index == "header":
                # A file that cannot be read but whose name says when and what it is becomes a failed frame in its slot.
                try:
                    self._by_name(row)
                except ValueError:
                    logger.debug("%s has no telling name either", path)
        return row

    def _by_header(self, row: dict[str, Any]) -> None:
        filesystem, root = fsspec.core.url_to_fs(self.config.url, **self.config.storage_options)
        start = filesystem.cat_file(f"{root.rstrip('/')}/{row['path']}", start=0, end=_HEADER_BYTES)
        header = read_header(start)
        wavelength = number(header.get("WAVELNTH"))
        name = _CHANNEL_BY_WAVELENGTH.get(int(wavelength or 0))
        if name is None:
            raise ValueError(f"WAVELNTH is {header.get('WAVELNTH')!r}")
        quality = header.get("QUALITY")
        row["time"] = _utc(observation_time(header))
        row["channel"] = name
        row["quality"] = quality if isinstance(quality, int) else None
        row["version"] = str(header.get("DATE") or "")

    def _by_name(self, row: dict[str, Any]) -> None:
        match = re.search(self.config.name_pattern, row["path"])
        if match is None:
            raise ValueError("the name does not follow source.name_pattern")
        digits = re.sub(r"\D", "", match["time"]).ljust(14, "0")
        text = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:10]}:{digits[10:12]}:{digits[12:14]}"
        name = _CHANNEL_BY_WAVELENGTH.get(int(match["wavelength"]))
        if name is None:
            raise ValueError(f"there is no channel of {match['wavelength']} Angstrom")
        row["time"] = _utc(parse_fits_time(text))
        row["channel"] = name

    def _has_index(self) -> bool:
        filesystem, target = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        return bool(filesystem.exists(target))

    def read_index(self) -> pa.Table:
        """Return the index as it was last written."""
        filesystem, target = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        return pq.read_table(io.BytesIO(filesystem.cat_file(target)))

    def candidates(self, channel: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the files of a channel with ``start <= time < end``, sorted by time, then version."""
        rows = _load_index(self).get(channel)
        if rows is None:
            return []
        times, records = rows
        low, high = np.searchsorted(times, [start, end])
        return records[low:high]

    def fetch(self, record: FrameRecord) -> bytes:
        """Return the bytes of a file."""
        if ".." in record.locator.split("/"):
            raise ValueError(f"{record.locator} leaves the source's folder")
        return fetch_bytes(
            f"{self.config.url.rstrip('/')}/{record.locator}", self.config.network, size=record.size,
            checksum=record.checksum, storage_options=self.config.storage_options,
        )  # fmt: skip


def _utc(time: np.datetime64) -> Any:
    return int(time.astype("datetime64[ns]").astype(np.int64))


_Index = dict[str, tuple[np.ndarray, list[FrameRecord]]]


@lru_cache(maxsize=2)
def _load_index(source: FilesSource) -> _Index:
    """Read an index once per process and source: times and records by channel, in order of time."""
    table = source.read_index()
    columns = {name: table[name].to_pylist() for name in ("channel", "path", "size", "checksum", "quality", "version")}
    times = table["time"].cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False)
    found: dict[str, list[FrameRecord]] = {}
    for time, name, *rest in zip(times, *columns.values(), strict=True):
        if name is not None:
            found.setdefault(name, []).append(FrameRecord(name, time, *rest))
    index: _Index = {}
    for name, records in found.items():
        records.sort(key=lambda record: (record.time, record.version, record.locator))
        index[name] = np.array([record.time for record in records], "datetime64[ns]"), records
    return index
