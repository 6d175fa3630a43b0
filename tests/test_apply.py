"""Patches without seams, denoising networks, and sdoml apply from a checkpoint to Maps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdoml_dist
from sdoml_dist.cli import main
from sdoml_dist.errors import ExitCode
from sdoml_dist.experiments.denoising import Denoising, DenoisingConfig
from sdoml_dist.experiments.denoising_table import Denoiser
from sdoml_dist.models.denoiser import ShallowGenerator, add_noise, without_noise
from sdoml_dist.report.validate import validate
from sdoml_dist.solar.blending import blended, corners, starts, taper
from sdoml_dist.training.loop import Loop, Progress, Worker
from tests.denoising_data import FIRST, at, make, recipe


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread: several of them wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("length", "size", "overlap"), [(256, 64, 16), (100, 64, 16), (300, 64, 31), (64, 64, 0)])
def test_patches_cover_everything_and_share_enough(length: int, size: int, overlap: int) -> None:
    places = starts(length, size, overlap)
    assert places[0] == 0
    assert places[-1] == length - size
    assert all(after - before <= size - overlap for before, after in pairwise(places))
    assert (taper(size, overlap) > 0).all()
    if overlap:
        np.testing.assert_allclose(taper(size, overlap)[-overlap:] + taper(size, overlap)[:overlap], 1)


def test_what_changes_nothing_changes_nothing() -> None:
    """The identity and a constant come out to the bit, with the image's gaps; also from images smaller than a patch."""
    rng = np.random.default_rng(0)
    image = (rng.normal(size=(150, 130)) * 10.0 ** rng.integers(-3, 4, (150, 130))).astype(np.float32)
    image[np.hypot(*(np.indices(image.shape) - 70)) > 50] = np.nan
    np.testing.assert_array_equal(blended(image, 32, 8, lambda patches: patches), image)
    flat = blended(image, 32, 8, lambda patches: np.full_like(patches, 0.1))
    assert set(np.unique(flat[np.isfinite(image)])) == {np.float32(0.1)}
    assert np.isnan(flat[~np.isfinite(image)]).all()
    small = image[60:80, 60:90]
    np.testing.assert_array_equal(blended(small, 32, 8, lambda patches: patches), small)
    assert (0, 0) not in corners(image, 32, 8)


def test_patches_that_differ_leave_no_seam() -> None:
    """Every patch with an offset of its own: from pixel to pixel the result changes by the taper's slope at most."""
    offsets = iter(np.random.default_rng(0).choice([-1.0, 1.0], 1000))
    image = np.zeros((256, 256), np.float32)

    def run(patches: np.ndarray) -> np.ndarray:
        return patches + np.array([next(offsets) for _ in patches], np.float32)[:, None, None]

    whole = blended(image, 64, 32, run)
    slope = np.pi / 2 / 32 * 2
    assert np.abs(whole).max() > 0.99
    for axis in (0, 1):
        assert np.abs(np.diff(whole, axis=axis)).max() <= slope * 1.05
    hard = blended(image, 64, 0, run)
    assert np.abs(np.diff(hard, axis=0)).max() == 2


def test_a_generator_begins_as_the_identity_and_sees_only_what_is_near() -> None:
    torch.manual_seed(0)
    network = ShallowGenerator(4, 2, 1)
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(network(x), x)
    torch.nn.init.normal_(network.last.weight)
    changed = x.clone()
    changed[..., :4, :4] += 1
    near = (network(changed) - network(x)).abs().amax((0, 1)).detach()
    assert near[:8, :8].max() > 0
    assert near[48:, 48:].max() == 0
    with pytest.raises(ValueError, match="halved 2 times"):
        network(x[..., :62, :62])
    # Published size: four stages from 64 to 512, nine residual blocks of 512.
    published = ShallowGenerator()
    assert published.blocks[0].first.weight.shape == (512, 512, 3, 3)  # type: ignore[union-attr]
    assert len(published.blocks) == 9


def test_noise_has_the_level_and_correlation_asked_for() -> None:
    kernel = torch.tensor([[0.0, 0.6, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 0.0]])
    sigma = torch.cat([torch.full((1, 1, 256, 128), 3.0), torch.full((1, 1, 256, 128), 9.0)], -1)
    noise = add_noise(torch.zeros(1, 1, 256, 256), sigma, kernel, torch.Generator().manual_seed(0))[0, 0]
    assert noise[:, :128].std().item() == pytest.approx(3, rel=0.02)
    assert noise[:, 128:].std().item() == pytest.approx(9, rel=0.02)
    assert (noise[1:, :128] * noise[:-1, :128]).mean().item() / 9 == pytest.approx(0.48, abs=0.02)
    assert (noise[:, 1:128] * noise[:, :127]).mean().item() / 9 == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("added", [0.5, 1.0, 2.0])
