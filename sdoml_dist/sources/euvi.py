"""FITS files of STEREO's EUVI: one frame, a folder of them, and the sets of channels that networks take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.euvi import EuviFrame, calibrate_euvi
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources.fits import read_fits


def read_euvi(data: bytes, settings: CalibrationSettings) -> EuviFrame:
    """Read and calibrate the bytes of a FITS file.

    Raises
    ------
    FrameError
        With the status that says why the frame cannot be used.
    """
    return calibrate_euvi(*read_fits(data), settings)


def read_folder(
    url: str | Path, settings: CalibrationSettings, glob: str = "**/*.f*ts"
) -> tuple[list[EuviFrame], dict[str, FrameError]]:
    """Read all frames below a folder, in the order of time.

    Parameters
    ----------
    url : str or pathlib.Path
        Local folder or any address of fsspec.
    settings : CalibrationSettings
        Grid and limits.
    glob : str
        Which files.

    Returns
    -------
    tuple of (list of EuviFrame, dict of str to FrameError)
        Frames, and why other files are none, by path. Nothing is left out silently.

    Raises
    ------
    UsageError
        If there is no such file.
    """
    filesystem, root = fsspec.core.url_to_fs(str(url))
    paths = sorted(str(path) for path in filesystem.glob(f"{root.rstrip('/')}/{glob}"))
    if not paths:
        raise UsageError(f"There is no file {glob} below {url}.", "", "Give the folder that holds the FITS files.")
    frames, problems = [], {}
    for path in paths:
        try:
            frames.append(read_euvi(filesystem.cat_file(path), settings))
        except FrameError as error:
            problems[path] = error
    return sorted(frames, key=lambda one: one.frame.time), problems


def channel_sets(
    frames: Sequence[EuviFrame], channels: Sequence[str], tolerance_s: float
) -> list[tuple[EuviFrame, ...]]:
    """Put frames of one spacecraft together whose times are near each other.

    Parameters
    ----------
    frames : sequence of EuviFrame
        Of one or both spacecraft.
    channels : sequence of str
        Channels of AIA that are stood for, in the order wanted, for example ``("304A", "193A", "171A")``.
    tolerance_s : float
        Largest distance from the frame of the first channel.

    Returns
    -------
    list of tuple of EuviFrame
        One set for every frame of the first channel that has all others near; each is the nearest.

    Raises
    ------
    FrameError
        MISSING_NO_FRAME if no set is whole.
    """
    sets = []
    for spacecraft in sorted({one.spacecraft for one in frames}):
        mine = [one for one in frames if one.spacecraft == spacecraft]
        for first in (one for one in mine if one.channel == channels[0]):
            chosen = [first]
            for channel in channels[1:]:
                others = [one for one in mine if one.channel == channel]
                distances = [abs((one.frame.time - first.frame.time) / np.timedelta64(1, "s")) for one in others]
                if distances and min(distances) <= tolerance_s:
                    chosen.append(others[int(np.argmin(distances))])
            if len(chosen) == len(channels):
                sets.append(tuple(chosen))
    if not sets:
        counts = {channel: sum(one.channel == channel for one in frames) for channel in channels}
        raise FrameError(FrameStatus.MISSING_NO_FRAME, f"no set within {tolerance_s:g} s; frames: {counts}")
    return sorted(sets, key=lambda one: one[0].frame.time)
