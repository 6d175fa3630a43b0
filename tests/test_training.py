"""The training loop: what a training that stops, or runs on other workers, may and may not change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.training import checkpoint
from sdoml_dist.training.config import Optimisation, Watching, Workers
from sdoml_dist.training.experiment import Batch, Experiment
from sdoml_dist.training.loop import DivergedError, Loop, Progress, Worker
from sdoml_dist.training.trainer import read_log, train


class Toy(Experiment):
    """A small network with batch norm, dropout and noise on numbers that depend on step and micro-batch alone."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))

    def _batch(self, *key: int) -> Batch:
        x = np.random.default_rng([7, *key]).normal(size=(self.settings["batch"], 6)).astype(np.float32)
        if key == self.settings.get("bad"):
            x[0, 0] = np.nan
        return {"x": torch.from_numpy(x), "y": torch.from_numpy(np.sin(x.sum(1, keepdims=True)))}

    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        for step in range(start_step, steps):
            yield [self._batch(step, number) for number in mine]

    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        for number in range(rank, 4, world):
            yield self._batch(10_000, number)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(batch["x"].shape, generator=generator)
        error = functional.mse_loss(model(batch["x"] + 0.1 * noise), batch["y"])
        return {"loss": error, "twice": 2 * error}

    def describe(self) -> dict[str, Any]:
        return {"experiment": "toy"}


SETTINGS = {"batch": 8}
EVERY = Watching(validate_every=5, checkpoint_every=5, log_every=1)


def settings(steps: int, **more: Any) -> Optimisation:
    return Optimisation(steps=steps, global_batch=32, micro_batch=8, learning_rate=0.01, schedule="cosine", **more)


def curve(loop: Loop) -> list[float]:
    seen: list[float] = []
    loop.run(lambda progress: seen.append(progress.metrics["loss"]))
    return seen


def test_stopping_and_going_on_is_the_same_training_bit_by_bit(tmp_path: Path) -> None:
    whole = Loop(Toy(SETTINGS), settings(20), EVERY, Worker())
    losses = curve(whole)
    first = Loop(Toy(SETTINGS), settings(20), EVERY, Worker())
    seen: list[float] = []

    def until_ten(progress: Progress) -> None:
        seen.append(progress.metrics["loss"])
        if progress.step == 10:
            first.save(tmp_path, {})

    first.run(until_ten, lambda: first.step == 9)
    second = Loop(Toy(SETTINGS), settings(20), EVERY, Worker())
    second.load(tmp_path)
    seen += curve(second)
    assert seen == losses
    for name, value in whole.networks["model"].state_dict().items():
        assert torch.equal(value, second.networks["model"].state_dict()[name]), name
    assert losses[-1] < losses[0]
    assert checkpoint.about(tmp_path)["step"] == 10


def test_workers_share_an_update_and_each_has_a_part() -> None:
    assert [Worker(rank, 3).mine(4) for rank in range(3)] == [(0, 3), (1,), (2,)]
    with pytest.raises(UsageError, match="at most 4 workers"):
        Worker(0, 5).mine(4)
    with pytest.raises(ValueError, match="does not divide"):
        Optimisation(global_batch=10, micro_batch=4)


def test_a_loss_that_is_no_number_ends_the_training_before_it_does_harm() -> None:
    loop = Loop(Toy(SETTINGS | {"bad": (3, 1)}), settings(20), EVERY, Worker())
    states = []
    with pytest.raises(DivergedError, match="At step 3"):
        loop.run(lambda _: states.append({name: value.clone() for name, value in loop.networks["model"].named_parameters()}))
    assert len(states) == 3
    for name, value in loop.networks["model"].named_parameters():
        assert torch.equal(value, states[-1][name])


def test_patience_ends_early() -> None:
    loop = Loop(Toy(SETTINGS), settings(500), Watching(validate_every=1, patience=3), Worker())
    assert loop.run(lambda _: None)
    assert loop.step < 500


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    Loop(Toy(SETTINGS), settings(2), EVERY, Worker()).save(tmp_path, {})
    with pytest.raises(UsageError, match="another network"):
        checkpoint.load_model(tmp_path, nn.Linear(6, 2))
    with pytest.raises(UsageError, match="not a checkpoint"):
        checkpoint.about(tmp_path / "nowhere")
    assert len(checkpoint.model_hash(tmp_path)) == 16


@pytest.mark.slow
def test_one_and_two_workers_on_ray_have_one_loss_curve_and_go_on(ray_cluster: Any, tmp_path: Path) -> None:
    curves = {}
    for number in (1, 2):
        outcome = train(Toy, SETTINGS, tmp_path / str(number), settings(12), EVERY, Workers(number=number, cpus=0.5))
        assert outcome.step == 12
        curves[number] = [line["loss"] for line in read_log(tmp_path / str(number) / "training")]
        assert len(curves[number]) == 12
        assert Path(outcome.checkpoint).is_dir()
    np.testing.assert_allclose(curves[1], curves[2], rtol=1e-5)
    alone = Loop(Toy(SETTINGS), settings(12), EVERY, Worker())
    np.testing.assert_allclose(curve(alone), curves[1], rtol=1e-6)
    # The same folder with more steps goes on; another network is refused.
    longer = train(Toy, SETTINGS, tmp_path / "2", settings(14), EVERY, Workers(number=2, cpus=0.5))
    assert longer.step == 14
    steps = [line["step"] for line in read_log(tmp_path / "2" / "training")]
    assert steps == list(range(1, 15))
    with pytest.raises(StoreError, match="another training"):
        train(Toy, SETTINGS, tmp_path / "2", settings(14, seed=1), EVERY, Workers(number=2, cpus=0.5))
