"""Collect what a pool hands back, and commit it every so often."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.record import RunRecord
from sdoml_dist.recipe_base import Resources

# The C library keeps what each of many threads has freed, a little more with every commit; glibc can be told to give it back.
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
# A pool that is faster than the commits waits once so many receipts wait: two commits of the largest size, or these.
_LEAST_WAITING = 64


def give_back_memory() -> None:
    """Give memory that was freed back to the system, where the C library can be told to."""
    if _TRIM is not None:
        _TRIM(0)


class Committer:
    """Commits in a thread of its own, so that receipts are taken meanwhile; what has come back during a commit goes together.

    Parameters
    ----------
    resources : Resources
        How often to commit.
    commit : callable
        Makes the work of some receipts visible at once.
    """

    def __init__(self, resources: Resources, commit: Callable[[list[Any]], None]) -> None:
        self._number, self._every_s, self._commit = resources.commit_every_units, resources.commit_every_s, commit
        self._waiting: list[Any] = []
        self._since = 0.0
        self._closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="committer")
        self._thread.start()

    def add(self, receipt: Any) -> None:
        """Take a receipt; waits if too many are waiting.

        Raises
        ------
        Exception
            What a commit raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or len(self._waiting) < max(2 * self._number, _LEAST_WAITING))
            if self._error is not None:
                return
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(receipt)
            self._changed.notify_all()

    @property
    def failed(self) -> bool:
        """Whether a commit has failed; no other is tried."""
        return self._error is not None

    def _due(self) -> bool:
        if not self._waiting:
            return self._closed
        late = time.monotonic() - self._since >= self._every_s
        return self._closed or late or len(self._waiting) >= self._number

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due():
                    # Without receipts nothing is due before one comes.
                    left = self._since + self._every_s - time.monotonic() if self._waiting else None
                    self._changed.wait(left)
                batch, self._waiting = self._waiting, []
                self._changed.notify_all()
            if not batch:
                return
            try:
                self._commit(batch)
                batch.clear()
                give_back_memory()
            except Exception as error:  # noqa: BLE001 - raised where the run ends
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def close(self) -> None:
        """Commit what is waiting and end.

        Raises
        ------
        Exception
            What a commit raised.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error


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

    def commit_and_record(batch: list[Any]) -> None:
        commit(batch)
        for receipt in batch:
            record.add(receipt)
        record.save()

    committer = Committer(resources, commit_and_record)
    try:
        with contextlib.closing(receipts):
            for receipt in receipts:
                if receipt is not None:
                    committer.add(receipt)
                    progress.add(receipt)
                if committer.failed:
                    break
    finally:
        try:
            committer.close()
        finally:
            progress.close()
