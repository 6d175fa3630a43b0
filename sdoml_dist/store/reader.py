"""Reading a dataset: lazy xarray, and the accounting of every frame as a pandas table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe, Store
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.dataset import open_repository, session_at, stored_recipe
from sdoml_dist.store.template import group_path

if TYPE_CHECKING:
    import icechunk


def as_store(url: str | Store, **options: Any) -> Store:
    """Return the place of a dataset from its URL and options such as ``endpoint_url`` or ``anonymous``."""
    return url if isinstance(url, Store) else Store(url=str(url), **options)


def open_root(
    url: str | Store, version: str | None = None, **options: Any
) -> tuple[zarr.Group, Recipe, icechunk.Session]:
    """Open a dataset at a version: its root group, the recipe it was built from, and the session.

    Raises
    ------
    StoreError
        If there is no dataset or no such version.
    """
    store = as_store(url, **options)
    session = session_at(open_repository(store), version)
    root = zarr.open_group(session.store, mode="r")
    if "recipe" not in root.attrs:
        raise StoreError(
            f"{store.url} holds no finished commit.", "Its first run ended before anything was written.",
            "Run the build again.",
        )  # fmt: skip
    return root, stored_recipe(root), session


def _select(recipe: Recipe, channels: Sequence[str] | None) -> tuple[str, ...]:
    if channels is None:
        return recipe.channels
    unknown = [name for name in channels if name not in recipe.channels]
    if unknown:
        raise UsageError(f"The dataset has no channel {unknown[0]!r}; it has {', '.join(recipe.channels)}.")
    return tuple(name for name in recipe.channels if name in channels)


def open_dataset(
    url: str | Store,
    version: str | None = None,
    *,
    channels: Sequence[str] | None = None,
    chunks: Any = None,
    **options: Any,
) -> xr.Dataset:
    """Open a dataset with xarray.

    Parameters
    ----------
    url : str
        Local folder, ``s3://`` or ``gs://`` address.
    version : str, optional
        Tag or snapshot id; by default the newest commit.
    channels : sequence of str, optional
        Channels to open; by default all.
    chunks : optional
        As in :func:`xarray.open_zarr`: None reads lazily without dask, ``{}`` gives dask arrays with one image per
        chunk. Datasets of several years are always dask-backed, because joining them lazily needs it.
    **options
        Options of the store: ``endpoint_url``, ``region``, ``anonymous``.

    Returns
    -------
    xarray.Dataset
        Per channel an image series (time, y, x), float32, NaN = no data; ``status`` and the keywords over (time,
        channel). ``time`` is UTC. Times are those of the recipe's period. The attributes hold recipe and provenance.

    Raises
    ------
    StoreError
        If there is no dataset or no such version.

    Examples
    --------
    >>> ds = sdoml_dist.open_dataset("sdoml-demo/dataset")  # doctest: +SKIP
    >>> ds["171A"].sel(time="2011-02-15T00:06").mean().item()  # doctest: +SKIP
    """
    root, recipe, session = open_root(url, version, **options)
    names = _select(recipe, channels)
    spans = Plan(recipe).years()
    if len(spans) > 1 and chunks is None:
        chunks = {}
    parts = []
    for year, (start, stop) in spans.items():
        opened = {
            path: xr.open_zarr(session.store, group=path, consolidated=False, chunks=chunks, zarr_format=3)
            for path in (group_path(year), f"{group_path(year)}/keywords")
        }
        images = opened[group_path(year)]
        images = images.drop_vars([name for name in recipe.channels if name not in names])
        merged = images.merge(opened[f"{group_path(year)}/keywords"])
        parts.append(merged.isel(time=slice(start, stop)))
    joined = parts[0] if len(parts) == 1 else xr.concat(
        parts, "time", data_vars="minimal", coords="minimal", compat="override", join="override"
    )  # fmt: skip
    joined["channel"] = np.array(recipe.channels)
    joined = joined.sel(channel=list(names))
    joined.attrs = dict(root.attrs) | {"snapshot": session.snapshot_id, "url": as_store(url, **options).url}
    return joined


def frames(
    url: str | Store,
    version: str | None = None,
    *,
    channels: Sequence[str] | None = None,
    details: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Return the accounting: one row per planned frame.

    Parameters
    ----------
    url, version, channels, **options
        As in :func:`open_dataset`.
    details : bool
        Whether to read also where each frame came from and what was wrong with it (slower).

    Returns
    -------
    pandas.DataFrame
        Columns ``time`` (UTC), ``channel``, ``outcome`` (pending, ok, missing, rejected, failed), ``reason``,
        ``T_OBS``, ``EXPTIME``, ``QUALITY``, ``mean``; with `details` also ``source`` and ``detail``.
    """
    root, recipe, _ = open_root(url, version, **options)
    names = _select(recipe, channels)
    outcome = np.full(256, "?", dtype=object)
    reason = np.full(256, "?", dtype=object)
    for code in FrameStatus:
        outcome[int(code)], reason[int(code)] = code.outcome, code.label
    tables = []
    for year, (start, stop) in Plan(recipe).years().items():
        group = root[group_path(year)]
        times = slot_times(year, recipe.cadence, start, stop)
        columns = {
            path: np.asarray(group[path][start:stop])
            for path in ("status", "keywords/T_OBS", "keywords/EXPTIME", "keywords/QUALITY", "moments/mean")
        }
        for name in names:
            index = recipe.channels.index(name)
            codes = columns["status"][:, index]
            table = pd.DataFrame(
                {
                    "time": times,
                    "channel": name,
                    "outcome": outcome[codes],
                    "reason": reason[codes],
                    "T_OBS": columns["keywords/T_OBS"][:, index].astype("datetime64[ns]"),
                    "EXPTIME": columns["keywords/EXPTIME"][:, index],
                    "QUALITY": columns["keywords/QUALITY"][:, index],
                    "mean": columns["moments/mean"][:, index],
                }
            )
            if details:
                texts = np.asarray(group[f"headers/{name}"][start:stop])
                records = [json.loads(text) if text else {} for text in texts]
                table["source"] = [record.get("source") for record in records]
                table["detail"] = [record.get("detail") for record in records]
            tables.append(table)
    return pd.concat(tables, ignore_index=True).sort_values(["time", "channel"], kind="stable", ignore_index=True)


