"""Reading a dataset: lazy xarray, and the accounting of every frame as a pandas table."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import xarray as xr
import zarr

from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Store, parse_duration, store_at
from sdoml_dist.recipe_sources import NetworkConfig
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.dataset import products_of, stored_recipe
from sdoml_dist.store.repository import open_repository, session_at
from sdoml_dist.store.template import group_path

_FRAME_COLUMNS = {"T_OBS": "keywords/T_OBS", "EXPTIME": "keywords/EXPTIME", "QUALITY": "keywords/QUALITY",
                  "mean": "moments/mean"}  # fmt: skip


def as_store(url: str | Store, **options: Any) -> Store:
    """Return the place of a dataset from its URL and options such as ``endpoint_url`` or ``anonymous``."""
    return url if isinstance(url, Store) else store_at(str(url), **options)


@dataclass(frozen=True)
class Opened:
    """One product of a dataset at a version.

    Attributes
    ----------
    name : str
        Name of the product.
    group : zarr.Group
        Its group.
    recipe : Recipe
        What it was built from.
    session : icechunk.Session
        The version.
    """

    name: str
    group: zarr.Group
    recipe: Recipe
    session: icechunk.Session


def open_products(
    url: str | Store, version: str | None = None, *, product: str | None = None,
    channels: Sequence[str] | None = None, **options: Any,
) -> list[Opened]:  # fmt: skip
    """Open the products of a dataset at a version.

    Parameters
    ----------
    url, version, **options
        As in :func:`open_dataset`.
    product : str, optional
        Just this one.
    channels : sequence of str, optional
        Just the products that hold these.

    Raises
    ------
    StoreError
        If there is no dataset, no such version, or nothing in it yet.
    UsageError
        If the dataset has no such product or channel.
    """
    store = as_store(url, **options)
    session = session_at(open_repository(store), version)
    root = zarr.open_group(session.store, mode="r")
    names = products_of(root)
    if not names:
        raise StoreError(
            f"{store.url} holds no finished commit.", "Its first run ended before anything was written.",
            "Run the build again.",
        )  # fmt: skip
    if product is not None and product not in names:
        raise UsageError(f"The dataset has no product {product!r}; it has {', '.join(names)}.")
    opened = []
    for name in names:
        group = root[name]
        assert isinstance(group, zarr.Group)
        opened.append(Opened(name, group, stored_recipe(group), session))
    if channels is not None:
        there = [name for one in opened for name in one.recipe.channels]
        unknown = [name for name in channels if name not in there]
        if unknown:
            raise UsageError(f"The dataset has no channel {unknown[0]!r}; it has {', '.join(there)}.")
        opened = [one for one in opened if set(one.recipe.channels) & set(channels)]
    return [one for one in opened if product in (None, one.name)]


def open_product(url: str | Store, version: str | None = None, product: str | None = None, **options: Any) -> Opened:
    """Open one product of a dataset; it must be named where there are several.

    Raises
    ------
    StoreError
        If there is no dataset or no such version.
    UsageError
        If it is not clear which product is meant.
    """
    opened = open_products(url, version, product=product, **options)
    if len(opened) > 1:
        names = ", ".join(one.name for one in opened)
        raise UsageError(f"The dataset holds several products: {names}.", "", "Say which one is meant: product=...")
    return opened[0]


def _select(recipe: Recipe, channels: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(name for name in recipe.channels if channels is None or name in channels)


def open_dataset(
    url: str | Store,
    version: str | None = None,
    *,
    product: str | None = None,
    channels: Sequence[str] | None = None,
    cadence: str | int | None = None,
    tolerance: str | int | None = None,
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
    product : str, optional
        ``aia``, ``hmi``, ``hmi_720s``, ``hmi_45s`` or ``eve``; by default every product that is there.
    channels : sequence of str, optional
        Channels to open; by default all.
    cadence : str or int, optional
        Bring everything to this grid, for example ``"12min"``. Several products are always brought to one grid, by
        default the coarsest of theirs; one product keeps its own unless this is given.
    tolerance : str or int, optional
        Largest distance between a time of that grid and the observation taken for it; by default half the cadence
        of the grid or of the product, whichever is larger.
    chunks : optional
        As in :func:`xarray.open_zarr`: None reads lazily without dask, ``{}`` gives dask arrays with one image per
        chunk. Several years or products are always dask-backed, because joining them lazily needs it.
    **options
        Options of the store: ``endpoint_url``, ``region``, ``anonymous``.

    Returns
    -------
    xarray.Dataset
        Per image channel a series (time, y, x), per line a series (time,), float32, NaN = no data; ``time`` is UTC. On
        the own grid of a product: ``status`` and the keywords over (time, channel), and the recipe and provenance as
        attributes. On a common grid: see :func:`sdoml_dist.store.align.align`.

    Raises
    ------
    StoreError
        If there is no dataset or no such version.
    UsageError
        If there is no such product or channel.

    Examples
    --------
    >>> ds = sdoml_dist.open_dataset("sdoml-demo/dataset")  # doctest: +SKIP
    >>> ds["171A"].sel(time="2011-02-15T00:06").mean().item()  # doctest: +SKIP
    """
    opened = open_products(url, version, product=product, channels=channels, **options)
    place = as_store(url, **options).url
    if len(opened) == 1 and cadence is None:
        return _native(opened[0], _select(opened[0].recipe, channels), chunks, place)
    from sdoml_dist.store.align import align

    step = max(one.recipe.cadence for one in opened) if cadence is None else parse_duration(cadence)
    reach = None if tolerance is None else parse_duration(tolerance)
    parts = [_native(one, _select(one.recipe, channels), chunks or {}, place) for one in opened]
    return align(parts, [one.recipe for one in opened], step, reach)


