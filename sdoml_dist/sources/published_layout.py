"""The layouts that SDOML was published in: names, and how bytes become images and lines."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from typing import Any

import fsspec
import numpy as np

from sdoml_dist.recipe_sources import PublishedConfig
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources import bounded
from sdoml_dist.sources.download import fetch_bytes

STORES = {"aia": "sdomlv2.zarr", "hmi": "sdomlv2_hmi.zarr", "eve": "sdomlv2_eve.zarr"}
"""Names of v2's Zarr stores by product."""
EVE_GROUP = "MEGS-A"
"""Group of the lines in v2; it holds those of MEGS-B, too."""
EVE_FILES = ("name.npy", "wavelength.npy", "logt.npy", "jd.npy", "iso.npy", "irradiance.npy")
"""Tables of the lines in v1; the values come last."""

_NAME = re.compile(r"(?:^|/)(AIA|HMI)(\d{4})(\d{2})(\d{2})_(\d{2})(\d{2})_([a-z0-9_]+)\.npz$")
_NAMES = {name: f"{channel.wavelength_angstrom:04d}" for name, channel in AIA.items()} | {
    name: name.lower() for key in ("hmi", "hmi_720s", "hmi_45s", "hmi_stack") for name in PRODUCTS[key].channels
}
_CHANNELS = {text: name for name, text in _NAMES.items()}


def frame_path(channel: str, time: np.datetime64) -> str:
    """Return the path of an image in v1's tree, with the time in UTC."""
    text = re.sub(r"\D", "", str(time.astype("datetime64[m]")))
    instrument, name = ("AIA" if channel in AIA else "HMI"), _NAMES[channel]
    folder = f"{text[:4]}/{instrument}/{name}/{text[4:6]}/{text[6:8]}"
    return f"{folder}/{instrument}{text[:8]}_{text[8:]}_{name}.npz"


def read_frame_path(path: str) -> tuple[str, np.datetime64] | None:
    """Return channel and time of an image in v1's tree, or None if the name is none of its names."""
    match = _NAME.search(path)
    if match is None or match[7] not in _CHANNELS:
        return None
    try:
        time = np.datetime64(f"{match[2]}-{match[3]}-{match[4]}T{match[5]}:{match[6]}", "ns")
    except ValueError:
        return None
    return _CHANNELS[match[7]], time


def read_npz(data: bytes) -> np.ndarray:
    """Return the image in the bytes of a ``.npz`` (key ``x``) or ``.npy``.

    Raises
    ------
    FrameError
        FAILED_READ if they hold none.
    """
    try:
        image = bounded.read_npy(data) if data[:1] == b"\x93" else bounded.read_npz(data, "x")
        if image.dtype.kind not in "biuf":
            raise ValueError(f"an image of {image.dtype}")
    except bounded.UNREADABLE as error:
        raise FrameError(FrameStatus.FAILED_READ, f"{type(error).__name__}: {error}") from None
    return image


def _table(name: str, data: bytes) -> np.ndarray:
    """Return a table of the lines in v1."""
    try:
        return bounded.read_npy(data)
    except bounded.UNREADABLE as error:
        raise FrameError(FrameStatus.FAILED_READ, f"{name}: {type(error).__name__}: {error}") from None


def _array(name: str, data: bytes) -> dict[str, Any]:
    """Return what ``.zarray`` says of an array, if it makes sense."""
    try:
        meta: dict[str, Any] = json.loads(data)
        bounded.chunk_bytes(meta)
        sizes = meta["shape"]
        if len(sizes) != len(meta["chunks"]) or not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise ValueError(f"the shape is {sizes!r}")
        if not isinstance(meta["compressor"], dict | None) or not isinstance(meta.get("filters"), list | None):
            raise ValueError("compressor or filters are no codecs")
        if meta.get("dimension_separator", ".") not in (".", "/"):
            raise ValueError(f"chunks are named by {meta['dimension_separator']!r}")
    except bounded.UNREADABLE as error:
        raise FrameError(FrameStatus.FAILED_READ, f"{name}/.zarray: {type(error).__name__}: {error}") from None
    return meta


class PublishedFiles:
    """Files of a published layout; decoded chunks are kept for those that come next.

    Parameters
    ----------
    config : PublishedConfig
        Layout and place.
    most_chunks : int
        How many decoded chunks are kept.
    """

    def __init__(self, config: PublishedConfig, most_chunks: int) -> None:
        self.config, self.most_chunks = config, most_chunks
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._chunks: OrderedDict[str, np.ndarray | FrameError] = OrderedDict()
        self._arrays: dict[str, dict[str, Any]] = {}
        self._table: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_chunks", "_table")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def place(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system, and the root in it."""
        filesystem, root = fsspec.core.url_to_fs(self.config.url, **self.config.storage_options)
        return filesystem, root.rstrip("/")

    def _url(self, path: str) -> str:
        if ".." in path.split("/"):
            raise ValueError(f"{path} leaves the source's folder")
        return f"{self.config.url.rstrip('/')}/{path}"

    def get(self, path: str, size: int | None = None) -> bytes:
        """Return the bytes of a file.

        Raises
        ------
        FrameError
            MISSING_AT_SOURCE, FAILED_DOWNLOAD or FAILED_CHECKSUM.
        """
        return fetch_bytes(self._url(path), self.config.network, size=size, storage_options=self.config.storage_options)

    def table(self, name: str) -> np.ndarray:
        """Return a table of the lines in v1, read once."""
        if name not in self._table:
            self._table[name] = _table(name, self.get(f"EVE/{name}"))
        return self._table[name]

    def array(self, array: str) -> dict[str, Any]:
        """Return what ``.zarray`` says of an array, read once."""
        if array not in self._arrays:
            self._arrays[array] = _array(array, self.get(f"{array}/.zarray"))
        return self._arrays[array]

    def chunk(self, array: str, index: int) -> np.ndarray:
        """Return a chunk; the latest ones are kept, because neighbours in time mostly share one."""
        key = f"{array}/{index}"
        with self._lock:
            found = self._chunks.get(key)
            if found is None:
                found = self._decode(array, index)
                self._chunks[key] = found
            self._chunks.move_to_end(key)
            while len(self._chunks) > self.most_chunks:
                self._chunks.popitem(last=False)
        if isinstance(found, FrameError):
            raise FrameError(found.status, found.detail)
        return found

    def _decode(self, array: str, index: int) -> np.ndarray | FrameError:
        meta = self.array(array)
        name = meta.get("dimension_separator", ".").join([str(index), *["0"] * (len(meta["chunks"]) - 1)])
        try:
            data = self.get(f"{array}/{name}")
        except FrameError as error:
            return error
        try:
            return bounded.decode_chunk(data, meta)
        except bounded.UNREADABLE as error:
            return FrameError(FrameStatus.FAILED_READ, f"chunk {array}/{name}: {type(error).__name__}: {error}")

    def whole(self, array: str) -> np.ndarray:
        """Return an array of one dimension."""
        meta = self.array(array)
        (count,), (step,) = meta["shape"], meta["chunks"]
        return np.concatenate([self.chunk(array, index) for index in range(-(-count // step))])[:count]
