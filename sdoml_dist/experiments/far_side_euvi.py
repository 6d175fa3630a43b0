"""Apply far-side networks to STEREO's EUVI: from a folder of frames to magnetograms as FITS files.

Frames of one spacecraft that are near each other in time make a set. Each image is registered to the grid that the network
was trained on, brought to a median of 100 over the disc and, where a curve is given, to the distribution of AIA's channel.
Version 3 also sees what SDO saw of the same longitudes when they faced Earth: the observations nearest to the separation
divided by 360 degrees, in synodic rotations, before.

A file has the field in gauss, north up, NaN beyond 0.98 radii, with the spacecraft as its observer and its inputs in HISTORY.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits

from sdoml_dist import __version__
from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.far_side import FarSide
from sdoml_dist.experiments.translation_table import Trained
from sdoml_dist.recipe_base import parse_duration
from sdoml_dist.solar.euvi import EuviFrame, IntensityMatch
from sdoml_dist.solar.geometry import RSUN_REF_M
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError
from sdoml_dist.solar.times import format_fits_time
from sdoml_dist.solar.translation import reference_times, to_disc_median
from sdoml_dist.sources.euvi import channel_sets, read_folder
from sdoml_dist.store.align import nearest_good
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.samples import Samples

_COPIED = ("CDELT1", "CDELT2", "CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CROTA2", "RSUN_OBS", "R_SUN", "HGLN_OBS", "HGLT_OBS",
           "CRLN_OBS", "CRLT_OBS", "DSUN_OBS")  # fmt: skip


@dataclass(frozen=True)
class FarSideField:
    """A made magnetogram.

    Attributes
    ----------
    field : numpy.ndarray
        Gauss, shape (Y, X), NaN where there is none.
    frames : tuple of EuviFrame
        What it was made of.
    references : tuple of str
        Times of the front-side observations of version 3.
    """

    field: np.ndarray
    frames: tuple[EuviFrame, ...]
    references: tuple[str, ...] = ()


def load_matches(path: str | Path) -> dict[str, IntensityMatch]:
    """Read curves of intensities, by channel of AIA, from a JSON file.

    Raises
    ------
    UsageError
        If it cannot be read or holds no curves.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return {str(channel): IntensityMatch.from_dict(curve) for channel, curve in data.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} holds no curves of intensities: {error}") from None


def translate(
    trained: Trained, sets: Sequence[tuple[EuviFrame, ...]], matches: Mapping[str, IntensityMatch] | None = None
) -> list[FarSideField]:
    """Make magnetograms of sets of frames on the network's grid.

    Parameters
    ----------
    trained : Trained
        A checkpoint of the far-side experiment.
    sets : sequence of tuple of EuviFrame
        One frame for each EUV channel of the network, in its order.
    matches : mapping of str to IntensityMatch, optional
        Curves by channel; a channel without one keeps its distribution.

    Raises
    ------
    UsageError
        If an image shows no Sun, or version 3 lacks a reference.
    """
    experiment = trained.experiment
    assert isinstance(experiment, FarSide)
    reference = _References(experiment) if experiment.config.network.version == 3 else None
    made = []
    for number, frames in enumerate(sets):
        images = np.stack([one.frame.image for one in frames])
        images = to_disc_median(images, experiment.mask)
        for place, one in enumerate(frames):
            curve = (matches or {}).get(one.channel)
            if curve is not None:
                images[place] = curve.apply(images[place])
        inputs = experiment.encode_euv(images)[None]
        told: tuple[str, ...] = ()
        if reference is not None:
            before, told = reference.find(frames[0])
            inputs = np.concatenate([inputs, before], axis=1)
        field = experiment.generate(trained.network, torch.from_numpy(inputs), [number])[0, 0]
        made.append(FarSideField(field, frames, told))
    return made