def accounting(url: str | Store, version: str | None = None, **options: Any) -> pd.DataFrame:
    """Count frames per channel and outcome: ``planned = ok + missing + rejected + failed + pending``.

    Returns
    -------
    pandas.DataFrame
        Indexed by channel, with a last row ``all``; columns planned, ok, missing, rejected, failed, pending.
    """
    root, recipe, _ = open_root(url, version, **options)
    counts = np.zeros((len(recipe.channels), 256), dtype=np.int64)
    for year, (start, stop) in Plan(recipe).years().items():
        codes = np.asarray(root[f"{group_path(year)}/status"][start:stop])
        for index in range(len(recipe.channels)):
            counts[index] += np.bincount(codes[:, index], minlength=256)
    columns = {"planned": counts.sum(axis=1)}
    for outcome in ("ok", "missing", "rejected", "failed", "pending"):
        members = [int(code) for code in FrameStatus if code.outcome == outcome]
        columns[outcome] = counts[:, members].sum(axis=1)
    table = pd.DataFrame(columns, index=pd.Index(recipe.channels, name="channel"))
    table.loc["all"] = table.sum()
    return table


def header(url: str | Store, channel: str, time: str | np.datetime64, **options: Any) -> dict[str, Any]:
    """Return the record of one frame: ``source``, ``header`` with every FITS keyword, and ``detail`` if not ok.

    Parameters
    ----------
    url : str
        The dataset.
    channel : str
        Channel.
    time : str or numpy.datetime64
        Slot time, UTC; the nearest slot is taken.
    """
    root, recipe, _ = open_root(url, options.pop("version", None), **options)
    _select(recipe, [channel])
    moment = np.datetime64(str(time), "ns")
    for year, (start, stop) in Plan(recipe).years().items():
        times = slot_times(year, recipe.cadence, start, stop)
        index = int(np.abs(times - moment).argmin())
        if abs(times[index] - moment) <= np.timedelta64(recipe.cadence, "s"):
            text = str(root[f"{group_path(year)}/headers/{channel}"][start + index])
            record: dict[str, Any] = json.loads(text) if text else {}
            return record
    raise UsageError(f"{time} is outside the dataset's period {recipe.period.start} to {recipe.period.end} (UTC).")


def wavelength(channel: str) -> int:
    """Return the wavelength of a channel in Angstrom."""
    return AIA[channel].wavelength_angstrom
