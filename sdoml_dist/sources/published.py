"""Images and lines in the layouts that SDOML was published in, found by an index of times that is kept as Parquet.

Published arrays of AIA are not in order of time, those of one store have different lengths, and Bx, By and Bz of one
index need not be of one record: here everything is found by the time of its own T_OBS, never by its place.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow.compute as pc

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_sources import PublishedConfig
from sdoml_dist.solar.eve import LINES
from sdoml_dist.solar.status import FrameError
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.sources.published_index import LINES_NAME, SCHEMA, PublishedIndex, scalar, times_of
from sdoml_dist.sources.published_layout import EVE_GROUP

logger = logging.getLogger("sdoml")

_DAY = np.timedelta64(1, "D")


def check_grid(recipe: Recipe) -> None:
    """Refuse a recipe whose grid differs from the published images.

    Raises
    ------
    UsageError
        If it does.
    """
    pixels = recipe.source.pixels if isinstance(recipe.source, PublishedConfig) else None
    if recipe.contents.kind == "images" and pixels not in (None, recipe.grid.pixels):
        raise UsageError(
            f"The published images have {pixels} pixels per axis, the grid {recipe.grid.pixels}.",
            "Published images are taken over pixel by pixel.", "Set grid.pixels to the same number.",
        )  # fmt: skip


@dataclass(frozen=True)
class PublishedFrame(FrameRecord):
    """One image of a published layout.

    Attributes
    ----------
    row : int
        Index in the array of v2; -1 in v1.
    header : str
        Its keywords as JSON; ``{}`` in v1, which has none.
    """

    row: int = -1
    header: str = "{}"


class PublishedSource(PublishedIndex):
    """Frames of a published layout.

    Parameters
    ----------
    config : PublishedConfig
        Layout and place.
    product : Product
        What is taken from it.
    index_url : str
        Folder for the index, anywhere fsspec reaches.
    index_options : dict
        Options of fsspec for that folder.

    Notes
    -----
    That a frame of v2 has changed is seen by its keywords, of v1 by the size and time of its file.
    """

    sees_changes = True

    def chunk_memory(self) -> int:
        """Return how many bytes of the source a worker keeps decoded."""
        if self.config.layout == "sdoml-v1":
            return self.files.table("irradiance.npy").nbytes if self.product.kind == "series" else 0
        names = [channel for channel in self.indexed() if channel != LINES_NAME]
        filesystem, folder = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        largest = 0
        for path in filesystem.glob(f"{folder}/*-*.parquet") if names else ():
            year, _, channel = str(path).rsplit("/", 1)[-1].removesuffix(".parquet").partition("-")
            largest = max(largest, int(np.prod(self.files.array(f"{year}/{channel}")["chunks"])) * 4)
        # One more while it is decoded.
        return (self.files.most_chunks + 1) * largest

    # Frames --------------------------------------------------------------------------------------------------------

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the frames of a bundle with ``start <= time < end``, sorted by time; of several arrays joined by time."""
        wanted = (pc.field("time") >= scalar(start)) & (pc.field("time") < scalar(end))
        years = range(*(int(str((moment + days).astype("datetime64[Y]"))) + extra
                        for moment, days, extra in ((start, -_DAY, 0), (end, _DAY, 1))))  # fmt: skip
        channels = self.product.bundle(bundle).channels
        joined: dict[np.datetime64, dict[str, PublishedFrame]] = {}
        alone: list[FrameRecord] = []
        for channel in channels:
            for year in years:
                table = self.read(f"{year}-{channel}", SCHEMA.names, wanted)
                if table is None:
                    continue
                for time, row in zip(times_of(table), table.drop(["time"]).to_pylist(), strict=True):
                    frame = PublishedFrame(bundle, time, **row)
                    alone.append(frame)
                    joined.setdefault(time, {})[channel] = frame
        if len(channels) == 1:
            return sorted(alone, key=lambda record: record.key)
        return [_record(bundle, parts) for _, parts in sorted(joined.items())]

    def stage(self, records: Sequence[FrameRecord]) -> None:
        """Nothing to do: images are read one by one."""

    def fetch(self, record: FrameRecord) -> bytes:
        """Return the image of a frame: the ``.npz`` of v1, or its row of v2 as ``.npy``.

        Raises
        ------
        FrameError
            FAILED_READ if the chunk is damaged, MISSING_AT_SOURCE, FAILED_DOWNLOAD.
        """
        if self.config.layout == "sdoml-v1":
            return self.files.get(record.locator, record.size)  # fmt: skip
        assert isinstance(record, PublishedFrame)
        array = record.locator.partition("[")[0]
        buffer = io.BytesIO()
        step = self.files.array(array)["chunks"][0]
        np.save(buffer, self.files.chunk(array, record.row // step)[record.row % step])
        return buffer.getvalue()

    def samples(self, start: np.datetime64, end: np.datetime64) -> tuple[np.ndarray, np.ndarray]:
        """Return times (``datetime64[ns]`` UTC) and rows of the lines with ``start <= time < end``, both shape (n,)."""
        wanted = (pc.field("time") >= scalar(start)) & (pc.field("time") < scalar(end))
        table = self.read(LINES_NAME, ["time", "row"], wanted)
        if table is None:
            return np.array([], "datetime64[ns]"), np.array([], np.int64)
        return times_of(table), table["row"].to_numpy()

    def line_names(self) -> tuple[str, ...]:
        """Return the lines that are there."""
        if self.config.layout == "sdoml-v1":
            return tuple(line.name for line in LINES)
        filesystem, root = self.files.place()
        there = {
            str(path).rstrip("/").rsplit("/", 1)[-1] for path in filesystem.ls(f"{root}/{EVE_GROUP}", detail=False)
        }
        return tuple(line.name for line in LINES if line.name in there)

    def line(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, FrameError | None]:
        """Return the values of a line at rows, float64, NaN where missing; which could not be read; and why.

        Published tables mark a missing value by -1; as SDOML does, any value that is not positive counts as missing.
        """
        values, bad, fault = np.full(rows.size, np.nan), np.zeros(rows.size, bool), None
        if self.config.layout == "sdoml-v1":
            values = self.files.table("irradiance.npy")[rows, [line.name for line in LINES].index(name)].astype(
                np.float64
            )
            return np.where(values > 0, values, np.nan), bad, None
        array = f"{EVE_GROUP}/{name}"
        step = self.files.array(array)["chunks"][0]
        for index in np.unique(rows // step):
            inside = rows // step == index
            try:
                values[inside] = self.files.chunk(array, int(index))[rows[inside] % step]
            except FrameError as error:
                bad |= inside
                fault = error
        return np.where(values > 0, values, np.nan), bad, fault


def _record(bundle: str, parts: dict[str, PublishedFrame]) -> PublishedFrame:
    """Join the images of one time."""
    first = next(iter(parts.values()))
    return PublishedFrame(
        bundle, first.time, " ".join(part.locator for part in parts.values()),
        quality=next((part.quality for part in parts.values() if part.quality), first.quality),
        version=max(part.version for part in parts.values()), segments=tuple(parts.items()), header=first.header,
        state="|".join(part.state for part in parts.values()),
    )  # fmt: skip