def test_the_noise_that_was_not_added_goes_too(added: float) -> None:
    """The best linear network for added noise leaves its input's own share; the correction takes all of it."""
    rng = np.random.default_rng(0)
    own = torch.from_numpy(rng.normal(0, 5, 200_000))
    both = own + torch.from_numpy(rng.normal(0, 5 * added, 200_000))
    slope = float((both @ own) / (both @ both))
    assert slope == pytest.approx(1 / (1 + added**2), abs=0.01)
    assert (without_noise(own, slope * own, added).std() / own.std()).item() < 0.06


def config(store: Path, output: Path, **network: Any) -> DenoisingConfig:
    return DenoisingConfig.model_validate(
        {
            "data": {"store": {"url": str(store)}, "size": 64, "patches": 2, "split": {"kind": "whole"}, "threads": 1},
            "network": {"method": "M2", "narrowing": 16, "stages": 2, "blocks": 1} | network,
            "training": {"steps": 2, "global_batch": 2, "micro_batch": 2}, "output": str(output),
        }
    )  # fmt: skip


def saved(folder: Path, made_by: DenoisingConfig, seed: int = 0) -> Path:
    """Write a checkpoint of a network with random weights."""
    folder.mkdir(parents=True)
    prepared = json.loads(json.dumps(Denoising.prepare(made_by, folder)))
    experiment = Denoising({"config": made_by.model_dump(mode="json"), "prepared": prepared})
    loop = Loop(experiment, made_by.training, made_by.watching, Worker())
    torch.manual_seed(seed)
    torch.nn.init.normal_(loop.networks["generator"].last.weight, 0.0, 0.05)  # type: ignore[union-attr, arg-type]
    loop.save(folder, {})
    return folder


