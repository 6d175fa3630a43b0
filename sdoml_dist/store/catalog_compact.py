"""Merge the many small files of a catalog's months into few large ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sdoml_dist.errors import UsageError, ValidationError
from sdoml_dist.recipe_base import Store, parse_size
from sdoml_dist.store.catalog_check import schema_problems
from sdoml_dist.store.catalog_folder import CatalogFolder, Month, part_digest
from sdoml_dist.store.catalog_schema import (
    COMPACTED,
    SCHEMA_VERSION,
    CatalogInfo,
    parquet_bytes,
    sorted_by_time,
    time_scalar,
    times_of,
)
from sdoml_dist.store.storage import environment_fault, join

DEFAULT_TARGET = 128 * 2**20
"""Bytes of a file: large enough that a request costs little beside it, small enough to be held in memory."""


@dataclass
class CompactSummary:
    """What a compaction did.

    Attributes
    ----------
    months : int
        Months whose files were merged.
    files_before, files_after : int
        Files that count, of all months.
    bytes_before, bytes_after : int
        Their bytes.
    removed : int
        Files removed: merged ones, and what an earlier compaction left behind.
    """

    months: int = 0
    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    removed: int = 0


def compact(url: str | Store, target_bytes: int | str = DEFAULT_TARGET, **options: Any) -> CompactSummary:
    """Merge the files of each month into few that are sorted by time.

    For each month, parts are written, then ``_compacted.json`` is replaced, then merged files are removed. Wherever that
    breaks off, :func:`~sdoml_dist.store.catalog.open_catalog` sees every row once, and the same command goes on: it writes
    parts of the same names again, and removes what does not count. Workers may write units meanwhile; they are merged next
    time. A reader that opened the catalog before may have to open it again. Run one compaction at a time.

    Parameters
    ----------
    url : str or Store
        The catalog.
    target_bytes : int or str
        Size of a file, for example ``"64MiB"``. About three times as much, uncompressed, is in memory at once.
    **options
        Options of the store: ``endpoint_url``, ``region``.

    Returns
    -------
    CompactSummary
        What was done. A catalog that has nothing to merge stays as it is.

    Raises
    ------
    StoreError
        If there is no catalog.
    ValidationError
        If files do not fit the catalog, or a slot is in two of them; the month stays as it was.
    EnvironmentFault
        If files cannot be read or written; repeat the command.
    """
    try:
        target = parse_size(target_bytes)
    except ValueError as error:
        raise UsageError(f"target_bytes: {error}") from None
    if target < 1:
        raise UsageError(f"target_bytes is {target}; a file has at least a byte.")
    store = url if isinstance(url, Store) else Store(url=str(url), **options)
    summary = CompactSummary()
    folder = CatalogFolder(store)
    try:
        info = folder.existing()
        for name, month in folder.months().items():
            summary.files_before += len(month.files)
            summary.bytes_before += sum(file.size for file in month.files)
            if _is_merged(month, target):
                parts, old = {file.path: file.size for file in month.files}, month.leftover
            else:
                summary.months += 1
                parts = _merge(folder, info, name, month, target)
                old = [path for path in [*(file.path for file in month.files), *month.leftover] if path not in parts]
            for path in old:
                folder.remove(path)
            summary.removed += len(old)
            summary.files_after += len(parts)
            summary.bytes_after += sum(parts.values())
    except pa.ArrowInvalid as error:
        raise ValidationError(
            f"A file of {folder.url} cannot be read: {' '.join(str(error).split())[:300]}", "Its month was not merged.",
            "Remove the file and encode its unit again.",
        ) from error  # fmt: skip
    except OSError as error:
        raise environment_fault(error, store, "Compacting") from error
    return summary


def _is_merged(month: Month, target: int) -> bool:
    if month.loose:
        return len(month.files) == 1 and month.files[0].size <= target
    return bool(month.compacted.get("target_bytes") == target)


def _merge(folder: CatalogFolder, info: CatalogInfo, name: str, month: Month, target: int) -> dict[str, int]:
    """Write the parts of a month and make them count; return their paths and bytes."""
    paths = [file.path for file in month.files]
    dataset = folder.dataset(paths, info.schema)
    for path, fragment in zip(paths, dataset.get_fragments(), strict=True):
        if wrong := schema_problems(info, fragment.physical_schema):
            raise ValidationError(
                f"{path} {wrong[0]}", f"Nothing of {name} was merged.", "Remove the file and encode its unit again."
            )
    times = np.sort(times_of(dataset.to_table(columns=["time"])))
    if (times[1:] == times[:-1]).any():
        slot = times[1:][times[1:] == times[:-1]][0]
        raise ValidationError(
            f"The slot {slot} is in two files of {name}.", f"Nothing of {name} was merged.",
            "Catalog.validate lists what is wrong; remove one of the files.",
        )  # fmt: skip
    count = -(-sum(file.size for file in month.files) // target)
    edges = np.unique(np.linspace(0, times.size, min(count, times.size) + 1).astype(int))
    digest = part_digest(paths, target)
    parts: dict[str, int] = {}
    for index, (start, stop) in enumerate(pairwise(edges)):
        low, high = (time_scalar(time) for time in (times[start], times[stop - 1]))
        rows = dataset.to_table(filter=(pc.field("time") >= low) & (pc.field("time") <= high))
        data = parquet_bytes(info, sorted_by_time(rows).replace_schema_metadata(info.schema.metadata))
        path = join(name, f"part-{digest}-{index:04d}.parquet")
        folder.put(path, data)
        parts[path] = len(data)
    about = {
        "schema_version": SCHEMA_VERSION, "target_bytes": target,
        "files": [{"name": path.rsplit("/", 1)[-1], "size": size} for path, size in parts.items()],
        "units": sorted(month.units),
    }  # fmt: skip
    folder.put(join(name, COMPACTED), json.dumps(about, indent=1).encode())
    return parts
