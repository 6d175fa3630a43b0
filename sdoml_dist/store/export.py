"""Writing a dataset in the layouts that SDOML was published in: which files there are, and the bytes of each.

Layout ``sdoml-v2`` is Zarr of format 2: a group per year, an array (frames, y, x) per channel, the keywords of all frames
as lists in the attributes. Layout ``sdoml-v1`` is a tree with one ``.npz`` per frame. Both hold good frames only, in order
of time; what is missing in an image is 0, in a line -1 (Galvez et al. 2019, ApJS 242, 7, and SDOML's own writers).

Files are laid out here byte by byte, and each is put in place whole: whatever is there is complete, and the same unit
always gives the same bytes.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numcodecs
import numpy as np
import zarr

from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_sources import PublishedConfig
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.eve import LINES
from sdoml_dist.solar.times import format_fits_time, slot_times, utc_to_tai
from sdoml_dist.store.dataset import stored_recipe
from sdoml_dist.store.export_plan import COMPRESSOR, TIME, TIME_DTYPE, ExportUnit, Layout, json_bytes
from sdoml_dist.store.repository import open_repository, session_at
from sdoml_dist.store.storage import join
from sdoml_dist.store.template import NOT_A_TIME, group_path

_HEADERS_AT_ONCE = 512
# The images that the published datasets were made from.
_PUBLISHED_PIXELS = 1024
_STORED = ("CDELT1", "CDELT2", "CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CROTA2", "R_SUN", "RSUN_OBS")
_LEFT_OUT = {"KEYCOMMENTS", "SIMPLE"}
_UNIX_JULIAN_DAY = 2440587.5


class Exporter:
    """Make the files of units; opened once per worker.

    Parameters
    ----------
    store : Store
        The dataset.
    snapshot : str
        The version.
    layout : {"sdoml-v1", "sdoml-v2"}
        The layout.
    put : callable
        Writes bytes to a path below the output, whole or not at all.
    """

    def __init__(self, store: Store, snapshot: str, layout: Layout, put: Callable[[str, bytes], None]) -> None:
        # Threads of Blosc append compressed blocks as they come, so that equal pixels would give unequal files.
        numcodecs.blosc.use_threads = False
        self.layout, self._put = layout, put
        self._root = zarr.open_group(session_at(open_repository(store), snapshot).store, mode="r")
        self._recipes: dict[str, Recipe] = {}

    def _recipe(self, product: str) -> Recipe:
        if product not in self._recipes:
            group = self._root[product]
            assert isinstance(group, zarr.Group)
            self._recipes[product] = stored_recipe(group)
        return self._recipes[product]

    def _year(self, product: str, year: int) -> zarr.Group:
        group = self._root[f"{product}/{group_path(year)}"]
        assert isinstance(group, zarr.Group)
        return group

    def write(self, unit: ExportUnit) -> int:
        """Write the files of a unit and return how many bytes they have."""
        written = 0
        for name, data in zip(unit.files, self._contents(unit), strict=True):
            self._put(join(unit.array, name), data)
            written += len(data)
        return written

    def _contents(self, unit: ExportUnit) -> Iterator[bytes]:
        if unit.kind == "attributes":
            yield self._line_attributes(unit) if unit.product == "eve" else self._attributes(unit)
        elif unit.kind == "tables":
            yield from self._tables(unit)
        elif unit.kind == "day":
            for image in self._images(unit):
                buffer = io.BytesIO()
                np.savez_compressed(buffer, x=image)
                yield buffer.getvalue()
        elif unit.product == "eve":
            values = self._times(unit) if unit.channel == TIME else self._lines(unit, unit.channel)
            yield _compressed(values, unit.chunk_frames)
        else:
            yield _compressed(self._images(unit), unit.chunk_frames)

    def _images(self, unit: ExportUnit) -> np.ndarray:
        """Return the images of a unit, shape (frames, y, x), float32, 0 where there is no data."""
        ((year, slots),) = unit.frames
        images = np.asarray(self._year(unit.product, year)[unit.channel].oindex[slots])
        np.nan_to_num(images, copy=False, nan=0.0)
        factor = published_factor(self._recipe(unit.product), self.layout)
        if factor != 1:
            images *= np.float32(factor)
        return images

    def _lines(self, unit: ExportUnit, channel: str) -> np.ndarray:
        """Return the values of a line, shape (frames,), float32, -1 where there is none."""
        parts = [np.asarray(self._year(unit.product, year)[channel].oindex[slots]) for year, slots in unit.frames]
        return np.nan_to_num(np.concatenate(parts), nan=-1.0)

    def _moments(self, unit: ExportUnit) -> np.ndarray:
        cadence = self._recipe(unit.product).cadence
        return np.concatenate([slot_times(year, cadence)[slots] for year, slots in unit.frames])

    def _times(self, unit: ExportUnit) -> np.ndarray:
        return np.datetime_as_string(self._moments(unit), "ms").astype(TIME_DTYPE)

    def _tables(self, unit: ExportUnit) -> Iterator[bytes]:
        """Yield the files of EVE in v1. All 39 lines have their column, because readers find them by number."""
        there = unit.channel.split(",")
        irradiance = np.full((unit.count, len(LINES)), -1.0, np.float32)
        for column, line in enumerate(LINES):
            if line.name in there:
                irradiance[:, column] = self._lines(unit, line.name)
        moments = self._moments(unit)
        tables = {
            "name.npy": np.array([line.ion for line in LINES]),
            "wavelength.npy": np.array([line.wavelength_nm for line in LINES]),
            "logt.npy": np.array([line.log_t for line in LINES]),
            "jd.npy": moments.astype(np.int64) / 86_400e9 + _UNIX_JULIAN_DAY,
            "iso.npy": self._times(unit),
            "irradiance.npy": irradiance,
        }
        for name in unit.files:
            buffer = io.BytesIO()
            np.save(buffer, tables[name])
            yield buffer.getvalue()

    def _line_attributes(self, unit: ExportUnit) -> bytes:
        if unit.channel == TIME:
            return json_bytes({})
        line = next(line for line in LINES if line.name == unit.channel)
        # The published unit of logT is MK, although it is the logarithm of the temperature in K; readers cut it off.
        return json_bytes({"wavelength": f"{line.wavelength_nm} nm", "logT": f"{line.log_t} MK", "ion": line.ion})

    def _attributes(self, unit: ExportUnit) -> bytes:
        """Return the attributes of an array of images: every keyword as a list with one entry per frame.

        Lists are kept as JSON text, block by block: as objects, the keywords of a year would fill gigabytes.
        """
        ((year, slots),) = unit.frames
        columns: dict[str, list[str]] = {}
        for low in range(0, slots.size, _HEADERS_AT_ONCE):
            block = slots[low : low + _HEADERS_AT_ONCE]
            values = self._keywords(unit, year, block)
            for name in values.keys() - columns.keys():
                columns[name] = [_nulls(low)] if low else []
            for name, texts in columns.items():
                found = values.get(name)
                texts.append(_nulls(block.size) if found is None else json.dumps(found, separators=(",", ":"))[1:-1])
        lines = (f"{json.dumps(name)}: [{','.join(columns[name])}]" for name in sorted(columns))
        return ("{\n" + ",\n".join(lines) + "\n}").encode()

    def _keywords(self, unit: ExportUnit, year: int, slots: np.ndarray) -> dict[str, list[Any]]:
        """Return the keywords of some frames as lists: those of the source, with the geometry of the stored grid."""
        recipe, group, count = self._recipe(unit.product), self._year(unit.product, year), slots.size
        texts = group[f"headers/{recipe.contents.bundle_of(unit.channel).name}"][slots[0] : slots[-1] + 1]
        columns: dict[str, list[Any]] = {}
        for row, text in enumerate(np.asarray(texts)[slots - slots[0]]):
            for name, value in (json.loads(text) if text else {}).get("header", {}).items():
                key = str(name).upper()
                if key in _LEFT_OUT or (key == "HISTORY" and unit.product != "aia"):
                    continue
                missing = isinstance(value, float) and not math.isfinite(value)
                columns.setdefault(key, [None] * count)[row] = None if missing else value
        index = recipe.channels.index(unit.channel)

        def stored(name: str) -> np.ndarray:
            return np.asarray(group[f"keywords/{name}"][slots[0] : slots[-1] + 1])[slots - slots[0], index]

        for name in (*_STORED, *(("DEG_COR",) if unit.product == "aia" else ())):
            columns[name] = [float(value) if np.isfinite(value) else None for value in stored(name)]
        for name in ("NAXIS1", "NAXIS2"):
            columns[name] = [recipe.grid.pixels] * count
        unit_name = recipe.contents.channels[unit.channel].unit
        columns["PIXLUNIT"] = [{"G": "Gauss"}.get(unit_name, unit_name)] * count
        if "BUNIT" in columns:
            columns["BUNIT"] = columns["PIXLUNIT"]
        if unit.product != "aia":
            columns["WAVEUNIT"] = ["angstrom"] * count
        self._complete_times(columns, stored("T_OBS"), aia=unit.product == "aia")
        return columns

    @staticmethod
    def _complete_times(columns: dict[str, list[Any]], observed: np.ndarray, *, aia: bool) -> None:
        """Fill in T_OBS, by which readers find a frame, where the source's header has none."""
        texts = columns.setdefault("T_OBS", [None] * observed.size)
        for row, moment in enumerate(observed):
            if texts[row] is None and moment != NOT_A_TIME:
                time = np.datetime64(int(moment), "ns")
                tai = format_fits_time(utc_to_tai(time), 0).replace("-", ".").replace("T", "_")
                texts[row] = f"{format_fits_time(time)}Z" if aia else f"{tai}_TAI"