@pytest.mark.timeout(240)
def test_a_checkpoint_is_applied_to_a_dataset(
    tmp_path: Path, ray_cluster: object, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Every slot is accounted for, values are those of the network, keywords make Maps, and a second run has nothing to do."""
    store, output = tmp_path / "dataset", tmp_path / "denoised"
    flagged = [{"channel": "M_45s", "time": at(1), "kind": "flagged"}]
    make(recipe(store, "hmi_45s", pixels=128, hours=3, simulation={"faults": flagged}))
    assert sdoml_dist.frames(store).reason.tolist() == ["ok", "rejected_quality", "ok"]
    folder = saved(tmp_path / "run" / "checkpoint_00000001", config(store, tmp_path))
    assert main(["apply", str(tmp_path / "run"), str(store), str(output), "--tag", "v1", "--shard-slots", "2"]) == 0
    assert "3 frames, 2 with an image" in capsys.readouterr().out
    table = sdoml_dist.frames(output, "v1", details=True)
    assert table.reason.tolist() == ["ok", "rejected_quality", "ok"]
    before, after = sdoml_dist.open_dataset(store), sdoml_dist.open_dataset(output, "v1")
    denoiser = Denoiser(folder)
    for slot in (0, 2):
        image = before["M_45s"].values[slot]
        np.testing.assert_array_equal(after["M_45s"].values[slot], denoiser.disc(image))
        assert np.nanmax(np.abs(after["M_45s"].values[slot] - image)) > 0
    assert np.isnan(after["M_45s"].values[1]).all()
    old, new = (sdoml_dist.to_map(ds, "M_45s", FIRST) for ds in (before, after))
    assert new.meta["bunit"] == "G"
    assert "history" not in old.meta
    assert f"weights {denoiser.hash}" in new.meta["history"]
    assert new.instrument == old.instrument
    for name in ("crpix1", "cdelt1", "rsun_obs", "crln_obs", "crlt_obs", "t_obs", "dsun_obs"):
        assert new.meta[name] == old.meta[name], name
    record = sdoml_dist.header(output, "M_45s", FIRST)
    assert record["made"]["checkpoint"] == denoiser.hash == after.attrs["recipe"]["source"]["checkpoint"]
    assert record["made"]["snapshot"] == before.attrs["snapshot"]
    assert record["made"]["settings"]["method"] == "M2"
    assert validate(str(output)).valid

    # The same command has nothing left to do; another network is refused, and so are one's own observations as output.
    assert main(["apply", str(folder), str(store), str(output), "--shard-slots", "2"]) == 0
    assert capsys.readouterr().out.startswith("0 frames")
    other = saved(tmp_path / "other", config(store, tmp_path), seed=5)
    assert main(["apply", str(other), str(store), str(output), "--shard-slots", "2"]) == ExitCode.USAGE
    assert "checkpoint" in capsys.readouterr().err
    assert main(["apply", str(folder), str(store), str(store)]) == ExitCode.USAGE
    assert "observations" in capsys.readouterr().err


def test_what_cannot_be_applied_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", str(tmp_path), str(tmp_path / "data"), str(tmp_path / "out")]) == ExitCode.USAGE
    assert "not a checkpoint" in capsys.readouterr().err
    (tmp_path / "checkpoint.json").write_text(json.dumps({"experiment": "latent-space", "step": 1}))
    assert main(["apply", str(tmp_path), str(tmp_path / "data"), str(tmp_path / "out")]) == ExitCode.USAGE
    assert "make no images of images" in capsys.readouterr().err
    store = tmp_path / "small"
    make(recipe(store, "hmi_45s", pixels=128, hours=1))
    folder = saved(tmp_path / "run", config(store, tmp_path))
    make(recipe(tmp_path / "large", "hmi_45s", pixels=256, hours=1))
    assert main(["apply", str(folder), str(tmp_path / "large"), str(tmp_path / "out")]) == ExitCode.USAGE
    assert "images of 128 pixels" in capsys.readouterr().err


@pytest.fixture(scope="module")
def small_sun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of two hours of magnetograms and stacks of three."""
    store = tmp_path_factory.mktemp("sun") / "dataset"
    make(recipe(store, "hmi_45s", pixels=256, hours=2))
    make(recipe(store, "hmi_stack", pixels=256, hours=2, stack={"before": 1, "after": 1, "minimum": 2}))
    return store


def experiment(store: Path, method: str, loss: str = "gan") -> Denoising:
    made_by = config(store, store, method=method, loss=loss)
    training = made_by.training.model_copy(update={"steps": 4, "global_batch": 4, "micro_batch": 2, "ema": 0.9})
    made_by = made_by.model_copy(update={"training": training})
    prepared = json.loads(json.dumps(Denoising.prepare(made_by, store)))
    return Denoising({"config": made_by.model_dump(mode="json"), "prepared": prepared})


@pytest.mark.parametrize(("method", "loss"), [("M1", "gan"), ("M2", "gan")])
def test_a_training_goes_on_bit_by_bit(method: str, loss: str, small_sun: Path, tmp_path: Path) -> None:
    made = experiment(small_sun, method, loss)
    assert made.players == (("discriminator", "generator") if (method, loss) == ("M1", "gan") else ("generator",))
    whole, first, second = (Loop(made, made.config.training, made.config.watching, Worker()) for _ in range(3))
    assert whole.run(lambda _: None)

    def keep(progress: Progress) -> None:
        if progress.step == 2:
            first.save(tmp_path, {})

    assert not first.run(keep, lambda: first.step == 1)
    second.load(tmp_path)
    assert second.run(lambda _: None)
    for name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, second.networks[name].state_dict()[key]), (name, key)
    # A micro-batch is the same whoever computes it.
    together = list(made.batches(0, 2, (0, 1)))
    for number in (0, 1):
        for step, (alone,) in enumerate(made.batches(0, 2, (number,))):
            for key, value in alone.items():
                assert torch.equal(value, together[step][number][key])


def test_what_is_prepared_is_the_noise(small_sun: Path) -> None:
    """The level that is measured is that of noise of 10.2 G after registration; it is written for every part of the disc."""
    noise = experiment(small_sun, "M2").prepared["noise"]
    assert len(noise["mu"]) == len(noise["gauss"]) == 5
    assert all(6.5 < level < 10.5 for level in noise["gauss"]), noise
    assert np.square(noise["kernel"]).sum() == pytest.approx(1)


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    for changes, words in (
        ({"network": {"generator": "unet"}, "data": {"size": 96}}, "no power of two"),
        ({"network": {"stages": 5}, "data": {"size": 80}}, "halved 5 times"),
        ({"data": {"place": "centre", "patches": 4}}, "one patch"),
    ):
        data = {"store": {"url": str(tmp_path)}} | changes.get("data", {})
        with pytest.raises(ValueError, match=words):
            DenoisingConfig.model_validate({"data": data, "network": changes.get("network", {})})