class MixedCalibrationWarning(UserWarning):
    """Frames of more than one calibration lie in one product."""


def _native(opened: Opened, names: tuple[str, ...], chunks: Any, place: str) -> xr.Dataset:
    """Open one product on its own grid."""
    calibrations: Any = opened.group.attrs.get("calibrations", {})
    if len(calibrations) > 1:
        warnings.warn(
            f"{place}: frames of {opened.name} were made by {len(calibrations)} calibrations; the column CALIBRATION has "
            "the one of each frame, the attribute 'calibrations' says what they are",
            MixedCalibrationWarning, stacklevel=3,
        )  # fmt: skip
    recipe, session = opened.recipe, opened.session
    spans = Plan(recipe).years()
    if len(spans) > 1 and chunks is None:
        chunks = {}
    parts = []
    for year, (start, stop) in spans.items():
        place_of_year = f"{opened.name}/{group_path(year)}"
        values, keywords = (
            xr.open_zarr(session.store, group=path, consolidated=False, chunks=chunks, zarr_format=3)
            for path in (place_of_year, f"{place_of_year}/keywords")
        )
        values = values.drop_vars([name for name in recipe.channels if name not in names])
        parts.append(values.merge(keywords).isel(time=slice(start, stop)))
    joined = parts[0] if len(parts) == 1 else xr.concat(
        parts, "time", data_vars="minimal", coords="minimal", compat="override", join="override"
    )  # fmt: skip
    joined["channel"] = np.array(recipe.channels)
    joined = joined.sel(channel=list(names))
    joined.attrs = dict(opened.group.attrs) | {"snapshot": session.snapshot_id, "url": place}
    if isinstance(recipe.source, NetworkConfig):
        made = recipe.source
        for name in names:
            joined[name].attrs |= {
                "made_by": made.experiment, "made_of": list(made.channels), "checkpoint": made.checkpoint,
                "made_of_snapshot": made.snapshot,
            }  # fmt: skip
    return joined


