"""What driver and workers of a training tell each other: to stop, and why there is no use in trying again."""

from __future__ import annotations

import asyncio
import pickle
import time
from typing import Any

from sdoml_dist.errors import EnvironmentFault, SdomlError

_LEAST_BETWEEN_S = 0.1
# What another try may cure. A lost worker shows itself to the others as a broken connection, which is a RuntimeError like
# those that PyTorch raises for wrong shapes.
_PASSING = (EnvironmentFault, OSError, MemoryError)
_PASSING_TOGETHER = (*_PASSING, RuntimeError)


class Control:
    """One small actor on the driver's machine."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._failure: bytes | None = None

    async def stop(self) -> None:
        """Ask the workers to stop after the step under way."""
        self._stop.set()

    async def stopped(self) -> bool:
        """Return once a stop was asked for."""
        return await self._stop.wait()

    async def stopping(self) -> bool:
        """Return whether a stop was asked for."""
        return self._stop.is_set()

    async def fail(self, error: bytes) -> None:
        """Note an error that would come again, pickled; the first one counts."""
        self._failure = self._failure or error

    async def failure(self) -> bytes | None:
        """Return the error that was noted."""
        return self._failure


class StopSignal:
    """Whether the driver wants to stop, at next to no cost per step.

    Parameters
    ----------
    control : ray.actor.ActorHandle
        The run's control.
    """

    def __init__(self, control: Any) -> None:
        self._asked: Any = control.stopped.remote()
        self._known, self._next = False, 0.0

    def __call__(self) -> bool:
        """Return whether to stop."""
        import ray

        now = time.monotonic()
        if not self._known and now >= self._next:
            self._next = now + _LEAST_BETWEEN_S
            # An answer, or the loss of the driver's machine: either way the training is to end.
            self._known = bool(ray.wait([self._asked], timeout=0)[0])
        return self._known


def lasting(error: Exception, alone: bool) -> bytes | None:
    """Return an error pickled if it would come again with every try, else None.

    Parameters
    ----------
    error : Exception
        What ended a worker.
    alone : bool
        Whether there is no other worker whose loss it may come from.
    """
    if isinstance(error, _PASSING if alone else _PASSING_TOGETHER):
        return None
    if isinstance(error, SdomlError):
        return pickle.dumps(error)
    told = SdomlError(
        f"{type(error).__name__} in a worker: {error}", "This is an error of the program.", "Please report it."
    )
    return pickle.dumps(told)


def unpickled(error: bytes) -> SdomlError:
    """Return the error that a worker noted."""
    found: SdomlError = pickle.loads(error)  # noqa: S301 - from our own worker, over Ray
    return found
