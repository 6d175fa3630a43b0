"""Reading FITS: equal to astropy on good files, and nothing but a status on hostile bytes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources.fits import read_fits, read_header


def compressed(image: np.ndarray, **keywords: object) -> bytes:
    unit = fits.CompImageHDU(image, compression_type="RICE_1", tile_shape=(1, image.shape[1]))
    for name, value in keywords.items():
        unit.header[name] = value
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(buffer)
    return buffer.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 6), columns=st.integers(1, 200),
    kind=st.sampled_from(["i2", "i4", "u1"]), spread=st.sampled_from([0, 1, 30, 3000, "all"]),
)  # fmt: skip
def test_rice_decodes_as_astropy(seed: int, rows: int, columns: int, kind: str, spread: int | str) -> None:
    rng = np.random.default_rng(seed)
    limits = np.iinfo(kind)
    if spread == "all":
        image = rng.integers(limits.min, limits.max, (rows, columns), dtype=kind, endpoint=True)
    else:
        image = np.clip(rng.normal(40, float(spread), (rows, columns)), limits.min, limits.max).astype(kind)
    found, header = read_fits(compressed(image, EXPTIME=2.0, NOTE="it's"))
    np.testing.assert_array_equal(found, image)
    assert (header["NAXIS1"], header["NAXIS2"], header["EXPTIME"], header["NOTE"]) == (columns, rows, 2.0, "it's")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_bytes_give_a_status(data: st.DataObject) -> None:
    good = bytearray(compressed(np.arange(64 * 32, dtype=np.int16).reshape(32, 64)))
    for _ in range(data.draw(st.integers(1, 12))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        image, _ = read_fits(cut)
    except FrameError as error:
        assert error.status in (FrameStatus.FAILED_READ, FrameStatus.FAILED_NOT_FITS, FrameStatus.FAILED_SHAPE)
    else:
        assert image.ndim == 2


def test_plain_and_scaled_images() -> None:
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.arange(12, dtype=np.float32).reshape(3, 4)).writeto(buffer)
    np.testing.assert_array_equal(read_fits(buffer.getvalue())[0], np.arange(12).reshape(3, 4))
    with pytest.raises(FrameError, match="not_fits"):
        read_fits(b"")
    with pytest.raises(FrameError, match="failed_read"):
        read_fits(buffer.getvalue()[:2885])


def test_real_frames_read_as_by_astropy(real_data: Path) -> None:
    for name in ("aia/aia_171_cutout.fits", "aia/aia_171_level1_128px.fits", "hmi/hmi_m_45s_resampled.fits"):
        data = (real_data / name).read_bytes()
        image, header = read_fits(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # float images with a BLANK
            units = fits.open(io.BytesIO(data))
        with units:
            unit = next(unit for unit in units if unit.data is not None)
            np.testing.assert_allclose(image, unit.data, rtol=1e-6)
            for key in ("T_OBS", "CRPIX1", "CDELT1", "CROTA2", "QUALITY", "WAVELNTH"):
                assert header[key] == unit.header[key]
        assert read_header(data[: 40 * 2880])["T_OBS"] == header["T_OBS"]


def test_a_real_frame_becomes_a_right_map() -> None:
    """The AIA frame that sunpy packages for tests: level 1, 2011-02-15, resampled to 128 pixels, with its whole header."""
    import sunpy.data.test
    import sunpy.map

    from sdoml_dist.solar.calibrate import CalibrationTables, calibrate
    from sdoml_dist.solar.channels import AIA
    from sdoml_dist.solar.settings import CalibrationSettings

    path = Path(sunpy.data.test.rootdir) / "aia_171_level1.fits"
    image, header = read_fits(path.read_bytes())
    frame = calibrate(image, header, AIA["171A"], CalibrationSettings(pixels=128), CalibrationTables())
    assert frame.keywords["RSUN_OBS"] == pytest.approx(971.8126, abs=1e-3)
    assert str(frame.time)[:19] == "2011-02-15T00:00:01"
    # The limb of the real Sun: mean brightness along circles falls steepest just outside 128 * 976 / 2457.6 = 50.8.
    y, x = np.mgrid[:128, :128]
    radius = np.hypot(x - 63.5, y - 63.5)
    profile = np.array([np.nanmean(frame.image[(radius >= r) & (radius < r + 1)]) for r in range(40, 62)])
    assert 48 <= 40 + int(np.argmax(profile)) <= 53
    # The brightest pixel is where sunpy's Map of the original puts it, within a pixel of 18.7 arcsec.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = sunpy.map.Map(path)
        row, column = np.unravel_index(np.argmax(original.data), original.data.shape)
        world = original.pixel_to_world(column * u.pix, row * u.pix)
    row, column = np.unravel_index(np.nanargmax(frame.image), frame.image.shape)
    scale = frame.keywords["CDELT1"]
    assert (column - 63.5) * scale == pytest.approx(world.Tx.to_value("arcsec"), abs=scale)
    assert (row - 63.5) * scale == pytest.approx(world.Ty.to_value("arcsec"), abs=scale)
