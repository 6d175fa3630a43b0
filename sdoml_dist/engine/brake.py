"""The brake: one small actor that every worker asks before it starts a unit.

It lets a run stop without losing units under way, and ends units that kill every worker that tries them.
"""

from __future__ import annotations

MAXIMUM_STARTS = 5


class Brake:
    """Who works on what, and whether new units may start.

    Parameters
    ----------
    hand_over_s : float
        How long a worker keeps answers of short units before it hands them over.
    """

    def __init__(self, hand_over_s: float = 0.0) -> None:
        self._hand_over_s = hand_over_s
        self._stopped = False
        self._starts: dict[str, int] = {}
        self._running: set[str] = set()
        self._ended = 0
        self._known: set[int] = set()
        self._cuts: dict[int, list[int]] = {}

    def begin(self, unit_id: str, number: int | None = None) -> str:
        """Ask to start a unit; answers ``go``, ``stop``, ``poison``, or ``known`` if its answer has reached the driver."""
        if number in self._known:
            return "known"
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

    def call(self, first: int) -> tuple[list[int], float]:
        """Ask how to hand over the answers of a call of several units, known by its first.

        Returns
        -------
        tuple of list of int and float
            After which units answers were handed over before, if Ray repeats the call, and how long to keep others.
        """
        return self._cuts.get(first, []), self._hand_over_s

    def cut(self, first: int, number: int) -> None:
        """Tell that answers are handed over after a unit."""
        self._cuts.setdefault(first, []).append(number)

    def again(self) -> None:
        """Begin another round: what is left comes in other calls."""
        self._cuts = {}

    def received(self, numbers: list[int]) -> None:
        """Tell which answers have reached the driver: these units need not be repeated."""
        self._known.update(numbers)

    def stop(self) -> None:
        """Let no further unit start."""
        self._stopped = True

    def census(self) -> tuple[int, int]:
        """Return how many units are under way, and how many have ended."""
        return len(self._running), self._ended
