"""What an export consists of: the files of each unit, and the small ones that describe arrays."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.sources.published_layout import EVE_FILES, EVE_GROUP, STORES, frame_path
from sdoml_dist.store.reader import Opened
from sdoml_dist.store.template import group_path

Layout = Literal["sdoml-v1", "sdoml-v2"]
Frames = tuple[tuple[int, np.ndarray], ...]
"""Slots by year, in order."""

COMPRESSOR = {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2, "blocksize": 0}
"""As published: Blosc with zstd and bit shuffle."""
TIME = "Time"
"""Name of EVE's clock."""
TIME_DTYPE = "<U23"
# Rows of EVE per chunk: about 45 days of minutes.
_EVE_ROWS = 65_536


@dataclass(frozen=True)
class ExportUnit:
    """What one worker writes in one piece.

    Attributes
    ----------
    kind : {"chunk", "day", "tables", "attributes"}
        A chunk of an array, the images of a day, all files of EVE in v1, the attributes of an array.
    product, channel : str
        What; the channel ``Time`` is EVE's clock.
    array : str
        Folder below the output that all files of the unit are in.
    index : int
        Number of the chunk, or day of the year.
    frames : tuple of (int, numpy.ndarray)
        Slots by year.
    files : tuple of str
        Names below `array`, in the order in which they are written.
    chunk_frames : int
        Frames per chunk.
    """

    kind: Literal["chunk", "day", "tables", "attributes"]
    product: str
    channel: str
    array: str
    index: int
    frames: Frames
    files: tuple[str, ...]
    chunk_frames: int = 0

    @property
    def unit_id(self) -> str:
        """Readable identity."""
        return f"{self.array}/{self.kind}/{self.index}"

    @property
    def count(self) -> int:
        """Number of frames."""
        return sum(slots.size for _, slots in self.frames)


@dataclass(frozen=True)
class ExportPlan:
    """All files of an export.

    Attributes
    ----------
    metadata : dict of str to bytes
        Small files that are the same however far the export has come, by path below the output.
    units : list of ExportUnit
        Values, and the attributes, which belong behind the values of their array.
    """

    metadata: dict[str, bytes]
    units: list[ExportUnit]


def good_frames(opened: Opened, channels: tuple[str, ...]) -> Frames:
    """Return the slots by year in which any of the channels is ok; years without are left out."""
    columns = [opened.recipe.channels.index(name) for name in channels]
    frames = []
    for year, (start, stop) in Plan(opened.recipe).years().items():
        status = np.asarray(opened.group[f"{group_path(year)}/status"][start:stop])[:, columns]
        slots = np.flatnonzero((status == int(FrameStatus.OK)).any(axis=1)) + start
        if slots.size:
            frames.append((year, slots))
    return tuple(frames)


def plan_export(opened: Opened, layout: Layout, channels: tuple[str, ...], chunk_frames: int) -> ExportPlan:
    """Return what is to be written of one product.

    Parameters
    ----------
    opened : Opened
        The product at the version to export.
    layout : {"sdoml-v1", "sdoml-v2"}
        The layout.
    channels : tuple of str
        Channels of the product.
    chunk_frames : int
        Images per chunk of v2.

    Raises
    ------
    UsageError
        If the layout cannot hold the product.
    """
    if opened.recipe.contents.kind == "series":
        return _plan_eve(opened, layout, channels)
    if layout == "sdoml-v1":
        return _plan_tree(opened, channels)
    store, pixels = STORES.get(opened.name, f"sdomlv2_{opened.name}.zarr"), opened.recipe.grid.pixels
    metadata, units = {f"{store}/.zgroup": _GROUP}, []
    for channel in channels:
        for year, slots in good_frames(opened, (channel,)):
            array = f"{store}/{year}/{channel}"
            metadata[f"{store}/{year}/.zgroup"] = _GROUP
            metadata[f"{array}/.zarray"] = _array((slots.size, pixels, pixels), (chunk_frames, pixels, pixels), "<f4")
            for index, low in enumerate(range(0, slots.size, chunk_frames)):
                part = ((year, slots[low : low + chunk_frames]),)
                name = (f"{index}.0.0",)
                units.append(ExportUnit("chunk", opened.name, channel, array, index, part, name, chunk_frames))
            units.append(
                ExportUnit("attributes", opened.name, channel, array, 0, ((year, slots),), (".zattrs",), chunk_frames)
            )
    return ExportPlan(metadata, units)


def _plan_tree(opened: Opened, channels: tuple[str, ...]) -> ExportPlan:
    cadence = opened.recipe.cadence
    if cadence % 60:
        raise UsageError(
            f"sdoml-v1 names frames by the minute; {opened.name} has a cadence of {cadence} s.", "",
            "Choose sdoml-v2, or another product.",
        )  # fmt: skip
    units = []
    for channel in channels:
        for year, slots in good_frames(opened, (channel,)):
            times = slot_times(year, cadence)[slots]
            days = times.astype("datetime64[D]")
            for day in np.unique(days):
                chosen = days == day
                names = [frame_path(channel, time) for time in times[chosen]]
                folder = names[0].rsplit("/", 1)[0]
                files = tuple(name.rsplit("/", 1)[1] for name in names)
                index = int((day - np.datetime64(f"{year}-01-01", "D")).astype(int)) + 1
                units.append(ExportUnit("day", opened.name, channel, folder, index, ((year, slots[chosen]),), files))
    return ExportPlan({}, units)


def _plan_eve(opened: Opened, layout: Layout, channels: tuple[str, ...]) -> ExportPlan:
    frames = good_frames(opened, channels)
    total = sum(slots.size for _, slots in frames)
    if not total:
        return ExportPlan({}, [])
    if layout == "sdoml-v1":
        return ExportPlan({}, [ExportUnit("tables", opened.name, ",".join(channels), "EVE", 0, frames, EVE_FILES)])
    store = STORES["eve"]
    metadata = {f"{store}/.zgroup": _GROUP, f"{store}/{EVE_GROUP}/.zgroup": _GROUP}
    units, rows = [], min(_EVE_ROWS, total)
    for channel in (*channels, TIME):
        array = f"{store}/{EVE_GROUP}/{channel}"
        metadata[f"{array}/.zarray"] = _array((total,), (rows,), TIME_DTYPE if channel == TIME else "<f4")
        for index, low in enumerate(range(0, total, rows)):
            part = _slice(frames, low, low + rows)
            units.append(ExportUnit("chunk", opened.name, channel, array, index, part, (f"{index}",), rows))
        units.append(ExportUnit("attributes", opened.name, channel, array, 0, frames, (".zattrs",), rows))
    return ExportPlan(metadata, units)


def _slice(frames: Frames, low: int, high: int) -> Frames:
    """Return frames `low` to `high`, counted over all years."""
    parts, before = [], 0
    for year, slots in frames:
        part = slots[max(low - before, 0) : max(high - before, 0)]
        if part.size:
            parts.append((year, part))
        before += slots.size
    return tuple(parts)


def json_bytes(data: Any) -> bytes:
    """Write plain data as zarr does."""
    return json.dumps(data, indent=4).encode()


def _array(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> bytes:
    """Return the ``.zarray`` of an array, as zarr's format 2 has it."""
    return json_bytes({
        "chunks": chunks, "compressor": COMPRESSOR, "dtype": dtype, "fill_value": "" if dtype[1] == "U" else 0.0,
        "filters": None, "order": "C", "shape": shape, "zarr_format": 2,
    })  # fmt: skip


_GROUP = json_bytes({"zarr_format": 2})
