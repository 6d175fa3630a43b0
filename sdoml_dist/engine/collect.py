"""Collect what a pool hands back, and commit it every so often."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any

from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.record import RunRecord
from sdoml_dist.recipe_base import Resources


def collect(
    receipts: Generator[Any, None, None], resources: Resources, progress: Progress, record: RunRecord,
    commit: Callable[[list[Any]], None],
) -> None:  # fmt: skip
    """Read a pool to its end; whatever ends it, what has come back is committed.

    Parameters
    ----------
    receipts : generator
        Of :func:`sdoml_dist.engine.pool.pooled`.
    resources : Resources
        How often to commit.
    progress : Progress
        Counts frames.
    record : RunRecord
        Remembers units.
    commit : callable
        Makes the work of some receipts visible at once.
    """
    waiting: list[Any] = []
    committed = time.monotonic()

    def commit_all() -> None:
        nonlocal committed
        if waiting:
            commit(waiting)
            waiting.clear()
            record.save()
        committed = time.monotonic()

    try:
        with contextlib.closing(receipts):
            for receipt in receipts:
                if receipt is not None:
                    waiting.append(receipt)
                    progress.add(receipt)
                    record.add(receipt)
                late = time.monotonic() - committed >= resources.commit_every_s
                if len(waiting) >= resources.commit_every_units or late:
                    commit_all()
    finally:
        commit_all()
        progress.close()
