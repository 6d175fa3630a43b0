"""Metrics of generated images, by hand; means over images merge exactly."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.solar.image_metrics import METRICS, MetricMeans, disk_mask, disk_masks, image_metrics


def _of(real: Any, generated: Any, mask: Any = None) -> dict[str, float]:
    """Return the metrics of one image of one row."""
    metrics = image_metrics(np.array([real], float), np.array([generated], float), mask)
    return {name: float(value) for name, value in metrics.items()}


def test_metrics_by_hand() -> None:
    # Errors 0, 1, 1, 4; relative 0, 0.5 (not below), 0.25, 1; means 3.25 and 4.25.
    metrics = _of([1, 2, 4, 4], [1, 3, 5, 8])
    assert metrics["ppe10"] == 0.25
    assert metrics["ppe50"] == 0.5
    assert metrics["rmse"] == pytest.approx(math.sqrt(18 / 4))
    assert metrics["flux_difference"] == pytest.approx(6 / 11)
    # Deviations of real from 2.75: -1.75 -0.75 1.25 1.25; of generated from 4.25: -3.25 -1.25 0.75 3.75.
    covariance = 1.75 * 3.25 + 0.75 * 1.25 + 1.25 * 0.75 + 1.25 * 3.75
    squares = (1.75**2 + 0.75**2 + 2 * 1.25**2) * (3.25**2 + 1.25**2 + 0.75**2 + 3.75**2)
    assert metrics["correlation"] == pytest.approx(covariance / math.sqrt(squares))
    # Generated pixels from the mean of the real ones, 2.75: -1.75 0.25 2.25 5.25.
    assert metrics["rms_contrast"] == pytest.approx(math.sqrt((1.75**2 + 0.25**2 + 2.25**2 + 5.25**2) / 4))


def test_limits_of_errors_are_strict() -> None:
    # 1/10 and 5/10 exactly are not below 0.1 and 0.5; negative real values count by their size.
    assert _of([10, 10], [11, 10.9])["ppe10"] == 0.5
    assert _of([10, 10], [15, 14.9])["ppe50"] == 0.5
    assert _of([-10, -10], [-14, -6])["ppe50"] == 1
    assert _of([-10, 10], [10, -10])["ppe50"] == 0


def test_zero_pixels_are_never_within() -> None:
    metrics = _of([0, 0, 1, 1], [0, 5, 1, 1])
    assert (metrics["ppe10"], metrics["ppe50"]) == (0.5, 0.5)
    assert math.isnan(_of([-1, 1], [-1, 1])["flux_difference"])


def test_missing_and_masked_pixels_are_left_out() -> None:
    alone = _of([1, 2, 4], [2, 2, 5])
    assert _of([1, math.nan, 2, 4, math.inf], [2, 7, 2, 5, math.nan]) == alone
    assert _of([1, 9, 2, 4], [2, -7, 2, 5], np.array([True, False, True, True])) == alone
    nothing = _of([math.nan, 1], [1, 1], np.array([True, False]))
    assert all(math.isnan(value) for value in nothing.values())


def test_constant_images() -> None:
    assert math.isnan(_of([3, 3], [1, 2])["correlation"])
    assert _of([1, 2, 3], [2, 2, 2])["correlation"] == 0
    # A constant that a sum over pixels does not reproduce exactly.
    assert _of([1, 2, 3], [0.1, 0.1, 0.1])["correlation"] == 0


def test_failed_models_are_not_hidden() -> None:
    with pytest.raises(ValueError, match="not finite at 1 of 2"):
        _of([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match="differ"):
        image_metrics(np.zeros((2, 4, 4)), np.zeros((1, 4, 4)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-150, 1e150), st.booleans())
def test_correlation_is_that_of_numpy_at_any_scale(seed: int, scale: float, falling: bool) -> None:
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(3, 1, (2, 1, 50))
    expected = np.corrcoef(real[0], generated[0])[0, 1]
    assert _of(real[0], generated[0] * scale)["correlation"] == pytest.approx(expected, abs=1e-9)
    line = real[0] * (-scale if falling else scale)
    assert _of(real[0], line)["correlation"] == pytest.approx(-1 if falling else 1, abs=1e-12)
    assert abs(_of(real[0], line)["correlation"]) <= 1


def test_shapes_and_single_precision() -> None:
    rng = np.random.default_rng(0)
    real = rng.uniform(1, 100, (2, 3, 8, 8)).astype(np.float32)
    generated = (real * 1.05).astype(np.float32)
    metrics = image_metrics(real, generated, disk_masks(("171A", "Bx", "Bz"), 8))
    assert tuple(metrics) == METRICS
    assert all(value.shape == (2, 3) and value.dtype == np.float64 for value in metrics.values())
    np.testing.assert_allclose(metrics["flux_difference"], 0.05, rtol=1e-5)
    np.testing.assert_allclose(metrics["ppe10"], 1)
    one = image_metrics(real[1, 2][disk_mask(8)][None], generated[1, 2][disk_mask(8)][None])
    assert metrics["rmse"][1, 2] == pytest.approx(float(one["rmse"]), rel=1e-12)


def test_disk_mask_counts_the_points_of_a_circle() -> None:
    # int(0.40625 * 8) = 3: whole points with x^2 + y^2 < 9 are 25 = 1 + 4 (1) + 4 (2) + 4 (4) + 8 (5) + 4 (8).
    assert disk_mask(8).sum() == 25
    # int(0.40625 * 16) = 6: 113 points within 6 less the four at exactly 6.
    assert disk_mask(16).sum() == 109
    mask = disk_mask(512)
    # Radius 208 around (256, 256), strict: the point at exactly 208 is outside, the centre is not between pixels.
    assert mask[256, 256 - 207]
    assert not mask[256, 256 - 208]
    assert mask[256 + 207, 256]
    assert not mask[256 + 208, 256]
    # Pick: the number of points differs from the area by less than the circumference.
    assert abs(mask.sum() - math.pi * 208**2) < 2 * math.pi * 208
    masks = disk_masks(("171A", "Bx", "Bz"), 16)
    assert masks.sum((1, 2)).tolist() == [256, 109, 109]


def test_means_over_images() -> None:
    rng = np.random.default_rng(1)
    real, generated = rng.uniform(1, 9, (2, 5, 2, 4, 4))
    real[0, 0] = 7  # constant: no correlation
    real[1, 1] = np.nan  # no data
    metrics = image_metrics(real, generated)
    means = MetricMeans(("171A", "Bz"))
    means.add(metrics)
    for name, values in means.means().items():
        np.testing.assert_allclose(values, np.nanmean(metrics[name], 0), rtol=1e-15)
    assert means.counts()["correlation"].tolist() == [4, 4]
    assert means.counts()["rmse"].tolist() == [5, 4]
    empty = MetricMeans(("171A", "Bz"))
    assert all(np.isnan(values).all() for values in empty.means().values())


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12), st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_order_and_grouping_give_the_same_bits(rows: list[tuple[float, float]], random: Any, parts: int) -> None:
    def means_of(some: list[tuple[float, float]]) -> MetricMeans:
        means = MetricMeans(("a", "b"))
        means.add(dict.fromkeys(METRICS, np.array(some, float).reshape(-1, 2)))
        return means

    whole = means_of(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    merged = MetricMeans(("a", "b"))
    for part in range(parts):
        merged = pickle.loads(pickle.dumps(means_of(shuffled[part::parts]))).merge(merged)
    for name in METRICS:
        assert whole.means()[name].tobytes() == merged.means()[name].tobytes()
        assert whole.counts()[name].tolist() == merged.counts()[name].tolist()
        for place in range(2):
            finite = [row[place] for row in rows if math.isfinite(row[place])]
            if finite and max(map(abs, finite)) < 1e300:
                assert whole.means()[name][place] == pytest.approx(
                    math.fsum(finite) / len(finite), rel=1e-15, abs=1e-320
                )


def test_means_refuse_what_does_not_belong() -> None:
    means = MetricMeans(("171A", "Bz"))
    with pytest.raises(ValueError, match="cannot be merged"):
        means.merge(MetricMeans(("Bz", "171A")))
    with pytest.raises(ValueError, match="2 channels"):
        means.add(dict.fromkeys(METRICS, np.zeros((3, 4))))
    with pytest.raises(ValueError, match="instead of"):
        means.add({"rmse": np.zeros(2)})
    assert means.counts()["rmse"].tolist() == [0, 0]
