"""What a worker hands back for a unit: a few kilobytes, never pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sdoml_dist.plan import Unit
from sdoml_dist.solar.status import FrameStatus


class Outcome(Protocol):
    """What a run tells about a unit, whatever its kind.

    Attributes
    ----------
    status : numpy.ndarray
        Status codes, shape (frames, channels), or (frames,) where there are no channels.
    started, seconds, read_bytes, peak_memory_bytes
        For the history and the estimate.
    node : str
        Name of the machine.
    details : list of str
        What was wrong with frames that failed.
    """

    status: np.ndarray
    started: float
    seconds: float
    read_bytes: int
    peak_memory_bytes: int
    node: str
    details: list[str]

    @property
    def unit_id(self) -> str:
        """Identity of the unit."""

    def outcomes(self) -> Counter[str]:
        """Count frames by outcome."""


def phases_of(outcome: Outcome) -> dict[str, float]:
    """Return what the time of a unit went into, seconds by phase; units that do not measure it have one phase.

    ``source`` is the wait for frames to arrive, ``decode`` and ``calibrate`` are work on them, ``compute`` is all work
    where it is not told apart, ``write`` is the writing of shards; what is left to the whole time is ``other``.
    """
    told: dict[str, float] = dict(getattr(outcome, "phases", {}))
    return told | {"other": max(outcome.seconds - sum(told.values()), 0.0)}


def count_outcomes(status: np.ndarray) -> Counter[str]:
    """Count status codes by outcome: ok, missing, rejected, failed, pending."""
    codes, numbers = np.unique(status, return_counts=True)
    counts: Counter[str] = Counter()
    for code, number in zip(codes, numbers, strict=True):
        counts[FrameStatus(int(code)).outcome] += int(number)
    return counts


def channel_of(outcome: Outcome) -> str:
    """Return what a unit is of: its channel, or the bundle that is made together, or the quantity that is tracked.

    Units of all channels at once, of a region or of a tile of pixels have none and are told under ``-``.
    """
    channels: tuple[str, ...] = getattr(outcome, "channels", ())
    if len(channels) == 1:
        return channels[0]
    unit = getattr(outcome, "unit", None)
    return str(getattr(unit, "bundle", None) or getattr(unit, "quantity", None) or "-")


@dataclass
class FileReceipt:
    """Outcome of one unit whose result is files: of an encoding or an export.

    Attributes
    ----------
    unit_id : str
        Identity of the unit.
    status : numpy.ndarray
        Status codes, shape (frames,), uint8.
    channels : tuple of str
        The channel, where the unit is of one.
    written_bytes : int
        Bytes of its files.
    phases : dict of str to float
        What the time went into, seconds.
    """

    unit_id: str
    status: np.ndarray
    channels: tuple[str, ...] = ()
    started: float = 0.0
    seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    peak_memory_bytes: int = 0
    node: str = ""
    details: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    def outcomes(self) -> Counter[str]:
        """Count frames by outcome."""
        return count_outcomes(self.status)


@dataclass
class Receipt:
    """Outcome of one unit of a build.

    Attributes
    ----------
    unit : Unit
        The unit.
    slots : numpy.ndarray
        Slots of the year that were processed, shape (frames,).
    channels : tuple of str
        What the unit's bundle makes.
    status : numpy.ndarray
        Status codes, shape (frames, channels), uint8.
    keywords, moments : dict of str to numpy.ndarray
        Values, shape (frames, channels).
    fork : bytes
        The pickled fork of the session through which the shard was written; empty if nothing was written.
    phases : dict of str to float
        What the time went into, seconds.
    worker : str
        Which process of the node it was.
    """

    unit: Unit
    slots: np.ndarray
    channels: tuple[str, ...]
    status: np.ndarray
    keywords: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]
    fork: bytes = b""
    started: float = 0.0
    seconds: float = 0.0
    read_bytes: int = 0
    peak_memory_bytes: int = 0
    node: str = ""
    details: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    worker: str = ""

    @property
    def unit_id(self) -> str:
        """Identity of the unit."""
        return self.unit.unit_id

    def outcomes(self) -> Counter[str]:
        """Count frames by outcome."""
        return count_outcomes(self.status)
