"""From latent vectors back to images: what a worker does with a shard of a decoded dataset."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from sdoml_dist.errors import StoreError
from sdoml_dist.pipelines.encode import Trained
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_sources import NetworkConfig
from sdoml_dist.solar.geometry import FIELD_ARCSEC
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.catalog import Catalog, open_catalog
from sdoml_dist.store.catalog_schema import times_of
from sdoml_dist.store.made import Shard, ShardTask, made_recipes, nominal_frames, slot_period
from sdoml_dist.store.reader import open_products

_BATCH = 32


def catalog_slots(catalog: Catalog) -> np.ndarray:
    """Return the times of all slots of a catalog, with a latent or not: ``datetime64[ns]`` UTC, ascending."""
    found = [times_of(batch) for batch in catalog.scan(["time"])]
    if not found:
        raise StoreError(f"{catalog.url} has no slot yet.", "", "Encode a dataset into it first.")
    times: np.ndarray = np.sort(np.concatenate(found))
    return times


def decoded_recipes(
    trained: Trained, catalog: Catalog, output: Store, *, dataset: Store | None = None, shard_slots: int | None = None
) -> list[Recipe]:
    """Return what describes the decoded dataset.

    Parameters
    ----------
    trained : Trained
        The network that made the latents.
    catalog : Catalog
        The latents.
    output : Store
        Where the dataset is made.
    dataset : Store, optional
        The dataset that was encoded, whose grid the images keep; by default where the catalog says it is.
    shard_slots : int, optional
        Slots per shard.

    Raises
    ------
    StoreError
        If the latents are of other weights, or the dataset or its version is not there.
    """
    info = catalog.info
    if info.checkpoint != trained.hash:
        raise StoreError(
            f"The latents of {catalog.url} were made by weights {info.checkpoint}, the checkpoint has {trained.hash}.",
            "Latents mean nothing to another network.",
            "Give the checkpoint that encoded them.",
        )
    trained.transforms.check(info.channels)
    place = catalog.folder.store.model_copy(update={"url": info.dataset}) if dataset is None else dataset
    grids = [one.recipe.grid for one in open_products(place, info.snapshot, channels=info.channels)]
    size, cadence = trained.config.network.size, int(info.settings["cadence_s"])
    source = NetworkConfig(
        kind="network", experiment=trained.config.experiment, checkpoint=trained.hash, url=catalog.url,
        snapshot=info.snapshot, channels=info.channels, pixels=size,
        settings={
            "latent": info.latent, "dtype": info.dtype, "cadence_s": cadence, "input_pixels": grids[0].pixels,
            "conventions": sorted({grid.convention for grid in grids}),
        },
    )  # fmt: skip
    return made_recipes(
        output, info.channels, source, name=trained.config.name, period=slot_period(catalog_slots(catalog), cadence),
        cadence_s=cadence, pixels=size, solar_radius_arcsec=grids[0].solar_radius_arcsec, shard_slots=shard_slots,
    )  # fmt: skip


def on_disc(pixels: int, solar_radius_arcsec: float) -> np.ndarray:
    """Return which pixels of the dataset's grid have their centre on the disc: bool, shape (pixels, pixels)."""
    away = (np.arange(pixels) - (pixels - 1) / 2) * FIELD_ARCSEC / pixels
    inside: np.ndarray = away[:, None] ** 2 + away**2 <= solar_radius_arcsec**2
    return inside


class ShardDecoder:
    """Decode shards; made once per worker.

    Parameters
    ----------
    folder : str
        Checkpoint.
    catalog : Store
        The latents.
    recipes : dict of str to Recipe
        Of the decoded dataset, by product.
    device : str
        Where the network computes.
    """

    def __init__(self, folder: str, catalog: Store, recipes: dict[str, Recipe], device: str) -> None:
        self.trained, self.catalog, self.recipes = Trained(folder, device), open_catalog(catalog), recipes

    def latents(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return status, shape (n,), and latents, shape (n, latent), of some slots; zeros where a slot is not ok.

        Raises
        ------
        StoreError
            If the catalog has not all of them any more.
        """
        stretch = self.catalog.between(times.min(), times.max() + np.timedelta64(1, "ns"))
        table = stretch.table()
        known, codes = times_of(table), table.column("status").to_numpy()
        rows = np.searchsorted(known, times)
        if not known.size or rows.max() >= known.size or (known[rows] != times).any():
            raise StoreError(f"{self.catalog.url} has not all slots between {times.min()} and {times.max()} any more.")
        found = np.zeros((known.size, self.catalog.info.latent), np.float32)
        flat = pc.list_flatten(table.column("latent")).to_numpy()
        found[codes == int(FrameStatus.OK)] = flat.reshape(-1, self.catalog.info.latent)
        return codes[rows], found[rows]

    def make(self, task: ShardTask) -> Iterator[Shard]:
        """Yield a shard for every unit of a task."""
        clock = time.perf_counter()
        cadence = next(iter(self.recipes.values())).cadence
        status, latents = self.latents(slot_times(task.year, cadence)[task.slots])
        ok = status == int(FrameStatus.OK)
        size = self.trained.config.network.size
        channels = self.catalog.info.channels
        images = np.full((len(channels), task.slots.size, size, size), np.nan, np.float32)
        places = np.flatnonzero(ok)
        for start in range(0, places.size, _BATCH):
            some = places[start : start + _BATCH]
            images[:, some] = self.trained.decode(latents[some]).swapaxes(0, 1)
        seconds = (time.perf_counter() - clock) / len(task.units)
        origin = self._origin()
        for product, unit in task.units:
            recipe = self.recipes[product]
            names = recipe.bundle(unit.bundle).channels
            values = images[[channels.index(name) for name in names]]
            for row, name in enumerate(names):
                if recipe.contents.channels[name].symmetric:
                    # The field ends at the limb, beyond which the network has never been told what is right.
                    values[row][:, ~on_disc(size, recipe.grid.solar_radius_arcsec)] = np.nan
            keywords, texts = nominal_frames(recipe, unit, task.slots, ok, origin)
            yield Shard(
                product, unit, task.slots, values if ok.any() else None, np.repeat(status[:, None], len(names), axis=1),
                keywords, texts, seconds,
            )  # fmt: skip

    def _origin(self) -> dict[str, Any]:
        info = self.catalog.info
        return {
            "experiment": self.trained.config.experiment, "checkpoint": self.trained.hash, "latents": self.catalog.url,
            "dataset": info.dataset, "snapshot": info.snapshot,
        }  # fmt: skip
