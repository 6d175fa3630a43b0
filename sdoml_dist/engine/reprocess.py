"""Reprocess a product, or a stretch of it, on a branch, and merge it when it is complete."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import icechunk
import numpy as np
import zarr

from sdoml_dist.engine.run import Summary, build
from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.overrides import override
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Period, Store, difference
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.status import FrameStatus, has_outcome
from sdoml_dist.store.dataset import reprocess_branch, stored_recipe
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.repository import BRANCH, open_repository
from sdoml_dist.store.template import group_path, product_attributes

logger = logging.getLogger("sdoml")

# What may change without another layout of the arrays.
_CHANGEABLE = ("calibration", "selection", "vector", "source")


@dataclasses.dataclass
class Reprocessed:
    """What a reprocessing came to."""

    summary: Summary
    branch: str
    merged: str | None
    """The snapshot that the dataset now is, or None while something is left to do."""


def reprocess(
    store: Store, product: str, changes: list[str], *, start: str | None = None, end: str | None = None,
    cpus: int | None = None, wait_s: float = 0.0,
) -> Reprocessed:  # fmt: skip
    """Make frames of a product again with a changed calibration; the same call goes on where one was stopped.

    Readers of the dataset see nothing of it until all is done; the branch can be read as a version by its name.

    Parameters
    ----------
    store : Store
        The dataset.
    product : str
        Product.
    changes : list of str
        ``key=value`` changes of the recipe: calibration, selection, vector or source. May be left out to go on.
    start, end : str, optional
        Stretch to reprocess, UTC; by default the whole period. A stretch leaves two calibrations in one dataset; it
        says so whenever it is opened, and every frame has the number of its own in the column CALIBRATION.
    cpus, wait_s
        As in :func:`sdoml_dist.engine.run.build`.

    Raises
    ------
    StoreError
        If another reprocessing is open, or the changes need another layout.
    UsageError
        If nothing is to change.
    """
    branch = reprocess_branch(product)
    with Lease(store, "sdoml reprocess", wait_s):
        repository = open_repository(store)
        recipe = _begin(repository, store, product, branch, changes, start, end)
    summary = build(recipe, verb="reprocess", cpus=cpus, wait_s=wait_s, branch=branch)
    with Lease(store, "sdoml reprocess", wait_s):
        merged = _merge(open_repository(store), product, branch)
    return Reprocessed(summary, branch, merged)


def drop(store: Store, product: str, wait_s: float = 0.0) -> None:
    """Give a reprocessing up; the dataset stays as it was.

    Raises
    ------
    StoreError
        If there is none.
    """
    with Lease(store, "sdoml reprocess --drop", wait_s):
        repository = open_repository(store)
        if reprocess_branch(product) not in repository.list_branches():
            raise StoreError(f"No reprocessing of {product} is under way at {store.url}.")
        repository.delete_branch(reprocess_branch(product))


def _group(session: icechunk.Session, product: str, mode: Any) -> zarr.Group:
    root = zarr.open_group(session.store, mode=mode)
    if product not in root:
        raise UsageError(f"The dataset has no product {product!r}.")
    group = root[product]
    assert isinstance(group, zarr.Group)
    return group


def _begin(
    repository: icechunk.Repository, store: Store, product: str, branch: str, changes: list[str], start: str | None,
    end: str | None,
) -> Recipe:  # fmt: skip
    """Open the branch and mark the frames, or take up the branch that is there; return the recipe to build."""
    current = stored_recipe(_group(repository.readonly_session(BRANCH), product, "r"))
    current = current.model_copy(update={"store": store})
    wanted = parse_recipe(override(current.model_dump(mode="json"), changes)) if changes else None
    if branch in repository.list_branches():
        there = stored_recipe(_group(repository.readonly_session(branch), product, "r"))
        if wanted is not None and difference(there.identity(), wanted.identity()):
            lines = difference(there.identity(), wanted.identity())
            raise StoreError(
                f"Another reprocessing of {product} is under way:\n" + "\n".join(lines), "",
                "Finish it by leaving the changes out, or give it up with --drop.",
            )  # fmt: skip
        return there.model_copy(update={"store": store, "resources": current.resources})
    if wanted is None or not difference(current.identity(), wanted.identity()):
        raise UsageError(
            "Nothing is to change.", "A reprocessing makes frames again with another calibration.",
            "Say what changes: --set calibration.degradation.url=... (or build with --retry to repeat frames).",
        )  # fmt: skip
    before, after = current.identity(), wanted.identity()
    for name in before.keys() | after.keys():
        if name not in _CHANGEABLE and before.get(name) != after.get(name):
            lines = difference({name: before.get(name)}, {name: after.get(name)})
            raise StoreError(
                "This change needs other arrays:\n" + "\n".join(lines), "A reprocessing fills the arrays that are there.",
                "Build the new recipe with a store.url of its own.",
            )  # fmt: skip
    calibration = calibration_identity(wanted)
    repository.create_branch(branch, repository.lookup_branch(BRANCH))
    session = repository.writable_session(branch)
    group = _group(session, product, "r+")
    attributes = product_attributes(Plan(wanted), calibration)
    attributes["calibrations"] = _calibrations(group) | attributes["calibrations"]
    group.attrs.update(
        attributes | {"reprocess": {"base": repository.lookup_branch(BRANCH), "start": start, "end": end}}
    )
    period = Period.model_validate({"start": start or wanted.period.start, "end": end or wanted.period.end})
    number = _mark(group, wanted, period)
    session.commit(f"{product}: reprocess {number} frames", {})
    logger.info("%d frames of %s to reprocess on branch %s", number, product, branch)
    return wanted


def _calibrations(group: zarr.Group) -> dict[str, Any]:
    stored: Any = group.attrs.get("calibrations", {})
    return dict(stored)


def _mark(group: zarr.Group, recipe: Recipe, period: Period) -> int:
    """Set the frames of a period that are there to pending; return how many."""
    number = 0
    part = recipe.model_copy(update={"period": period})
    for year, (first, last) in Plan(recipe).years().items():
        start, stop = Plan(part).years().get(year, (0, 0))
        start, stop = max(start, first), min(stop, last)
        if start >= stop:
            continue
        array = group[f"{group_path(year)}/status"]
        assert isinstance(array, zarr.Array)
        codes = np.asarray(array[start:stop])
        again = ~has_outcome(codes, "missing", "pending")
        codes[again] = int(FrameStatus.PENDING)
        array[start:stop] = codes
        number += int(again.sum())
    return number


def _merge(repository: icechunk.Repository, product: str, branch: str) -> str | None:
    """Make the branch the dataset if nothing is pending on it."""
    session = repository.writable_session(branch)
    group = _group(session, product, "r+")
    recipe = stored_recipe(group)
    used: set[int] = set()
    for year, (start, stop) in Plan(recipe).years().items():
        codes = np.asarray(group[f"{group_path(year)}/status"][start:stop])
        if (codes == int(FrameStatus.PENDING)).any():
            return None
        marks = np.asarray(group[f"{group_path(year)}/keywords/CALIBRATION"][start:stop])
        used |= {int(value) for value in np.unique(marks[codes == int(FrameStatus.OK)])}
    reprocessing: Any = group.attrs["reprocess"]
    del group.attrs["reprocess"]
    group.attrs["calibrations"] = {key: terms for key, terms in _calibrations(group).items() if int(key) in used}
    tip = session.commit(f"{product}: reprocessing complete", {})
    repository.reset_branch(BRANCH, tip, from_snapshot_id=reprocessing["base"])
    repository.delete_branch(branch)
    return tip
