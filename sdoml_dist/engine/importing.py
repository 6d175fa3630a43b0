"""Import a published dataset: an ordinary build whose source holds calibrated images."""

from __future__ import annotations

import logging
from typing import Any, Literal

import fsspec
import numpy as np

from sdoml_dist.engine.run import Summary, build
from sdoml_dist.errors import EnvironmentFault, StoreError, UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Store, parse_duration
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.recipe_sources import PublishedConfig
from sdoml_dist.solar.products import PRODUCTS, Product
from sdoml_dist.solar.times import slot_index, slot_times
from sdoml_dist.sources.published import PublishedSource
from sdoml_dist.sources.published_layout import STORES
from sdoml_dist.store.reader import as_store, open_products
from sdoml_dist.store.repository import exists
from sdoml_dist.store.storage import join, local_path, sidecar_options, sidecar_url

logger = logging.getLogger("sdoml")

_CADENCE_S = {"aia": 360, "hmi": 720, "hmi_720s": 720, "hmi_45s": 45, "eve": 60}
_EVER = (np.datetime64("2010-01-01", "ns"), np.datetime64("2099-12-31", "ns"))


def import_published(
    url: str, store_url: str | Store, *, layout: Literal["sdoml-v1", "sdoml-v2"], product: str = "aia",
    cadence: str | int | None = None, tolerance: str | int | None = None, name: str | None = None,
    shard_slots: int | None = None, storage_options: dict[str, Any] | None = None, retry: tuple[str, ...] = (),
    cpus: int | None = None, wait_s: float = 0.0, **options: Any,
) -> Summary:  # fmt: skip
    """Import a published dataset, or what has been added to it since.

    Parameters
    ----------
    url : str
        The Zarr store of the product (v2), or the folder that holds the years (v1); a folder that holds the store
        under its published name will do.
    store_url : str
        Where the dataset is made.
    layout : {"sdoml-v1", "sdoml-v2"}
        Layout of what is there.
    product : str
        What to take from it: ``aia``, ``hmi``, ``eve``, ...
    cadence, tolerance : str or int, optional
        Grid of the dataset; by default the commonest step of the published times, and half of that.
    name : str, optional
        Name of the dataset.
    shard_slots : int, optional
        Slots per shard.
    storage_options : dict, optional
        Options of fsspec for `url`, for example ``{"anon": True}``.
    retry, cpus, wait_s
        As for :func:`sdoml_dist.engine.run.build`.
    **options
        Options of the dataset's store: ``endpoint_url``, ``region``.

    Returns
    -------
    Summary
        As of a build.

    Raises
    ------
    UsageError
        If the product or the layout is unknown, or there is nothing of it at `url`.
    SdomlError
        Whatever ends a build.
    """
    if product not in PRODUCTS:
        raise UsageError(f"There is no product {product!r}; there are {', '.join(PRODUCTS)}.")
    store = as_store(store_url, **options)
    recipe = import_recipe(
        url, store, layout=layout, product=product, cadence=cadence, tolerance=tolerance, name=name,
        shard_slots=shard_slots, storage_options=storage_options,
    )  # fmt: skip
    return build(recipe, verb="import", extend=True, retry=retry, cpus=cpus, wait_s=wait_s)


