"""Reading an emergence dataset: tracked maps and powers as lazy xarray, timelines as arrays, the accounting of frames."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import xarray as xr
import zarr

from sdoml_dist.emergence_plan import QUANTITIES, Quantity
from sdoml_dist.emergence_recipe import EmergenceRecipe, RegionEntry
from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.emergence import Timeline
from sdoml_dist.solar.regions import Region
from sdoml_dist.store.emergence_template import GROUP
from sdoml_dist.store.reader import as_store
from sdoml_dist.store.receipt import count_outcomes
from sdoml_dist.store.repository import open_repository, session_at


class Emergence:
    """An emergence dataset at a version.

    Parameters
    ----------
    url : str
        The dataset.
    version : str, optional
        Tag or snapshot id; by default the newest commit.
    **options
        Options of the store, as in :func:`sdoml_dist.open_dataset`.

    Attributes
    ----------
    recipe : EmergenceRecipe
        What it was built from last.
    regions : dict of int to Region
        The regions by number, in the order in which they were added.
    snapshot : str
        The version.

    Raises
    ------
    StoreError
        If there is no such dataset or version, or it holds no regions.
    """

    def __init__(self, url: str | Store, version: str | None = None, **options: Any) -> None:
        store = as_store(url, **options)
        self.url = store.url
        self._session = session_at(open_repository(store), version)
        root = zarr.open_group(self._session.store, mode="r")
        if GROUP not in root:
            raise StoreError(
                f"{store.url} holds no tracked regions.", "", "Build them with 'sdoml emergence build RECIPE'."
            )
        self._group = zarr.open_group(self._session.store, path=GROUP, mode="r")
        self.recipe = EmergenceRecipe.model_validate(self._group.attrs["recipe"])
        entries: Any = self._group.attrs["regions"]
        self.regions: dict[int, Region] = {
            entry["number"]: RegionEntry.model_validate(entry).region for entry in entries
        }
        self.attributes = dict(self._group.attrs)
        self.snapshot = self._session.snapshot_id

    def region(self, number: int) -> Region:
        """Return a region.

        Raises
        ------
        UsageError
            If there is none of that number.
        """
        if number not in self.regions:
            raise UsageError(
                f"{self.url} has no region {number}.", f"It has {', '.join(str(n) for n in self.regions)}."
            )
        return self.regions[number]

    def _name(self, number: int) -> str:
        return self.region(number).name

    def _open(self, number: int, part: str, chunks: Any) -> xr.Dataset:
        path = f"{GROUP}/{self._name(number)}/{part}"
        return xr.open_zarr(self._session.store, group=path, consolidated=False, chunks=chunks, zarr_format=3)

    def _array(self, number: int, path: str) -> np.ndarray:
        return np.asarray(self._group[f"{self._name(number)}/{path}"][:])

    def tracked(self, number: int, quantity: Quantity = "V", chunks: Any = None) -> xr.Dataset:
        """Return the tracked maps of a quantity.

        Parameters
        ----------
        number : int
            Region.
        quantity : {"V", "M", "Ic"}
            Dopplergrams (every 45 s), magnetograms or continuum images (one per window).
        chunks : optional
            As in :func:`xarray.open_zarr`: ``{}`` for dask arrays.

        Returns
        -------
        xarray.Dataset
            The quantity (time, y, x), `status`, and the keywords as variables over time.
        """
        found = self._open(number, quantity, chunks)
        names = found["keywords"].attrs["names"]
        columns = {name: ("time", found["keywords"].data[:, index]) for index, name in enumerate(names)}
        return found.drop_vars("keywords").assign(columns)

    def maps(self, number: int, chunks: Any = None) -> xr.Dataset:
        """Return the band powers of a region with magnetograms and continuum images at the same windows.

        Returns
        -------
        xarray.Dataset
            `power` (time, band, y, x), `duty_cycle`, `magnetogram` and `continuum` (time, y, x); `time` is the middle of
            each window, UTC.
        """
        power = self._open(number, "power", chunks).drop_vars("status")
        attributes: Any = self._group[self._name(number)].attrs.asdict()
        (first, count), (start, _) = attributes["windows"], attributes["snapshots"]
        for quantity, name in (("M", "magnetogram"), ("Ic", "continuum")):
            part = self._open(number, quantity, chunks)[quantity].isel(time=slice(first - start, first - start + count))
            power[name] = part.drop_vars("time").assign_coords(time=power["time"])
        power["band_millihertz"] = ("band", [f"{low:g}-{high:g}" for low, high in power["band_edges"].values])
        power.attrs = attributes | {"url": self.url, "snapshot": self.snapshot}
        return power.set_coords("band_millihertz")

    def timeline(self, number: int) -> Timeline:
        """Return the timelines of a region: means over tiles, without the baseline taken off.

        Windows that are not made yet are NaN.
        """
        times, power, flux, intensity = (
            self._array(number, f"timelines/{name}") for name in ("time", "power", "flux", "intensity")
        )
        return Timeline(number, times.astype("datetime64[ns]"), power, flux, intensity)

    def timelines(self) -> dict[int, Timeline]:
        """Return the timelines of all regions by number."""
        return {number: self.timeline(number) for number in self.regions}

    def accounting(self, number: int) -> dict[str, Counter[str]]:
        """Count the tracked frames of a region by quantity and outcome."""
        return {quantity: count_outcomes(self._array(number, f"{quantity}/status")) for quantity in QUANTITIES}

    def done(self, number: int) -> float:
        """Return the share of a region's power that is made, 0 to 1."""
        status = self._array(number, "power/status")
        return float((status == 1).mean())

    def records(self, number: int, quantity: Quantity) -> np.ndarray:
        """Return the JSON record of every tracked frame of a quantity: where it came from, and what was wrong."""
        return self._array(number, f"{quantity}/record")


def open_emergence(url: str | Store, version: str | None = None, **options: Any) -> Emergence:
    """Open an emergence dataset.

    Parameters
    ----------
    url : str
        The dataset.
    version : str, optional
        Tag or snapshot id; by default the newest commit.
    **options
        Options of the store, as in :func:`sdoml_dist.open_dataset`.

    Examples
    --------
    >>> dataset = sdoml_dist.open_emergence("emergence-demo")  # doctest: +SKIP
    >>> dataset.maps(384).power.isel(time=0).plot(col="band")  # doctest: +SKIP
    """
    return Emergence(url, version, **options)
