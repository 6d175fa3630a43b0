"""Far-side networks on STEREO's EUVI: from the frames of a set to a magnetogram, and to a FITS file of it.

Frames of one spacecraft that are near each other in time make a set (:mod:`sdoml_dist.sources.euvi`). Each image is registered
to the grid that the network was trained on, brought to a median of 100 over the disc and, where a curve is given, to the
distribution of AIA's channel. Version 3 also sees what SDO saw of the same longitudes when they faced Earth: the observations
nearest to the separation divided by 360 degrees, in synodic rotations, before.

A file has the field in gauss, north up, NaN beyond 0.98 radii, with the spacecraft as its observer and its inputs in HISTORY.
Whole folders are done by :mod:`sdoml_dist.engine.far_side`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits

from sdoml_dist import __version__
from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.far_side import FarSide
from sdoml_dist.experiments.translation_table import Trained
from sdoml_dist.solar.euvi import EuviFrame, IntensityMatch
from sdoml_dist.solar.geometry import RSUN_REF_M
from sdoml_dist.solar.times import format_fits_time
from sdoml_dist.solar.translation import reference_reach_s, reference_times, to_disc_median
from sdoml_dist.store.far_side_folder import KEY, SetStatus
from sdoml_dist.training.loading import Loader

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


class SetError(UsageError):
    """A set of frames of which no magnetogram can be made, with the status to record.

    Parameters
    ----------
    status : SetStatus
        What to record.
    what, why, hint : str
        As of :class:`SdomlError`.
    """

    def __init__(self, status: SetStatus, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.status = status


class FieldMaker:
    """A far-side network on its grid, which makes a magnetogram of a set of frames.

    Parameters
    ----------
    trained : Trained
        A checkpoint of the far-side experiment.
    matches : mapping of str to IntensityMatch, optional
        Curves by channel; a channel without one keeps its distribution.

    Raises
    ------
    SdomlError
        If version 3's dataset of references cannot be opened.
    """

    def __init__(self, trained: Trained, matches: Mapping[str, IntensityMatch] | None = None) -> None:
        assert isinstance(trained.experiment, FarSide)
        self.experiment, self._network, self._matches = trained.experiment, trained.network, dict(matches or {})
        self.references = References(self.experiment) if self.experiment.config.network.version == 3 else None

    def make(self, frames: Sequence[EuviFrame]) -> FarSideField:
        """Make a magnetogram.

        Parameters
        ----------
        frames : sequence of EuviFrame
            One for each EUV channel of the network, in its order.

        Raises
        ------
        SetError
            NO_LIGHT if an image shows no Sun, or NO_REFERENCE.
        """
        inputs = self.experiment.encode_euv(np.stack([self._image(one) for one in frames]))[None]
        told: tuple[str, ...] = ()
        if self.references is not None:
            before, told = self.references.find(frames[0])
            inputs = np.concatenate([inputs, before], axis=1)
        # Dropout is drawn by the time of the set, so that it is made alike by every worker.
        seed = int(frames[0].time.astype("datetime64[s]").astype(np.int64))
        field = self.experiment.generate(self._network, torch.from_numpy(inputs), [seed])[0, 0]
        return FarSideField(field, tuple(frames), told)

    def _image(self, one: EuviFrame) -> np.ndarray:
        """Return an image with a median of 100 over the disc, in AIA's intensities where there is a curve."""
        try:
            image = to_disc_median(one.frame.image, self.experiment.mask)
        except UsageError as error:
            raise SetError(
                SetStatus.NO_LIGHT,
                f"{one.channel} of {one.spacecraft} at {one.time}: {error.what}",
                error.why,
                error.hint,
            ) from None
        curve = self._matches.get(one.channel)
        return image if curve is None else curve.apply(image)


