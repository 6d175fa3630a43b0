"""Tracked regions on real observations: a full-disc frame of HMI and the SHARP patch of NOAA 11158."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from sdoml_dist.emergence_plan import EmergencePlan, TrackUnit, frame_number
from sdoml_dist.emergence_recipe import EmergenceRecipe
from sdoml_dist.pipelines.tracking import Tracker
from sdoml_dist.solar.helioseismology import band_power
from sdoml_dist.solar.hmi import full_disc
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.tiles import tile_means
from sdoml_dist.solar.tracking import View
from sdoml_dist.sources.fits import read_fits
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.emergence_template import KEYWORDS

pytestmark = pytest.mark.real
_SHARP = "hmi/hmi.sharp_cea_720s.377.20110215_020000_TAI.{}.fits"


def sharp(folder: Path, segment: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HMI's float files carry BLANK
        data: np.ndarray = fits.getdata(folder / _SHARP.format(segment))
    return np.asarray(data, np.float64)


def test_a_real_frame_is_cut_out_where_it_belongs(real_data: Path, tmp_path: Path) -> None:
    """A continuum frame of 2014-03-01 (resampled to 100 pixels; sunpy's test data), looked up again through astropy's WCS."""
    import astropy.units as u
    import sunpy.map
    from astropy.coordinates import SkyCoord
    from scipy.ndimage import map_coordinates
    from sunpy.coordinates import HeliographicCarrington

    original = real_data / "hmi/hmi_m_45s_resampled.fits"
    (tmp_path / "hmi").mkdir()
    shutil.copy(original, tmp_path / "hmi/hmi.Ic_45s.20140301_000130_TAI.continuum.fits")
    recipe = EmergenceRecipe.model_validate(
        {
            "name": "real", "store": {"url": str(tmp_path / "d")},
            "regions": [{"number": 1, "latitude_deg": -10, "longitude_deg": 140, "reference": "2014-03-01T00:00",
                         "start": "2014-03-01T00:00", "end": "2014-03-01T01:00"}],
            "source": {"kind": "files", "url": str(tmp_path / "hmi"), "index": "name", "pixels": 100},
            "tracking": {"pixels": 32, "scale_deg": 1.0},
            "power": {"window": 64, "step": "12min"}, "layout": {"block_frames": 16, "tile_pixels": 16},
        }
    )  # fmt: skip
    plan = EmergencePlan(recipe)
    # Snapshot times lie every 12 minutes of TAI; this frame is the one 30 s after such a time.
    source = make_source(recipe)
    source.prepare(["Ic_45s"], np.datetime64("2014-02-28", "ns"), np.datetime64("2014-03-02", "ns"))
    (record,) = source.candidates("Ic_45s", np.datetime64("2014-02-28", "ns"), np.datetime64("2014-03-02", "ns"))
    first = frame_number(record.time)

    class OneBlock(EmergencePlan):
        def block_times(self, quantity: Any, block: int) -> np.ndarray:
            return record.time + np.array([0, 45], "timedelta64[s]")

    block = Tracker(OneBlock(recipe), source).process(TrackUnit("Ic", first, (1,)))
    assert block.status.tolist() == [int(FrameStatus.OK), int(FrameStatus.MISSING_NO_FRAME)]
    found = block.maps[1][0]
    assert np.isnan(block.maps[1][1]).all()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sun = sunpy.map.Map(original)
    patch = plan.patch(plan.axes[1].region)
    latitude, west = patch.coordinates()
    time = sun.date if sun.meta.get("t_obs") is None else sun.reference_date
    frame = HeliographicCarrington(observer=sun.observer_coordinate, obstime=time)
    longitude = west + patch.centre_longitude(record.time)
    place = SkyCoord(longitude * u.deg, latitude * u.deg, 695_700 * u.km, frame=frame)
    x, y = sun.world_to_pixel(place.transform_to(sun.coordinate_frame))
    raw, header = read_fits(original.read_bytes())
    disc = full_disc(raw, header, source.product.bundle("Ic_45s"), CalibrationSettings(expected_shape=(100, 100)))
    view = View.of(disc.pointing, disc.l0_deg, disc.b0_deg, disc.dsun_obs_m)
    columns, rows, _ = view.pixels(latitude, longitude)
    np.testing.assert_allclose(columns, x.value, atol=0.01)
    np.testing.assert_allclose(rows, y.value, atol=0.01)
    there = map_coordinates(np.nan_to_num(sun.data.astype(float)), [y.value, x.value], order=3)
    good = np.isfinite(found)
    assert good.mean() > 0.9
    # Another cubic kernel (a spline), on granulation of a pixel's size.
    relative = np.abs(found[good] / there[good] - 1)
    assert np.median(relative) < 5e-3
    assert np.quantile(relative, 0.99) < 0.02
    mu = dict(zip(KEYWORDS, block.keywords[1][0], strict=True))["MU"]
    assert 0.9 < mu <= 1.0


def test_a_still_real_dopplergram_has_no_power_and_a_wave_on_it_its_own(real_data: Path) -> None:
    """The SHARP's Dopplergram of 2011-02-15, with the Sun's rotation and the spacecraft in it, under a wave of 3.5 mHz.

    BUNIT says cm/s, but the mean is 3449, and OBS_VR is 3048 m/s: the values are m/s.
    """
    whole = sharp(real_data, "Dopplergram")
    assert np.nanmean(whole) == pytest.approx(3047.6 + 400, abs=300)
    still = whole[100:164, 300:364]
    assert np.ptp(still) > 500
    times = np.arange(640) * 45.0
    amplitude = 200.0
    wave = amplitude * np.sin(2 * np.pi * 3.5e-3 * times)
    quiet = band_power(np.repeat(still[None].astype(np.float32), 640, axis=0)).power
    assert np.abs(quiet).max() == 0
    moving = band_power(still[None] + wave[:, None, None]).power[0]
    alone = band_power(np.broadcast_to(wave[:, None, None], (640, 1, 1)).copy()).power[0]
    # Single precision: velocities of a kilometre per second under the wave cost some digits.
    np.testing.assert_allclose(moving[1], np.full(still.shape, alone[1, 0, 0]), rtol=2e-3)
    assert (moving[[0, 2, 3]] < 0.02 * moving[1]).all()


def test_a_real_region_has_its_flux_where_it_is_dark(real_data: Path) -> None:
    """NOAA 11158 hours before its X2.2 flare: tiles with much field are dark; the means are those of the pixels."""
    field, light = (sharp(real_data, name)[:360, 200:560] for name in ("magnetogram", "continuum"))
    flux, intensity = tile_means(np.abs(field)), tile_means(light)
    tile = np.abs(field)[40:80, 80:120]
    assert flux[9 * 1 + 2] == pytest.approx(tile.mean())
    strongest = np.argsort(flux)[-5:]
    assert flux[strongest].min() > 5 * np.median(flux)
    assert intensity[strongest].max() < np.median(intensity)
    assert np.corrcoef(flux, intensity)[0, 1] < -0.6
