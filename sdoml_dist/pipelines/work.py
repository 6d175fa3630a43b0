"""What a pipeline makes of one unit, before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdoml_dist.plan import Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.keywords import KeywordSpec
from sdoml_dist.store.statistics import BINS, MOMENTS, describe
from sdoml_dist.store.template import NOT_A_TIME

_MOST_DETAILS = 5


@dataclass
class Work:
    """Shards, and columns over (frames, channels), filled by a pipeline.

    Attributes
    ----------
    channels : tuple of str
        What the unit's bundle makes.
    values : dict of str to numpy.ndarray
        Per channel its shard, shape (slots of the shard, y, x) or (slots of the shard,), float32, NaN where no data.
    status : numpy.ndarray
        Shape (frames, channels), uint8.
    keywords, moments : dict of str to numpy.ndarray
        Shape (frames, channels).
    histograms : dict of str to numpy.ndarray
        Per image channel, shape (frames, bins).
    texts : list of str
        The record of each frame as JSON.
    phases : dict of str to float
        What the time went into, seconds.
    """

    channels: tuple[str, ...]
    specs: dict[str, KeywordSpec]
    values: dict[str, np.ndarray]
    status: np.ndarray
    keywords: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]
    histograms: dict[str, np.ndarray]
    texts: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    read_bytes: int = 0
    phases: dict[str, float] = field(default_factory=dict)

    @classmethod
    def empty(cls, recipe: Recipe, unit: Unit, frames: int) -> Work:
        """Return work that holds nothing yet."""
        channels = recipe.bundle(unit.bundle).channels
        images = recipe.contents.kind == "images"
        shape = (recipe.shard_slots, *([recipe.grid.pixels] * 2 if images else []))
        table = (frames, len(channels))
        specs = recipe.contents.keywords
        return cls(
            channels,
            specs,
            {name: np.full(shape, np.nan, np.float32) for name in channels},
            np.zeros(table, np.uint8),
            {name: np.full(table, spec.fill, spec.dtype) for name, spec in specs.items()},
            {
                name: np.full(table, np.nan if dtype[0] == "f" else 0, dtype)
                for name, (dtype, _) in (MOMENTS.items() if images else ())
            },
            {name: np.zeros((frames, BINS), np.uint32) for name in channels} if images else {},
        )

    def store_image(self, row: int, column: int, place: int, image: np.ndarray) -> None:
        """Put a frame's image of a channel into its place in the shard, and its statistics into the columns."""
        name = self.channels[column]
        self.values[name][place] = image
        for key, value in zip(MOMENTS, describe(image, self.histograms[name][row]), strict=True):
            self.moments[key][row, column] = value

    def store_keywords(self, row: int, values: dict[str, Any]) -> None:
        """Put a frame's keywords into the columns of all its channels; times become nanoseconds since 1970 UTC."""
        for name, spec in self.specs.items():
            value = values.get(name)
            if value is None:
                continue
            if spec.is_time:
                value = NOT_A_TIME if np.isnat(value) else np.datetime64(value, "ns").astype(np.int64)
            self.keywords[name][row] = value

    def spend(self, phase: str, seconds: float) -> None:
        """Add some time to a phase."""
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def note(self, detail: str) -> None:
        """Remember what was wrong with a frame, for the run's history."""
        if len(self.details) < _MOST_DETAILS:
            self.details.append(detail)
