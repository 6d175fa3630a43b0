"""Timelines of emerging regions in the layouts that SOLARED and its benchmark were published in.

``npz``: per region a folder ``AR11158`` with ``mean_pmdop11158_flat.npz``, ``mean_mag11158_flat.npz`` and
``mean_int11158_flat.npz``, where both the benchmark's ``create_dataloader_function.py`` (NASA-IMPACT/SuryaBench) and the
published series have them; ``mean_tiles.py``, which makes them, puts one more folder ``mean_tiles9`` between. HDF5: one group
per example, as SuryaBench's ``AREmergenceDataset`` reads it.

Times of both are naive and, in the published files, TAI: they come from the keyword MIDTIME. Timelines hold UTC. What is
written is TAI unless UTC is asked for, and what is read is taken for the same.
"""

from __future__ import annotations

import io
import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Literal

import numpy as np

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.solar.emergence import (
    BENCHMARK_TEST,
    BENCHMARK_TRAIN,
    HORIZON_STEPS,
    INPUT_STEPS,
    Scaling,
    Timeline,
    benchmark_split,
    joined,
    region_folds,
    windows,
)
from sdoml_dist.solar.tiles import without_baseline
from sdoml_dist.solar.times import tai_to_utc, utc_to_tai

Variant = Literal["", "flat", "d", "dflat"]
"""Whether the baseline is taken off (``flat``), and whether values are differences along time (``d``)."""
TimeScale = Literal["tai", "utc"]
VARIANTS: tuple[Variant, ...] = ("", "flat", "d", "dflat")
CHANNELS = ("power_2_3_mhz", "power_3_4_mhz", "power_4_5_mhz", "power_5_6_mhz", "unsigned_flux")
_KINDS = ("pmdop", "mag", "int")


def _grid(timeline: Timeline) -> int:
    """Return the number of tiles per axis."""
    tiles = timeline.flux.shape[0]
    if isqrt(tiles) ** 2 != tiles:
        raise ValueError(f"region {timeline.region} has {tiles} tiles, which make no square")
    return isqrt(tiles)


