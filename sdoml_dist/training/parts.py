"""Descriptions of splits of time into training, validation and test, for configurations of experiments."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from sdoml_dist.recipe_base import Section, parse_duration
from sdoml_dist.store.splits import NONE, block_split, month_split, random_month_split


class Whole(Section):
    """Everything is in one part."""

    kind: Literal["whole"] = "whole"
    part: str = "train"
    """Its label."""

    def labels(self, times: np.ndarray) -> np.ndarray:
        """Return the label of each time."""
        return np.full(times.shape, self.part, dtype=object)


class Months(Section):
    """Parts by month of the year."""

    kind: Literal["months"] = "months"
    months: str | dict[str, tuple[int, ...]] = "virtual-eve"
    """Name of a published split (``virtual-eve``, ``autocalibration``), or months 1 to 12 by part."""

    def labels(self, times: np.ndarray) -> np.ndarray:
        """Return the label of each time."""
        return month_split(times, self.months)


class RandomMonths(Section):
    """Parts by months that are drawn anew for every year, as for far-side magnetograms (Jeong et al. 2020)."""

    kind: Literal["random-months"] = "random-months"
    counts: dict[str, int] = {"test": 2, "validation": 1}  # noqa: RUF012 - pydantic copies it
    """Months of each year by part; all others are in ``rest``."""
    rest: str = "train"
    """Part of the other months."""
    seed: int = 0
    """Another seed draws other months."""

    def labels(self, times: np.ndarray) -> np.ndarray:
        """Return the label of each time."""
        return random_month_split(times, self.counts, rest=self.rest, seed=self.seed)


class Periods(Section):
    """Parts by stretches of time."""

    kind: Literal["periods"] = "periods"
    periods: dict[str, tuple[str, str]]
    """Start and end (exclusive) of each part, UTC; what lies in none belongs to no part."""

    @model_validator(mode="after")
    def _apart(self) -> Periods:
        ends = sorted(
            (np.datetime64(start, "ns"), np.datetime64(end, "ns"), name) for name, (start, end) in self.periods.items()
        )
        for start, end, name in ends:
            if start >= end:
                raise ValueError(f"part {name} ends ({end}) before it starts ({start})")
        for (_, end, before), (start, _, after) in pairwise(ends):
            if start < end:
                raise ValueError(f"parts {before} and {after} overlap")
        return self

    def labels(self, times: np.ndarray) -> np.ndarray:
        """Return the label of each time."""
        labels = np.full(times.shape, NONE, dtype=object)
        for name, (start, end) in self.periods.items():
            labels[(times >= np.datetime64(start, "ns")) & (times < np.datetime64(end, "ns"))] = name
        return labels


class Blocks(Section):
    """Parts by blocks of time with gaps between them."""

    kind: Literal["blocks"] = "blocks"
    fractions: dict[str, float]
    """Share of the blocks by part; they add up to 1."""
    block: int = 28 * 86400
    """Length of a block, for example ``28d``."""
    gap: int = 2 * 86400
    """How much at the end of a block belongs to no part, for example ``2d``."""
    seed: int = 0
    """Another seed gives another assignment of blocks to parts."""

    _durations = field_validator("block", "gap", mode="before")(parse_duration)

    def labels(self, times: np.ndarray) -> np.ndarray:
        """Return the label of each time."""
        return block_split(times, self.fractions, block=self.block, gap=self.gap, seed=self.seed)


Split = Whole | Months | RandomMonths | Periods | Blocks
"""Description of a split."""
SplitField = Annotated[Split, Field(discriminator="kind")]
"""The same as a field of a configuration, for example ``{"kind": "months", "months": "virtual-eve"}``."""