def published_factor(recipe: Recipe, layout: Layout) -> float:
    """Return what stored values are multiplied by: v2 has means over source pixels, v1 sums over those of 1024.

    SDOML v1 sums the pixels of the synoptic images (1024 pixels per axis) that make up a target pixel, so that v1 is
    4 times v2 at 512. Only the intensities of AIA are summed, HMI is averaged in both.
    """
    if not set(recipe.channels) <= set(AIA):
        return 1.0
    published = (_PUBLISHED_PIXELS / recipe.grid.pixels) ** 2
    factor = published if layout == "sdoml-v1" else 1.0
    if recipe.grid.convention == "sum":
        imported = isinstance(recipe.source, PublishedConfig)
        factor /= published if imported else (Plan(recipe).source_pixels / recipe.grid.pixels) ** 2
    return factor


def _compressed(values: np.ndarray, frames: int) -> bytes:
    """Return a chunk; the last one of an array is filled up, as the format wants it."""
    if len(values) < frames:
        filled = np.zeros((frames, *values.shape[1:]), values.dtype)
        filled[: len(values)] = values
        values = filled
    return bytes(numcodecs.get_codec(COMPRESSOR).encode(np.ascontiguousarray(values)))


def _nulls(count: int) -> str:
    return ",".join(["null"] * count)
