"""Drawings of sunspots: made from continuum images, found in pictures, and brought to the grid."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import rotate, shift

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.galileo import Galileo
from sdoml_dist.solar.drawing import Circle, contrast, draw, find_disc
from sdoml_dist.solar.translation import correlation, disc_mask, disc_radius
from sdoml_dist.sources.drawing import read_drawing

PIXELS = 192


@pytest.fixture(scope="module")
def continuum() -> np.ndarray:
    """Return a darkened disc with two spots, one with an umbra."""
    middle = (PIXELS - 1) / 2
    j, i = np.mgrid[:PIXELS, :PIXELS] - middle
    squared = (j**2 + i**2) / disc_radius(PIXELS) ** 2
    image = np.where(squared < 1, 50_000 * (0.4 + 0.6 * np.sqrt(np.clip(1 - squared, 0, 1))), np.nan)
    for y, x, size, depth in ((20, -30, 6, 0.8), (20, -30, 3, 0.3), (-25, 35, 4, 0.8)):
        image = np.where((j - y) ** 2 + (i - x) ** 2 < size**2, image * depth, image)
    return image.astype(np.float32)


def picture(grey: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((np.clip(grey[::-1], 0, 1) * 255).astype(np.uint8)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def test_spots_are_drawn_and_the_limb_darkening_is_not(continuum: np.ndarray) -> None:
    relative = contrast(continuum)
    quiet = np.isfinite(relative) & (relative > 0.95)
    assert relative[quiet].std() < 0.02
    drawn = draw(continuum, 5)
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn, draw(continuum, 5))
    assert not np.array_equal(drawn, draw(continuum, 6))
    middle = PIXELS // 2
    umbra, penumbra, paper = drawn[middle + 20, middle - 30], drawn[middle - 25, middle + 35], drawn[middle, middle]
    assert umbra < 0.25 < penumbra < 0.85 < paper
    inside = disc_mask(PIXELS, 0.95)
    # What is dark on the paper is what is dark on the Sun.
    assert (drawn[inside & (relative < 0.9)] < 0.9).mean() > 0.95
    assert (drawn[inside & quiet] > 0.8).mean() > 0.99
    assert np.isnan(contrast(np.full((16, 16), np.nan))).all()


@pytest.mark.parametrize(
    ("north", "mirrored", "kind"), [(0.0, False, "PNG"), (24.0, False, "JPEG"), (-13.0, True, "PNG")]
)
def test_a_turned_and_shifted_drawing_comes_back(
    continuum: np.ndarray, north: float, mirrored: bool, kind: str
) -> None:
    drawn = draw(continuum, 5)
    big = np.kron(drawn, np.ones((3, 3), np.float32))
    # Rows count from below: turning the picture anticlockwise is turning the array clockwise.
    turned = rotate(big, -north, reshape=False, order=1, cval=1.0)
    canvas = np.full((PIXELS * 3 + 90, PIXELS * 3 + 150), 0.95, np.float32)
    canvas[30 : 30 + PIXELS * 3, 100 : 100 + PIXELS * 3] = turned
    if mirrored:
        # The mirror image of a picture whose north was turned the other way.
        canvas = np.full_like(canvas, 0.95)
        turned = rotate(big, north, reshape=False, order=1, cval=1.0)
        canvas[30 : 30 + PIXELS * 3, 100 : 100 + PIXELS * 3] = turned
        canvas = canvas[:, ::-1]
    got = read_drawing(picture(canvas, kind), PIXELS, north_deg=north, mirrored=mirrored)
    assert got.disc.radius == pytest.approx(3 * disc_radius(PIXELS), rel=0.01)
    inside = disc_mask(PIXELS, 0.95)
    same = correlation(got.image[inside], drawn[inside])
    assert same > 0.9
    for wrong in (got.image[:, ::-1], rotate(got.image, 8, reshape=False, order=1), shift(got.image, (4, 0), order=1)):
        assert correlation(wrong[inside], drawn[inside]) < 0.7
    known = read_drawing(picture(canvas, kind), PIXELS, north_deg=north, mirrored=mirrored, disc=got.disc)
    assert np.array_equal(known.image, got.image)


def test_what_shows_no_limb_is_refused() -> None:
    with pytest.raises(UsageError, match="no picture"):
        read_drawing(b"\x89PNG not really", 64)
    rng = np.random.default_rng(0)
    for grey in (np.ones((200, 200)), rng.uniform(0.9, 1, (200, 200)), np.eye(200)):
        with pytest.raises(UsageError, match="No limb is found"):
            find_disc(grey)
    with pytest.raises(UsageError, match="black"):
        read_drawing(picture(np.zeros((64, 64))), 32, disc=Circle(31.5, 31.5, 25.0))


def test_drawings_of_the_experiment_follow_from_their_images(continuum: np.ndarray) -> None:
    data = {"store": {"url": "nowhere"}, "size": PIXELS, "target": "Ic_720s"}
    experiment = Galileo({"config": {"experiment": "galileo", "data": data}, "prepared": {"pixels": PIXELS}})
    physical = np.stack([continuum, continuum * 0.9])[:, None]
    inputs, target, mask = experiment.encode(physical)
    again = experiment.encode(physical[:1])[0]
    assert np.array_equal(again[0], inputs[0])
    assert not np.array_equal(inputs[0], inputs[1])
    assert (np.abs(inputs) <= 1).all()
    decoded = experiment.decode(target)
    np.testing.assert_allclose(decoded[0][mask[0]], contrast(continuum)[mask[0, 0]], rtol=1e-4)
    # The encoding of a real drawing is that of a made one.
    got = read_drawing(picture(draw(continuum, 1)), PIXELS)
    seen = experiment.encode_drawing(got.image)
    assert (seen[~experiment.mask] == 1).all()
    assert correlation(seen[experiment.mask], inputs[0, 0][experiment.mask]) > 0.7
