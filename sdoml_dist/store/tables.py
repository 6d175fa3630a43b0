"""The tables over (time, channel) that the driver writes: status, keywords, moments.

Every commit writes some chunks of some forty arrays. What a run costs its driver is mostly this, so all chunks are written by
one event loop at once, and those that the last commit wrote are not read again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.core.sync import sync

from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.template import group_path

_Index = tuple[slice, slice] | tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Piece:
    """The part of a receipt that belongs into one chunk: rows of the receipt, and where they go."""

    receipt: Receipt
    rows: slice
    target: _Index

    def values(self, name: str) -> np.ndarray | None:
        kind, _, key = name.partition("/")
        table = self.receipt.status if kind == "status" else getattr(self.receipt, kind).get(key)
        return None if table is None else table[self.rows]


class TableWriter:
    """Writes the tables of one product; for one committing driver.

    Parameters
    ----------
    channels : tuple of str
        Columns, in the order of the dataset.
    """

    def __init__(self, channels: tuple[str, ...]) -> None:
        self._column = {name: index for index, name in enumerate(channels)}
        self._known: dict[tuple[int, str, int], np.ndarray] = {}
        self._at = ""

    def write(self, product: zarr.Group, receipts: Iterable[Receipt], snapshot: str) -> None:
        """Write what some receipts say: each touched chunk is written once.

        Parameters
        ----------
        product : zarr.Group
            Group of the product in the driver's session.
        receipts : iterable of Receipt
            With sorted slots.
        snapshot : str
            The commit that the session goes on from.
        """
        by_year: dict[int, list[Receipt]] = defaultdict(list)
        for receipt in receipts:
            if receipt.slots.size:
                by_year[receipt.unit.year].append(receipt)
        before, self._known = self._known if snapshot == self._at else {}, {}
        self._known, self._at = sync(self._write(product, by_year, before)), ""

    def committed(self, snapshot: str) -> None:
        """Say which commit holds what was written last; nothing else may have been written since."""
        self._at = snapshot

    async def _write(
        self, product: zarr.Group, by_year: dict[int, list[Receipt]], before: dict[tuple[int, str, int], np.ndarray]
    ) -> dict[tuple[int, str, int], np.ndarray]:
        root = product._async_group
        written: dict[tuple[int, str, int], np.ndarray] = {}
        for year, receipts in by_year.items():
            names = {f"keywords/{name}" for receipt in receipts for name in receipt.keywords}
            names |= {f"moments/{name}" for receipt in receipts for name in receipt.moments}
            ordered = sorted(names | {"status"})
            arrays = await asyncio.gather(*(root.getitem(f"{group_path(year)}/{name}") for name in ordered))
            # All tables of a product have the same chunks (store/template.py).
            pieces = self._pieces(receipts, arrays[0].chunks[0])
            places = [(name, array, chunk) for name, array in zip(ordered, arrays, strict=True) for chunk in pieces]
            blocks = await asyncio.gather(
                *(
                    _update(array, name, chunk, pieces[chunk], before.get((year, name, chunk)))
                    for name, array, chunk in places
                )
            )
            written |= {(year, name, chunk): block for (name, _, chunk), block in zip(places, blocks, strict=True)}
        return written

    def _pieces(self, receipts: list[Receipt], size: int) -> dict[int, list[_Piece]]:
        """Cut receipts at the bounds of chunks."""
        pieces: dict[int, list[_Piece]] = defaultdict(list)
        for receipt in receipts:
            columns = np.array([self._column[name] for name in receipt.channels])
            for chunk in range(int(receipt.slots[0]) // size, int(receipt.slots[-1]) // size + 1):
                first, stop = np.searchsorted(receipt.slots, (chunk * size, (chunk + 1) * size)).tolist()
                if first < stop:
                    target = _index(receipt.slots[first:stop] - chunk * size, columns)
                    pieces[chunk].append(_Piece(receipt, slice(first, stop), target))
        return pieces


def _index(rows: np.ndarray, columns: np.ndarray) -> _Index:
    """Return what selects rows and columns of a block, as slices where they have no gaps."""
    if all(int(part[-1]) - int(part[0]) + 1 == part.size for part in (rows, columns)):
        return (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return np.ix_(rows, columns)


async def _update(array: Any, name: str, chunk: int, pieces: list[_Piece], known: np.ndarray | None) -> np.ndarray:
    """Write one chunk of one array and return it."""
    low = chunk * array.chunks[0]
    rows = slice(low, min(low + array.chunks[0], array.shape[0]))
    block = known
    if block is None:
        block = np.array(await array.getitem((rows, slice(None))))
    for piece in pieces:
        values = piece.values(name)
        if values is not None:
            block[piece.target] = values
    await array.setitem((rows, slice(None)), block)
    return block
