"""AIA images from magnetograms: values, split, scores and the baseline, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sdoml_dist.experiments.hmi_to_aia import (
    PUBLISHED_CC,
    FieldLookup,
    HmiToAia,
    MeanAndField,
    channel_scores,
    field_strength,
)
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
    for wrong in ("Bx", ["Bx", "By"], ["Bz", "By", "Bx"], ["M_720s"]):
        with pytest.raises(ValidationError, match=r"field is M_720s, M_45s or Bz, or the list \[Bx, By, Bz\]"):
            HmiToAia(settings(field=wrong))
    config = load_config("hmi-to-aia")
    assert config.network.model == "A"
    assert set(PUBLISHED_CC["B"]) == set(config.data.channels)


def test_the_field_may_be_a_vector() -> None:
    experiment = HmiToAia(settings(field=["Bx", "By", "Bz"], limit_gauss=2000))
    assert experiment.input_names() == ("Bx", "By", "Bz")
    assert HmiToAia.sampled(experiment.config)[0] == ("Bx", "By", "Bz", "171A", "1700A")
    # It is the same configuration after it went through a checkpoint, and on the command line.
    again = HmiToAia({"config": experiment.config.model_dump(mode="json"), "prepared": experiment.prepared})
    assert again.config == experiment.config
    assert load_config("hmi-to-aia", ["data.field=[Bx, By, Bz]"]).data.fields == ("Bx", "By", "Bz")
    physical = np.full((1, 5, SIZE, SIZE), 127.0, np.float32)
    physical[0, :3] = np.array([1000.0, -500.0, 4000.0])[:, None, None]
    physical[0, 1, 16, 16] = np.nan
    inputs, target, mask = experiment.encode(physical)
    assert inputs.shape == (1, 3, SIZE, SIZE)
    np.testing.assert_allclose(inputs[0, :, 16, 15], [0.5, -0.25, 1.0], atol=1e-6)
    np.testing.assert_allclose(inputs[0, :, 16, 16], [0.5, 0.0, 1.0], atol=1e-6)
    assert not inputs[0, :, 0, 0].any()
    assert (target == 0).all()
    assert mask.all()
    # Images are shifted in training; beyond their edge there is no field.
    assert experiment.beyond() == (0.0, 0.0, 0.0)
    made = experiment.models()["generator"](torch.from_numpy(inputs), torch.Generator())
    assert made.shape == (1, 2, SIZE, SIZE)
    np.testing.assert_allclose(field_strength(physical[0, :3])[16, 15], np.sqrt(1e6 + 25e4 + 16e6))
    assert np.isnan(field_strength(physical[0, :3])[16, 16])


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
    baseline = MeanAndField(2, 8)
    for field, image in zip(fields[:30], images[:30], strict=True):
        baseline.learn(np.abs(field), image)
    np.testing.assert_allclose(baseline.predict(np.abs(fields[35])), images[35], rtol=1e-9)
    # Data that are missing in some images leave mean and slope as the others have them; where all lack them there is none.
    lost = images.copy()
    lost[::3, 0, 2, 2] = np.nan
    lost[:, 1, 5, 5] = np.nan
    again = MeanAndField(2, 8)
    for field, image in zip(fields[:30], lost[:30], strict=True):
        again.learn(np.abs(field), image)
    made = again.predict(np.abs(fields[35]))
    assert np.isnan(made[1, 5, 5])
    assert np.isfinite(made).sum() == 2 * 64 - 1
    np.testing.assert_allclose(made[0, 4], images[35, 0, 4], rtol=0.02)


def test_the_lookup_finds_any_function_of_the_field() -> None:
    rng = np.random.default_rng(2)
    # A third of the strengths is never seen in training; some are beyond the last bin, and one pixel has no field.
    strengths = 10 ** rng.uniform(0, 4, (20, 16, 16))
    strengths[(strengths > 300) & (strengths < 400)] = 250
    strengths[:, 0, 0] = np.nan

    def emission(strength: np.ndarray) -> np.ndarray:
        x = np.log10(1 + strength.clip(0, 5000) / 10)
        return np.where(np.isfinite(strength), np.stack([100 + 50 * np.sin(3 * x), 7 * x]), 3.0)

    lookup, straight = FieldLookup(3), MeanAndField(3, 16)
    for strength in strengths:
        image = np.concatenate([emission(strength), np.full((1, 16, 16), np.nan)])
        image[0, 3, 3] = np.nan
        lookup.learn(strength, image)
        straight.learn(strength, image)
    new = 10 ** rng.uniform(0, 4, (16, 16))
    new[4, 4:6] = 350, np.nan
    made = lookup.predict(new)
    assert np.isnan(made[2]).all()
    np.testing.assert_allclose(made[:2], emission(new), atol=12)
    assert np.abs(made[0] - emission(new)[0]).mean() < 2.5
    # A mean image and a straight line cannot follow it.
    assert np.nanmean(np.abs(straight.predict(new)[0] - emission(new)[0])) > 15
    assert np.isnan(straight.predict(new)[0]).sum() == 1
    assert made[0, 4, 5] == 3.0