class _References:
    """Front-side observations for version 3."""

    def __init__(self, experiment: FarSide) -> None:
        data = experiment.config.data
        self._experiment, self._channels = experiment, (*experiment.euv, data.field)
        self._samples = Samples.find(
            data.store, self._channels, version=experiment.prepared["snapshot"], cadence=data.cadence,
            tolerance=data.tolerance,
        )  # fmt: skip
        self._reach_s = data.tolerance or int(self._samples.settings["cadence_s"]) // 2
        self._loader = Loader(self._samples, None, experiment.size, threads=data.threads)

    def find(self, frame: EuviFrame) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return network inputs, shape (1, channels, Y, X), and the times of the observations."""
        wanted = reference_times(np.array([frame.frame.time]), frame.separation_deg)
        rows = nearest_good(wanted, self._samples.times, np.ones(len(self._samples), bool), self._reach_s)
        if rows[0] < 0:
            raise UsageError(
                f"There is no reference for {frame.spacecraft} at {frame.frame.time}: its longitudes faced Earth at {wanted[0]}.",
                f"The dataset covers {self._samples.times[0]} to {self._samples.times[-1]}.",
                "Use a dataset that covers that time, or a network of version 2.",
            )
        physical = self._loader.read(rows)["physical"].numpy()
        euv = self._experiment.encode_euv(physical[:, :-1])
        field, _ = self._experiment.encode_field(physical[:, -1:])
        return np.concatenate([euv, field], axis=1), tuple(str(one) for one in self._samples.observed[rows[0]])


def to_fits(made: FarSideField, about: dict[str, object]) -> bytes:
    """Return a magnetogram as a FITS file with its observer and its inputs.

    Parameters
    ----------
    made : FarSideField
        The magnetogram.
    about : dict
        What the checkpoint says about itself.
    """
    frame = made.frames[0].frame
    header = fits.Header()
    known = {
        "TELESCOP": made.frames[0].spacecraft, "INSTRUME": "sdoml_dist", "CONTENT": "AI MAGNETOGRAM", "BUNIT": "Gauss",
        "DATE-OBS": format_fits_time(frame.time, 3), "TIMESYS": "UTC", "CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN",
        "CUNIT1": "arcsec", "CUNIT2": "arcsec", "RSUN_REF": RSUN_REF_M,
        **{name: frame.keywords[name] for name in _COPIED if name in frame.keywords},
    }  # fmt: skip
    for name, value in known.items():
        header[name] = value
    header["HISTORY"] = f"sdoml_dist {__version__}, network {about.get('experiment')} at step {about.get('step')}"
    for one in made.frames:
        header["HISTORY"] = f"input {one.spacecraft} EUVI {one.wavelength} {format_fits_time(one.frame.time, 0)}"
    for time in made.references:
        header["HISTORY"] = f"reference SDO {time[:19]}"
    buffer = io.BytesIO()
    fits.PrimaryHDU(made.field.astype(np.float32), header).writeto(buffer)
    return buffer.getvalue()


def apply_to_folder(
    checkpoint: str | Path, folder: str, output: str | Path, *, tolerance: str | int = "20min",
    matches: str | Path | None = None,
) -> tuple[list[Path], dict[str, str]]:  # fmt: skip
    """Translate all frames below a folder.

    Parameters
    ----------
    checkpoint : path
        A checkpoint of the far-side experiment, or a run: its best by validation, or its newest.
    folder : str
        Folder or address with FITS files of level 0.5 or 1.
    output : path
        Folder for FITS files.
    tolerance : str or int
        Largest distance in time within a set.
    matches : path, optional
        JSON file of curves by channel.

    Returns
    -------
    tuple of (list of pathlib.Path, dict of str to str)
        Files written, and why frames could not be used, by path.

    Raises
    ------
    UsageError
        If it is a checkpoint of something else, or no set of frames is whole.
    """
    place = checkpoints.best(checkpoint) or checkpoints.newest(checkpoint)
    about = checkpoints.about(place)
    if about.get("experiment") != "far-side":
        raise UsageError(f"{place} is a checkpoint of {about.get('experiment')!r}, not of far-side.")
    curves = None if matches is None else load_matches(matches)
    trained = Trained.load(FarSide, place)
    experiment = trained.experiment
    assert isinstance(experiment, FarSide)
    frames, problems = read_folder(folder, CalibrationSettings(pixels=experiment.size))
    try:
        sets = channel_sets(frames, experiment.euv, parse_duration(tolerance))
    except (FrameError, ValueError) as error:
        raise UsageError(
            f"No set of {', '.join(experiment.euv)} is whole in {folder}: {error}", "The network needs all of them at a time.",
            "Fetch the other channels, or allow a larger --tolerance.",
        ) from None  # fmt: skip
    written = []
    for made in translate(trained, sets, curves):
        first = made.frames[0]
        stamp = str(first.frame.time.astype("datetime64[s]")).replace("-", "").replace(":", "").replace("T", "_")
        path = Path(output) / f"{first.spacecraft}_{stamp}_field.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, to_fits(made, about))
        written.append(path)
    return written, {path: str(error) for path, error in problems.items()}
