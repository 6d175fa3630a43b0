"""Far-side magnetograms: splits, values, references, scores, and the laws of training for its two players."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sunpy.map import Map

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.far_side import FarSide, with_reference
from sdoml_dist.experiments.far_side_euvi import load_matches, to_fits, translate
from sdoml_dist.experiments.galileo import Galileo
from sdoml_dist.experiments.hmi_to_aia import HmiToAia
from sdoml_dist.experiments.translation_config import DESIGNS
from sdoml_dist.experiments.translation_table import Trained
from sdoml_dist.models.translation import UNetGenerator
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.euvi import IntensityMatch
from sdoml_dist.solar.field_scores import FieldScores, Regression
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.translation import disc_mask
from sdoml_dist.sources.euvi import read_euvi
from sdoml_dist.sources.euvi_simulator import euvi_fits
from sdoml_dist.training.config import Optimisation, Watching
from sdoml_dist.training.loop import Loop, Worker
from sdoml_dist.training.parts import RandomMonths
from sdoml_dist.training.samples import Samples
from tests.translation_suns import SIZE, MemoryPairs, Rows


def configuration(version: int, **network: Any) -> dict[str, Any]:
    small = {"version": version, "narrowing": 16, "blocks": 1, "stages": 2} | network
    return {
        "config": {
            "experiment": "far-side", "data": {"store": {"url": "nowhere"}, "size": SIZE}, "network": small,
            "training": {"steps": 4, "global_batch": 4, "micro_batch": 2, "learning_rate": 0.001, "betas": [0.5, 0.999]},
        },
        "prepared": {"snapshot": "none", "pixels": SIZE},
    }  # fmt: skip


def observations(version: int, number: int, seed: int = 0) -> np.ndarray:
    """Return EUV images with bright blobs on bipoles, as physical values of all channels."""
    rng = np.random.default_rng(seed)
    j, i = np.mgrid[:SIZE, :SIZE]
    count = {1: 2, 2: 4, 3: 8}[version]
    images = np.empty((number, count, SIZE, SIZE), np.float32)
    for place in range(number):
        field, bright = np.zeros((SIZE, SIZE)), np.full((SIZE, SIZE), 40.0)
        for _ in range(3):
            y, x, size = rng.uniform(18, 46), rng.uniform(18, 46), rng.uniform(2, 5)
            for offset, sign in ((-3, 1), (3, -1)):
                blob = np.exp(-((j - y) ** 2 + (i - x - offset) ** 2) / size**2)
                field += sign * 75 * size * blob
                bright += 30 * size * blob
        off = np.hypot(j - 31.5, i - 31.5) > 25.4
        target = {1: 1, 2: 3, 3: 3}[version]
        for channel in range(count):
            is_field = channel in (target, 7)
            images[place, channel] = np.where(off, np.nan, field) if is_field else bright * (channel + 1)
    return images


class Rendered(FarSide):
    """The experiment on samples that are in memory."""

    made = 8

    @property
    def pairs(self) -> Any:  # type: ignore[override]
        physical = observations(self.config.network.version, self.made)
        return LabelledPairs(self, physical, np.array(["train"] * (self.made - 2) + ["validation"] * 2, object))


class LabelledPairs(MemoryPairs):
    """Samples every twelve hours that are parted by hand."""

    def __init__(self, experiment: FarSide, physical: np.ndarray, labels: np.ndarray) -> None:
        self.experiment, self.values = experiment, physical
        times = np.datetime64("2011-01-01", "ns") + np.arange(len(physical)) * np.timedelta64(12, "h")
        self.samples = Rows(
            shards=np.arange(len(physical)) // 2, labels=labels, times=times, describe=lambda: {"digest": "x"},
            counts=lambda: {str(name): int((labels == name).sum()) for name in np.unique(labels)},
        )  # fmt: skip

    def part(self, label: str) -> LabelledPairs:
        chosen = self.samples.labels == label
        return LabelledPairs(self.experiment, self.values[chosen], self.samples.labels[chosen])


def test_values_of_the_versions() -> None:
    for version, names in ((1, ("304A",)), (2, ("304A", "193A", "171A"))):
        experiment = FarSide(configuration(version))
        assert experiment.input_names() == names
        physical = observations(version, 2)
        physical[0, 0, 10, 10] = np.nan
        inputs, target, mask = experiment.encode(physical)
        assert inputs.dtype == target.dtype == np.float32
        assert np.isfinite(inputs).all()
        disc = disc_mask(SIZE)
        assert (mask[:, 0] <= disc).all()
        assert (target[~mask] == 0).all()
        # The median of the disc is 100, whatever the instrument's unit: 2 log10(100) / log10(200) - 1.
        assert np.median(inputs[1, 0][disc]) == pytest.approx(2 * 2 / np.log10(200) - 1, abs=1e-3)
        assert inputs[0, 0, 10, 10] == -1
        # Version 2 sees nothing off the disc, version 1 the corona.
        assert (inputs[1, 0][~disc] == -1).all() == (version == 2)
        limit = {1: 100.0, 2: 3000.0}[version]
        decoded = experiment.decode(target)
        assert np.isnan(decoded[0, 0, 0, 0])
        kept = mask[:, 0]
        np.testing.assert_allclose(decoded[:, 0][kept], np.clip(physical[:, -1], -limit, limit)[kept], atol=2e-3)
    third = FarSide(configuration(3))
    assert third.input_names() == (
        "304A", "193A", "171A", "304A before", "193A before", "171A before", "M_720s before",
    )  # fmt: skip
    inputs, target, mask = third.encode(observations(3, 2) * 30)
    assert inputs.shape == (2, 7, SIZE, SIZE)
    # The field is not limited, and the reference is encoded as the target is.
    assert np.abs(target).max() > 2
    np.testing.assert_array_equal(inputs[:, 6], np.where(mask[:, 0], target[:, 0], 0))
    networks = third.models()
    assert networks["discriminator"].repeat == 10
    with pytest.raises(UsageError, match="median over the disc"):
        third.encode(np.zeros((1, 8, SIZE, SIZE), np.float32))


def test_random_months_depend_on_seed_and_year_alone() -> None:
    times = np.arange("2011-01", "2014-01", dtype="datetime64[D]").astype("datetime64[ns]")
    labels = RandomMonths(seed=3).labels(times)
    months = times.astype("datetime64[M]")
    for year in ("2011", "2012", "2013"):
        inside = times.astype("datetime64[Y]") == np.datetime64(year)
        counts = {name: len(np.unique(months[inside & (labels == name)])) for name in ("train", "validation", "test")}
        assert counts == {"train": 9, "validation": 1, "test": 2}
    assert (RandomMonths(seed=3).labels(times[400:500]) == labels[400:500]).all()
    assert not (RandomMonths(seed=4).labels(times) == labels).all()
    with pytest.raises(UsageError, match="12 months"):
        RandomMonths(counts={"test": 12}).labels(times)


SHIFTED = {
    "far-side": (FarSide, {"network": {"version": 3, "shift": 3}}, [-1, -1, -1, -1, -1, -1, 0]),
    "hmi-to-aia": (HmiToAia, {"network": {"shift": 3}}, [0]),
    "galileo": (Galileo, {"network": {"shift": 3}}, [1]),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shifted_image_is_followed_by_what_is_there_beyond_its_edge(name: str) -> None:
    """Dark space, no field, or paper; neither the strongest negative field nor ink."""
    kind, config, beyond = SHIFTED[name]
    config = {"experiment": name, "data": {"store": {"url": "nowhere"}, "size": SIZE}} | config
    experiment = kind({"config": config, "prepared": {"snapshot": "none", "pixels": SIZE}})
    inputs = torch.full((8, len(beyond), SIZE, SIZE), 0.25)
    one = torch.ones(8, 1, SIZE, SIZE)
    batch = {"inputs": inputs, "target": one, "mask": one > 0}
    got, target, mask = experiment._shifted(batch, torch.Generator().manual_seed(1))
    new = mask[:, 0] == 0
    assert new.any(dim=(1, 2)).sum() >= 6
    assert torch.equal(target, mask)
    for channel, value in enumerate(beyond):
        assert (got[:, channel][new] == value).all()
        assert (got[:, channel][~new] == 0.25).all()


def test_a_design_of_another_paper_brings_all_of_its_defaults() -> None:
    own = FarSide(configuration(2, blocks=None, stages=None))
    assert own.design == DESIGNS["jeong2020"]
    other = FarSide(configuration(2, design="kim2019", blocks=None, stages=None, adversarial="least-squares", l1=10))
    assert other.design == replace(DESIGNS["kim2019"], adversarial="least-squares", l1=10.0)
    assert isinstance(other.models()["generator"], UNetGenerator)
    # Inputs and values remain the version's.
    assert (other.input_names(), other.field_range.high) == (("304A", "193A", "171A"), 3000.0)
    data = {"store": {"url": "nowhere"}, "size": SIZE}
    for name, kind, papers in (("hmi-to-aia", HmiToAia, "park2019"), ("galileo", Galileo, "kim2019")):
        config = {"experiment": name, "data": data, "network": {}}
        prepared = {"snapshot": "none", "pixels": SIZE}
        assert kind({"config": config, "prepared": prepared}).design == DESIGNS[papers]
        config = config | {"network": {"design": "jeong2022"}}
        assert kind({"config": config, "prepared": prepared}).design == DESIGNS["jeong2022"]


# Published: 15 and 62 pixels of 1024, so 1 and 4 of 64.
@pytest.mark.parametrize(("network", "most"), [
    ({"version": 1}, 1), ({"version": 2}, 0), ({"version": 3}, 4), ({"version": 2, "design": "park2019"}, 1),
    ({"version": 3, "shift": 0}, 0), ({"version": 2, "shift": 2}, 2),
])  # fmt: skip
def test_images_are_shifted_as_far_as_their_paper_does(network: dict[str, Any], most: int) -> None:
    experiment = FarSide(configuration(**network))
    inputs = torch.zeros(64, len(experiment.input_names()), SIZE, SIZE)
    target = torch.zeros(64, 1, SIZE, SIZE)
    target[:, :, 32, 32] = 1
    batch = {"inputs": inputs, "target": target, "mask": target > 0}
    _, got, _ = experiment._shifted(batch, torch.Generator().manual_seed(0))
    places = got[:, 0].nonzero()[:, 1:] - 32
    assert (int(places.min()), int(places.max())) == (-most, most)


class Seen(torch.nn.Module):
    """A network that makes nothing and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.inputs = torch.zeros(())

    def forward(self, inputs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        self.inputs = inputs
        return self.weight * inputs[:, :1]


def test_mirrored_suns_have_the_other_polarity_and_are_for_training_alone() -> None:
    settings = configuration(3, shift=0, judged=0, feature=0)
    plain = FarSide(settings)
    settings["config"]["data"]["mirrored"] = True
    experiment = FarSide(settings)
    inputs, target, mask = (torch.from_numpy(one) for one in experiment.encode(observations(3, 8)))
    mask[:, :, 20, 30] = False
    batch = {"inputs": inputs, "target": target, "mask": mask}
    network = Seen()
    experiment.loss(network, batch, torch.Generator().manual_seed(5))
    varied = experiment.varied(batch, torch.Generator().manual_seed(5))
    assert torch.equal(network.inputs, varied["inputs"])
    drawn = torch.rand(8, generator=torch.Generator().manual_seed(5)) < 0.5
    assert 0 < int(drawn.sum()) < 8
    signs = torch.tensor([1, 1, 1, 1, 1, 1, -1])[:, None, None]
    for k, mirrored in enumerate(drawn.tolist()):
        rows = torch.arange(SIZE - 1, -1, -1) if mirrored else torch.arange(SIZE)
        assert torch.equal(varied["inputs"][k], inputs[k][:, rows] * (signs if mirrored else 1))
        assert torch.equal(varied["target"][k], target[k][:, rows] * (-1 if mirrored else 1))
        assert torch.equal(varied["mask"][k], mask[k][:, rows])
    assert plain.varied(batch, torch.Generator().manual_seed(5)) is batch
    experiment.validate({"generator": network}, batch, torch.Generator().manual_seed(5))
    assert torch.equal(network.inputs, inputs)
    experiment.generate(network, inputs, range(8))
    assert torch.equal(network.inputs, inputs)


def samples_of(times: np.ndarray, labels: np.ndarray) -> Samples:
    empty = np.zeros((times.size, 1), np.int16)
    return Samples(Store(url="nowhere"), "s", ("304A",), (), times, empty, empty, empty, labels, {"cadence_s": 43200})


def test_references_are_of_a_rotation_before_and_not_of_the_test() -> None:
    times = np.datetime64("2011-01-01", "ns") + np.arange(120) * np.timedelta64(12, "h")
    labels = np.array(["train"] * 60 + ["test"] * 60, object)
    labels[10:20] = "test"
    kept, before = with_reference(samples_of(times, labels), samples_of(times, labels), 6 * 3600)
    distance = (kept.times - before.times) / np.timedelta64(1, "D")
    assert np.abs(distance - 27.2753).max() <= 0.25
    # 27.2753 days are 54.55 steps of 12 hours.
    assert kept.times[0] == times[54 + 1]
    trained = kept.labels == "train"
    assert trained.sum() == 5
    assert (before.labels[trained] == "train").all()
    assert (before.labels[kept.labels == "test"] == "test").any()
    with pytest.raises(UsageError, match="reference a rotation before"):
        with_reference(samples_of(times[:40], labels[:40]), samples_of(times[:40], labels[:40]), 6 * 3600)


def test_scores_of_a_perfect_and_of_a_wrong_network() -> None:
    perfect, wrong = FieldScores(SIZE, 16, 4), FieldScores(SIZE, 16, 4)
    regression = Regression(perfect)
    physical = observations(2, 24)
    for field, bright in zip(physical[:, 3], physical[:, 0], strict=True):
        perfect.add(field, field)
        wrong.add(field, -field)
        regression.learn(field, bright)
        regression.add(field, bright)
    rows, counts = perfect.scores()
    assert rows["full disc"] == pytest.approx((1.0, 1.0, 1.0))
    assert counts["full disc"] == 24
    assert counts["active regions"] >= 24
    # Signs do not matter for the unsigned flux, and reverse the others.
    assert wrong.scores()[0]["full disc"] == pytest.approx((1.0, -1.0, -1.0))
    # Here brightness follows the size of regions, and the field of both signs none of it.
    straight = regression.scores()["full disc"]
    assert straight[0] > 0.8
    assert abs(straight[2]) < 0.3


def test_a_regression_from_several_brightnesses_finds_what_none_of_them_says_alone() -> None:
    scores, rng = FieldScores(SIZE, 16, 4), np.random.default_rng(3)
    together, alone = Regression(scores), Regression(scores)
    images = []
    for field in observations(2, 24)[:, 3]:
        known = np.nan_to_num(field)
        # A haze of another strength in every image hides the field, in units of their own.
        haze = rng.uniform(0, 100) * rng.uniform(0, 2, known.shape)
        strength = np.where(np.abs(known) > 10, np.abs(known), 0)
        images.append((field, np.stack([1e4 * (strength + haze), known + haze, 1e-3 * haze])))
    for field, bright in images[:12]:
        together.learn(field, bright)
        alone.learn(field, bright[0])
    for field, bright in images[12:]:
        together.add(field, bright)
        alone.add(field, bright[0])
    assert together.scores()["full disc"] == pytest.approx((1.0, 1.0, 1.0))
    assert alone.scores()["full disc"][0] < 0.8
    few = Regression(scores)
    for field, bright in images[:4]:
        few.learn(field, bright)
    few.add(*images[4])
    assert np.isnan(few.scores()["full disc"][:2]).all()


@pytest.mark.parametrize("version", [1, 2])
def test_going_on_is_the_same_training_bit_by_bit(version: int, tmp_path: Path) -> None:
    settings = configuration(version)
    settings["config"]["data"]["mirrored"] = version == 2
    watching = Watching(validate_every=2, checkpoint_every=2, log_every=1)
    optimisation = Optimisation.model_validate(settings["config"]["training"])

    def loop() -> Loop:
        return Loop(Rendered(settings), optimisation, watching, Worker())

    whole, lines = loop(), []
    whole.run(lambda progress: lines.append(progress))
    assert {"discriminator_loss", "generator_loss", "generator_l1"} <= set(lines[0].metrics)
    assert lines[1].validation is not None
    first = loop()
    first.run(lambda progress: None, stop=lambda: first.step == 1)
    assert first.step == 2
    first.save(tmp_path, {})
    second, rest = loop(), []
    second.load(tmp_path)
    second.run(lambda progress: rest.append(progress))
    assert [one.metrics for one in rest] == [one.metrics for one in lines[2:]]
    for name, network in whole.networks.items():
        for left, right in zip(network.parameters(), second.networks[name].parameters(), strict=True):
            assert torch.equal(left, right)
    second.experiment.sample_grid(second.shown(), tmp_path, 4)
    assert (tmp_path / "samples_00000004.png").stat().st_size > 5000


def test_frames_of_stereo_become_maps_with_an_observer(tmp_path: Path) -> None:
    experiment = FarSide(configuration(1))
    trained = Trained(experiment, experiment.models()["generator"].eval(), tmp_path)
    time = np.datetime64("2011-03-05T00:10:00", "ns")
    data = euvi_fits(SimulationConfig(seed=3), "STEREO_B", 304, time, 128)
    frame = read_euvi(data, CalibrationSettings(pixels=SIZE))
    (made,) = translate(trained, [(frame,)])
    inside = np.isfinite(made.field)
    assert (inside == disc_mask(SIZE)).all()
    assert np.abs(made.field[inside]).max() <= 100
    # The unit of the instrument does not matter, its contrast does.
    brighter = replace(frame, frame=replace(frame.frame, image=frame.frame.image * 3))
    np.testing.assert_allclose(translate(trained, [(brighter,)])[0].field[inside], made.field[inside], atol=1e-2)
    flat = IntensityMatch((10.0, 100.0, 1000.0), (60.0, 100.0, 300.0))
    assert not np.allclose(
        translate(trained, [(frame,)], {"304A": flat})[0].field[inside], made.field[inside], atol=1e-3
    )
    path = tmp_path / "field.fits"
    path.write_bytes(to_fits(made, {"experiment": "far-side", "step": 7}))
    found = Map(path)
    assert found.observer_coordinate.lon.to_value("deg") == pytest.approx(-94.78, abs=0.01)
    assert found.rsun_obs.to_value("arcsec") == pytest.approx(frame.frame.keywords["RSUN_OBS"], rel=1e-6)
    assert found.unit == "G"
    assert "at step 7" in str(found.meta["history"])
    curves = tmp_path / "curves.json"
    curves.write_text(json.dumps({"193A": flat.to_dict()}))
    assert load_matches(curves) == {"193A": flat}
    for text in ("[1]", "{", '{"193A": {"source": [1]}}'):
        curves.write_text(text)
        with pytest.raises(UsageError, match="curve"):
            load_matches(curves)
