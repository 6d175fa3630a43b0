"""Tiles, windows and splits of emerging regions, on the real timelines where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdoml_dist.solar.emergence import (
    BENCHMARK_TEST,
    BENCHMARK_TRAIN,
    Scaling,
    Timeline,
    benchmark_split,
    region_folds,
    windows,
)
from sdoml_dist.solar.tiles import baseline_weights, inner_tiles, tile_means, without_baseline


def test_tiles_are_means_row_by_row() -> None:
    y, x = np.mgrid[:512, :512]
    found = tile_means(np.stack([y, x]).astype(float))
    assert found.shape == (2, 81)
    # Tiles of 56 pixels: the first begins at 0 and has mean 27.5, the last begins at 448.
    np.testing.assert_allclose(found[0].reshape(9, 9)[:, 0], 27.5 + 56 * np.arange(9))
    np.testing.assert_allclose(found[1].reshape(9, 9)[0], 27.5 + 56 * np.arange(9))
    holes = np.ones((512, 512))
    holes[:56, :56] = np.nan
    holes[60:70] = np.nan
    found = tile_means(holes)
    assert np.isnan(found[0])
    assert (found[1:] == 1).all()


def test_the_baseline_is_as_published() -> None:
    np.testing.assert_allclose(baseline_weights() * 9, [0, 1, 2, 3, 4.5, 6, 7, 8, 9])
    rng = np.random.default_rng(0)
    tiles = rng.normal(size=(81, 5))
    found = without_baseline(tiles).reshape(9, 9, 5)
    assert np.abs(found[[0, 8]]).max() < 1e-15
    first, last = tiles.reshape(9, 9, 5)[[0, 8]]
    np.testing.assert_allclose(found[2], tiles.reshape(9, 9, 5)[2] - (7 / 9 * first + 2 / 9 * last))
    assert np.abs(without_baseline(np.ones((81, 3)))).max() < 1e-15
    with pytest.raises(ValueError, match="middle row"):
        baseline_weights(8)
    assert inner_tiles() == slice(9, 72)


def timeline(steps: int, gap: int = 0) -> Timeline:
    """Return a region whose values say where they are: step + 1000 tile."""
    times = np.datetime64("2011-02-08T18:59:37", "s") + np.arange(steps) * np.timedelta64(3600, "s")
    times[steps // 2 :] += np.timedelta64(gap, "s")
    values = np.arange(steps) + 1000.0 * np.arange(81)[:, None]
    return Timeline(1, times, np.stack([values + band * 1e6 for band in range(4)]), values + 5e6, values + 6e6)


def test_windows_have_the_published_shape_and_horizon() -> None:
    found = windows(timeline(240))
    assert found.inputs.shape == (108, 120, 5, 63)
    assert found.targets.shape == (108, 63)
    # Window i takes steps i to i + 119; its target is step i + 131; tiles 9 to 71; powers first, then flux.
    assert found.inputs[7, 0, 0, 0] == 7 + 9000
    assert found.inputs[7, 119, 4, 62] == 126 + 71000 + 5e6
    assert found.targets[7, 0] == 138 + 9000 + 6e6
    assert found.past[7, 119, 0] == 126 + 9000 + 6e6
    assert found.times[0] - timeline(240).times[0] == np.timedelta64(131 * 3600, "s")
    assert windows(timeline(100)).inputs.shape[0] == 0


def test_gaps_are_kept_as_gaps() -> None:
    gapped = timeline(240, gap=3 * 3600)
    even = gapped.steps(np.timedelta64(3600, "s"))
    assert even.times.size == 243
    assert np.isnan(even.flux[0, 120:123]).all()
    assert not even.complete
    found = windows(even)
    # A window with the gap in it says so; the first one ends before it and has its target behind it.
    assert np.flatnonzero(found.valid).tolist() == [0]
    assert windows(gapped).valid.all()  # as published, which does not see the gap
    with pytest.raises(ValueError, match="two times"):
        gapped.steps(np.timedelta64(10, "h"))


def test_no_region_is_in_two_folds() -> None:
    folds = region_folds(range(11000, 11057), 5)
    assert sorted(len(fold) for fold in folds) == [11, 11, 11, 12, 12]
    assert sorted(region for fold in folds for region in fold) == list(range(11000, 11057))
    assert folds == region_folds(list(range(11056, 10999, -1)), 5)
    assert folds != region_folds(range(11000, 11057), 5, seed=1)
    with pytest.raises(ValueError, match="cannot be divided"):
        region_folds([1, 2], 3)


@pytest.fixture(scope="module")
def real(real_data: Path) -> dict[int, Timeline]:
    found = {}
    for path in sorted((real_data / "solared").glob("AR*.npz")):
        with np.load(path) as data:
            region = int(path.stem[2:])
            found[region] = Timeline(region, data["time"], data["power"], data["unsigned_flux"], data["continuum"])
    return found


def test_the_benchmark_from_the_real_timelines(real: dict[int, Timeline]) -> None:
    train, test = benchmark_split(real)
    assert train.inputs.shape == (3240, 120, 5, 63)
    assert test.inputs.shape == (208, 120, 5, 63)
    assert train.valid.all()
    assert test.valid.all()
    assert not set(train.region) & set(test.region)
    # The published constants of the training windows, to the digits of float32.
    scaling = Scaling.of(train)
    np.testing.assert_allclose(scaling.input_minimum, [-7.4745e7, -3.6508e8, -1.6605e8, -3.5536e7, -70.342], rtol=2e-5)
    np.testing.assert_allclose(scaling.input_maximum, [2.3280e7, 1.4658e8, 5.8470e7, 2.7218e7, 490.1306], rtol=2e-5)
    assert scaling.target_minimum == pytest.approx(-12419.59375, abs=1e-3)
    assert scaling.target_maximum == pytest.approx(2505.30427, abs=1e-3)
    assert scaling.targets(train.targets).min() == 0
    assert scaling.inputs(train.inputs).max() == pytest.approx(1)


def test_the_real_timelines_are_as_described(real: dict[int, Timeline]) -> None:
    assert set(BENCHMARK_TRAIN) | set(BENCHMARK_TEST) <= set(real)
    # Global extrema over the benchmark's regions, all tiles: the "dynamic ranges" of the published readme.
    early = [region for number, region in real.items() if number < 12494]
    assert min(float(np.nanmin(region.flux)) for region in early) == pytest.approx(-136.859, abs=1e-3)
    assert max(float(np.nanmax(region.flux)) for region in early) == pytest.approx(533.149, abs=1e-3)
    assert min(float(np.nanmin(region.intensity)) for region in early) == pytest.approx(-17106.99, abs=1e-2)
    assert max(float(np.nanmax(region.intensity)) for region in early) == pytest.approx(3976.24, abs=1e-2)
    for region in real.values():
        # The first and last rows of tiles were taken off as the baseline.
        assert not np.nan_to_num(region.flux[:9]).any()
        assert not np.nan_to_num(region.intensity[72:]).any()
    assert real[11158].complete
    assert not real[11162].complete
    # Region 11726 has a gap of nine hours in the eclipse season.
    even = real[11726].steps(np.timedelta64(3600, "s"))
    assert even.times.size == 240
    assert np.isnan(even.flux[40]).sum() == 8


def test_persistence_on_the_benchmark(real: dict[int, Timeline]) -> None:
    """What nobody published: the last intensity is hard to beat (mean squared error 3.2e-4, scaled)."""
    extrema = [real[number].intensity for number in real if number < 12494]
    low, high = min(float(np.nanmin(v)) for v in extrema), max(float(np.nanmax(v)) for v in extrema)
    _, test = benchmark_split(real)
    error = ((test.past[:, -1] - test.targets) / (high - low)) ** 2
    assert float(error.mean()) == pytest.approx(3.17e-4, rel=0.01)
