"""Independent parts of one plan: which unit belongs to which part, and how SLURM writes sets of parts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sdoml_dist.errors import UsageError


@dataclass(frozen=True)
class Part:
    """One of several parts of a plan: a stretch of its units in order of time.

    Attributes
    ----------
    number : int
        Which, from 1.
    of : int
        How many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, index: int, units: int) -> bool:
        """Whether a unit belongs to this part.

        Parameters
        ----------
        index : int
            Place of the unit in the plan, from 0.
        units : int
            Units of the plan.
        """
        return part_of(index, units, self.of) == self.number


def part_of(index: int, units: int, of: int) -> int:
    """Return the number of the part that a unit belongs to; parts differ by one unit at most.

    Parameters
    ----------
    index : int
        Place of the unit in the plan, from 0.
    units : int
        Units of the plan.
    of : int
        Number of parts.
    """
    return index * of // units + 1


def parse_part(text: str) -> Part:
    """Read ``3/8``.

    Raises
    ------
    UsageError
        If it is not a part.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"{text!r} is not a part of a plan.", "Parts are numbered from 1.", "For example --part 3/8.")
    return Part(int(match[1]), int(match[2]))


def array_expression(numbers: Iterable[int]) -> str:
    """Write numbers as ``sbatch --array`` takes them, for example ``3,7-9``."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
