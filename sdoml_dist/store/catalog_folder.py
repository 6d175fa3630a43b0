"""The folder of a latent catalog: names of its files, and the rule that says which of them count."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.recipe_base import canonical_json
from sdoml_dist.store.catalog_schema import COMPACTED, INFO, PARTITIONS, CatalogInfo
from sdoml_dist.store.folder import Folder
from sdoml_dist.store.storage import join

_FILE = re.compile(r"^(year=\d{4}/month=\d{2})/((?:unit|part)-[A-Za-z0-9][A-Za-z0-9_-]*\.parquet|_compacted\.json)$")
_UNIT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")
_THREADS = 16


@dataclass(frozen=True)
class CatalogUnit:
    """Slots that one worker encodes in one piece and writes as one file: their range in a sequence of times."""

    name: str
    start: int
    stop: int


def catalog_units(times: np.ndarray, rows: int) -> list[CatalogUnit]:
    """Part times into units of at most some rows, none of more than one month.

    Parameters
    ----------
    times : numpy.ndarray
        ``datetime64[ns]`` UTC, ascending.
    rows : int
        Largest number of slots in a unit.

    Returns
    -------
    list of CatalogUnit
        The same for the same times and `rows`; names have the first time and the number of slots.
    """
    if rows < 1:
        raise UsageError(f"A unit has at least one row, not {rows}.")
    months = times.astype("datetime64[M]")
    if times.size and not (times[1:] > times[:-1]).all():
        raise UsageError("Times of a catalog ascend, and none is there twice.")
    edges = [0, *(np.flatnonzero(months[1:] != months[:-1]) + 1).tolist(), times.size]
    units = []
    for first, last in pairwise(edges):
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            stamp = str(times[start].astype("datetime64[ms]")).translate(str.maketrans("", "", "-:."))
            units.append(CatalogUnit(f"{stamp}-{stop - start}", start, stop))
    return units


def unit_file(unit: str, times: np.ndarray) -> str:
    """Return the path of a unit's file.

    Raises
    ------
    UsageError
        If the name is none for a file, or the unit has slots of more than one month.
    """
    if not _UNIT.match(unit):
        raise UsageError(f"A unit cannot be named {unit!r}.", "", "Use letters, digits, - and _.")
    months = np.unique(times.astype("datetime64[M]"))
    if months.size != 1:
        raise UsageError(
            f"Unit {unit} has slots of {months.size} months.", "Folders are by month, and a unit is one file.",
            "Part slots with catalog_units.",
        )  # fmt: skip
    return join(month_folder(months[0]), f"unit-{unit}.parquet")


def month_folder(month: np.datetime64) -> str:
    """Return the folder of a month, ``year=2011/month=02``."""
    year, number = str(month.astype("datetime64[M]")).split("-")
    return f"year={year}/month={number}"


@dataclass(frozen=True)
class CatalogFile:
    """A file that counts: path below the catalog, and bytes."""

    path: str
    size: int


@dataclass
class Month:
    """What lies in the folder of a month.

    Attributes
    ----------
    files : list of CatalogFile
        Files that count.
    loose : list of str
        Those of them that are units.
    leftover : list of str
        Files that do not count: merged units, and parts of a compaction that broke off.
    units : set of str
        Names of all units, merged or not.
    compacted : dict
        What ``_compacted.json`` says; empty if there is none.
    """

    files: list[CatalogFile] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)
    units: set[str] = field(default_factory=set)
    compacted: dict[str, Any] = field(default_factory=dict)


class CatalogFolder(Folder):
    """The folder or bucket that a catalog lies in.

    Parameters
    ----------
    store : Store
        Its address; ``s3://`` and ``gs://`` take credentials from the environment.
    """

    def remove(self, path: str) -> None:
        """Remove a file; none there is none to remove."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(join(self.root, path))

    def info(self) -> CatalogInfo | None:
        """Return what the catalog was made of, or None if there is none here."""
        try:
            data = self.filesystem.cat_file(join(self.root, INFO))
        except FileNotFoundError:
            return None
        return CatalogInfo.parse(data, join(self.url, INFO))

    def existing(self) -> CatalogInfo:
        """Return what the catalog was made of.

        Raises
        ------
        StoreError
            If there is none, or one of an unknown layout.
        """
        info = self.info()
        if info is None:
            raise StoreError(f"There is no catalog at {self.url}.", "", f"A catalog is a folder with {INFO}.")
        return info

    def dataset(self, paths: Iterable[str], schema: pa.Schema) -> pads.Dataset:
        """Return some files as a pyarrow dataset; year and month come from their paths where the schema has them."""
        return pads.dataset(
            [join(self.root, path) for path in paths], schema=schema, filesystem=self.filesystem, format="parquet",
            partitioning=pads.partitioning(PARTITIONS, flavor="hive"), partition_base_dir=self.root,
        )  # fmt: skip

    def months(self, first: str = "", last: str = "~") -> dict[str, Month]:
        """Return what lies in the folders of months from `first` to `last`, in their order."""
        # The listing comes first: units that a compaction removes after it are merged by what is read next.
        self.filesystem.invalidate_cache()
        try:
            found = self.filesystem.find(self.root, detail=True)
        except FileNotFoundError:
            found = {}
        sizes: dict[str, dict[str, int]] = {}
        for path, about in found.items():
            match = _FILE.match(str(path)[len(self.root) + 1 :])
            if match:
                sizes.setdefault(match[1], {})[match[2]] = int(about["size"])
        chosen = sorted(name for name in sizes if first <= name <= last)
        with ThreadPoolExecutor(_THREADS) as pool:
            compacted = list(pool.map(lambda name: self._compacted(name) if COMPACTED in sizes[name] else {}, chosen))
        return {name: _month(name, sizes[name], about) for name, about in zip(chosen, compacted, strict=True)}

    def _compacted(self, month: str) -> dict[str, Any]:
        about: dict[str, Any] = json.loads(self.filesystem.cat_file(join(self.root, month, COMPACTED)))
        return about


def _month(folder: str, sizes: dict[str, int], compacted: dict[str, Any]) -> Month:
    """Apply the rule of which files count."""
    month = Month(compacted=compacted, units=set(compacted.get("units", ())))
    parts = {part["name"]: int(part["size"]) for part in compacted.get("files", ())}
    for name in sorted(sizes.keys() - {COMPACTED}):
        path, unit = join(folder, name), name.removeprefix("unit-").removesuffix(".parquet")
        if name.startswith("part-") or unit in month.units:
            if name not in parts:
                month.leftover.append(path)
        else:
            month.loose.append(path)
            month.files.append(CatalogFile(path, sizes[name]))
    month.units |= {path.rsplit("/unit-", 1)[1].removesuffix(".parquet") for path in month.loose}
    month.files = [CatalogFile(join(folder, name), size) for name, size in sorted(parts.items())] + month.files
    return month


def part_digest(inputs: Iterable[str], target_bytes: int) -> str:
    """Name a merging of files: the same files give the same name, so that a repeated merging replaces its own parts."""
    return hashlib.sha256(canonical_json([sorted(inputs), target_bytes]).encode()).hexdigest()[:12]
