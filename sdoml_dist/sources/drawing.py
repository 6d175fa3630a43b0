"""Pictures of sunspot drawings (PNG, JPEG): the disc is found, and the Sun brought to the dataset's grid, north up."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.drawing import Circle, find_disc
from sdoml_dist.solar.geometry import Pointing, source_transform
from sdoml_dist.solar.registration import register_and_bin

_SEARCHED_PIXELS = 512
_ANY_RADIUS_ARCSEC = 960.0


@dataclass(frozen=True)
class Drawing:
    """A drawing on the dataset's grid.

    Attributes
    ----------
    image : numpy.ndarray
        Grey levels, 0 black and 1 paper, float32, shape (pixels, pixels), solar north up, west to the right.
    disc : Circle
        Where the limb is in the picture, pixels counted from 0, rows from below.
    """

    image: np.ndarray
    disc: Circle


def read_drawing(
    data: bytes, pixels: int, *, north_deg: float = 0.0, mirrored: bool = False, disc: Circle | None = None,
    solar_radius_arcsec: float = 976.0,
) -> Drawing:  # fmt: skip
    """Read a picture of a drawing.

    Parameters
    ----------
    data : bytes
        PNG or JPEG, in colour or grey.
    pixels : int
        Side of the grid.
    north_deg : float
        Where solar north is: degrees counter-clockwise from the picture's upper side, before it is mirrored. For a drawing
        with celestial north up this is the position angle P of the Sun's axis.
    mirrored : bool
        Whether east and west are interchanged, as on the paper behind a telescope that projects.
    disc : Circle, optional
        The limb, if it is known; by default it is searched for.
    solar_radius_arcsec : float
        Of the grid.

    Raises
    ------
    UsageError
        If it is no picture, no limb is found, or the disc or direction given is none.
    """
    if not np.isfinite(north_deg):
        raise UsageError(f"North cannot be at {north_deg:g} degrees.", "", "Give an angle.")
    if disc is not None and not (np.isfinite([disc.x, disc.y]).all() and 0 < disc.radius < np.inf):
        raise UsageError(f"{disc} is no limb.", "", "Give its middle and a radius above 0, in pixels.")
    grey = _grey(data)
    # Rows are counted from below, as everywhere here.
    grey = np.ascontiguousarray(grey[::-1])
    found = _search(grey) if disc is None else disc
    if mirrored:
        grey = np.ascontiguousarray(grey[:, ::-1])
    x = grey.shape[1] - 1 - found.x if mirrored else found.x
    north = -north_deg if mirrored else north_deg
    scale = _ANY_RADIUS_ARCSEC / found.radius
    pointing = Pointing(x + 1, found.y + 1, scale, scale, -north, _ANY_RADIUS_ARCSEC)
    image = register_and_bin(grey, source_transform(pointing, pixels, solar_radius_arcsec), pixels)
    paper = float(np.nanmedian(image))
    if not paper > 0:
        raise UsageError("The picture is black: its paper has no light.", "", "Give a drawing on light paper.")
    # Beyond the picture's edge there is paper.
    image = np.where(np.isfinite(image), image / np.float32(paper), np.float32(1)).clip(0, 1)
    return Drawing(image.astype(np.float32), found)


def _grey(data: bytes) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            values = np.asarray(picture.convert("L"), np.float32)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, ValueError) as error:
        raise UsageError(f"This is no picture that can be read: {error}", "", "Give a PNG or JPEG file.") from None
    return values / np.float32(255)


def _search(grey: np.ndarray) -> Circle:
    """Find the disc in a smaller copy."""
    factor = max(1, min(grey.shape) // _SEARCHED_PIXELS)
    rows, columns = (size // factor for size in grey.shape)
    cut = grey[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    # The darkest pixel of a block keeps thin lines.
    small = find_disc(0.5 * (cut.min(axis=(1, 3)) + cut.mean(axis=(1, 3))))
    shift = (factor - 1) / 2
    return Circle(small.x * factor + shift, small.y * factor + shift, small.radius * factor)
