"""Transforms between physical units and network inputs; binning."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdoml_dist.errors import UsageError
from sdoml_dist.models.binning import bin_images
from sdoml_dist.models.moments import ChannelMoments
from sdoml_dist.models.transforms import DEFAULTS, ChannelTransforms, Kind, Normalisation, network_input

KINDS: tuple[Kind, ...] = get_args(Kind)
ALL = ChannelTransforms(
    channels=("94A", "171A", "Bz", "M"),
    kinds=("asinh", "log", "symmetric", "none"),
    scales=(2.0, 30.0, 10.0, 1.0),
    means=(1.5, 2.0, 0.0, -3.0),
    stds=(0.5, 1.25, 3.0, 200.0),
    minima=(0.0, 0.0, -7.0, -3000.0),
    maxima=(6.0, 5.0, 7.0, 2000.0),
)


def _images(low: float = -1e4, high: float = 1e4) -> st.SearchStrategy[np.ndarray]:
    values = st.floats(low, high, width=32) | st.just(math.nan)
    return hnp.arrays(np.float64, (4, 2, 3), elements=values)


def test_values_by_hand() -> None:
    # sinh(1.5 + 0.5) * 2 stretches to 2 and is (2 - 1.5) / 0.5 = 1 deviation; the others likewise.
    physical = np.array([2 * math.sinh(2), 30 * math.expm1(4.5), -10 * math.sinh(6), 397]).reshape(4, 1, 1)
    assert ALL.to_network(physical).ravel() == pytest.approx([1, 2, -2, 2])
    ranged = replace(ALL, normalisation="range").to_network(physical).ravel()
    # 2 of 0 to 6; 4.5 of 0 to 5; -6 of -7 to 7; 397 of -3000 to 2000: all onto -1 to 1.
    assert ranged == pytest.approx([-1 / 3, 0.8, -6 / 7, 2 * 3397 / 5000 - 1])
    bare = replace(ALL, normalisation="none").to_network(physical).ravel()
    assert bare == pytest.approx([2, 4.5, -6, 397])


@pytest.mark.parametrize("normalisation", get_args(Normalisation))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_round_trip(normalisation: Normalisation, data: st.DataObject) -> None:
    transforms = replace(ALL, normalisation=normalisation)
    values = data.draw(_images())
    values[1] = np.abs(values[1])  # logarithms start at 0
    back = transforms.to_physical(transforms.to_network(values))
    assert (np.isnan(back) == np.isnan(values)).all()
    np.testing.assert_allclose(back, values, rtol=1e-10, atol=1e-9)
    tensor = torch.from_numpy(values)
    np.testing.assert_allclose(
        transforms.to_network(tensor).numpy(), transforms.to_network(values), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        transforms.to_physical(transforms.to_network(tensor)).numpy(), values, rtol=1e-10, atol=1e-9
    )


def test_round_trip_in_single_precision_keeps_the_dtype() -> None:
    values = np.geomspace(1e-3, 1e4, 4 * 30).reshape(4, 5, 6).astype(np.float32)
    for array in (values, torch.from_numpy(values)):
        stretched: Any = ALL.to_network(array)  # type: ignore[type-var]
        back: Any = ALL.to_physical(stretched)
        assert stretched.dtype == back.dtype == array.dtype
        # An input near -2 has a spacing of 1.2e-7; sinh turns it into a relative one near the scale and above.
        np.testing.assert_allclose(np.asarray(back), values, rtol=1e-5, atol=1e-4)


def test_negative_values_are_lifted_by_the_logarithm_only() -> None:
    values = np.full((4, 1, 1), -5.0)
    assert ALL.to_physical(ALL.to_network(values)).ravel() == pytest.approx([-5, 0, -5, -5])


def test_symmetric_keeps_polarities_alike() -> None:
    transforms = ChannelTransforms.default(("Bz",)).fit([np.array([[[-100.0, 50.0, 300.0, 400.0]]])])
    values = np.array([[[-400.0, 0.0, 400.0]]])
    low, zero, high = transforms.to_network(values).ravel()
    assert (zero, low) == (0, -high)
    ranged = replace(transforms, normalisation="range").to_network(values).ravel()
    assert ranged == pytest.approx([-1, 0, 1])


def test_fitted_data_have_mean_0_and_deviation_1() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(5, 20, (3, 4, 8, 8)) for _ in range(4)]
    samples[1][0, 0, :4] = np.nan
    samples[2][:, 1] = np.inf
    fitted = ALL.fit(iter(samples))
    inputs = fitted.to_network(np.concatenate(samples))
    for place, kind in enumerate(fitted.kinds):
        channel = inputs[:, place][np.isfinite(inputs[:, place])]
        assert np.square(channel).mean() == pytest.approx(1, rel=1e-12)
        assert channel.mean() == pytest.approx(0, abs=1e-12) or kind == "symmetric"
    ranged = replace(fitted, normalisation="range").to_network(np.concatenate(samples))
    assert np.nanmin(ranged[:, 0]) == pytest.approx(-1)
    assert np.nanmax(ranged[:, 0]) == pytest.approx(1)
    assert ALL.fit(samples) == fitted
    assert (fitted.channels, fitted.kinds, fitted.scales) == (ALL.channels, ALL.kinds, ALL.scales)


@settings(max_examples=60, deadline=None)
@given(st.lists(_images(), min_size=1, max_size=5), st.integers(0, 5))
def test_moments_of_parts_merge_to_those_of_the_whole(parts: list[np.ndarray], cut: int) -> None:
    def merged(some: list[np.ndarray]) -> ChannelMoments:
        moments = ChannelMoments.empty(4)
        for part in some:
            moments = moments.merge(ChannelMoments.of(part))
        return moments

    moments = merged(parts[:cut]).merge(merged(parts[cut:]))
    whole = np.moveaxis(np.stack(parts), -3, 0).reshape(4, -1)
    for place, channel in enumerate(whole):
        valid = channel[np.isfinite(channel)]
        assert moments.count[place] == valid.size
        if valid.size:
            assert moments.mean[place] == pytest.approx(valid.mean(), rel=1e-9, abs=1e-9)
            assert moments.variance[place] == pytest.approx(valid.var(), rel=1e-9, abs=1e-6)
            assert (moments.minimum[place], moments.maximum[place]) == (valid.min(), valid.max())
        else:
            assert math.isnan(moments.variance[place])


def test_variance_of_large_values_is_not_lost() -> None:
    # 1e8 +- 1 in four parts: sums of squares (1e16) would lose all of it.
    parts = [np.array([[[1e8 + 1, 1e8 - 1]]]) for _ in range(4)]
    moments = ChannelMoments.empty(1)
    for part in parts:
        moments = moments.merge(ChannelMoments.of(part))
    assert moments.variance[0] == 1


def test_statistics_that_mean_nothing_are_refused() -> None:
    transforms = ChannelTransforms.default(("171A", "193A"))
    with pytest.raises(UsageError, match="193A has no valid"):
        transforms.fit([np.stack([np.eye(3), np.full((3, 3), np.nan)])])
    with pytest.raises(UsageError, match="171A is 0"):
        transforms.fit([np.stack([np.zeros((3, 3)), np.eye(3)])])
    with pytest.raises(UsageError, match="no valid"):
        transforms.fit([])


def test_description_survives_json_bit_by_bit() -> None:
    fitted = ALL.fit([np.random.default_rng(1).normal(0, 100, (4, 16, 16))])
    again = ChannelTransforms.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert hash(again) == hash(fitted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": ["94A", "94A", "Bz", "M"]}, "once each"),
        ({"channels": []}, "must be named"),
        ({"kinds": ["asinh", "sqrt", "none", "none"]}, "kind of 171A: 'sqrt'"),
        ({"scales": [1.0, 1.0, 1.0]}, "scales: 3 values"),
        ({"scales": [1.0, 0.0, 1.0, 1.0]}, r"scales: 0\.0 of channel 171A"),
        ({"stds": [1.0, 1.0, -1.0, 1.0]}, "stds: -1"),
        ({"means": [1.0, math.nan, 1.0, 1.0]}, "means: nan"),
        ({"means": ["a", 1, 1, 1]}, "no number"),
        ({"means": None}, "no number"),
        ({"normalisation": "max"}, "normalisation: 'max'"),
        ({"normalisation": "range", "minima": []}, "minima: 0 values"),
        ({"normalisation": "range", "minima": [9.0] * 4}, "range of channel 94A is empty"),
        ({"other": 1}, r"unknown \['other'\]"),
    ],
)
def test_broken_descriptions_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ChannelTransforms.from_dict(ALL.to_dict() | change)


def test_incomplete_description_is_refused() -> None:
    data = ALL.to_dict()
    del data["stds"]
    with pytest.raises(UsageError, match=r"lacks \['stds'\]"):
        ChannelTransforms.from_dict(data)


def test_checkpoint_refuses_other_channels() -> None:
    ALL.check(["94A", "171A", "Bz", "M"])
    with pytest.raises(UsageError, match="another order"):
        ALL.check(("171A", "94A", "Bz", "M"))
    with pytest.raises(UsageError, match="lacking M; unknown Bx") as caught:
        ALL.check(("94A", "171A", "Bz", "Bx"))
    assert caught.value.hint.endswith("94A 171A Bz M")
    with pytest.raises(ValueError, match=r"\(3, 2, 2\)"):
        ALL.to_network(np.zeros((3, 2, 2)))
    with pytest.raises(ValueError, match="4 channels"):
        ALL.to_physical(torch.zeros(4, 2))


def test_defaults_cover_the_published_channels() -> None:
    assert set(DEFAULTS) == {*(f"{w}A" for w in (94, 131, 171, 193, 211, 304, 335, 1600, 1700)), "Bx", "By", "Bz"}
    transforms = ChannelTransforms.default(tuple(DEFAULTS))
    assert transforms.scales[0] == pytest.approx(2.055)  # 0.005 * 411 DN/s
    assert {kind for name, kind in zip(DEFAULTS, transforms.kinds, strict=True) if name.startswith("B")} == {
        "symmetric"
    }
    # Without statistics only the stretch is applied, whatever the normalisation.
    values = np.full((12, 1, 1), 7.0)
    expected = np.arcsinh(7 / np.array(transforms.scales))
    for normalisation in get_args(Normalisation):
        assert replace(transforms, normalisation=normalisation).to_network(values).ravel() == pytest.approx(expected)
    with pytest.raises(UsageError, match="no default transform for M"):
        ChannelTransforms.default(("171A", "M"))
    with pytest.raises(UsageError, match="must be named"):
        ChannelTransforms.default(())


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy])
def test_network_input_fills_and_marks_missing_pixels(wrap: Any) -> None:
    values = np.arange(16, dtype=np.float32).reshape(4, 2, 2) + 1
    values[0, 0, 0], values[2, 1, 1], values[1, 0, 1] = np.nan, np.inf, -np.inf
    inputs, mask = network_input(ALL, wrap(values))
    missing = [(0, 0, 0), (1, 0, 1), (2, 1, 1)]
    assert [tuple(place) for place in np.argwhere(~np.asarray(mask)).tolist()] == missing
    assert [float(inputs[place]) for place in missing] == [0, 0, 0]
    expected = np.asarray(ALL.to_network(wrap(values)))
    assert (np.asarray(inputs)[np.asarray(mask)] == expected[np.asarray(mask)]).all()
    assert np.asarray(inputs).dtype == np.float32


def test_gradients_pass_through_the_inverse() -> None:
    inputs = torch.zeros(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    ALL.to_physical(inputs).sum().backward()
    # d/dz of scale * sinh(z std + mean) = scale * cosh(mean) * std, and so on.
    expected = [2 * math.cosh(1.5) * 0.5, 30 * math.exp(2) * 1.25, 10 * 3, 200]
    assert inputs.grad is not None
    assert inputs.grad[0, :, 0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy])
def test_binning_by_hand(wrap: Any) -> None:
    nan = math.nan
    image = np.array([[1, 2, nan, nan], [3, 4, nan, 5], [nan, 8, 6, 6], [4, nan, 6, nan]], np.float32)
    binned = bin_images(wrap(image[None]), 2)
    # 10/4; one valid of four is too few; two of four are enough: 12/2; 18/3.
    np.testing.assert_array_equal(np.asarray(binned), np.array([[[2.5, nan], [6, 6]]], np.float32))
    assert np.asarray(binned).dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float64, (2, 12, 12), elements=st.floats(-1e4, 1e4) | st.just(math.nan)),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
)
def test_binning_is_the_mean_of_valid_pixels(images: np.ndarray, size: int) -> None:
    factor = 12 // size
    binned = bin_images(images, size)
    for place in np.ndindex(2, size, size):
        block = images[place[0], place[1] * factor :, place[2] * factor :][:factor, :factor]
        valid = block[np.isfinite(block)]
        if 2 * valid.size < factor**2:
            assert math.isnan(binned[place])
        else:
            assert binned[place] == pytest.approx(valid.mean(), rel=1e-9, abs=1e-9)
    np.testing.assert_array_equal(bin_images(torch.from_numpy(images), size).numpy(), binned)


@pytest.mark.parametrize(("shape", "size"), [((512, 512), 100), ((512, 256), 128), ((64, 64), 128), ((8, 8), 0)])
def test_binning_refuses_what_does_not_divide(shape: tuple[int, int], size: int) -> None:
    with pytest.raises(ValueError, match="no square blocks"):
        bin_images(np.zeros(shape), size)
