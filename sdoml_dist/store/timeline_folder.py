"""Timelines of emerging regions from wherever they are: a folder of files, an HDF5 file of examples, an emergence dataset."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from sdoml_dist.errors import StoreError
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.emergence import Timeline
from sdoml_dist.solar.tiles import GRID, inner_tiles
from sdoml_dist.solar.times import tai_to_utc
from sdoml_dist.store.emergence_export import TimeScale, read_npz

ARRAYS = ("power", "unsigned_flux", "continuum", "time")
"""Arrays of a file ``AR11158.npz``: (4, tiles, time), twice (tiles, time), and ``datetime64`` (time,)."""


def read_timelines(place: str | Path, *, scale: TimeScale = "tai") -> dict[int, Timeline]:
    """Read the timelines of a folder or file.

    Parameters
    ----------
    place : str or pathlib.Path
        A folder with a file ``AR11158.npz`` per region (:data:`ARRAYS`), or with a folder ``AR11158`` per region as
        published (:func:`sdoml_dist.store.emergence_export.read_npz`); or an HDF5 file of
        :func:`sdoml_dist.store.emergence_export.write_hdf5`.
    scale : {"tai", "utc"}
        Scale of the times in the files; the published ones are TAI.

    Returns
    -------
    dict
        By NOAA number, times in UTC.

    Raises
    ------
    StoreError
        If there are none, or a file is of another layout.
    """
    path = Path(place)
    if path.is_file():
        return _from_hdf5(path, scale)
    files = {int(file.stem[2:]): file for file in path.glob("AR*.npz") if file.stem[2:].isdigit()}
    if not files:
        if not path.is_dir():
            raise StoreError(f"There is no folder {path}.", "", "Set data.folder to the folder of the timelines.")
        return read_npz(path, scale=scale)
    return {number: _one(files[number], number, scale) for number in sorted(files)}


def _one(path: Path, number: int, scale: TimeScale) -> Timeline:
    try:
        with np.load(path, allow_pickle=False) as data:
            power, flux, intensity, times = (np.asarray(data[name]) for name in ARRAYS)
    except KeyError as error:
        raise StoreError(f"{path} has no array {error.args[0]}.", f"It needs {', '.join(ARRAYS)}.") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} cannot be read: {error}", "", "Save it by numpy.savez, without pickles.") from error
    tiles = flux.shape[0] if flux.ndim == 2 else 0
    if (
        times.dtype.kind != "M"
        or power.shape != (4, tiles, times.size)
        or not flux.shape == intensity.shape == power.shape[1:]
    ):
        raise StoreError(
            f"{path}: power {power.shape}, flux {flux.shape}, continuum {intensity.shape}, time {times.shape} do not fit.",
            "Axes are (band, tile, time), (tile, time) and (time,).",
        )
    if times.size > 1 and (np.diff(times) <= np.timedelta64(0, "s")).any():
        raise StoreError(f"{path}: times do not ascend.")
    exact = times.astype("datetime64[ns]")
    return Timeline(number, tai_to_utc(exact) if scale == "tai" else exact, power, flux, intensity)


def _from_hdf5(path: Path, scale: TimeScale) -> dict[int, Timeline]:
    """Put the examples of a file together again; what no example holds is NaN."""
    import h5py  # slow to load, and few need it

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path} cannot be read as HDF5: {error}") from None
    inputs: dict[int, dict[str, np.ndarray]] = {}
    targets: dict[int, dict[str, np.ndarray]] = {}
    with file:
        for name, group in file.items():
            if "region" not in group.attrs:
                raise StoreError(
                    f"{path}: {name} does not say which region it is of.",
                    "Examples of one region must not come into training and validation.",
                    "Use a file of 'sdoml emergence export', or timelines.",
                )
            region = int(group.attrs["region"])
            stamps = [one.decode() for one in group["input_times"][:]]
            inputs.setdefault(region, {}).update(zip(stamps, group["input_matrix"][:], strict=True))
            targets.setdefault(region, {})[group["output_time"][()].decode()] = group["output_matrix"][:]
        low, high, least, most = (
            np.asarray(file.attrs.get(name, value), np.float64)
            for name, value in (
                ("input_minimum", np.zeros(5)), ("input_maximum", np.ones(5)), ("target_minimum", 0.0), ("target_maximum", 1.0)
            )
        )  # fmt: skip
    inner = inner_tiles(GRID)
    timelines = {}
    for region in sorted(inputs):
        texts = sorted(inputs[region].keys() | targets[region].keys())
        # The first and last row of tiles are zero: the baseline was taken off.
        values = np.zeros((len(texts), 6, GRID * GRID))
        values[:, :, inner] = np.nan
        for place, text in enumerate(texts):
            if text in inputs[region]:
                values[place, :5, inner] = inputs[region][text] * (high - low)[:, None] + low[:, None]
            if text in targets[region]:
                values[place, 5, inner] = targets[region][text] * (most - least) + least
        times = np.array([text.replace(" ", "T") for text in texts], "datetime64[ns]")
        channels = values.transpose(1, 2, 0)
        exact = tai_to_utc(times) if scale == "tai" else times
        timelines[region] = Timeline(region, exact, channels[:4], channels[4], channels[5])
    return timelines


def dataset_timelines(store: Store, version: str | None = None) -> tuple[dict[int, Timeline], str]:
    """Return the timelines of an emergence dataset, and the snapshot they are of."""
    from sdoml_dist.store.emergence_reader import Emergence

    dataset = Emergence(store, version)
    return dataset.timelines(), dataset.snapshot


def fingerprint(timelines: dict[int, Timeline]) -> str:
    """Return the SHA-256 of timelines, 16 hexadecimal digits: equal data have the same, wherever they lie."""
    digest = hashlib.sha256()
    for number in sorted(timelines):
        one = timelines[number]
        digest.update(str(number).encode())
        digest.update(one.times.astype("datetime64[s]").astype(np.int64).tobytes())
        for values in (one.power, one.flux, one.intensity):
            digest.update(np.ascontiguousarray(values, np.float32).tobytes())
    return digest.hexdigest()[:16]
