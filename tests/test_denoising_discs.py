"""Whole discs by patches: a seam is found where there is one, and a network that depends on its patch is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sdoml_dist.cli import main
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.experiments.denoising import Denoising, DenoisingConfig
from sdoml_dist.experiments.denoising_table import SCORES, Denoiser, evaluate
from sdoml_dist.models.denoiser import ShallowGenerator
from sdoml_dist.solar.blending import blended
from sdoml_dist.solar.seams import borders, seams
from sdoml_dist.training.loop import Loop, Worker
from tests.denoising_data import make, recipe


def disc(pixels: int, seed: int = 0) -> np.ndarray:
    """Return noise of 1 on a disc, float32, NaN around it."""
    field = np.random.default_rng(seed).normal(size=(pixels, pixels)).astype(np.float32)
    field[np.hypot(*(np.indices(field.shape) - (pixels - 1) / 2)) > 0.45 * pixels] = np.nan
    return field


def test_seams_are_found_where_patches_disagree() -> None:
    """Half of the noise taken off, and an offset of that size for each patch: blended, it does not show."""
    image = disc(512)

    def found(overlap: int) -> tuple[float, float]:
        offsets = np.random.default_rng(1)

        def run(patches: np.ndarray) -> np.ndarray:
            return 0.5 * patches + offsets.choice([-0.5, 0.5], (len(patches), 1, 1)).astype(np.float32)

        seen = seams(blended(image, 64, overlap, run) - image, 64, overlap)
        assert seen.lines >= 10
        return seen.excess, seen.error

    hard, soft = found(0), found(16)
    assert hard[0] > 10 * hard[1]
    assert abs(soft[0]) < 3 * soft[1]


def test_a_network_that_does_less_at_edges_has_seams_below_zero() -> None:
    """Of the two pixels next to its edges it takes a third off; what lies in the overlap hides it."""
    image = disc(512)
    share = np.ones(64, np.float32)
    share[[0, 1, -2, -1]] = 1 / 3

    def run(patches: np.ndarray) -> np.ndarray:
        return patches * (1 - 0.5 * share * share[:, None])

    hard = seams(blended(image, 64, 0, run) - image, 64, 0)
    soft = seams(blended(image, 64, 16, run) - image, 64, 16)
    assert hard.excess < -5 * hard.error
    assert abs(soft.excess) < 3 * soft.error


def test_borders_are_where_patches_begin_and_end() -> None:
    assert borders(112, 64, 16) == [47, 63]
    assert borders(128, 64, 0) == [63]
    assert borders(64, 64, 16) == []
    with pytest.raises(ValueError, match="one patch"):
        seams(np.ones((64, 64), np.float32), 64, 16)
    with pytest.raises(ValueError, match="nothing has changed"):
        seams(np.zeros((128, 128), np.float32), 64, 16)


@pytest.mark.parametrize(("stages", "blocks", "reach"), [(4, 9, 336), (3, 1, 40)])
def test_how_far_the_shallow_generator_sees(stages: int, blocks: int, reach: int) -> None:
    """The published layout sees all of a patch of 256 pixels, and what is around it: zeros."""
    network = ShallowGenerator(1, stages, blocks, "image").double()
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.05 if parameter.ndim > 1 else 0.0)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64).expand(1, 1, 64, 1024).clone().requires_grad_()
    network(x)[0, 0, 32, 512].backward()
    assert x.grad is not None
    seen = np.flatnonzero(x.grad[0, 0].abs().amax(0).numpy() > 0)
    assert 512 - seen[0] == reach


def saved(folder: Path, store: Path, size: int) -> Path:
    """Write a checkpoint of a U-Net with random weights."""
    made_by = DenoisingConfig.model_validate(
        {
            "data": {"store": {"url": str(store)}, "size": size, "split": {"kind": "whole"}, "threads": 1},
            "network": {"method": "M2", "generator": "unet", "narrowing": 16},
            "training": {"steps": 1, "global_batch": 1, "micro_batch": 1}, "output": str(folder),
        }
    )  # fmt: skip
    folder.mkdir()
    prepared = json.loads(json.dumps(Denoising.prepare(made_by, folder)))
    experiment = Denoising({"config": made_by.model_dump(mode="json"), "prepared": prepared})
    Loop(experiment, made_by.training, made_by.watching, Worker()).save(folder, {})
    return folder


def test_a_u_net_of_patches_is_refused_for_discs_and_evaluated_at_the_middle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It normalises by its patch: two patches differ where they overlap, whatever is done about their edges."""
    store = tmp_path / "sun"
    make(recipe(store, "hmi_45s", pixels=128, hours=1))
    folder = saved(tmp_path / "patches", store, 64)
    assert main(["apply", str(folder), str(store), str(tmp_path / "out")]) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert "patches of 64 pixels, its discs have 128" in told
    assert "network.generator=shallow" in told
    with pytest.raises(UsageError, match="U-Net"):
        Denoiser(folder)

    text = evaluate(folder, tmp_path / "evaluation", part="train")
    assert "the middle patch alone" in text
    about = json.loads((tmp_path / "evaluation" / "about.json").read_text())
    assert about["seams"] is None
    levels = dict(zip(SCORES, about["scores"]["M2"], strict=True))
    assert np.isfinite(levels["noise centre"])
    assert np.isnan(levels["noise limb"])

    # A disc that is one patch has no borders.
    whole = Denoiser(saved(tmp_path / "whole", store, 128))
    assert np.isfinite(whole.disc(disc(128))).any()
