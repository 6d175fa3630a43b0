"""The laws of a catalog, checked from the outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.catalog_folder import month_folder
from sdoml_dist.store.catalog_schema import FINAL, CatalogInfo, file_info, times_of

if TYPE_CHECKING:
    from sdoml_dist.store.catalog import Catalog

_MOST_EXAMPLES = 3


def schema_problems(info: CatalogInfo, schema: pa.Schema) -> list[str]:
    """List what of a file's schema is not that of its catalog."""
    found = []
    if not schema.equals(info.schema):
        found.append(f"has columns {_fields(schema)} instead of {_fields(info.schema)}")
    if lines := info.differences(file_info(schema)):
        found.append("was made of something else:\n" + "\n".join(lines))
    return found


def _fields(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else ' not null'}" for field in schema)


def problems(catalog: Catalog) -> list[str]:
    """List what breaks a law of a catalog."""
    found: list[str] = []
    known: list[np.ndarray] = []
    fragments = catalog.dataset().get_fragments() if catalog.files else ()
    for file, fragment in zip(catalog.files, fragments, strict=True):
        try:
            of_file = schema_problems(catalog.info, fragment.physical_schema)
            if not of_file:
                times, of_file = _row_problems(catalog.info, fragment, file.path.rsplit("/", 1)[0])
                known.append(times)
        except (OSError, pa.ArrowInvalid) as error:
            of_file = [f"cannot be read: {' '.join(str(error).split())[:300]}"]
        found += [f"{file.path} {text}" for text in of_file]
    times = np.sort(np.concatenate(known)) if known else np.zeros(0, "datetime64[ns]")
    twice = np.unique(times[1:][times[1:] == times[:-1]])
    if twice.size:
        found.append(f"{twice.size} slots are there twice, for example {', '.join(map(str, twice[:_MOST_EXAMPLES]))}")
    return found


def _row_problems(info: CatalogInfo, fragment: pads.Fragment, folder: str) -> tuple[np.ndarray, list[str]]:
    """Return the times of a file, and what is wrong with its rows."""
    broken: dict[str, int] = {}
    all_times = []
    for batch in fragment.to_batches(schema=info.schema, batch_size=65_536, batch_readahead=1):
        times = times_of(batch)
        status = batch.column("status").to_numpy()
        ok = status == int(FrameStatus.OK)
        all_times.append(times)
        _count(broken, "slots have no final status", ~np.isin(status, FINAL))
        for name in info.schema.names[2:]:
            column = batch.column(name)
            _count(broken, f"slots have a status that disagrees with {name}", column.is_valid().to_numpy(False) != ok)
            # Nulls inside a list become NaN.
            numbers = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, info.latent)
            _count(broken, f"slots have a {name} that is not finite", ~np.isfinite(numbers).all(axis=1))
    times = np.concatenate(all_times) if all_times else np.zeros(0, "datetime64[ns]")
    _count(broken, "slots are not behind the one before", times[1:] <= times[:-1])
    months = times.astype("datetime64[M]")
    wrong = [month for month in np.unique(months) if month_folder(month) != folder]
    _count(broken, "slots are of another month than the folder", np.isin(months, wrong))
    return times, [f"{number} {law}" for law, number in broken.items()]


def _count(broken: dict[str, int], law: str, bad: np.ndarray) -> None:
    if bad.any():
        broken[law] = broken.get(law, 0) + int(bad.sum())
