"""Denoising learned on one simulated Sun, and judged on another one, whose noise and true field are known.

Losses, stages, blocks and stacks of 21 are the defaults, which are the published ones; filters, patches and steps are fewer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdoml_dist
from sdoml_dist.experiments.denoising import Denoising, DenoisingConfig
from sdoml_dist.experiments.denoising_patches import grid_mu
from sdoml_dist.experiments.denoising_table import SCORES, Denoiser, evaluate
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.denoising import patch_picture
from sdoml_dist.solar.blending import blended
from sdoml_dist.solar.magnetogram_noise import CENTRE, LIMB, noise_at
from sdoml_dist.solar.seams import seams
from sdoml_dist.training.loop import Loop, Worker
from tests.denoising_data import make, recipe

# Alone on a core, a training takes two to three minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PIXELS, SIZE = 1024, 64
DAYS = {"train": ("2014-03-01", 0), "test": ("2014-06-10", 1)}
"""First day and seed of the Sun: another Sun is another seed."""
SPLIT = {
    "kind": "periods",
    "periods": {
        "train": ["2014-02-28T23:00", "2014-03-01T23:00"], "validation": ["2014-03-01T23:00", "2014-03-02T05:00"],
        "test": ["2014-06-09T23:00", "2014-06-11"],
    },
}  # fmt: skip


def built(folder: Path, which: str, hours: int) -> tuple[Path, Path]:
    """Return a dataset of magnetograms and stacks of 21 every six hours, and the same magnetograms without noise."""
    day, seed = DAYS[which]
    noisy, true = folder / which, folder / f"{which}-true"
    end = str(np.datetime64(day, "s") + np.timedelta64(hours, "h"))
    common: dict[str, Any] = {
        "pixels": PIXELS, "hours": hours, "cadence": "6h", "period": {"start": day, "end": end},
    }  # fmt: skip
    for product in ("hmi_45s", "hmi_stack"):
        make(recipe(noisy, product, simulation={"seed": seed}, **common))
    make(recipe(true, "hmi_45s", noise=False, simulation={"seed": seed}, **common))
    return noisy, true


@pytest.fixture(scope="module")
def suns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return the datasets of the training's Sun and of the test's."""
    folder = tmp_path_factory.mktemp("suns")
    return {"train": built(folder, "train", 30), "test": built(folder, "test", 6)}


