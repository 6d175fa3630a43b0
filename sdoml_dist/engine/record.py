"""The record of a run next to the dataset: its state, its exit code, and the history of its units, a part per commit."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from sdoml_dist.errors import ExitCode, SdomlError
from sdoml_dist.recipe_base import Store
from sdoml_dist.redact import redact
from sdoml_dist.store.receipt import Outcome, phases_of
from sdoml_dist.store.storage import write_atomic

logger = logging.getLogger("sdoml")


class RunRecord:
    """What a run does, kept below ``sdoml/runs/`` of the dataset.

    Parameters
    ----------
    store : Store
        The dataset.
    plan_id : str
        Identity of the plan.
    verb : str
        Name of the command.
    label : str
        Tells runs apart that begin in the same second on several machines.
    """

    def __init__(self, store: Store, plan_id: str, verb: str, label: str = "") -> None:
        self.store = store
        self.run_id = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{plan_id[:8]}-{os.getpid()}{label}"
        self.data: dict[str, Any] = {
            "run_id": self.run_id, "verb": verb, "plan_id": plan_id, "host": socket.gethostname(),
            "pid": os.getpid(), "started_unix_s": time.time(), "state": "running", "exit_code": None,
        }  # fmt: skip
        self.projected_memory_bytes = 0
        """What the plan says that a worker takes."""
        self._parts = 0
        self._lines: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Remember a finished unit."""
        counts = outcome.outcomes()
        self._lines.append(
            json.dumps(
                {
                    "unit": outcome.unit_id,
                    "frames": counts.total(),
                    "outcomes": counts,
                    "started_unix_s": outcome.started,
                    "seconds": outcome.seconds,
                    "phases": phases_of(outcome),
                    "read_bytes": outcome.read_bytes,
                    "peak_memory_bytes": outcome.peak_memory_bytes,
                    "projected_memory_bytes": self.projected_memory_bytes,
                    "node": outcome.node,
                    "worker": getattr(outcome, "worker", ""),
                    "failed": [redact(detail) for detail in outcome.details],
                }
            )
        )

    @contextlib.contextmanager
    def running(self, summary: Any, told: Callable[[], dict[str, Any]]) -> Iterator[None]:
        """Record that the block runs, and how it ended.

        Parameters
        ----------
        summary : object
            Its attribute `exit_code` counts if the block ends by itself.
        told : callable
            Returns what else is recorded at the end.
        """
        code = ExitCode.BUG
        self.save()
        try:
            yield
            code = summary.exit_code
        except SdomlError as error:
            code = error.exit_code
            raise
        except KeyboardInterrupt:
            code = ExitCode.STOPPED
            raise
        finally:
            self.save(state="ended", exit_code=int(code), ended_unix_s=time.time(), **told())

    def save(self, **changes: Any) -> None:
        """Write what is new; where the storage refuses, it stays for the next time: a record is never worth a run."""
        self.data |= changes
        try:
            if self._lines:
                name = f"runs/{self.run_id}/history-{self._parts:05d}.jsonl"
                write_atomic(self.store, name, ("\n".join(self._lines) + "\n").encode())
                self._parts, self._lines = self._parts + 1, []
            write_atomic(self.store, f"runs/{self.run_id}/run.json", json.dumps(self.data, indent=1).encode())
        except OSError as error:
            logger.warning("the record of the run could not be written: %s", error)