def frames(
    url: str | Store,
    version: str | None = None,
    *,
    product: str | None = None,
    channels: Sequence[str] | None = None,
    details: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Return the accounting: one row per planned frame.

    Parameters
    ----------
    url, version, product, channels, **options
        As in :func:`open_dataset`.
    details : bool
        Whether to read also where each frame came from and what was wrong with it (slower).

    Returns
    -------
    pandas.DataFrame
        Columns ``time`` (UTC), ``channel``, ``outcome`` (pending, ok, missing, rejected, failed), ``reason``,
        ``T_OBS``, ``EXPTIME``, ``QUALITY``, ``mean``; with `details` also ``source`` and ``detail``.
    """
    outcome = np.full(256, "?", dtype=object)
    reason = np.full(256, "?", dtype=object)
    for code in FrameStatus:
        outcome[int(code)], reason[int(code)] = code.outcome, code.label
    tables = []
    for opened in open_products(url, version, product=product, channels=channels, **options):
        recipe = opened.recipe
        for year, (start, stop) in Plan(recipe).years().items():
            group = opened.group[group_path(year)]
            assert isinstance(group, zarr.Group)
            times = slot_times(year, recipe.cadence, start, stop)
            status = np.asarray(group["status"][start:stop])
            columns = {
                name: np.asarray(group[path][start:stop]) for name, path in _FRAME_COLUMNS.items() if path in group
            }
            for name in _select(recipe, channels):
                index = recipe.channels.index(name)
                codes = status[:, index]
                table = pd.DataFrame(
                    {"time": times, "channel": name, "outcome": outcome[codes], "reason": reason[codes]}
                )
                for column in _FRAME_COLUMNS:
                    table[column] = columns[column][:, index] if column in columns else np.nan
                table["T_OBS"] = table["T_OBS"].to_numpy("datetime64[ns]") if "T_OBS" in columns else times
                if details:
                    texts = np.asarray(group[f"headers/{recipe.contents.bundle_of(name).name}"][start:stop])
                    records = [json.loads(text) if text else {} for text in texts]
                    table["source"] = [record.get("source") for record in records]
                    table["detail"] = [record.get("detail") for record in records]
                tables.append(table)
    return pd.concat(tables, ignore_index=True).sort_values(["time", "channel"], kind="stable", ignore_index=True)


def accounting(
    url: str | Store, version: str | None = None, *, product: str | None = None, **options: Any
) -> pd.DataFrame:
    """Count frames per channel and outcome: ``planned = ok + missing + rejected + failed + pending``.

    Returns
    -------
    pandas.DataFrame
        Indexed by channel, with a last row ``all``; columns planned, ok, missing, rejected, failed, pending.
    """
    tables = []
    for opened in open_products(url, version, product=product, **options):
        recipe = opened.recipe
        counts = np.zeros((len(recipe.channels), 256), dtype=np.int64)
        for year, (start, stop) in Plan(recipe).years().items():
            codes = np.asarray(opened.group[f"{group_path(year)}/status"][start:stop])
            for index in range(len(recipe.channels)):
                counts[index] += np.bincount(codes[:, index], minlength=256)
        columns = {"planned": counts.sum(axis=1)}
        for outcome in ("ok", "missing", "rejected", "failed", "pending"):
            members = [int(code) for code in FrameStatus if code.outcome == outcome]
            columns[outcome] = counts[:, members].sum(axis=1)
        tables.append(pd.DataFrame(columns, index=pd.Index(recipe.channels, name="channel")))
    table = pd.concat(tables)
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
    (opened,) = open_products(url, options.pop("version", None), channels=[channel], **options)
    recipe = opened.recipe
    moment = np.datetime64(str(time), "ns")
    for year, (start, stop) in Plan(recipe).years().items():
        times = slot_times(year, recipe.cadence, start, stop)
        index = int(np.abs(times - moment).argmin())
        if abs(times[index] - moment) <= np.timedelta64(recipe.cadence, "s"):
            texts = opened.group[f"{group_path(year)}/headers/{recipe.contents.bundle_of(channel).name}"]
            text = str(texts[start + index])
            record: dict[str, Any] = json.loads(text) if text else {}
            return record
    raise UsageError(f"{time} is outside the dataset's period {recipe.period.start} to {recipe.period.end} (UTC).")
