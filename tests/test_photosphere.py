"""The simulated photosphere against laws of the Sun and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sdoml_dist.solar import photosphere, photosphere_kernels, quiet_sun
from sdoml_dist.solar.activity import day_number
from sdoml_dist.solar.orbit import carrington, ephemeris
from sdoml_dist.solar.photosphere import Affine, PhotosphereModel

TIME = np.datetime64("2014-02-25T12:00", "ns")
FIRST = np.datetime64("2009-11-01", "ns")
Grid = tuple[tuple[int, int], Affine]


@pytest.fixture(scope="module")
def model() -> PhotosphereModel:
    return PhotosphereModel(0)


def disc(pixels: int = 256, edge: float = 1.1) -> Grid:
    """Return a grid over the whole Sun."""
    step = 2 * edge / pixels
    return (pixels, pixels), (step / 2 - edge, step, 0.0, step / 2 - edge, 0.0, step)


def window(x: float, y: float, half: float, pixels: int = 81) -> Grid:
    """Return a grid around a place on the image; its middle pixel is that place."""
    step = 2 * half / (pixels - 1)
    return (pixels, pixels), (x - half, step, 0.0, y - half, 0.0, step)


def pixel(x: float, y: float) -> Grid:
    return (1, 1), (x, 0.0, 0.0, y, 0.0, 0.0)


def coordinates(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y and the cosine of the heliocentric angle (NaN off the disc)."""
    shape, (x0, xx, xy, y0, yx, yy) = grid
    j, i = np.mgrid[: shape[0], : shape[1]]
    x, y = x0 + xx * i + xy * j, y0 + yx * i + yy * j
    r2 = x**2 + y**2
    return x, y, np.sqrt(np.where(r2 < 1, 1 - r2, np.nan))


