"""Let old versions go: snapshots that no tag holds, and the objects that only they used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import icechunk

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.repository import open_repository
from sdoml_dist.store.storage import environment_fault

SHORTEST_DAYS = 1.0
"""Nothing younger is ever removed: a reader that was opened then may still be at work."""


@dataclass(frozen=True)
class Expired:
    """What was removed."""

    snapshots: int
    objects: int
    bytes: int


def expire(store: Store, older_than_days: float, *, wait_s: float = 0.0) -> Expired:
    """Remove snapshots older than some days; tags, branches and the newest state stay.

    The dataset's lease is held meanwhile, so that no driver has uncommitted objects that would be taken for garbage.

    Parameters
    ----------
    store : Store
        The dataset.
    older_than_days : float
        Age from which snapshots go; at least one day.
    wait_s : float
        How long to wait for a driver's lease.

    Raises
    ------
    UsageError
        If the age is below a day.
    EnvironmentFault
        If a driver is at work, or the storage refuses.
    """
    if older_than_days < SHORTEST_DAYS:
        raise UsageError(
            f"--older-than {older_than_days:g} is below a day.", "Readers opened since then would lose their data.",
            "Choose a day or more.",
        )  # fmt: skip
    with Lease(store, "sdoml expire", wait_s):
        repository = open_repository(store)
        limit = datetime.now(UTC) - timedelta(days=older_than_days)
        try:
            snapshots = repository.expire_snapshots(limit)
            removed = repository.garbage_collect(limit)
        except icechunk.IcechunkError as error:
            raise environment_fault(error, store, "Removing old versions") from error
    objects = sum(
        getattr(removed, f"{kind}_deleted", 0)
        for kind in ("chunks", "manifests", "snapshots", "attributes", "transaction_logs")
    )
    return Expired(len(snapshots), objects, int(getattr(removed, "bytes_deleted", 0)))
