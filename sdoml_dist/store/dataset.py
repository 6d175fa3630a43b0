"""The dataset: open, create, write shards through forks, and commit receipts.

The repository is the record of what is done. A commit makes a batch of shards and the status of their frames visible
at once; a crash leaves readers at the previous commit and costs the units under way.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import zarr

from sdoml_dist.errors import StoreError
from sdoml_dist.plan import Plan, Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import difference
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.status import has_outcome
from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.repository import BRANCH, Ledger
from sdoml_dist.store.tables import TableWriter
from sdoml_dist.store.template import ensure_template, group_path, product_attributes


def products_of(root: zarr.Group) -> list[str]:
    """Return the names of the products that a dataset holds, in the order of the catalogue."""
    return [name for name in PRODUCTS if name in root and "recipe" in root[name].attrs]


def stored_recipe(product: zarr.Group) -> Recipe:
    """Return the recipe that a product was built from."""
    return parse_recipe(product.attrs["recipe"], "stored in the dataset")


def reprocess_branch(product: str) -> str:
    """Return the name of the branch on which a product is reprocessed."""
    return f"reprocess-{product}"


class Dataset:
    """One product of a dataset, opened for writing by the dataset's one driver.

    Parameters
    ----------
    plan : Plan
        What to build.
    calibration : dict
        Versions and hashes of the calibration tables, kept in the product's attributes.
    extend : bool
        Whether the stored period may grow to the plan's.
    branch : str
        Which line of commits to go on with.
    ledger : Ledger, optional
        Of products that are committed together; by default one of its own.
    """

    def __init__(
        self, plan: Plan, calibration: dict[str, Any], extend: bool = False, branch: str = BRANCH,
        ledger: Ledger | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.store = plan, plan.recipe.store
        self.ledger = Ledger(self.store, branch) if ledger is None else ledger
        self._tables = TableWriter(plan.recipe.channels)
        self._adopt(calibration, extend)

    @cached_property
    def fork_bytes(self) -> bytes:
        """A pickled fork of the session, through which workers write."""
        return self.ledger.fork()

    def _adopt(self, calibration: dict[str, Any], extend: bool) -> None:
        """Create what the plan needs, or refuse a plan that does not fit what is there."""
        name = self.plan.recipe.product
        if self.ledger.branch == BRANCH and reprocess_branch(name) in self.ledger.repository.list_branches():
            raise StoreError(
                f"A reprocessing of {name} at {self.store.url} is under way on the branch {reprocess_branch(name)}.",
                "What is added to the dataset meanwhile would be lost when it is merged.",
                f"Finish it (sdoml reprocess {self.store.url} --product {name}), or give it up with --drop.",
            )
        product = self.ledger.group(mode="a").require_group(self.plan.recipe.product)
        fresh = "recipe" not in product.attrs
        if not fresh:
            self._refuse_drift(stored_recipe(product), dict(product.attrs["calibration"]), calibration, extend)
        wanted = product_attributes(self.plan, calibration)
        if not fresh:
            wanted["calibrations"] = dict(product.attrs.get("calibrations", {})) | wanted["calibrations"]
        if fresh or product.attrs["plan_id"] != wanted["plan_id"] or self._lacks_years(product):
            product.attrs.update(wanted)
            ensure_template(product, self.plan)
            self.ledger.commit(f"{self.plan.recipe.product}: {'create' if fresh else 'extend the period'}")

    def _lacks_years(self, product: zarr.Group) -> bool:
        return any(group_path(year) not in product for year in self.plan.years())

    def _product(self, mode: Literal["r", "r+"] = "r") -> zarr.Group:
        return self.ledger.group(self.plan.recipe.product, mode)

    def _refuse_drift(
        self, stored: Recipe, old_calibration: dict[str, Any], calibration: dict[str, Any], extend: bool
    ) -> None:
        recipe = self.plan.recipe
        lines = difference(stored.identity(), recipe.identity())
        lines += difference(old_calibration, calibration, "calibration file ")
        if lines:
            raise StoreError(
                f"{self.store.url} was built from another recipe:\n" + "\n".join(lines),
                "Mixing both in one dataset would make frames that cannot be compared.",
                "Undo the change, or give the new recipe a store.url of its own.",
            )
        if stored.period != recipe.period and not extend:
            raise StoreError(
                f"{self.store.url} covers {stored.period.start} to {stored.period.end}, "
                f"the recipe {recipe.period.start} to {recipe.period.end}.",
                "A build does not change the period of a dataset.",
                f"To extend it: sdoml update {self.store.url} --to {recipe.period.end}",
            )
        if recipe.period.first > stored.period.first or recipe.period.last < stored.period.last:
            raise StoreError(
                f"{self.store.url} covers {stored.period.start} to {stored.period.end}; "
                f"{recipe.period.start} to {recipe.period.end} would cut that.",
                "An update only ever adds.",
                "Choose a later end.",
            )

    def status(self, year: int) -> np.ndarray:
        """Return the status codes of a year, shape (slots, channels), uint8."""
        return self.table(year, "status")

    def table(self, year: int, name: str) -> np.ndarray:
        """Return a table of a year, for example ``keywords/SOURCE_ID``, shape (slots, channels)."""
        values: np.ndarray = np.asarray(self._product()[f"{group_path(year)}/{name}"][:])
        return values

    def pending(self, retry: Iterable[str] = ()) -> list[tuple[Unit, np.ndarray]]:
        """Return the units with work left, and for each the slots of the year to do.

        Parameters
        ----------
        retry : iterable of str
            Outcomes to do again besides what is pending, for example ``("failed",)``.
        """
        tables = {year: has_outcome(self.status(year), "pending", *retry) for year in self.plan.years()}
        recipe = self.plan.recipe
        columns = {bundle.name: [recipe.channels.index(name) for name in bundle.channels] for bundle in recipe.bundles}
        numbers = {year: np.arange(table.shape[0]) for year, table in tables.items()}
        work = []
        for unit in self.plan.units():
            todo = tables[unit.year][unit.start : unit.stop, columns[unit.bundle]].any(axis=1)
            if todo.all():
                # A view of one array per year: of a whole mission nothing else would fit into memory.
                work.append((unit, numbers[unit.year][unit.start : unit.stop]))
            elif todo.any():
                work.append((unit, np.flatnonzero(todo) + unit.start))
        return work

    def commit(self, receipts: list[Receipt], message: str, metadata: dict[str, Any]) -> None:
        """Make the shards of these receipts, and what became of their frames, visible at once.

        Raises
        ------
        EnvironmentFault
            If the storage refuses, or another driver has committed meanwhile.
        """
        forks = (receipt.fork for receipt in receipts if receipt.fork)
        self.ledger.merge(forks, partial(self.write_tables, receipts), message, metadata)
        self._tables.committed(self.ledger.snapshot)

    def write_tables(self, receipts: list[Receipt]) -> None:
        """Write status, keywords and moments: each touched array chunk is written once."""
        self._tables.write(self._product("r+"), receipts, self.ledger.snapshot)

    @contextlib.contextmanager
    def writing(self, message: str) -> Iterator[zarr.Group]:
        """Change small arrays through the product's group; committed at the end if anything has changed."""
        yield self._product("r+")
        if self.ledger.changed:
            self.ledger.commit(message)


