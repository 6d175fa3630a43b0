"""Apply networks of the galileo experiment to pictures of drawings: from PNG or JPEG files to FITS.

A picture is brought to the grid that the network was trained on by :mod:`sdoml_dist.sources.drawing`. A file of what was
made of it has the time that was given, the Earth as observer, the grid's keywords, the unit, and in HISTORY where everything
comes from; sunpy opens it as a map.

Times are ``datetime64[ms]``, Gregorian calendar, UTC: nanoseconds reach back to 1678 only, and Galileo's drawings are of 1612.
Before 1960 the UTC of astropy runs 32.184 s behind terrestrial time by convention, when universal time was up to two minutes
behind: the Sun turns by 0.02 degrees in that time.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits

from sdoml_dist import __version__
from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.experiments.galileo import CONTINUA, Galileo
from sdoml_dist.experiments.translation_table import Trained
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.drawing import Circle
from sdoml_dist.solar.geometry import RSUN_REF_M, grid_keywords, rsun_obs_arcsec
from sdoml_dist.sources.drawing import Drawing, read_drawing
from sdoml_dist.training import checkpoint as checkpoints

_TIME = re.compile(r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,3})?)?)?Z?$")
# Of the grid (see sdoml_dist.solar.translation).
_SOLAR_RADIUS_ARCSEC = 976.0


@dataclass(frozen=True)
class Sheet:
    """A picture of a drawing, and how it is to be read.

    Attributes
    ----------
    path : pathlib.Path
        PNG or JPEG.
    time : numpy.datetime64
        When the Sun was drawn, ``datetime64[ms]``, UTC.
    north_deg : float
        Where solar north is, as :func:`sdoml_dist.sources.drawing.read_drawing` takes it.
    mirrored : bool
        Whether east and west are interchanged.
    disc : Circle, optional
        The limb, where it is not to be searched for.
    """

    path: Path
    time: np.datetime64
    north_deg: float = 0.0
    mirrored: bool = False
    disc: Circle | None = None


@dataclass(frozen=True)
class DrawingsMade:
    """What became of pictures.

    Attributes
    ----------
    written : dict of pathlib.Path to pathlib.Path
        FITS files by picture.
    problems : dict of pathlib.Path to str
        Why there is none, by picture.
    """

    written: dict[Path, Path] = field(default_factory=dict)
    problems: dict[Path, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """3 if a picture could not be used."""
        return ExitCode.FRAMES_FAILED if self.problems else ExitCode.COMPLETE

    def to_text(self) -> str:
        """Return a line for each picture, and the sum."""
        lines = [f"{path}: {made}" for path, made in self.written.items()]
        lines += [f"{path}: not used: {' '.join(why.split())}" for path, why in self.problems.items()]
        return "\n".join([*lines, f"{len(self.written)} of {len(self.written) + len(self.problems)} drawings made", ""])


def drawing_time(text: str) -> np.datetime64:
    """Read a time of any year from 0001 to 9999, Gregorian calendar, UTC.

    Raises
    ------
    UsageError
        If it is none.
    """
    try:
        if _TIME.match(text.strip()) is None:
            raise ValueError(text)
        return np.datetime64(text.strip().rstrip("Z").replace(" ", "T"), "ms")
    except ValueError:
        raise UsageError(
            f"{text!r} is not a time.",
            "The position of the Sun's axis follows from it.",
            "For example 1612-06-02T15:00",
        ) from None


def sheets(
    paths: Sequence[str | Path], times: Sequence[str], north_deg: Sequence[float] = (0.0,), *, mirrored: bool = False,
    disc: Circle | None = None,
) -> list[Sheet]:  # fmt: skip
    """Return pictures with times and directions: one for each, in order, or one for all.

    Raises
    ------
    UsageError
        If there are more or fewer, or two pictures have one name, so that their files would be one.
    """
    for what, given in (("--time", times), ("--north", north_deg)):
        if len(given) not in (1, len(paths)):
            raise UsageError(
                f"{what} is given {len(given)} times for {len(paths)} drawings.", "It could not be said which is whose.",
                f"Give {what} once for all, or once for each in the order of the files.",
            )  # fmt: skip
    stems = [Path(path).stem for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise UsageError(
            f"Several drawings are named {', '.join(twice)}.", "Files are named after them, and would replace each other.",
            "Rename them, or give them one by one with other outputs.",
        )  # fmt: skip
    read = [drawing_time(time) for time in times]
    return [
        Sheet(Path(path), read[place % len(read)], north_deg[place % len(north_deg)], mirrored, disc)
        for place, path in enumerate(paths)
    ]


def earth_keywords(time: np.datetime64, pixels: int) -> dict[str, float | str]:
    """Return where the Earth was, and the keywords of an image on the grid as seen from there.

    B0, L0 and the distance are sunpy's, from the analytic theory in ERFA (``epv00``), which is made for 1900 to 2100. For June
    and July 1612 they differ from the theory of Meeus (Astronomical Algorithms, chapters 25 and 29) by 0.05 degrees, 0.4 degrees
    and 3e-6; nearly all of the second is the definition: 360 / 25.38 degrees a day there, 14.1844 here.

    Parameters
    ----------
    time : numpy.datetime64
        UTC.
    pixels : int
        Pixels per side.
    """
    from astropy.time import Time
    from erfa import ErfaWarning
    from sunpy.coordinates import sun

    stamp = str(time.astype("datetime64[ms]"))
    with warnings.catch_warnings():
        # "Dubious year" and "outside the range 1900-2100": see above.
        warnings.simplefilter("ignore", ErfaWarning)
        moment = Time(stamp, scale="utc")
        b0, l0 = float(sun.B0(moment).deg), float(sun.L0(moment).deg)
        distance_m = float(sun.earth_distance(moment).to_value("m"))
    return {
        "DATE-OBS": stamp, "TIMESYS": "UTC",
        **grid_keywords(pixels, _SOLAR_RADIUS_ARCSEC, rsun_obs_arcsec(distance_m)), "RSUN_REF": RSUN_REF_M,
        "DSUN_OBS": distance_m, "HGLN_OBS": 0.0, "HGLT_OBS": b0, "CRLN_OBS": l0, "CRLT_OBS": b0,
    }  # fmt: skip


def translate_drawing(trained: Trained, drawing: Drawing) -> np.ndarray:
    """Return what the network makes of a drawing: gauss, contrast or DN/s, shape (Y, X), NaN where there is nothing."""
    experiment = trained.experiment
    assert isinstance(experiment, Galileo)
    inputs = torch.from_numpy(experiment.encode_drawing(drawing.image)[None, None])
    # Dropout is drawn by the picture, so that it is always made alike.
    made: np.ndarray = experiment.generate(trained.network, inputs, [zlib.crc32(drawing.image.tobytes())])[0, 0]
    return made


def to_fits(image: np.ndarray, target: str, sheet: Sheet, history: Sequence[str]) -> bytes:
    """Return an image as a FITS file.

    Parameters
    ----------
    image : numpy.ndarray
        Shape (Y, X).
    target : str
        Channel: a field, the continuum, whose contrast to the quiet Sun it then is, or one of AIA's.
    sheet : Sheet
        What it was made of.
    history : sequence of str
        Lines; characters that FITS does not allow are written as escapes.
    """
    header = fits.Header()
    if target in AIA:
        content, unit = "IMAGE", "DN/s"
    else:
        content, unit = ("CONTRAST", "") if target in CONTINUA else ("MAGNETOGRAM", "Gauss")
    known: dict[str, float | str] = {
        "TELESCOP": "drawing", "INSTRUME": "sdoml_dist", "CONTENT": f"AI {content}", "BUNIT": unit,
        "CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN", "CUNIT1": "arcsec", "CUNIT2": "arcsec",
        **earth_keywords(sheet.time, image.shape[0]),
    }  # fmt: skip
    if target in AIA:
        known |= {"WAVELNTH": AIA[target].wavelength_angstrom, "WAVEUNIT": "angstrom"}
    for name, value in known.items():
        header[name] = value
    for line in history:
        header["HISTORY"] = line.encode("unicode_escape").decode("ascii")
    buffer = io.BytesIO()
    fits.PrimaryHDU(image.astype(np.float32), header).writeto(buffer)
    return buffer.getvalue()


def translate_drawings(checkpoint: str | Path, given: Sequence[Sheet], output: str | Path) -> DrawingsMade:
    """Translate pictures of drawings into FITS files, named after picture and target.

    Parameters
    ----------
    checkpoint : path
        A checkpoint of the galileo experiment, or a run: its best by validation, or its newest.
    given : sequence of Sheet
        The pictures.
    output : path
        Folder; files in it that have the same name are replaced.

    Raises
    ------
    UsageError
        If it is a checkpoint of something else. What is wrong with one picture is told in the result.
    """
    place = checkpoints.chosen(checkpoint)
    about = checkpoints.about(place)
    if about.get("experiment") != "galileo":
        raise UsageError(
            f"{place} is a checkpoint of {about.get('experiment')!r}, not of galileo.", "Only those know drawings.",
            "Train one with 'sdoml train galileo'.",
        )  # fmt: skip
    trained = Trained.load(Galileo, place)
    (target,) = trained.experiment.output_names()
    done = DrawingsMade()
    for sheet in given:
        try:
            data = sheet.path.read_bytes()
            drawing = read_drawing(
                data, trained.experiment.size, north_deg=sheet.north_deg, mirrored=sheet.mirrored, disc=sheet.disc
            )
        except (OSError, UsageError) as error:
            done.problems[sheet.path] = str(error)
            continue
        limb = drawing.disc
        history = [
            f"sdoml_dist {__version__}, network galileo at step {about.get('step')}",
            f"drawing {sheet.path.name} sha256 {hashlib.sha256(data).hexdigest()[:16]}",
            f"limb at {limb.x:.1f}, {limb.y:.1f} from lower left, radius {limb.radius:.1f} pixels",
            f"north {sheet.north_deg:g} degrees counter-clockwise, {'' if sheet.mirrored else 'not '}mirrored",
            "observer: Earth, by sunpy from the time",
        ]
        path = Path(output) / f"{sheet.path.stem}_{target}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, to_fits(translate_drawing(trained, drawing), target, sheet, history))
        done.written[sheet.path] = path
    return done
