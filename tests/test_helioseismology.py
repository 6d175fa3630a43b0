"""Band power: closed forms, exactness against a double-precision transform, gaps."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.solar.helioseismology import (
    BANDS_MILLIHERTZ,
    band_bins,
    band_power,
    reference_band_power,
)
from sdoml_dist.solar.photosphere import PhotosphereModel


def test_bins_of_solared() -> None:
    """640 frames of 45 s: bin k is 1000 k / 28800 mHz; k = 144 is 5 mHz exactly and in two bands."""
    bins, weights = band_bins(640, 45.0, BANDS_MILLIHERTZ, "solared")
    assert [(chosen[0], chosen[-1]) for chosen in bins] == [(58, 86), (87, 115), (116, 144), (144, 172)]
    assert weights[0][0] == pytest.approx(45**2 / 28800 / 2)
    assert weights[0][1] == pytest.approx(45**2 / 28800)
    true, _ = band_bins(640, 45.0, BANDS_MILLIHERTZ, "psd")
    assert true[2][0] == int(np.ceil(0.004 * 639 * 45))
    with pytest.raises(ValueError, match="holds no frequency"):
        band_bins(640, 45.0, ((20.0, 21.0),), "psd")


def test_a_sinusoid_is_in_its_band_alone() -> None:
    time = np.arange(800) * 45.0
    wave = np.sin(2 * np.pi * 3.5e-3 * time)[:, None, None] * np.full((1, 2, 3), 100.0)
    power = band_power(wave).power
    assert (power[:, 1] > 150 * power[:, [0, 2, 3]].max(axis=1)).all()  # 3.5 mHz is between two bins and leaks a little
    exact = np.sin(2 * np.pi * 101 / (639 * 45.0) * time)[:, None, None] * np.full((1, 2, 3), 100.0)
    power = band_power(exact).power
    assert (power[:, 1] > 1e8 * power[:, [0, 2, 3]].max(axis=1)).all()
    # One-sided density integrated over all frequencies is the variance of the differences (Parseval).
    psd = band_power(wave, convention="psd", bands_millihertz=((0.0, 12.0),)).power[:, 0, 0, 0]
    for index, begin in enumerate(range(0, 161, 80)):
        assert psd[index] == pytest.approx(np.mean(np.diff(wave[begin : begin + 640, 0, 0]) ** 2), rel=1e-5)
    # A straight line has no power: differences are constant.
    line = np.arange(640.0)[:, None, None] * np.ones((1, 1, 1))
    assert band_power(line).power.max() < 1e-9


def test_white_noise_has_its_closed_form() -> None:
    """E |F_k|^2 = 2 sigma^2 (N - (N - 1) cos(2 pi k / N)) for differences of white noise, N = 639."""
    rng = np.random.default_rng(0)
    sigma, count = 20.0, 639
    noise = rng.normal(0, sigma, (640, 64, 64)).astype(np.float32)
    bins, weights = band_bins(640, 45.0, BANDS_MILLIHERTZ, "solared")
    found = band_power(noise).power[0].mean(axis=(1, 2))
    for band, (chosen, weight) in enumerate(zip(bins, weights, strict=True)):
        expected = weight @ (2 * sigma**2 * (count - (count - 1) * np.cos(2 * np.pi * chosen / count)))
        assert found[band] == pytest.approx(expected, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(8, 120), st.integers(1, 150), st.integers(0, 400), st.sampled_from(["solared", "psd"]),
    st.integers(0, 1000),
)  # fmt: skip
def test_any_window_and_hop_is_exact(window: int, hop: int, more: int, convention: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    series = rng.normal(0, 100, (window + more, 2, 3)) + 2000 * np.sin(np.arange(window + more) / 30)[:, None, None]
    bands = ((0.0, 4.0), (4.0, 11.0))
    found = band_power(series.astype(np.float32), 45.0, window, hop, bands, convention)  # type: ignore[arg-type]
    expected = reference_band_power(series.astype(np.float32), 45.0, window, hop, bands, convention)  # type: ignore[arg-type]
    assert found.power.shape == expected.shape
    np.testing.assert_allclose(found.power, expected, rtol=2e-5, atol=1e-6 * expected.max())
    assert (found.duty_cycle == 1).all()
    assert found.start.tolist() == list(range(0, more + 1, hop))


def test_thousands_of_hops_stay_exact() -> None:
    rng = np.random.default_rng(1)
    frames = 640 + 16 * 3000
    time = np.arange(frames) * 45.0
    series = np.zeros((frames, 1, 4), np.float32)
    for frequency in (2.4e-3, 3.3e-3, 4.4e-3, 5.6e-3):
        series += (300 * np.sin(2 * np.pi * frequency * time[:, None] + rng.uniform(0, 6, 4))[:, None]).astype(
            np.float32
        )
    series += rng.normal(0, 30, series.shape).astype(np.float32)
    found = band_power(series, hop=16)
    assert found.start.size == 3001
    for index in (0, 1, 479, 480, 481, 1500, 2999, 3000):
        begin = int(found.start[index])
        expected = reference_band_power(series[begin : begin + 640])[0]
        np.testing.assert_allclose(found.power[index], expected, rtol=1e-5)


def test_gaps_follow_the_policy() -> None:
    rng = np.random.default_rng(2)
    series = rng.normal(0, 50, (720, 20, 20)).astype(np.float32)
    whole = band_power(series)
    holes = series.copy()
    holes[100:164] = np.nan  # 64 frames: 65 differences of every pixel
    holes[:, 0, 0] = np.nan
    masked = band_power(holes)
    assert masked.duty_cycle[0, 1, 1] == pytest.approx(1 - 65 / 639)
    assert masked.duty_cycle[1, 1, 1] == pytest.approx(1 - 65 / 639)
    assert np.isnan(masked.power[:, :, 0, 0]).all()
    assert np.isfinite(masked.power[:, :, 1:, 1:]).all()
    # The level is kept: dividing by the duty cycle undoes what the zeros took.
    ratio = masked.power[:, :, 1:, 1:].mean() / whole.power[:, :, 1:, 1:].mean()
    assert ratio == pytest.approx(1, abs=0.02)
    zero = band_power(holes, gaps="zero")
    np.testing.assert_allclose(zero.power[0, :, 1, 1], masked.power[0, :, 1, 1] * masked.duty_cycle[0, 1, 1], rtol=1e-5)
    assert np.isnan(band_power(holes, gaps="strict").power).all()
    part = series.copy()
    part[700] = np.nan  # only the second window has it
    strict = band_power(part, gaps="strict").power
    np.testing.assert_array_equal(strict[0], whole.power[0])
    assert np.isnan(strict[1]).all()
    assert np.isnan(band_power(holes, minimum_duty_cycle=0.95).power).all()


def test_gaps_are_followed_over_many_beginnings() -> None:
    """Windows of 15 differences that hop by 5 begin anew every 12 * 15 / 5 = 36 windows; infinities are gaps too."""
    rng = np.random.default_rng(3)
    series = rng.normal(0, 50, (16 + 5 * 100, 3, 90)).astype(np.float32)
    series[rng.random(series.shape) < 0.02] = np.nan
    series[rng.random(series.shape) < 0.01] = np.inf
    series[:, 0, :5] = 1.0
    bands = ((1.0, 5.0), (4.0, 11.0))
    with np.errstate(invalid="ignore"):
        differences = np.diff(series, axis=0)
    good = np.isfinite(differences)
    differences[~good] = 0
    windows = [slice(begin, begin + 15) for begin in range(0, 501, 5)]
    duty = np.array([good[window].mean(axis=0) for window in windows])
    spectra = np.array([np.abs(np.fft.rfft(differences[window].astype(np.float64), axis=0)) ** 2 for window in windows])
    bins, weights = band_bins(16, 45.0, bands, "psd")
    expected = np.stack(
        [np.einsum("k,wkyx->wyx", weight, spectra[:, chosen]) for chosen, weight in zip(bins, weights, strict=True)], 1
    )
    zero = band_power(series, 45.0, 16, 5, bands, "psd", "zero")
    np.testing.assert_allclose(zero.duty_cycle, duty, rtol=1e-6)
    np.testing.assert_allclose(zero.power, expected, rtol=1e-5, atol=1e-3)
    assert (zero.power[:, :, 0, :5] == 0).all()
    masked = band_power(series, 45.0, 16, 5, bands, "psd", "mask", 0.7)
    kept = np.broadcast_to((zero.duty_cycle >= 0.7)[:, None], expected.shape)
    assert 0.5 < kept.mean() < 1
    np.testing.assert_array_equal(np.isfinite(masked.power), kept)
    np.testing.assert_allclose(masked.power[kept], (expected / duty[:, None])[kept], rtol=1e-5, atol=1e-3)
    strict = band_power(series, 45.0, 16, 5, bands, "psd", "strict")
    np.testing.assert_array_equal(np.isfinite(strict.power), np.broadcast_to((duty == 1)[:, None], expected.shape))


@pytest.mark.parametrize("shape", [(1, 1), (1, 257), (3, 100), (300, 1), (2, 256), (2, 300)])
def test_any_number_of_pixels_is_exact(shape: tuple[int, int]) -> None:
    """Work goes in tiles of 256 pixels, which the shapes here fill in part, exactly, or more than once."""
    series = np.random.default_rng(4).normal(0, 100, (90, *shape)).astype(np.float32)
    whole = band_power(series, 45.0, 40, 9)
    np.testing.assert_allclose(whole.power, reference_band_power(series, 45.0, 40, 9), rtol=1e-5)
    series[60, -1, -1] = np.nan
    power = band_power(series, 45.0, 40, 9, gaps="strict").power
    assert np.isnan(power[3:, :, -1, -1]).all()  # the windows that begin at 27 or later hold frame 60
    power[3:, :, -1, -1] = whole.power[3:, :, -1, -1]
    np.testing.assert_array_equal(power, whole.power)


def test_any_type_and_layout_gives_the_same() -> None:
    series = np.random.default_rng(5).integers(-3000, 3000, (200, 20, 30)).astype(np.float32)
    expected = band_power(series, 45.0, 64, 16).power
    for kind in ("f8", ">f4", ">f8", "i2", ">i2", "i4"):
        np.testing.assert_array_equal(band_power(series.astype(kind), 45.0, 64, 16).power, expected)
    wide = np.zeros((400, 25, 70), np.float32)
    wide[::2, 2:22, 5:65:2] = series
    np.testing.assert_array_equal(band_power(wide[::2, 2:22, 5:65:2], 45.0, 64, 16).power, expected)
    np.testing.assert_array_equal(band_power(np.asfortranarray(series), 45.0, 64, 16).power, expected)
    wide.flags.writeable = False
    np.testing.assert_array_equal(band_power(wide[::2, 2:22, 5:65:2], 45.0, 64, 16).power, expected)


def test_memory_does_not_grow_with_the_series() -> None:
    """Beside the result: 256 pixels x 13 windows of 64 frames of float32 are 0.85 MB; a copy of the longer is 41 MB."""
    extra = []
    for frames in (2000, 20000):
        series = np.broadcast_to(np.arange(frames, dtype=np.float64)[:, None, None] % 7, (frames, 16, 32))
        band_power(series[:200], 45.0, 64, 8)
        tracemalloc.start()
        found = band_power(series, 45.0, 64, 8)
        extra.append(tracemalloc.get_traced_memory()[1] - found.power.nbytes - found.duty_cycle.nbytes)
        tracemalloc.stop()
    assert max(extra) < 2e6
    assert extra[1] - extra[0] < 1e5


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ValueError, match="no window of 640"):
        band_power(np.zeros((100, 2, 2)))
    with pytest.raises(ValueError, match=r"not \(time, y, x\)"):
        band_power(np.zeros((640, 2)))


def test_simulated_oscillations_are_weaker_in_strong_field() -> None:
    """The simulated photosphere absorbs p modes in spots; the power map must show it."""
    sun, start = PhotosphereModel(0), np.datetime64("2014-03-01T00:00", "ns")
    size, step = 48, 0.012
    field = sun.vector_field(start, (256, 256), (-1.0, 2 / 255, 0.0, -1.0, 0.0, 2 / 255))
    inner = np.nan_to_num(np.abs(field).sum(axis=0))
    y, x = np.mgrid[:256, :256] / 127.5 - 1
    inner[np.hypot(x, y) > 0.6] = 0
    row, column = np.unravel_index(np.argmax(inner), inner.shape)
    affine = (float(x[0, column] - size / 2 * step), step, 0.0, float(y[row, 0] - size / 2 * step), 0.0, step)
    times = start + np.arange(200) * np.timedelta64(45, "s")
    cube = np.stack([sun.velocity(time, (size, size), affine) for time in times])
    power = band_power(cube, window=200, hop=200).power[0, 1]
    strength = np.linalg.norm(sun.vector_field(times[100], (size, size), affine), axis=0)
    assert np.median(power[strength > 800]) < 0.7 * np.median(power[strength < 30])