@pytest.fixture(scope="module")
def learn(suns: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what trains a network by a method, once."""
    done: dict[str, Path] = {}

    def trained(method: str) -> Path:
        if method not in done:
            config = DenoisingConfig.model_validate(
                {
                    "data": {
                        "store": {"url": str(suns["train"][0])}, "size": SIZE, "patches": 256, "split": SPLIT, "threads": 1
                    },
                    "network": {"method": method, "narrowing": 8},
                    "training": {
                        "steps": 600, "global_batch": 32, "micro_batch": 32, "learning_rate": 5e-4, "betas": [0.5, 0.999],
                        "gradient_norm": 10 if method == "M1" else 1, "schedule": "cosine", "warmup_steps": 50,
                    },
                    "watching": {"validate_every": 10_000},
                }
            )  # fmt: skip
            assert (config.network.loss, config.network.stages, config.network.blocks) == ("gan", 4, 9)
            folder = tmp_path_factory.mktemp(method)
            prepared = json.loads(json.dumps(Denoising.prepare(config, folder)))
            experiment = Denoising({"config": config.model_dump(mode="json"), "prepared": prepared})
            loop = Loop(experiment, config.training, config.watching, Worker())
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                assert loop.run(lambda progress: None)
            finally:
                torch.set_num_threads(threads)
            loop.save(folder, {})
            experiment.sample_grid(loop.shown(), folder / "samples", loop.step)
            assert len(list((folder / "samples").glob("*.png"))) == 1
            done[method] = folder
        return done[method]

    return trained


def magnetograms(sun: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first magnetogram of a dataset, its stack and its truth."""
    noisy, true = (sdoml_dist.open_dataset(place, product="hmi_45s") for place in sun)
    stack = sdoml_dist.open_dataset(sun[0], product="hmi_stack")
    return noisy["M_45s"].values[0], stack["M_stack"].values[0], true["M_45s"].values[0]


@pytest.mark.parametrize("method", ["M1", "M2"])
def test_noise_of_another_sun_is_halved_and_strong_field_stays(
    method: str, suns: dict[str, tuple[Path, Path]], learn: Callable[[str], Path], tmp_path: Path
) -> None:
    """At the centre and near the limb; by the truth, and by the published measure, in which the true field counts too."""
    denoiser = Denoiser(learn(method))
    before, stack, truth = magnetograms(suns["test"])
    after = denoiser.disc(before)
    mu = grid_mu(PIXELS, 976.0)
    told: dict[str, Any] = {}
    for name, place in (("centre", CENTRE), ("limb", LIMB)):
        images = (before - truth, after - truth, stack - truth, before, after, stack, truth)
        told[name] = [round(noise_at(image, mu, place).sigma, 2) for image in images]
        own_before, own_after, _, all_before, all_after, _, field = told[name]
        assert own_after < own_before / 2, told
        assert all_after**2 - field**2 < (all_before**2 - field**2) / 4, told
        # Not by wiping out what the quiet Sun has.
        assert all_after > 0.7 * field, told
    strong = np.isfinite(after) & (np.abs(np.nan_to_num(before)) > 300)
    assert strong.sum() > 200
    old, new = before[strong].astype(float), after[strong].astype(float)
    told["slope"] = float(old @ new / (old @ old))
    told["change"] = float(np.abs(new - old).mean() / np.abs(old).mean())
    print(method, told)
    assert abs(told["slope"] - 1) < 0.02
    assert told["change"] < 0.02
    middle = (slice(None), slice(400, 656), slice(400, 656))
    picture = {"45 s": before[None], method: after[None], "stack": stack[None], "truth": truth[None]}
    patch_picture(tmp_path / "sun.png", {name: image[middle] for name, image in picture.items()}, 60.0)
    assert (tmp_path / "sun.png").stat().st_size > 10_000


@pytest.mark.parametrize("method", ["M1", "M2"])
def test_borders_of_patches_cannot_be_found(
    method: str, suns: dict[str, tuple[Path, Path]], learn: Callable[[str], Path]
) -> None:
    """Jumps there are those of other lines within the noise; without an overlap they are not."""
    denoiser = Denoiser(learn(method))
    before, _, _ = magnetograms(suns["test"])
    overlap = denoiser.settings["overlap"]
    change = denoiser.disc(before) - before
    found = seams(change, SIZE, overlap)
    hard = seams(blended(before, SIZE, 0, denoiser.patches) - before, SIZE, 0)
    # Patches that lie elsewhere: the network sees all of a patch, its zeros around the patch too.
    shift = (SIZE - overlap) // 2
    moved = np.full((PIXELS + shift,) * 2, np.nan, np.float32)
    moved[shift:, shift:] = before
    other = blended(moved, SIZE, overlap, denoiser.patches)[shift:, shift:] - before
    apart = float(np.nanstd(other - change) / np.nanstd(change))
    print(method, found, hard, apart)
    assert found.lines > 40
    assert found.error < 0.02
    assert abs(found.excess) < 3 * found.error
    assert abs(hard.excess) > 5 * hard.error
    assert apart < {"M1": 0.4, "M2": 0.15}[method]


def test_the_table_has_the_published_layout(
    suns: dict[str, tuple[Path, Path]], learn: Callable[[str], Path], tmp_path: Path
) -> None:
    text = evaluate(learn("M1"), tmp_path / "evaluation", store=Store(url=str(suns["test"][0])))
    print(text)
    about = json.loads((tmp_path / "evaluation" / "about.json").read_text())
    before, after = (dict(zip(SCORES, about["scores"][name], strict=True)) for name in ("45 s", "M1"))
    assert after["noise centre"] < 0.6 * before["noise centre"]
    assert after["CC"] > before["CC"]
    assert after["NMSE"] < before["NMSE"] / 2
    assert after["PSNR"] > before["PSNR"] + 3
    for name in ("published M1", "published disc, M2", "bilateral", "stack", "jumps at borders of patches"):
        assert name in text
    assert "8.660" in text
    assert abs(about["seams"]["excess"]) < 3 * about["seams"]["error"]
    assert (tmp_path / "evaluation" / "patches.png").stat().st_size > 10_000


def test_stacks_of_the_simulator_are_near_the_truth(suns: dict[str, tuple[Path, Path]]) -> None:
    """21 magnetograms have less noise than one by the root of 21; interpolation takes some more, evolution adds some."""
    once, stack, truth = magnetograms(suns["train"])
    mu = grid_mu(PIXELS, 976.0)
    level = {name: noise_at(image - truth, mu, CENTRE).sigma for name, image in (("once", once), ("stack", stack))}
    assert level["once"] / 8 < level["stack"] < level["once"] / 21**0.5 * 1.2, level