def translate(
    trained: Trained, sets: Iterable[Sequence[EuviFrame]], matches: Mapping[str, IntensityMatch] | None = None
) -> list[FarSideField]:
    """Make magnetograms of a few sets of frames that are in memory.

    Parameters
    ----------
    trained, matches
        As of :class:`FieldMaker`.
    sets : iterable of sequence of EuviFrame
        As of :meth:`FieldMaker.make`.

    Raises
    ------
    SetError
        If one of them cannot be made.
    """
    maker = FieldMaker(trained, matches)
    return [maker.make(frames) for frames in sets]


class References:
    """Front-side observations for version 3, of the dataset and snapshot that it was trained on.

    Parameters
    ----------
    experiment : FarSide
        With a network of version 3.

    Raises
    ------
    SdomlError
        If the dataset cannot be opened, or has no such observation at all.
    """

    def __init__(self, experiment: FarSide) -> None:
        self._experiment, self._samples = experiment, experiment.references()
        self._reach_s = reference_reach_s(int(self._samples.settings["cadence_s"]))
        self._loader = Loader(self._samples, None, experiment.size, threads=len(self._samples.channels))

    def rows(self, times: Sequence[np.datetime64], separations_deg: Sequence[float]) -> np.ndarray:
        """Return the samples nearest to when the longitudes seen at some times faced Earth, -1 where there is none."""
        wanted = [
            reference_times(np.array([time]), separation)[0]
            for time, separation in zip(times, separations_deg, strict=True)
        ]
        return self._samples.nearest(np.array(wanted, "datetime64[ns]"), self._reach_s)

    def missing(self, who: str, time: np.datetime64, separation_deg: float) -> SetError:
        """Return the error of a set without a reference."""
        wanted = reference_times(np.array([time]), separation_deg)[0]
        times = self._samples.times
        return SetError(
            SetStatus.NO_REFERENCE,
            f"There is no reference for {who} at {time}: its longitudes faced Earth at {wanted}.",
            f"The dataset has observations from {times[0]} to {times[-1]}, and none within {self._reach_s} s of that.",
            "Use a dataset that covers that time, or a network of version 2.",
        )

    def find(self, frame: EuviFrame) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return network inputs, shape (1, channels, Y, X), and the times of the observations.

        Raises
        ------
        SetError
            NO_REFERENCE.
        """
        rows = self.rows([frame.time], [frame.separation_deg])
        if rows[0] < 0:
            raise self.missing(frame.spacecraft, frame.time, frame.separation_deg)
        physical = self._loader.read(rows)["physical"].numpy()
        try:
            euv = self._experiment.encode_euv(physical[:, :-1])
        except UsageError as error:
            told = f"The reference at {self._samples.times[rows[0]]} shows no Sun: {error.what}"
            raise SetError(SetStatus.NO_REFERENCE, told, error.why, "Take it out of the dataset.") from None
        field, _ = self._experiment.encode_field(physical[:, -1:])
        return np.concatenate([euv, field], axis=1), tuple(str(one) for one in self._samples.observed[rows[0]])


def to_fits(made: FarSideField, about: dict[str, object], key: str = "") -> bytes:
    """Return a magnetogram as a FITS file with its observer and its inputs.

    Parameters
    ----------
    made : FarSideField
        The magnetogram.
    about : dict
        What the checkpoint says about itself.
    key : str
        Hash of what it was made of, for the keyword SDOMLKEY.
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
    if key:
        header[KEY] = (key, "network and inputs")
    header["HISTORY"] = f"sdoml_dist {__version__}, network {about.get('experiment')} at step {about.get('step')}"
    for one in made.frames:
        header["HISTORY"] = f"input {one.spacecraft} EUVI {one.wavelength} {format_fits_time(one.frame.time, 0)}"
    for time in made.references:
        header["HISTORY"] = f"reference SDO {time[:19]}"
    buffer = io.BytesIO()
    fits.PrimaryHDU(made.field.astype(np.float32), header).writeto(buffer)
    return buffer.getvalue()
