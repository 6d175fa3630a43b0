"""AIA, HMI and EVE at the same times: for each time of one grid, the nearest good observation of every channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.status import FrameStatus

# Read at once, as small arrays; every other keyword is on the products' own grids.
KEYWORDS = ("EXPTIME", "QUALITY", "DEG_COR", "RSUN_OBS", "CRLN_OBS", "CRLT_OBS")


def nearest_good(grid: np.ndarray, observed: np.ndarray, good: np.ndarray, tolerance_s: float) -> np.ndarray:
    """Return for each time of a grid the row of the nearest good observation.

    Parameters
    ----------
    grid : numpy.ndarray
        ``datetime64[ns]`` UTC, shape (times,).
    observed : numpy.ndarray
        Times of the observations, UTC, in any order, shape (rows,).
    good : numpy.ndarray
        Which observations count, shape (rows,).
    tolerance_s : float
        Largest distance in seconds.

    Returns
    -------
    numpy.ndarray
        Rows, shape (times,), -1 where no good observation is near enough; of two equally near the earlier.
    """
    rows = np.flatnonzero(good)
    if rows.size == 0:
        return np.full(grid.size, -1)
    when = observed[rows].astype("datetime64[ns]").astype(np.int64)
    order = np.argsort(when, kind="stable")
    rows, when = rows[order], when[order]
    wanted = grid.astype("datetime64[ns]").astype(np.int64)
    after = np.searchsorted(when, wanted).clip(0, when.size - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(when[before] - wanted) <= np.abs(when[after] - wanted), before, after)
    near = np.abs(when[nearest] - wanted) <= tolerance_s * 1e9
    found: np.ndarray = np.where(near, rows[nearest], -1)
    return found


def align(
    parts: Sequence[xr.Dataset], recipes: Sequence[Recipe], cadence_s: int, tolerance_s: int | None = None
) -> xr.Dataset:
    """Bring products to one time grid without reading their images.

    Parameters
    ----------
    parts : sequence of xarray.Dataset
        Products on their own grids, dask-backed.
    recipes : sequence of Recipe
        Their recipes.
    cadence_s : int
        Spacing of the grid, seconds; the grid starts at midnight UTC of the first day.
    tolerance_s : int, optional
        Largest distance between a time of the grid and the observation taken for it; by default half the cadence of
        the grid or of the product, whichever is larger.

    Returns
    -------
    xarray.Dataset
        Each channel over ``time`` (UTC, from the first start to the last end of the products), NaN where nothing is
        near enough; ``valid`` (time, channel) says where something is, ``observed`` (time, channel) when it was observed
        (UTC), and `KEYWORDS` over (time, channel). Nothing is ever interpolated or filled.
    """
    first = min(recipe.period.first for recipe in recipes)
    last = max(recipe.period.last for recipe in recipes)
    day = first.astype("datetime64[D]").astype("datetime64[ns]")
    step = np.timedelta64(cadence_s, "s").astype("timedelta64[ns]")
    grid = np.arange(day + -(-(first - day) // step) * step, last, step)
    arrays: dict[str, xr.DataArray] = {}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("valid", "observed", *KEYWORDS)}
    names: list[str] = []
    for part, recipe in zip(parts, recipes, strict=True):
        reach = max(cadence_s, recipe.cadence) / 2 if tolerance_s is None else tolerance_s
        status = part["status"].values
        seen = part["T_OBS"].values.astype("datetime64[ns]") if "T_OBS" in part else None
        stored = {name: part[name].values for name in KEYWORDS if name in part}
        for index, name in enumerate(str(value) for value in part.channel.values):
            when = part.time.values if seen is None else seen[:, index]
            rows = nearest_good(grid, when, status[:, index] == int(FrameStatus.OK), reach)
            valid, safe = rows >= 0, np.maximum(rows, 0)
            taken = part[name].isel(time=safe).drop_vars("time").assign_coords(time=grid)
            arrays[name] = taken.where(xr.DataArray(valid, dims="time", coords={"time": grid}))
            arrays[name].attrs = dict(part[name].attrs)
            names.append(name)
            columns["valid"].append(valid)
            columns["observed"].append(np.where(valid, when[safe], np.datetime64("NaT", "ns")))
            for key in KEYWORDS:
                values = stored[key][safe, index].astype(float) if key in stored else np.full(grid.size, np.nan)
                columns[key].append(np.where(valid, values, np.nan))
    for key, values in columns.items():
        arrays[key] = xr.DataArray(np.stack(values, axis=1), dims=("time", "channel"))
    found = xr.Dataset(arrays, coords={"time": grid, "channel": names})
    found.attrs = {
        "cadence_s": cadence_s, "time_scale": "UTC", "snapshot": parts[0].attrs["snapshot"], "url": parts[0].attrs["url"],
        "products": [recipe.product for recipe in recipes], "titles": [recipe.name for recipe in recipes],
    }  # fmt: skip
    return found