def write_unit(
    fork_bytes: bytes,
    recipe: Recipe,
    unit: Unit,
    slots: np.ndarray,
    values: dict[str, np.ndarray],
    headers: list[str],
    histograms: dict[str, np.ndarray],
) -> bytes:
    """Write what a unit made into its shards, through a fresh fork; runs on the worker.

    Parameters
    ----------
    fork_bytes : bytes
        Pickled fork of the driver's session.
    recipe : Recipe
        The recipe.
    unit : Unit
        The unit.
    slots : numpy.ndarray
        Slots of the year that were processed, shape (frames,).
    values : dict of str to numpy.ndarray
        Per channel its shard, shape (slots of the shard, y, x) or (slots of the shard,), float32; only the processed
        slots are used if others exist.
    headers : list of str
        JSON per processed slot.
    histograms : dict of str to numpy.ndarray
        Per image channel, shape (frames, bins), uint32.

    Returns
    -------
    bytes
        The pickled fork, to be merged by the driver.
    """
    fork = pickle.loads(fork_bytes)  # noqa: S301 - made by the driver of this run
    group = zarr.open_group(fork.store, path=f"{recipe.product}/{group_path(unit.year)}", mode="r+")
    header = group[f"headers/{unit.bundle}"]
    low = unit.shard * recipe.shard_slots
    high = min(low + recipe.shard_slots, header.shape[0])
    index = slots - low
    # Frames of this shard that an earlier run finished stay as they are; the shard is written as a whole.
    others = np.ones(high - low, dtype=bool)
    others[index] = False
    text = np.asarray(header[low:high], dtype=object)
    kept = any(text[others])
    text[index] = np.array(headers, dtype=object)
    header[low:high] = text
    for name, shard in values.items():
        array, block = group[name], shard[: high - low]
        if kept:
            before = np.asarray(array[low:high])
            before[index] = block[index]
            block = before
        array[low:high] = block
    for name, rows in histograms.items():
        counts = np.asarray(group[f"histogram/{name}"][low:high])
        counts[index] = rows
        group[f"histogram/{name}"][low:high] = counts
    return pickle.dumps(fork)