def import_recipe(
    url: str, store: Store, *, layout: Literal["sdoml-v1", "sdoml-v2"], product: str,
    cadence: str | int | None = None, tolerance: str | int | None = None, name: str | None = None,
    shard_slots: int | None = None, storage_options: dict[str, Any] | None = None,
) -> Recipe:  # fmt: skip
    """Look at what is published and return the recipe that takes all of it over.

    Parameters
    ----------
    url, store, layout, product, cadence, tolerance, name, shard_slots, storage_options
        As for :func:`import_published`.

    Raises
    ------
    UsageError
        If there is nothing of the product.
    EnvironmentFault
        If the place cannot be read.
    """
    contents = PRODUCTS[product]
    config = PublishedConfig(
        kind="published", layout=layout, url=_store_of(url, layout, product, storage_options or {}), pixels=None,
        storage_options=storage_options or {},
    )  # fmt: skip
    source = PublishedSource(config, contents, join(sidecar_url(store), "index"), sidecar_options(store))
    source.prepare([bundle.name for bundle in contents.bundles], *_EVER)
    found = source.indexed()
    times = [values for values, _ in found.values() if values.size]
    if not times:
        raise UsageError(f"There is nothing of product {product!r} in {config.url}.")
    first, last = min(values.min() for values in times), max(values.max() for values in times)
    earlier = _earlier(store, product)
    if earlier is not None:
        return _continued(earlier, config, store, last)
    step = parse_duration(cadence) if cadence is not None else _common_step(times, product)
    reach = parse_duration(tolerance) if tolerance is not None else (0 if product == "eve" else step // 2)
    images = contents.kind == "images"
    data: dict[str, Any] = {
        "product": product,
        "name": name or f"{layout}-{product}",
        "description": f"{contents.title} as published in {layout}",
        "period": dict(zip(("start", "end"), _period(first, last, step, images=images), strict=True)),
        "cadence": step,
        "tolerance": reach,
        "channels": _channels(source, contents, set(found)),
        "source": config.model_dump() | ({"pixels": _pixels(found)} if images else {}),
        "store": store.model_dump(),
        "chunking": {"shard_slots": shard_slots},
    }
    if images:
        summed = layout == "sdoml-v1" and product == "aia"
        data["grid"] = {"pixels": _pixels(found), "convention": "sum" if summed else "mean"}
    recipe = parse_recipe(data, url)
    # Workers hold decoded chunks of the source besides what every build needs.
    memory = Plan(recipe).estimate().memory_per_actor_bytes + source.chunk_memory()
    return parse_recipe(data | {"resources": {"memory_per_actor": memory}}, url)


def _store_of(url: str, layout: str, product: str, storage_options: dict[str, Any]) -> str:
    """Return the address of the store of v2: `url` itself, or what lies below it under the published name."""
    place = str(local_path(url)) if "://" not in url else url.rstrip("/")
    if layout == "sdoml-v1" or product not in STORES:
        return place
    try:
        filesystem, root = fsspec.core.url_to_fs(place, **storage_options)
        below = f"{root.rstrip('/')}/{STORES[product]}/.zgroup"
        inside = not filesystem.exists(f"{root.rstrip('/')}/.zgroup") and filesystem.exists(below)
    except OSError as error:
        raise EnvironmentFault(f"{url} cannot be read: {error}", "", "Check the address and the network.") from error
    return f"{place}/{STORES[product]}" if inside else place


def _earlier(store: Store, product: str) -> Recipe | None:
    """Return the recipe that the dataset was imported with, if there is one."""
    if not exists(store):
        return None
    try:
        return next((one.recipe for one in open_products(store) if one.name == product), None)
    except StoreError:
        return None


def _continued(earlier: Recipe, config: PublishedConfig, store: Store, last: np.datetime64) -> Recipe:
    """Return the recipe of an earlier import, extended to what has been added."""
    if not isinstance(earlier.source, PublishedConfig) or (earlier.source.url, earlier.source.layout) != (
        config.url, config.layout,
    ):  # fmt: skip
        raise StoreError(
            f"{store.url} holds product {earlier.product!r} of another source already.",
            "Two sources in one product could not be told apart.", "Import to a store of its own.",
        )  # fmt: skip
    moved = earlier.model_copy(update={"store": store, "source": earlier.source.model_copy(
        update={"storage_options": config.storage_options})})  # fmt: skip
    _, end = _period(last, last, earlier.cadence, images=earlier.contents.kind == "images")
    return moved.extended(end=max(end, earlier.period.end))


def _common_step(times: list[np.ndarray], product: str) -> int:
    """Return the median step in whole minutes, if it makes a grid; else the product's usual one."""
    steps = [np.diff(np.unique(values)).astype(np.int64) for values in times]
    joined = np.concatenate(steps)
    step = round(float(np.median(joined)) / 60e9) * 60 if joined.size else 0
    return step if step and 86_400 % step == 0 and product != "eve" else _CADENCE_S[product]


def _period(first: np.datetime64, last: np.datetime64, step: int, *, images: bool) -> tuple[str, str]:
    """Return the period whose slots are the nearest ones of the first and the last frame; lines belong to a minute."""
    half = np.timedelta64(step * 500_000_000 if images else 0, "ns")
    slots = [slot_index(moment + half, step) for moment in (first, last)]
    ends = [slot_times(year, step, slot, slot + 1)[0] for year, slot in slots]
    begin, end = ends[0], ends[1] + np.timedelta64(step, "s")
    return str(begin.astype("datetime64[s]")), str(end.astype("datetime64[s]"))


def _channels(source: PublishedSource, contents: Product, found: set[str]) -> list[str]:
    there = found if contents.kind == "images" else set(source.line_names())
    return [name for name in contents.channels if name in there]


def _pixels(found: dict[str, tuple[np.ndarray, int]]) -> int:
    """Return the size of the images.

    Raises
    ------
    UsageError
        If it is not one.
    """
    sizes = {pixels for _, pixels in found.values()} - {0}
    if len(sizes) != 1:
        raise UsageError(f"The published images have sizes {sorted(sizes)}; one dataset has one size.")
    return sizes.pop()
