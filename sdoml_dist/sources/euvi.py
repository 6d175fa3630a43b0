"""FITS files of STEREO's EUVI: one frame, and the sets of channels that networks take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from sdoml_dist.solar.euvi import EuviFrame, calibrate_euvi
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources.fits import read_fits
from sdoml_dist.store.align import nearest_good


def read_euvi(data: bytes, settings: CalibrationSettings) -> EuviFrame:
    """Read and calibrate the bytes of a FITS file.

    Raises
    ------
    FrameError
        With the status that says why the frame cannot be used.
    """
    return calibrate_euvi(*read_fits(data), settings)


class Placed(Protocol):
    """Something of one spacecraft, channel and time: a frame, or a file of which only the header is known."""

    @property
    def spacecraft(self) -> str:
        """``STEREO_A`` or ``STEREO_B``."""

    @property
    def channel(self) -> str:
        """The channel of AIA that it stands for."""

    @property
    def time(self) -> np.datetime64:
        """Middle of the exposure, UTC."""


F = TypeVar("F", bound=Placed)


@dataclass(frozen=True)
class FrameSet(Generic[F]):
    """Frames of one spacecraft that are near each other in time.

    Attributes
    ----------
    frames : tuple
        In the order of the channels, without those that are missing.
    missing : tuple of str
        Channels without a frame that is near enough.
    """

    frames: tuple[F, ...]
    missing: tuple[str, ...] = ()


def form_sets(frames: Sequence[F], channels: Sequence[str], tolerance_s: float) -> list[FrameSet[F]]:
    """Put frames of one spacecraft together whose times are near each other.

    Parameters
    ----------
    frames : sequence
        Of one or both spacecraft.
    channels : sequence of str
        Channels of AIA that are stood for, in the order wanted, for example ``("304A", "193A", "171A")``.
    tolerance_s : float
        Largest distance from the frame of the first channel.

    Returns
    -------
    list of FrameSet
        In the order of time. One for every frame of the first channel, with the nearest frame of each other one; and where
        no frame of the first channel is near, for every frame of the second, and so on. Frames that are nearest to none are
        in no set.
    """
    sets: list[FrameSet[F]] = []
    for spacecraft in sorted({one.spacecraft for one in frames}):
        mine = {
            name: sorted((one for one in frames if (one.spacecraft, one.channel) == (spacecraft, name)), key=_time)
            for name in channels
        }
        times = {name: np.array([one.time for one in some], "datetime64[ns]") for name, some in mine.items()}
        anchors: list[F] = []
        for number, channel in enumerate(channels):
            before = np.array([one.time for one in anchors], "datetime64[ns]")
            alone = nearest_good(times[channel], before, np.ones(before.size, bool), tolerance_s) < 0
            first = [one for one, free in zip(mine[channel], alone, strict=True) if free]
            others = {
                name: nearest_good(times[channel][alone], times[name], np.ones(times[name].size, bool), tolerance_s)
                for name in channels[number + 1 :]
            }
            for place, one in enumerate(first):
                near = {name: rows[place] for name, rows in others.items()}
                there = (one, *(mine[name][row] for name, row in near.items() if row >= 0))
                sets.append(FrameSet(there, (*channels[:number], *(name for name, row in near.items() if row < 0))))
            anchors += first
    return sorted(sets, key=lambda one: one.frames[0].time)


def channel_sets(frames: Sequence[F], channels: Sequence[str], tolerance_s: float) -> list[tuple[F, ...]]:
    """Return the frames of the sets that have all channels; see :func:`form_sets`.

    Raises
    ------
    FrameError
        MISSING_NO_FRAME if no set is whole.
    """
    sets = [one.frames for one in form_sets(frames, channels, tolerance_s) if not one.missing]
    if not sets:
        counts = {channel: sum(one.channel == channel for one in frames) for channel in channels}
        raise FrameError(FrameStatus.MISSING_NO_FRAME, f"no set within {tolerance_s:g} s; frames: {counts}")
    return sets


def _time(frame: Placed) -> np.datetime64:
    return frame.time
