"""The brake: one small actor that every worker asks before it starts a unit.

It lets a run stop without losing units under way, and ends units that kill every worker that tries them.
"""

from __future__ import annotations

MAXIMUM_STARTS = 5


class Brake:
    """Who works on what, and whether new units may start."""

    def __init__(self) -> None:
        self._stopped = False
        self._starts: dict[str, int] = {}
        self._running: set[str] = set()
        self._ended = 0

    def begin(self, unit_id: str) -> str:
        """Ask to start a unit; answers ``go``, ``stop`` or ``poison``."""
        if self._stopped:
            return "stop"
        self._starts[unit_id] = self._starts.get(unit_id, 0) + 1
        self._running.add(unit_id)
        return "poison" if self._starts[unit_id] > MAXIMUM_STARTS else "go"

    def end(self, unit_id: str) -> None:
        """Report that a unit has ended."""
        self._running.discard(unit_id)
        self._starts.pop(unit_id, None)
        self._ended += 1

    def stop(self) -> None:
        """Let no further unit start."""
        self._stopped = True

    def census(self) -> tuple[int, int]:
        """Return how many units are under way, and how many have ended."""
        return len(self._running), self._ended
