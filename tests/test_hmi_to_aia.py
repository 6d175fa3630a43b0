"""AIA images from magnetograms: values, split, scores and the baseline, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sdoml_dist.experiments.hmi_to_aia import PUBLISHED_CC, HmiToAia, MeanAndField, channel_scores
from sdoml_dist.solar.translation import disc_mask
from sdoml_dist.training.parts import Periods
from sdoml_dist.training.run import load_config

SIZE = 32


def settings(**data: Any) -> dict[str, Any]:
    return {
        "config": {
            "experiment": "hmi-to-aia",
            "data": {"store": {"url": "nowhere"}, "size": SIZE, "channels": ["171A", "1700A"]} | data,
            "network": {"model": data.pop("model", "A"), "narrowing": 16},
        },
        "prepared": {"snapshot": "none", "pixels": SIZE},
    }  # fmt: skip


def test_values_and_players() -> None:
    experiment = HmiToAia(settings())
    assert experiment.players == ("generator",)
    assert set(experiment.models()) == {"generator"}
    adversarial = settings()
    adversarial["config"]["network"]["model"] = "B"
    assert HmiToAia(adversarial).players == HmiToAia.players == ("discriminator", "generator")
    physical = np.full((1, 3, SIZE, SIZE), 1500.0, np.float32)
    physical[0, 1] = 127.0
    physical[0, 2, 0, 0] = np.nan
    inputs, target, mask = experiment.encode(physical)
    disc = disc_mask(SIZE)
    assert (inputs[0, 0][disc] == 0.5).all()
    assert (inputs[0, 0][~disc] == 0).all()
    assert (target[0, 0] == 0).all()  # log2(128) / 7 - 1
    assert not mask[0, 1, 0, 0]
    assert mask.sum() == 2 * SIZE**2 - 1
    np.testing.assert_allclose(experiment.decode(target)[mask], physical[:, 1:][mask], rtol=1e-4)
    with pytest.raises(ValidationError, match="channels are some of"):
        HmiToAia(settings(channels=["172A"]))
    config = load_config("hmi-to-aia")
    assert config.network.model == "A"
    assert set(PUBLISHED_CC["B"]) == set(config.data.channels)


def test_periods_are_apart() -> None:
    split = Periods(periods={"train": ("2011-01-01", "2012-01-01"), "test": ("2013-01-01", "2014-01-01")})
    times = np.array(["2011-06-01", "2012-01-01", "2013-01-01", "2015-01-01"], "datetime64[ns]")
    assert split.labels(times).tolist() == ["train", "", "test", ""]
    with pytest.raises(ValidationError, match="overlap"):
        Periods(periods={"train": ("2011-01-01", "2012-01-02"), "test": ("2012-01-01", "2013-01-01")})
    with pytest.raises(ValidationError, match="before it starts"):
        Periods(periods={"train": ("2012-01-01", "2011-01-01")})


def test_scores_are_of_binned_pixels_inside_the_disc() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(50, 100, (2, SIZE, SIZE))
    made = np.stack([true[0] * 1.08, true[1] * 1.3])
    made[:, 0, 0] = 1e9  # off the disc
    scores = channel_scores(true, made, disc_mask(SIZE), 4)
    np.testing.assert_allclose(scores[0], [1, 0.08, 1, 1], atol=1e-9)
    np.testing.assert_allclose(scores[1], [1, 0.3, 0, 1], atol=1e-9)
    assert np.isnan(channel_scores(np.full((1, 8, 8), np.nan), np.ones((1, 8, 8)), np.ones((8, 8), bool), 2)).all()


def test_the_baseline_finds_a_mean_image_and_a_slope() -> None:
    rng = np.random.default_rng(1)
    fields = rng.normal(0, 100, (40, 8, 8))
    x = np.log10(1 + np.abs(fields) / 10)
    mean = rng.uniform(10, 20, (2, 8, 8))
    images = mean + np.array([3.0, -2.0])[:, None, None] * x[:, None]
    baseline = MeanAndField(fields[:30], images[:30])
    np.testing.assert_allclose(baseline.slopes, [3, -2], rtol=1e-9)
    np.testing.assert_allclose(baseline.predict(fields[35]), images[35], rtol=1e-9)