def heliographic(x: np.ndarray, y: np.ndarray, mu: np.ndarray, b0_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Return Stonyhurst latitude and longitude in degrees."""
    b0 = np.radians(b0_deg)
    latitude = np.degrees(np.arcsin(y * np.cos(b0) + mu * np.sin(b0)))
    return latitude, np.degrees(np.arctan2(x, mu * np.cos(b0) - y * np.sin(b0)))


def project(latitude_deg: float, longitude_deg: float, b0_deg: float) -> tuple[float, float]:
    latitude, longitude, b0 = np.radians([latitude_deg, longitude_deg, b0_deg])
    y = np.sin(latitude) * np.cos(b0) - np.cos(latitude) * np.cos(longitude) * np.sin(b0)
    return float(np.cos(latitude) * np.sin(longitude)), float(y)


def crossings(
    model: PhotosphereModel, wanted_deg: float, number: int, cycle_24: bool = True
) -> list[tuple[int, np.datetime64]]:
    """Return large and lonely regions, and when each has some longitude from the central meridian."""
    found: list[tuple[int, np.datetime64]] = []
    regions = model.regions
    latitude = regions.latitude_deg
    sine2 = np.sin(np.radians(latitude)) ** 2
    for k in np.argsort(-regions.strength):
        if (regions.emergence_day[k] < 3600) != cycle_24 or not 100 < regions.emergence_day[k] < 7000:
            continue
        days = regions.emergence_day[k] + np.arange(3.0, 12.0, 0.05)
        times = FIRST + np.round(days * 86_400).astype("timedelta64[s]")
        drift = (14.71 - 2.39 * sine2[k] - 1.78 * sine2[k] ** 2 - 14.1844) * (days - regions.emergence_day[k])
        off = (regions.longitude_deg[k] + drift - carrington(times)[1] - wanted_deg + 180) % 360 - 180
        best = int(np.argmin(np.abs(off)))
        strength, longitude = regions.envelope(days[best]), regions.longitude_at(days[best])
        near = (np.abs((longitude - longitude[k] + 180) % 360 - 180) < 20) & (np.abs(latitude - latitude[k]) < 20)
        if abs(off[best]) < 0.8 and strength[near].sum() < 1.01 * strength[k]:
            found.append((int(k), times[best]))
        if len(found) == number:
            break
    return found


def around(model: PhotosphereModel, k: int, time: np.datetime64, half: float = 0.13) -> Grid:
    """Return a grid around a region."""
    place = ephemeris(time)
    longitude = float(model.regions.longitude_at(day_number(time))[k] - place.l0_deg)
    return window(*project(float(model.regions.latitude_deg[k]), longitude, place.b0_deg), half)


def test_maps_are_empty_off_the_disc(model: PhotosphereModel) -> None:
    grid = disc()
    off = np.isnan(coordinates(grid)[2])
    field, velocity, light = model.vector_field(TIME, *grid), model.velocity(TIME, *grid), model.continuum(TIME, *grid)
    for image in (*field, velocity):
        np.testing.assert_array_equal(np.isnan(image), off)
    np.testing.assert_array_equal(light == 0, off)
    assert field.dtype == velocity.dtype == light.dtype == np.float32
    assert 1200 < np.nanmax(np.abs(field)) < 2700


def test_the_same_seed_is_the_same_sun(model: PhotosphereModel) -> None:
    grid = disc(64)
    quiet_sun.pattern_of.cache_clear()
    quiet_sun._waves.cache_clear()
    again, other = PhotosphereModel(0), PhotosphereModel(1)
    for name in ("vector_field", "velocity", "continuum"):
        np.testing.assert_array_equal(getattr(model, name)(TIME, *grid), getattr(again, name)(TIME, *grid))
        assert not np.array_equal(getattr(model, name)(TIME, *grid), getattr(other, name)(TIME, *grid), equal_nan=True)


def test_a_map_does_not_depend_on_its_grid(model: PhotosphereModel) -> None:
    shape, (x0, xx, _, y0, _, yy) = disc(64)
    turned = (-x0, -xx, 0.0, -y0, 0.0, -yy)
    for name in ("vector_field", "velocity", "continuum"):
        whole = getattr(model, name)(TIME, shape, (x0, xx, 0.0, y0, 0.0, yy))
        np.testing.assert_allclose(
            getattr(model, name)(TIME, shape, turned)[..., ::-1, ::-1], whole, rtol=1e-4, atol=0.1
        )
        for j, i in ((5, 33), (32, 32), (40, 12), (58, 30)):
            one = getattr(model, name)(TIME, *pixel(x0 + xx * i, y0 + yy * j))
            np.testing.assert_allclose(one[..., 0, 0], whole[..., j, i], rtol=1e-4, atol=0.1)


def test_one_charge_has_the_field_of_a_point_turned_into_the_image() -> None:
    # A charge at 20 deg north, 50 deg west, 0.02 deep, seen from 7 deg north.
    latitude, longitude, b0 = np.radians([20.0, 50.0, 7.0])
    unit = np.array([np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)])
    charge = np.array([*(0.98 * unit), 2000.0 * 0.02**2])[:, None]
    grid = disc(300, 0.999)
    field = np.empty((3, *grid[0]), np.float32)
    rates, phases = np.full(900, 14.0), np.zeros((1, 4))
    pattern = np.zeros((900, 1800, 4), np.float32)
    args = (grid[1], np.sin(b0), np.cos(b0))
    photosphere_kernels.magnetic(*args, 0.0, pattern, rates, phases, charge, np.zeros((0, 5)), field)
    photosphere_kernels.turn(*args, field)
    # The same in the axes of the image: tilt the Sun's north towards the observer.
    turn = np.array([[1, 0, 0], [0, np.cos(b0), -np.sin(b0)], [0, np.sin(b0), np.cos(b0)]])
    x, y, mu = coordinates(grid)
    away = np.stack([x, y, mu]) - (turn @ (0.98 * unit))[:, None, None]
    expected = charge[3, 0] * away / np.sqrt((away**2).sum(axis=0)) ** 3
    np.testing.assert_allclose(field, expected, rtol=1e-3, atol=1e-3)
    # Right above, the field is 2000 G straight outwards.
    photosphere_kernels.magnetic(*args[:0], pixel(*(turn @ unit)[:2])[1], *args[1:], 0.0, pattern, rates, phases, charge,
                          np.zeros((0, 5)), field[:, :1, :1])  # fmt: skip
    np.testing.assert_allclose(field[:, 0, 0], [2000, 0, 0], atol=0.5)


def test_the_radial_field_comes_back_from_the_image(model: PhotosphereModel) -> None:
    grid = disc(400)
    x, y, mu = coordinates(grid)
    vector, local = model.vector_field(TIME, *grid), model.heliographic_field(TIME, *grid)
    radial = vector[0] * x + vector[1] * y + vector[2] * mu
    np.testing.assert_allclose(radial, local[0], atol=0.01)
    np.testing.assert_allclose((vector**2).sum(axis=0), (local**2).sum(axis=0), rtol=1e-3, atol=0.01)
    limb = (mu < 0.5) & (np.abs(local[0]) > 500)
    # There the line-of-sight field alone would be far off.
    assert limb.sum() > 20
    assert np.median(np.abs(vector[2] - local[0])[limb]) > 200
    centre = model.vector_field(TIME, *pixel(0, 0)), model.heliographic_field(TIME, *pixel(0, 0))
    assert centre[0][2, 0, 0] == pytest.approx(centre[1][0, 0, 0], abs=1e-3)


def test_spots_weaken_and_incline_outwards(model: PhotosphereModel) -> None:
    ((k, time),) = crossings(model, 0.0, 1)
    grid = around(model, k, time)
    field = model.heliographic_field(time, *grid)
    strength = np.sqrt((field**2).sum(axis=0))
    j, i = np.unravel_index(np.argmax(strength), strength.shape)
    assert 1500 < strength[j, i] < 2600
    inclination = np.degrees(np.arccos(np.abs(field[0]) / strength))
    assert inclination[j, i] < 15
    assert strength[j, i] > strength[j, i + 2] > strength[j, i + 5] > strength[j, i + 8]
    assert inclination[j, i + 8] > inclination[j, i + 4] > inclination[j, i]


@pytest.mark.parametrize(("cycle_24", "northern_sign"), [(True, -1), (False, 1)])
def test_polarities_follow_hale_and_tilts_joy(model: PhotosphereModel, cycle_24: bool, northern_sign: int) -> None:
    poleward, hemispheres = [], set()
    for k, time in crossings(model, 0.0, 24, cycle_24):
        grid = around(model, k, time, 0.003 * float(model.regions.size_deg[k]) * 9)
        latitude, longitude = heliographic(*coordinates(grid), ephemeris(time).b0_deg)
        radial = model.heliographic_field(time, *grid)[0].astype(float)
        hemisphere = np.sign(model.regions.latitude_deg[k])
        leading = hemisphere * northern_sign * radial
        one, two = leading.clip(300) - 300, (-leading).clip(300) - 300
        # The leading polarity lies to the west.
        assert np.average(longitude, weights=one) > np.average(longitude, weights=two)
        poleward.append(hemisphere * (np.average(latitude, weights=one) - np.average(latitude, weights=two)))
        hemispheres.add(int(hemisphere))
    assert hemispheres == {-1, 1}
    assert np.mean(poleward) < -2 * np.std(poleward) / np.sqrt(len(poleward))


def test_regions_move_west_with_the_rotation(model: PhotosphereModel) -> None:
    for k, time in crossings(model, -13.0, 3):
        places = []
        for moment in (time, time + np.timedelta64(2, "D")):
            grid = around(model, k, moment)
            latitude, longitude = heliographic(*coordinates(grid), ephemeris(moment).b0_deg)
            leading = model.leading_sign()[k] * model.vector_field(moment, *grid)[2]
            weight = leading > 0.6 * leading.max()
            places.append((latitude[weight].mean(), longitude[weight].mean()))
        sine2 = np.sin(np.radians(model.regions.latitude_deg[k])) ** 2
        # The Earth follows by 0.986 deg a day, within 2 per cent over the year.
        expected = 2 * (14.71 - 2.39 * sine2 - 1.78 * sine2**2 - 0.986)
        # Seen aslant, the line-of-sight field is largest up to 0.2 deg nearer to the centre of the disc.
        assert places[1][1] - places[0][1] == pytest.approx(expected, abs=0.45)
        assert places[1][0] == pytest.approx(places[0][0], abs=0.3)


def test_flux_far_from_regions_adds_up_to_little(model: PhotosphereModel) -> None:
    grid = disc(512)
    x, y, mu = coordinates(grid)
    place, day = ephemeris(TIME), day_number(TIME)
    latitude, longitude = heliographic(x, y, mu, place.b0_deg)
    far = mu > 0.5
    strength = model.regions.envelope(day)
    for k in np.flatnonzero(strength > 0.01):
        away = (longitude - (model.regions.longitude_at(day)[k] - place.l0_deg) + 180) % 360 - 180
        far &= (np.abs(away) > 14) | (np.abs(latitude - model.regions.latitude_deg[k]) > 14)
    radial, area = model.heliographic_field(TIME, *grid)[0][far].astype(float), 1 / mu[far]
    assert far.sum() > 20_000
    assert abs((radial * area).sum()) < 0.05 * (np.abs(radial) * area).sum()
    assert 5 < np.sqrt(np.average(radial**2, weights=area)) < 30
    assert np.abs(radial).max() < 300


def test_the_west_limb_recedes(model: PhotosphereModel) -> None:
    # 14.71 deg per day times 696 000 km is 2068 m/s; the rows lie within 6 deg of the equator.
    velocity = model.velocity(TIME, (61, 2), (-0.98, 1.96, 0.0, -0.1, 0.0, 0.2 / 60), observer=False)
    east, west = velocity.mean(axis=0)
    assert (west - east) / 2 == pytest.approx(2068 * 0.98 * np.cos(np.radians(ephemeris(TIME).b0_deg)), abs=120)
    assert east < -1700
    assert west > 1700


def test_the_limb_is_redder_than_the_centre(model: PhotosphereModel) -> None:
    grid = disc(256)
    mu = coordinates(grid)[2]
    velocity = np.mean(
        [model.velocity(TIME + np.timedelta64(100 * n, "s"), *grid, observer=False) for n in range(6)], 0
    )
    # Rotation cancels between east and west.
    assert np.mean(velocity[mu > 0.9]) == pytest.approx(-280, abs=30)
    assert np.mean(velocity[(mu > 0.2) & (mu < 0.4)]) == pytest.approx(-280 + 540 * 0.7**3, abs=60)


def test_the_spacecraft_enters_by_its_projection(model: PhotosphereModel) -> None:
    place = ephemeris(TIME)
    away, west, north = place.velocity_m_s
    assert abs(away) > 100
    assert west > 20_000

    def motion(x: float, y: float) -> float:
        grid = pixel(x, y)
        return float((model.velocity(TIME, *grid) - model.velocity(TIME, *grid, observer=False))[0, 0])

    # A spacecraft that flies away sees the Sun recede.
    assert motion(0, 0) == pytest.approx(away, abs=0.01)
    # One that flies west approaches the west limb: sin(960") = 0.00465.
    angle = np.radians(place.rsun_obs_arcsec / 3600)
    for x, y in ((0.95, 0.0), (-0.95, 0.0), (0.1, 0.9)):
        assert motion(x, y) == pytest.approx(away - np.sin(angle) * (west * x + north * y), abs=2)


def test_oscillations_take_five_minutes(model: PhotosphereModel) -> None:
    times = TIME + np.arange(640) * np.timedelta64(45, "s")
    total = np.zeros(321)
    for x, y in ((0.05, 0.2), (-0.3, -0.4)):
        series = np.array([model.velocity(time, *pixel(x, y), observer=False)[0, 0] for time in times], float)
        total += np.abs(np.fft.rfft((series - series.mean()) * np.hanning(640))) ** 2
        jumps = np.diff(series)
        # sin(pi 3.3 mHz 45 s) = 0.45: steps of 0.9 times the rms of some 400 m/s, less towards the limb.
        assert 150 < np.sqrt(np.mean(jumps**2)) < 600
    frequency = np.fft.rfftfreq(640, 45.0) * 1000
    above = frequency > 0.5
    smooth = np.convolve(total, np.ones(9) / 9, "same")
    assert 2.5 < frequency[above][np.argmax(smooth[above])] < 4.5
    assert total[(frequency > 2) & (frequency < 5)].sum() > 0.9 * total[above].sum()


def test_modes_are_normalised() -> None:
    waves = quiet_sun._waves(0)
    area = np.cos(np.radians(quiet_sun._LATITUDE_DEG))
    np.testing.assert_allclose((waves.profile**2 * area).sum(axis=1) / area.sum(), 1, rtol=2e-3)
    out = np.empty((2, 3))
    sine = np.array([0.1, 0.5, -0.9])
    # sqrt(3) s, and sqrt(15 / 2) s sqrt(1 - s^2), by hand.
    quiet_sun._legendre(np.array([1, 2]), np.array([0, 1]), sine, out)
    np.testing.assert_allclose(out, [np.sqrt(3) * sine, np.sqrt(7.5) * sine * np.sqrt(1 - sine**2)], rtol=1e-12)


def test_strong_fields_absorb(model: PhotosphereModel) -> None:
    ((k, time),) = crossings(model, 0.0, 1)
    grid = around(model, k, time)
    frames = [model.velocity(time + np.timedelta64(60 * n, "s"), *grid, observer=False) for n in range(40)]
    power = np.var(np.diff(frames, axis=0), axis=0)
    strength = np.sqrt((model.heliographic_field(time, *grid) ** 2).sum(axis=0))
    assert power[strength > 1500].mean() < 0.45 * power[strength < 50].mean()


def test_power_falls_before_a_region_emerges(model: PhotosphereModel, monkeypatch: pytest.MonkeyPatch) -> None:
    regions = model.regions
    for k in np.argsort(-regions.strength):
        time = FIRST + np.timedelta64(round((regions.emergence_day[k] - 0.1) * 86_400), "s")
        place = ephemeris(time)
        away = (regions.longitude_at(day_number(time))[k] - place.l0_deg + 180) % 360 - 180
        if abs(away) < 30:
            break
    grid = around(model, int(k), time, 0.01)
    times = time - np.arange(12) * np.timedelta64(60, "s")
    power = []
    for depth in (photosphere._WARNING_DEPTH, 0.0):
        monkeypatch.setattr(photosphere, "_WARNING_DEPTH", depth)
        power.append(np.var([model.velocity(moment, *grid, observer=False) for moment in times], axis=0).mean())
    # Nearly the full depth two hours ahead of a large region.
    assert power[0] / power[1] == pytest.approx(1 - 0.35 * 0.93, abs=0.06)


def test_spots_are_dark_and_the_limb_is_darker(model: PhotosphereModel) -> None:
    assert model.continuum(TIME, *pixel(0, 0))[0, 0] == pytest.approx(5e4, rel=0.01)
    grid = disc(512)
    mu, light = coordinates(grid)[2], model.continuum(TIME, *grid)
    ring = np.abs(mu - 0.5) < 0.01
    # 1 + 0.459224 ln 0.5 + 0.132395 ln^2 0.5 + ... = 0.73910
    assert np.median(light[ring]) == pytest.approx(5e4 * 0.7391, rel=0.01)
    ((k, time),) = crossings(model, 0.0, 1)
    grid = around(model, k, time)
    light = model.continuum(time, *grid)
    strength = np.sqrt((model.vector_field(time, *grid) ** 2).sum(axis=0))
    darkest = np.unravel_index(np.argmin(light), light.shape)
    assert strength[darkest] > 0.98 * strength.max()
    quiet = np.median(light[strength < 100])
    assert 0.2 < light[darkest] / quiet < 0.35
    penumbra = (strength > 1100) & (strength < 1300)
    assert np.median(light[penumbra]) == pytest.approx(0.75 * quiet, rel=0.05)
