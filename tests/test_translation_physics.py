"""Translation without networks: ranges, flux, regions and reference times against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.translation import (
    RANGES,
    active_patches,
    block_means,
    correlation,
    disc_mask,
    disc_radius,
    net_flux,
    pixel_area_cm2,
    quiet_patch,
    reference_delay_days,
    reference_times,
    to_disc_median,
    unsigned_flux,
)


def test_ranges_limit_then_take_the_logarithm_then_the_affine_map() -> None:
    values = np.array([0.0, 1.0, 50.0, 100.5, 200.0, 900.0, np.nan])
    expected = 2 * np.log10(np.clip(values, 1, 200)) / np.log10(200) - 1
    np.testing.assert_allclose(RANGES["euv-200"].to_network(values), expected, atol=1e-12)
    # The released order, affine before the logarithm, has no value below 100.5.
    assert np.isfinite(RANGES["euv-200"].to_network(values)[:-1]).all()
    dn = np.array([0.0, 1.0, 127.0, 16383.0, 5e5])
    np.testing.assert_allclose(
        RANGES["aia"].to_network(dn), np.log2(np.clip(dn + 1, 1, 2**14)) / 7 - 1, atol=1e-12
    )  # fmt: skip
    assert RANGES["field-100"].to_network(np.array([250.0, -50.0])).tolist() == [1.0, -0.5]
    assert RANGES["field-1500"].to_network(np.array([3000.0])).tolist() == [2.0]
    for chosen in RANGES.values():
        inside = np.linspace(chosen.low - chosen.offset, chosen.high - chosen.offset, 7)
        np.testing.assert_allclose(chosen.to_physical(chosen.to_network(inside)), inside, rtol=1e-9, atol=1e-9)
    # 8-bit grey levels of +-100 G: grey 255 is +100 G, not the +410 G of the released conversion.
    assert RANGES["field-100"].to_physical(np.array([255 / 127.5 - 1])).tolist() == [100.0]


def test_flux_of_a_known_field() -> None:
    area = pixel_area_cm2(512)
    assert disc_radius(512) == pytest.approx(203.3333, abs=1e-3)
    assert area == pytest.approx((6.96e10 / 203.33333) ** 2, rel=1e-6)
    field = np.full((4, 8), np.nan)
    field[0, :4] = [100.0, -50.0, 5.0, -9.0]
    assert unsigned_flux(field, area) == pytest.approx(150 * area)
    assert net_flux(field, area) == pytest.approx(46 * area)
    # The disc of unit field has the Sun's cross-section.
    disc = np.where(disc_mask(512, 1.0), 20.0, np.nan)
    assert float(unsigned_flux(disc, area)) == pytest.approx(20 * np.pi * 6.96e10**2, rel=2e-3)


def test_images_are_brought_to_one_median_on_the_disc() -> None:
    mask = disc_mask(64)
    rng = np.random.default_rng(0)
    images = rng.gamma(4.0, 30.0, (2, 3, 64, 64)).astype(np.float32)
    images[0, 0, 30:34, 30:34] = np.nan
    scaled = to_disc_median(images, mask)
    np.testing.assert_allclose(np.nanmedian(scaled[..., mask], axis=-1), 100.0, rtol=1e-5)
    np.testing.assert_allclose(to_disc_median(7 * images, mask), scaled, rtol=1e-5)
    images[1, 2] = np.nan
    with pytest.raises(UsageError, match="median over the disc is 0 in 1 of 6"):
        to_disc_median(images, mask)


def test_blocks_and_correlation() -> None:
    image = np.arange(64.0).reshape(8, 8)
    image[:4, :4] = np.nan
    image[0, 4:] = np.nan
    means = block_means(image, 4)
    assert np.isnan(means[0, 0])
    assert means[0, 1] == image[1:4, 4:].mean()
    assert block_means(np.zeros((3, 10, 13)), 4).shape == (3, 2, 3)
    assert correlation(np.array([1.0, 2, 3, np.nan]), np.array([2.0, 4, 6, 0])) == pytest.approx(1.0)
    assert np.isnan(correlation(np.ones(4), np.arange(4.0)))


def test_regions_are_found_where_they_are() -> None:
    field = np.where(disc_mask(256, 0.98), 3.0, np.nan)
    for row, column in ((100, 90), (150, 170)):
        field[row - 4 : row + 4, column - 8 : column] = 500.0
        field[row - 4 : row + 4, column : column + 8] = -500.0
    field[128, 231:234] = 900.0  # at the limb: too little of a patch around it is on the disc
    found = active_patches(field, 32)
    assert len(found) == 2
    for patch, (row, column) in zip(sorted(found, key=lambda one: one.row), ((100, 90), (150, 170)), strict=True):
        assert np.nansum(np.abs(patch.cut(field)) > 400) == 128
        assert patch.row <= row - 4
        assert patch.column <= column - 8
    quiet = quiet_patch(field, 32)
    assert quiet is not None
    assert quiet.cut(field).max() == 3.0
    assert active_patches(np.where(disc_mask(64), 3.0, np.nan), 16) == []
    assert quiet_patch(np.full((64, 64), 200.0), 16) is None
    assert quiet_patch(field, 300) is None


def test_reference_times() -> None:
    # Both spacecraft of the example in the description of AISFM 3.0.
    assert reference_delay_days(-94.78) == pytest.approx(20.09, abs=0.01)
    assert reference_delay_days(87.6) == pytest.approx(6.64, abs=0.01)
    assert reference_delay_days(0.0) == 0.0
    assert reference_delay_days(0.0, front=True) == 27.2753
    earlier = reference_times(np.array(["2011-03-05T00:00"], "datetime64[ns]"), -94.78)
    assert str(earlier[0])[:16] == "2011-02-12T21:44"
