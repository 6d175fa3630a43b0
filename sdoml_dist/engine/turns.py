"""The right of a run to commit: for as long as it lasts, or, where several parts of a plan run at once, in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from sdoml_dist.parts import Part
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.repository import Ledger


class Turns:
    """Hold the lease of a dataset, or of a part of its plan; a context manager.

    Parameters
    ----------
    store : Store
        The dataset.
    purpose : str
        What the holder does, told to those who are refused.
    wait_s : float
        How long to wait for another driver's lease.
    part : Part, optional
        The part that is driven; by default all.
    """

    def __init__(self, store: Store, purpose: str, wait_s: float, part: Part | None = None) -> None:
        self.store, self.wait_s, self.part = store, wait_s, part
        self.purpose = purpose if part is None else f"{purpose} --part {part}"
        self._lease = Lease(store, self.purpose, wait_s, part=None if part is None else (part.number, part.of))

    def __enter__(self) -> Self:
        self._lease.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._lease.__exit__(kind, error)

    @contextlib.contextmanager
    def turn(self, ledger: Ledger | None = None) -> Iterator[None]:
        """Be the only one to commit meanwhile.

        Parameters
        ----------
        ledger : Ledger, optional
            What is committed to; it goes on from what others have committed since.

        Raises
        ------
        EnvironmentFault
            If the lease was lost, or the turn never comes.
        """
        self._lease.check()
        if self.part is None:
            yield
            return
        with Lease(self.store, self.purpose, self.wait_s, turn=True) as lease:
            if ledger is not None:
                ledger.renew()
            lease.check()
            yield
