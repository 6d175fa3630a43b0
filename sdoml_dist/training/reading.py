"""Values of samples, straight from the shards of a dataset: two requests for the first image of a shard, then one for each.

Zarr's own reader asks for the index of a shard with every image and spends most of its time in an event loop that all
threads share; here indices are kept, and decoding runs in the thread that asks. The layout is that of the Zarr v3
specification, "sharding_indexed"; an array that has another one is read by zarr. What is read is compared with the moments
that the dataset keeps of each frame: another image, or a damaged one, is an error.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import icechunk
import numcodecs.blosc
import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync

from sdoml_dist.errors import EnvironmentFault, SdomlError, ValidationError
from sdoml_dist.store.template import group_path
from sdoml_dist.training.samples import Samples, open_pinned

_MOMENTS = ("count", "mean", "minimum", "maximum")
# Sums of an image in another order differ by some 1e-13 of its largest value; a single wrong pixel by far more.
_MEAN_TOLERANCE = 1e-10
_KEPT_INDICES = 4096
_KEPT_BLOCKS = 4096
# An index ends with its CRC-32C; an offset and a length of all ones mean that the chunk was not written.
_CHECKSUM_BYTES = 4
_NOT_WRITTEN = 2**64 - 1
# Version, flags and size of an item; then sizes unpacked, of a block, and packed.
_BLOSC_HEADER = struct.Struct("<4xIII")


class _Unreadable(Exception):
    """An object is absent, or is not what the dataset says that it is."""


class Reader:
    """Read images and numbers of samples; safe to use from many threads, opened once per process on first use.

    Parameters
    ----------
    samples : Samples
        What to read.
    attempts : int
        How often a read is tried in all.
    backoff_s : float
        Pause after the first failure; it doubles with every further one.
    """

    def __init__(self, samples: Samples, attempts: int = 4, backoff_s: float = 0.5) -> None:
        self.samples, self.attempts, self.backoff_s = samples, attempts, backoff_s
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"samples": self.samples, "attempts": self.attempts, "backoff_s": self.backoff_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def open(self) -> _Opened:
        """Open the dataset if this process has not done so."""
        with self._lock:
            if self._opened is None:
                self._opened = _Opened(self.samples)
            return self._opened

    def image(self, row: int, channel: int, wait: Callable[[float], object] = time.sleep) -> np.ndarray | None:
        """Return an image as it is stored, or None where the sample has none.

        Parameters
        ----------
        row, channel : int
            Sample, and position of the channel.
        wait : callable
            Waits some seconds.

        Returns
        -------
        numpy.ndarray
            float32, shape (y, x), NaN where there is no data.

        Raises
        ------
        EnvironmentFault
            If the storage does not deliver, after all attempts.
        ValidationError
            If what it delivers is not the image that was written, after all attempts.
        """
        if self.samples.slots[row, channel] < 0:
            return None
        return self._attempt(lambda opened: opened.image(row, channel), row, channel, wait)

    def number(self, row: int, channel: int, wait: Callable[[float], object] = time.sleep) -> float:
        """Return a value of a series, NaN where the sample has none; raises as `image` does."""
        if self.samples.slots[row, channel] < 0:
            return float("nan")
        return self._attempt(lambda opened: opened.number(row, channel), row, channel, wait)

    def _attempt(self, read: Callable[[_Opened], Any], row: int, channel: int, wait: Callable[[float], object]) -> Any:
        opened = self.open()
        failures = 0
        while True:
            try:
                return read(opened)
            except (_Unreadable, icechunk.IcechunkError, OSError, RuntimeError, ValueError) as error:
                failures += 1
                if isinstance(error, _Unreadable):
                    opened.forget()
                if failures >= self.attempts:
                    raise self._fault(error, row, channel) from error
                wait(self.backoff_s * 2.0 ** (failures - 1))

    def _fault(self, error: Exception, row: int, channel: int) -> SdomlError:
        samples = self.samples
        what = (
            f"{samples.channels[channel]} of {samples.observed[row, channel]} at {samples.store.url}, snapshot "
            f"{samples.snapshot}, cannot be read after {self.attempts} attempts: "
            f"{type(error).__name__.lstrip('_')}: {' '.join(str(error).split())[:300]}"
        )
        why = "No sample is skipped or replaced: the training would be another one."
        if isinstance(error, _Unreadable):
            return ValidationError(what, why, "'sdoml validate' finds what is damaged in a dataset.")
        return EnvironmentFault(
            what, why, "Check network, credentials and storage; training goes on from its checkpoint."
        )


class _Opened:
    """Arrays of a dataset, in one process."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        groups = {one.name: one.group for one in open_pinned(samples.store, samples.snapshot, samples.channels)}
        self._arrays: dict[tuple[int, int], zarr.Array[Any]] = {}
        self._moments = {name: np.full(samples.slots.shape, np.nan) for name in _MOMENTS}
        tables: dict[tuple[str, int, str, int, int], np.ndarray] = {}
        for channel, (name, place) in enumerate(zip(samples.channels, samples.places, strict=True)):
            for year in np.unique(samples.years[:, channel]):
                if year < 0:
                    continue
                group = groups[place.product][group_path(int(year))]
                assert isinstance(group, zarr.Group)
                array = group[name]
                assert isinstance(array, zarr.Array)
                self._arrays[channel, int(year)] = array
                if not place.pixels:
                    continue
                rows = np.flatnonzero(samples.years[:, channel] == year)
                slots = samples.slots[rows, channel]
                low, high = int(slots.min()), int(slots.max()) + 1
                for key in _MOMENTS:
                    wanted = (place.product, int(year), key, low, high)
                    if wanted not in tables:
                        tables[wanted] = np.asarray(group[f"moments/{key}"][low:high])
                    self._moments[key][rows, channel] = tables[wanted][slots - low, place.column]
        self._direct = {key: _is_plain(array) for key, array in self._arrays.items()}
        self._index = lru_cache(_KEPT_INDICES)(self._read_index)
        self._block = lru_cache(_KEPT_BLOCKS)(self._read_block)

    def forget(self) -> None:
        """Drop what is kept of indices and series: it may be what is damaged."""
        self._index.cache_clear()
        self._block.cache_clear()

    def image(self, row: int, channel: int) -> np.ndarray:
        """Read an image and compare it with its moments."""
        key = channel, int(self.samples.years[row, channel])
        slot = int(self.samples.slots[row, channel])
        if self._direct[key]:
            image = self._decode(key, slot)
        else:
            image = np.asarray(self._arrays[key][slot])
        expected = {name: float(table[row, channel]) for name, table in self._moments.items()}
        found = _moments(image)
        largest = max(abs(expected["minimum"]), abs(expected["maximum"]))
        if not (
            all(found[name] == expected[name] for name in ("count", "minimum", "maximum"))
            and abs(found["mean"] - expected["mean"]) <= _MEAN_TOLERANCE * largest
        ):
            raise _Unreadable(f"it has {_text(found)}, but was written with {_text(expected)}")
        return image

    def number(self, row: int, channel: int) -> float:
        """Read a value of a series."""
        year, slot = int(self.samples.years[row, channel]), int(self.samples.slots[row, channel])
        size = self._arrays[channel, year].chunks[0]
        value = float(self._block(channel, year, slot // size)[slot % size])
        if not np.isfinite(value):
            raise _Unreadable(f"a value that is marked as good reads as {value}")
        return value

    def _read_block(self, channel: int, year: int, block: int) -> np.ndarray:
        array = self._arrays[channel, year]
        size = array.chunks[0]
        return np.asarray(array[block * size : (block + 1) * size])

    def _decode(self, key: tuple[int, int], slot: int) -> np.ndarray:
        array = self._arrays[key]
        assert array.shards is not None
        shard, place = divmod(slot, array.shards[0])
        offset, length = (int(value) for value in self._index(key, shard)[place])
        if offset == _NOT_WRITTEN or length == 0:
            raise _Unreadable("it was never written, though it is marked as good")
        packed = self._bytes(array, shard, RangeByteRequest(offset, offset + length))
        wanted = array.dtype.itemsize * int(np.prod(array.shape[1:]))
        # Blosc trusts the sizes in the header; wrong ones would make it read beyond the end.
        if len(packed) != length or _blosc_sizes(packed) != (wanted, length):
            raise _Unreadable(f"its {len(packed)} bytes are not the {length} that unpack to {wanted}")
        return np.frombuffer(numcodecs.blosc.decompress(packed), array.dtype).reshape(array.shape[1:])

    def _read_index(self, key: tuple[int, int], shard: int) -> np.ndarray:
        """Return offset and length of each chunk of a shard, shape (slots, 2)."""
        array = self._arrays[key]
        assert array.shards is not None
        size = 16 * array.shards[0]
        data = self._bytes(array, shard, SuffixByteRequest(size + _CHECKSUM_BYTES))
        if len(data) != size + _CHECKSUM_BYTES:
            raise _Unreadable(f"the index of its shard has {len(data)} bytes, not {size + _CHECKSUM_BYTES}")
        return np.frombuffer(data[:size], "<u8").reshape(-1, 2)

    def _bytes(self, array: zarr.Array[Any], shard: int, wanted: RangeByteRequest | SuffixByteRequest) -> bytes:
        path = array.store_path / array.metadata.encode_chunk_key((shard, 0, 0))
        found = sync(path.get(default_buffer_prototype(), wanted))
        if found is None:
            raise _Unreadable(f"{path} does not exist, though frames of it are marked as good")
        return found.to_bytes()


def _is_plain(array: zarr.Array[Any]) -> bool:
    """Whether an array has the layout of the template: a shard of Blosc chunks, each an image, and its index at the end."""
    metadata = array.metadata
    if not isinstance(metadata, ArrayV3Metadata) or len(metadata.codecs) != 1:
        return False
    (sharding,) = metadata.codecs
    if not isinstance(sharding, ShardingCodec) or sharding.index_location.value != "end" or array.dtype != "<f4":
        return False
    checksum = [type(codec).__name__ for codec in sharding.index_codecs] == ["BytesCodec", "Crc32cCodec"]
    kinds = tuple(type(codec) for codec in sharding.codecs)
    endian = getattr(sharding.codecs[0], "endian", None)
    little = endian is not None and endian.value == "little"
    whole = array.shards is not None and array.shards[1:] == array.shape[1:]
    return checksum and kinds == (BytesCodec, BloscCodec) and little and whole and array.chunks == (1, *array.shape[1:])


def _blosc_sizes(packed: bytes) -> tuple[int, int]:
    """Return unpacked and packed size by the header of a Blosc 1 chunk (c-blosc, README_CHUNK_FORMAT.rst)."""
    if len(packed) < _BLOSC_HEADER.size:
        return 0, 0
    unpacked, _, size = _BLOSC_HEADER.unpack_from(packed)
    return unpacked, size


def _moments(image: np.ndarray) -> dict[str, float]:
    valid = np.isfinite(image)
    count = int(np.count_nonzero(valid))
    return {
        "count": count,
        "mean": float(np.sum(image, dtype=np.float64, where=valid)) / max(count, 1),
        "minimum": float(np.min(image, where=valid, initial=np.inf)),
        "maximum": float(np.max(image, where=valid, initial=-np.inf)),
    }


def _text(moments: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.9g}" for name, value in moments.items())