def _prepared(timeline: Timeline, variant: Variant) -> Timeline:
    """Return a timeline in float64 as a variant has it."""
    grid = _grid(timeline)

    def prepare(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        if variant.endswith("flat"):
            values = without_baseline(values, grid)
        return np.gradient(values, axis=-1) if variant.startswith("d") else values

    return Timeline(
        timeline.region, timeline.times, prepare(timeline.power), prepare(timeline.flux), prepare(timeline.intensity)
    )


def _stamps(times: np.ndarray, scale: TimeScale) -> np.ndarray:
    """Return UTC times as microseconds of a time scale."""
    exact = times.astype("datetime64[ns]")
    stamps: np.ndarray = (utc_to_tai(exact) if scale == "tai" else exact).astype("datetime64[us]")
    return stamps


def _npz(arrays: Sequence[np.ndarray]) -> bytes:
    """Return the bytes of ``numpy.savez``, without the time of writing: equal arrays give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for number, values in enumerate(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"arr_{number}.npy"), member.getvalue())
    return out.getvalue()


def _file(folder: Path, region: int, kind: str, variant: Variant) -> Path:
    return folder / f"AR{region}" / f"mean_{kind}{region}{'_' if variant else ''}{variant}.npz"


def write_npz(
    timelines: Mapping[int, Timeline],
    folder: str | Path,
    variants: Sequence[Variant] = ("", "flat"),
    *,
    scale: TimeScale = "tai",
) -> list[Path]:
    """Write the published files of each region.

    Parameters
    ----------
    timelines : mapping
        By region: all tiles, before the baseline was taken off. (Taking it off a second time changes nothing.)
    folder : str or Path
        Gets a folder ``AR{number}`` per region. Each file is written whole or not at all.
    variants : sequence of {"", "flat", "d", "dflat"}
        Names of files end with ``_flat`` and so on; ``d`` is ``numpy.gradient`` along time, per step whatever the
        distance of steps, as published.
    scale : {"tai", "utc"}
        Scale of the times that are written; the published ones are TAI.

    Returns
    -------
    list of Path
        ``mean_pmdop*``: ``arr_0`` to ``arr_3`` are the bands, shape (tiles, time), float64, ``arr_4`` the times;
        ``mean_mag*`` and ``mean_int*``: ``arr_0`` and the times in ``arr_1``. Missing values stay NaN.

    Raises
    ------
    ValueError
        If a variant is unknown or not unique, tiles make no square, or there are too few times for differences.

    Notes
    -----
    One thing differs from the published files: theirs hold times as pickled ``datetime`` objects, these as
    ``datetime64[us]``, so that no code is run on loading. ``arr_4.astype(datetime)`` gives the same objects.
    """
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown or len(set(variants)) != len(variants):
        raise ValueError(f"variants are some of {VARIANTS}, each once: {tuple(variants)}")
    paths = []
    for region, timeline in timelines.items():
        if timeline.times.size < 2 and any(variant.startswith("d") for variant in variants):
            raise ValueError(f"region {region} has {timeline.times.size} times: too few for differences along time")
        stamps = _stamps(timeline.times, scale)
        for variant in variants:
            ready = _prepared(timeline, variant)
            contents = (list(ready.power), [ready.flux], [ready.intensity])
            for kind, arrays in zip(_KINDS, contents, strict=True):
                path = _file(Path(folder), region, kind, variant)
                write_atomic(path, _npz([*arrays, stamps]))
                paths.append(path)
    return paths


def _load(path: Path, number: int) -> list[np.ndarray]:
    """Return the arrays of a file, the last of which are times."""
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = [np.asarray(data[f"arr_{index}"]) for index in range(number)]
    except FileNotFoundError:
        raise StoreError(f"no file {path}", "a region has three: power, flux and intensity") from None
    except KeyError as error:
        raise StoreError(f"{path} has no array {error.args[0]}", "it is not of the published layout") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        why = "times may be pickled Python objects, as in the published files; loading these can run code"
        hint = "if you trust the file: load it with allow_pickle=True and save the times as datetime64[us]"
        raise StoreError(f"cannot read {path}: {error}", why, hint) from error
    if arrays[-1].dtype.kind != "M" or any(values.shape[-1] != arrays[-1].size for values in arrays):
        raise StoreError(f"{path}: the last array is not the times of the others", "it is not of the published layout")
    return arrays


def read_npz(folder: str | Path, variant: Variant = "flat", *, scale: TimeScale = "tai") -> dict[int, Timeline]:
    """Read what :func:`write_npz` wrote.

    Parameters
    ----------
    folder : str or Path
        Holds a folder ``AR{number}`` per region.
    variant : {"", "flat", "d", "dflat"}
        Which files.
    scale : {"tai", "utc"}
        Scale of the times in the files.

    Returns
    -------
    dict
        Timelines by region, times in UTC.

    Raises
    ------
    StoreError
        If there is no region, or a file is missing, cannot be read, or has other times than its neighbour.
    """
    regions = sorted(
        int(path.name[2:])
        for path in Path(folder).glob("AR*")
        if path.name[2:].isdigit() and _file(Path(folder), int(path.name[2:]), "pmdop", variant).is_file()
    )
    if not regions:
        raise StoreError(f"no regions in {folder}", f"there is no file like {_file(Path(), 11158, 'pmdop', variant)}")
    timelines = {}
    for region in regions:
        *power, stamps = _load(_file(Path(folder), region, "pmdop", variant), 5)
        single = []
        for kind in _KINDS[1:]:
            path = _file(Path(folder), region, kind, variant)
            values, times = _load(path, 2)
            if not np.array_equal(times, stamps):
                raise StoreError(f"{path} has other times than the power of region {region}")
            single.append(values)
        exact = stamps.astype("datetime64[ns]")
        times = tai_to_utc(exact) if scale == "tai" else exact
        timelines[region] = Timeline(region, times, np.stack(power), *single)
    return timelines


def write_hdf5(
    timelines: Mapping[int, Timeline],
    path: str | Path,
    regions: Sequence[int] | None = None,
    *,
    scaling: Scaling | None = None,
    input_steps: int = INPUT_STEPS,
    horizon: int = HORIZON_STEPS,
    scale: TimeScale = "tai",
    dtype: Literal["float32", "float64"] = "float64",
) -> int:
    """Write examples in the layout of the benchmark's HDF5 files.

    Group ``index_N`` holds ``input_matrix`` (steps, 5, tiles without the first and last row; four powers, then the flux),
    ``output_matrix`` (tiles,), ``input_times`` (steps,) and the time of the target under the two names that versions of the
    published readers ask for, ``output_time`` and ``outout_time``. Times are byte strings ``2013-03-07 18:59:37.500000``. The
    attribute ``region`` of a group is its NOAA number; attributes of the file name the channels, the scale of times and
    the extrema that values were scaled by.

    Parameters
    ----------
    timelines : mapping
        By region: all tiles; the baseline is taken off here. Steps are taken as they come, so that a window may reach over
        a gap, as published; :meth:`Timeline.steps` before puts NaN there.
    path : str or Path
        The file, which appears when it is whole.
    regions : sequence of int, optional
        In which order; for the published split :data:`BENCHMARK_TRAIN` (3240 examples) or :data:`BENCHMARK_TEST` (208).
        By default all, by number.
    scaling : Scaling, optional
        Extrema that bring values to 0..1, as the published files have them. By default values are in physical units.
    input_steps, horizon : int
        As in :func:`sdoml_dist.solar.emergence.windows`.
    scale : {"tai", "utc"}
        Scale of the times that are written.
    dtype : {"float32", "float64"}
        Of the matrices. The published programs make float64 of them and read float32.

    Returns
    -------
    int
        Number of examples. Those with missing values are left out, and numbers have no holes. (The published programs
        leave out the whole region.)

    Raises
    ------
    ValueError
        If a region is not there, or no example is left.

    Notes
    -----
    HDF5 lists groups by name: ``index_0, index_1, index_10, index_100, ...``. A reader that takes them in that order, as the
    published one does, does not get them in order of time; the number in the name does.
    """
    import h5py  # slow to load, and few need it

    chosen = sorted(timelines) if regions is None else list(regions)
    absent = [region for region in chosen if region not in timelines]
    if absent:
        raise ValueError(f"there are no timelines of the regions {absent}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    number = 0
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs.update({"channels": list(CHANNELS), "time_scale": scale.upper(), "horizon_steps": horizon})
            if scaling is not None:
                file.attrs.update({key: np.asarray(value) for key, value in vars(scaling).items()})
            for region in chosen:
                timeline = _prepared(timelines[region], "flat")
                examples = windows(timeline, input_steps, horizon, _grid(timeline))
                stamps = _stamps(timeline.times, scale)
                texts = np.array([stamp.item().isoformat(" ", "microseconds") for stamp in stamps], dtype="S26")
                for example in np.flatnonzero(examples.valid):
                    inputs, target = examples.inputs[example], examples.targets[example]
                    if scaling is not None:
                        inputs, target = scaling.inputs(inputs), scaling.targets(target)
                    group = file.create_group(f"index_{number}")
                    group.attrs["region"] = region
                    group["input_matrix"] = inputs.astype(dtype)
                    group["output_matrix"] = target.astype(dtype)
                    group["input_times"] = texts[example : example + input_steps]
                    for name in ("output_time", "outout_time"):
                        group[name] = texts[example + input_steps - 1 + horizon]
                    number += 1
        if not number:
            raise ValueError(
                f"no complete example of {input_steps} steps in {len(chosen)} regions; nothing was written"
            )
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return number


def export_timelines(
    timelines: Mapping[int, Timeline], folder: str | Path, form: Literal["npz", "hdf5"], folds: int | None = None,
    seed: int = 0,
) -> Iterator[str]:  # fmt: skip
    """Write all timelines as published, and yield a line about each file or folder.

    Parameters
    ----------
    timelines : mapping
        By region: all tiles, before the baseline was taken off.
    folder : str or Path
        Where to write.
    form : {"npz", "hdf5"}
        Arrays per region, or examples of the benchmark, scaled by the extrema of its training regions alone.
    folds : int, optional
        For HDF5: so many splits by region, each region in one test part, instead of the benchmark's split.
    seed : int
        Of the folds.

    Raises
    ------
    UsageError
        If regions of the benchmark are missing, or there are fewer regions than folds.
    """
    folder = Path(folder)
    if form == "npz":
        written = write_npz(timelines, folder)
        yield f"{len(written)} files of {len(timelines)} regions in {folder}"
        return
    try:
        if folds is None:
            benchmark_split(timelines)
            splits: dict[str, tuple[Sequence[int], Sequence[int]]] = {"": (BENCHMARK_TRAIN, BENCHMARK_TEST)}
        else:
            parts = region_folds(list(timelines), folds, seed)
            splits = {
                f"-fold{index}": (tuple(sorted(set(timelines) - set(part))), part) for index, part in enumerate(parts)
            }
    except ValueError as error:
        raise UsageError(str(error), "", "Choose --folds for a split of the regions that are there.") from None
    for name, (train, test) in splits.items():
        flat = [_prepared(timelines[region], "flat") for region in train]
        examples = joined([windows(one, grid=_grid(one)) for one in flat])
        if not examples.valid.any():
            raise UsageError(
                f"The {len(train)} regions for training have no complete example.",
                f"An example has {INPUT_STEPS + HORIZON_STEPS} steps without a gap.", "Track regions for longer.",
            )  # fmt: skip
        scaling = Scaling.of(examples.select(examples.valid))
        for kind, regions in (("train", train), ("test", test)):
            path = folder / f"{kind}{name}.h5"
            yield f"{write_hdf5(timelines, path, regions, scaling=scaling)} examples in {path}"
