"""The index of a published dataset: every frame by its time and with its keywords, kept as Parquet."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sdoml_dist.atomic import put
from sdoml_dist.errors import EnvironmentFault, UsageError
from sdoml_dist.recipe_sources import PublishedConfig
from sdoml_dist.solar.products import Product
from sdoml_dist.solar.status import FrameError
from sdoml_dist.solar.times import parse_fits_time
from sdoml_dist.sources.published_layout import EVE_GROUP, PublishedFiles, read_frame_path, read_npz

logger = logging.getLogger("sdoml")

LINES_NAME = "lines"
"""Name of the index of the lines."""
SCHEMA = pa.schema(
    [("time", pa.timestamp("ns", tz="UTC")), ("locator", pa.string()), ("row", pa.int64()), ("size", pa.int64()),
     ("quality", pa.int64()), ("version", pa.string()), ("state", pa.string()), ("header", pa.string())]
)  # fmt: skip
_ROWS_PER_GROUP = 512
_DAY = np.timedelta64(1, "D")


class PublishedIndex:
    """Index of one product of a published layout: a Parquet file per year and channel, made when it has changed.

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
    """

    def __init__(
        self, config: PublishedConfig, product: Product, index_url: str, index_options: dict[str, object] | None = None
    ) -> None:
        self.config, self.product = config, product
        key = hashlib.sha256(f"{product.name}|{config.layout}|{config.url}".encode()).hexdigest()[:16]
        self.index_url = f"{(config.index_cache or index_url).rstrip('/')}/{key}"
        self._index_options = {} if config.index_cache else dict(index_options or {})
        # The chunk at hand of every array that is read in turn, and one more where chunks meet.
        images = product.kind == "images"
        self.files = PublishedFiles(
            config, 1 + (max(len(bundle.channels) for bundle in product.bundles) if images else 1)
        )

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Bring the index up to date; only arrays and folders that have changed are looked into.

        The keywords of one array are held at once: about 1.5 GB for a full year of AIA.

        Raises
        ------
        EnvironmentFault
            If the place cannot be read or the index cannot be written.
        UsageError
            If the images have another size than the recipe says.
        """
        channels = [name for bundle in bundles for name in self.product.bundle(bundle).channels]
        first, last = (
            int(str((moment + shift).astype("datetime64[Y]"))) for moment, shift in ((start, -_DAY), (end, _DAY))
        )
        try:
            if self.product.kind == "series":
                self._index_lines()
            elif self.config.layout == "sdoml-v1":
                self._index_tree(channels, first, last)
            else:
                self._index_arrays(channels, first, last)
        except (FileNotFoundError, PermissionError, FrameError) as error:
            raise EnvironmentFault(
                f"{self.config.url} cannot be read as {self.config.layout}: {error}", "",
                "Correct source.url, which is the folder of the tree (v1) or the Zarr store (v2).",
            ) from error  # fmt: skip

    def _index_arrays(self, channels: list[str], first: int, last: int) -> None:
        filesystem, root = self.files.place()
        filesystem.invalidate_cache()
        if not filesystem.exists(f"{root}/.zgroup"):
            raise FileNotFoundError("there is no .zgroup")
        for path in sorted(filesystem.ls(root, detail=False)):
            year = str(path).rstrip("/").rsplit("/", 1)[-1]
            if not (year.isdigit() and first <= int(year) <= last):
                continue
            for channel in channels:
                folder = f"{root}/{year}/{channel}"
                if not filesystem.exists(f"{folder}/.zarray"):
                    continue
                if not filesystem.exists(f"{folder}/.zattrs"):
                    logger.warning("%s/%s has no attributes, so its times are unknown; it is left out", year, channel)
                    continue
                state = "|".join(_state(filesystem.info(f"{folder}/{name}")) for name in (".zarray", ".zattrs"))
                name = f"{year}-{channel}"
                if self._known(name) == state:
                    self._check_pixels(name)
                    continue
                shape, chunks = (
                    tuple(json.loads(filesystem.cat_file(f"{folder}/.zarray"))[key]) for key in ("shape", "chunks")
                )
                if len(shape) != 3 or shape[1:] != chunks[1:] or shape[1] != shape[2]:
                    raise UsageError(
                        f"{year}/{channel} has the shape {shape} in chunks of {chunks}; images must be whole."
                    )
                attributes = json.loads(filesystem.cat_file(f"{folder}/.zattrs"))
                self._write(name, self._attribute_rows(f"{year}/{channel}", attributes, shape[0]), state, shape[1])

    def _attribute_rows(self, array: str, attributes: dict[str, Any], count: int) -> list[dict[str, Any]]:
        """Return the rows of the index of one array, in order of time."""
        lists = {name: values for name, values in attributes.items() if isinstance(values, list)}
        rows, lost = [], 0
        for row, text in enumerate(lists.get("T_OBS", [])[:count]):
            try:
                # HMI writes its times in TAI and says so; parse_fits_time goes by the suffix.
                time = parse_fits_time(str(text))
            except ValueError:
                lost += 1
                continue
            header = {
                name: values[row] for name, values in lists.items() if row < len(values) and values[row] is not None
            }
            quality, text = header.get("QUALITY"), json.dumps(header, separators=(",", ":"))
            rows.append({
                "time": _utc(time), "locator": f"{array}[{row}]", "row": row, "size": None,
                "quality": int(quality) if isinstance(quality, int | float) else None,
                "version": str(header.get("DATE") or ""), "header": text,
                "state": hashlib.sha256(text.encode()).hexdigest()[:16],
            })  # fmt: skip
        lost += count - lost - len(rows)
        if lost:
            logger.warning("%d of %d frames of %s have no readable T_OBS and are left out", lost, count, array)
        return sorted(rows, key=lambda row: (row["time"], row["row"]))

    def _index_tree(self, channels: list[str], first: int, last: int) -> None:
        filesystem, root = self.files.place()
        filesystem.invalidate_cache()
        if not filesystem.isdir(root):
            raise FileNotFoundError("there is no such folder")
        groups: dict[str, list[dict[str, Any]]] = {}
        for path, details in filesystem.find(root, detail=True).items():
            named = read_frame_path(path)
            if named is None or named[0] not in channels:
                continue
            year = str(named[1].astype("datetime64[Y]"))
            if first <= int(year) <= last:
                groups.setdefault(f"{year}-{named[0]}", []).append({
                    "time": _utc(named[1]), "locator": path[len(root) :].lstrip("/"), "row": -1,
                    "size": details.get("size"), "quality": None, "version": "", "header": "{}",
                    "state": _state(details),
                })  # fmt: skip
        for name, rows in groups.items():
            rows.sort(key=lambda row: (row["time"], row["locator"]))
            state = hashlib.sha256(json.dumps([row["state"] for row in rows]).encode()).hexdigest()
            if self._known(name) != state:
                pixels = next(self._sizes(rows), 0)
                self._write(name, rows, state, pixels)
            self._check_pixels(name)

    def _sizes(self, rows: list[dict[str, Any]]) -> Iterator[int]:
        for row in rows[:10]:
            try:
                yield read_npz(self.files.get(row["locator"])).shape[0]  # fmt: skip
            except FrameError as error:
                logger.debug("%s: %s", row["locator"], error)

    def _index_lines(self) -> None:
        filesystem, root = self.files.place()
        filesystem.invalidate_cache()
        if self.config.layout == "sdoml-v1":
            state = _state(filesystem.info(f"{root}/EVE/iso.npy"))
        else:
            state = "|".join(sorted(_state(item) for item in filesystem.ls(f"{root}/{EVE_GROUP}/Time", detail=True)))
        if self._known(LINES_NAME) == state:
            return
        texts = (
            self.files.table("iso.npy") if self.config.layout == "sdoml-v1" else self.files.whole(f"{EVE_GROUP}/Time")
        )
        try:
            times = np.char.rstrip(texts.astype(str), "Z").astype("datetime64[ns]").astype(np.int64)
        except ValueError:
            times = np.array([_utc(parse_fits_time(str(text))) for text in texts], np.int64)
        order = np.argsort(times, kind="stable")
        rows = pa.table({"time": pa.array(times[order], pa.int64()).cast(SCHEMA.field("time").type), "row": order})
        self._write_table(LINES_NAME, rows, state, 0)

    def _write(self, name: str, rows: list[dict[str, Any]], state: str, pixels: int) -> None:
        self._write_table(name, pa.Table.from_pylist(rows, SCHEMA), state, pixels)
        self._check_pixels(name)

    def _write_table(self, name: str, table: pa.Table, state: str, pixels: int) -> None:
        table = table.replace_schema_metadata({"state": state, "pixels": str(pixels)})
        buffer = io.BytesIO()
        pq.write_table(
            table, buffer, row_group_size=_ROWS_PER_GROUP if name != LINES_NAME else 65_536, compression="zstd"
        )
        filesystem, folder = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        put(filesystem, f"{folder}/{name}.parquet", buffer.getvalue())

    def _metadata(self, name: str) -> dict[str, str]:
        filesystem, folder = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        try:
            with filesystem.open(f"{folder}/{name}.parquet", "rb") as file:
                found = pq.read_schema(file).metadata or {}
        except FileNotFoundError:
            return {}
        return {key.decode(): value.decode() for key, value in found.items()}

    def _known(self, name: str) -> str | None:
        return self._metadata(name).get("state")

    def _check_pixels(self, name: str) -> None:
        found = int(self._metadata(name).get("pixels", 0))
        if self.config.pixels is not None and found not in (0, self.config.pixels):
            raise UsageError(
                f"The images of {name} in {self.config.url} have {found} pixels per axis, the recipe {self.config.pixels}.",
                "Published images are taken over pixel by pixel.",
                f"Set source.pixels and grid.pixels to {found}.",
            )

    def read(self, name: str, columns: list[str], wanted: Any = None) -> pa.Table | None:
        """Return columns of one file of the index, None if there is none."""
        filesystem, folder = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        try:
            with filesystem.open(f"{folder}/{name}.parquet", "rb") as file:
                return pq.read_table(file, columns=columns, filters=wanted)
        except FileNotFoundError:
            return None

    def indexed(self) -> dict[str, tuple[np.ndarray, int]]:
        """Return by channel all times, ``datetime64[ns]`` UTC, shape (frames,), and the pixels per axis."""
        filesystem, folder = fsspec.core.url_to_fs(self.index_url, **self._index_options)
        found: dict[str, tuple[np.ndarray, int]] = {}
        for path in sorted(filesystem.glob(f"{folder}/*.parquet")):
            name = str(path).rsplit("/", 1)[-1].removesuffix(".parquet")
            table = self.read(name, ["time"])
            channel = name.partition("-")[2] or name
            assert table is not None
            before = found[channel][0] if channel in found else np.array([], "datetime64[ns]")
            found[channel] = (np.concatenate([before, times_of(table)]), int(self._metadata(name)["pixels"]))
        return found


def _state(details: dict[str, Any]) -> str:
    """Return what changes with a file."""
    return ":".join(str(details.get(key)) for key in ("name", "size", "mtime", "ETag", "LastModified", "created"))


def _utc(moment: np.datetime64) -> int:
    return int(moment.astype("datetime64[ns]").astype(np.int64))


def scalar(moment: np.datetime64) -> pa.Scalar:
    """Return a time as the index has it."""
    return pa.scalar(_utc(moment), SCHEMA.field("time").type)


def times_of(table: pa.Table) -> np.ndarray:
    """Return the times of rows of the index, ``datetime64[ns]`` UTC."""
    return table["time"].cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False)
