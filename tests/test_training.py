"""The training loop: what a training that stops, or runs on other workers, may and may not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sdoml_dist.cli import main
from sdoml_dist.errors import EnvironmentFault, ExitCode, RecipeError, StoreError, UsageError
from sdoml_dist.experiments import EXPERIMENTS
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.lease import Lease
from sdoml_dist.training import checkpoint
from sdoml_dist.training.config import Optimisation, Watching, Workers
from sdoml_dist.training.experiment import Experiment, find_experiment
from sdoml_dist.training.log import read_log
from sdoml_dist.training.loop import DivergedError, Loop, Progress, Worker
from sdoml_dist.training.run import load_config
from sdoml_dist.training.trainer import Outcome, train
from sdoml_dist.version import code_version
from tests.toys import EVERY, SETTINGS, Toy, ToyPair, in_group, settings, start, weights


@pytest.mark.parametrize("kind", [Toy, ToyPair])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_stopping_and_going_on_is_the_same_training_bit_by_bit(
    kind: type[Experiment], ema: float | None, tmp_path: Path
) -> None:
    whole, first, second = (start(kind, ema=ema) for _ in range(3))
    told: list[Progress] = []
    assert whole.run(told.append)
    again: list[Progress] = []

    def until_ten(progress: Progress) -> None:
        again.append(progress)
        if progress.step == 10:
            first.save(tmp_path, {})

    assert not first.run(until_ten, lambda: first.step == 9)
    second.load(tmp_path)
    assert second.run(again.append)
    assert [(one.metrics, one.validation) for one in again] == [(one.metrics, one.validation) for one in told]
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(second)[name]), name
    name = "loss" if kind is Toy else "generator_error"
    losses = [one.metrics[name] for one in told]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert checkpoint.about(tmp_path)["step"] == 10
    assert (tmp_path / "ema.safetensors").is_file() == (ema is not None)


def test_averaged_weights_are_those_that_are_validated(tmp_path: Path) -> None:
    loop, other = start(ToyPair, ema=0.5), start(ToyPair)
    loop.run(lambda _: None)
    other.run(lambda _: None)
    for name, value in other.networks["generator"].state_dict().items():
        assert torch.equal(value, loop.networks["generator"].state_dict()[name])
    assert loop.shown()["generator"] is not loop.networks["generator"]
    assert loop.shown()["discriminator"] is loop.networks["discriminator"]
    assert loop.validate() != other.validate()
    loop.save(tmp_path, {})
    (network,) = [net for name, net in ToyPair(SETTINGS).models().items() if name == "generator"]
    checkpoint.load_model(tmp_path, network, "ema")
    for name, value in network.state_dict().items():
        assert torch.equal(value, loop.shown()["generator"].state_dict()[name])


def test_the_number_of_workers_changes_nothing_but_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three workers have two, one and one micro-batches; running means and the averaged weights are compared too."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(in_group, (3, str(tmp_path), 8), nprocs=3)
    for kind in (Toy, ToyPair):
        together = torch.load(tmp_path / kind.__name__ / "told.pt", weights_only=True)
        loop = start(kind, steps=8, ema=0.9)
        told: list[Any] = []
        loop.run(lambda progress, told=told: told.append((progress.metrics, progress.validation)))
        assert len(told) == len(together["told"]) == 8
        for ours, theirs in zip(told, together["told"], strict=True):
            assert ours[0] == pytest.approx(theirs[0], rel=1e-4, abs=1e-6)
            assert (ours[1] is None) == (theirs[1] is None)
            if ours[1] is not None:
                assert ours[1] == pytest.approx(theirs[1], rel=1e-4)
        for name, value in weights(loop).items():
            torch.testing.assert_close(value, together["weights"][name], rtol=1e-4, atol=1e-5)


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


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    start(Toy, steps=2).save(tmp_path, {})
    with pytest.raises(UsageError, match="another network"):
        checkpoint.load_model(tmp_path, nn.Linear(6, 2))
    with pytest.raises(UsageError, match=r"no weights of 'generator'[^$]*It has model"):
        checkpoint.load_model(tmp_path, nn.Linear(6, 2), "generator")
    with pytest.raises(UsageError, match="not a checkpoint"):
        checkpoint.about(tmp_path / "nowhere")
    assert len(checkpoint.model_hash(tmp_path)) == 16
    (tmp_path / "pair").mkdir()
    start(ToyPair, steps=2).save(tmp_path / "pair", {})
    other = Loop(ToyPair({"channels": ["b", "a"]}), settings(2), EVERY, Worker())
    with pytest.raises(UsageError, match=r"trained on other data[^$]*prepared\.channels: \['a', 'b'\] -> \['b', 'a'\]"):
        other.load(tmp_path / "pair")
    with pytest.raises(UsageError, match="experiment: 'toy' -> 'toy-pair'"):
        other.load(tmp_path)


def test_the_newest_checkpoints_and_the_best_are_kept_whole(tmp_path: Path) -> None:
    loop = start(ToyPair)
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 4.0)):
        loop.step = step
        told = {} if loss is None else {"validation_loss": loss}
        checkpoint.keep(tmp_path, step, lambda folder, told=told: loop.save(folder, told), 2)
    assert [checkpoint.about(one)["step"] for one in checkpoint.found(tmp_path)] == [2, 4, 5]
    assert checkpoint.found(tmp_path)[-1].name == "checkpoint_00000005"
    assert checkpoint.best(tmp_path) == checkpoint.chosen(tmp_path) == tmp_path / "checkpoint_00000002"
    assert checkpoint.chosen(tmp_path / "checkpoint_00000004") == tmp_path / "checkpoint_00000004"

    def broken(folder: Path) -> None:
        (folder / "generator.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        checkpoint.keep(tmp_path, 6, broken, 2)
    (tmp_path / ".checkpoint_00000007.abc").mkdir()
    checkpoint.tidy(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    text = (checkpoint.found(tmp_path)[-1] / "card.md").read_text()
    told = ("step 5", "toy-pair", "5 of 20", "57 (discriminator)", "A made-up paper", "validation_loss: 4", "a, b")
    for part in (*told, code_version()):
        assert part in text, part


def test_what_cannot_be_trained_is_refused_before_anything_starts(tmp_path: Path) -> None:
    how = (settings(2), EVERY, Workers())
    with pytest.raises(UsageError, match="s3://bucket/runs"):
        train(Toy, SETTINGS, "s3://bucket/runs", *how)
    with pytest.raises(UsageError, match="too few for 9 workers"):
        train(Toy, SETTINGS, tmp_path, settings(2), EVERY, Workers(number=9))
    with (
        Lease(Store(url=str(tmp_path / "training")), "another training"),
        pytest.raises(EnvironmentFault, match="in use: another training"),
    ):
        train(Toy, SETTINGS, tmp_path, *how)
    path = tmp_path / "wrong.yaml"
    path.write_text("experiment: latent-spaec")
    with pytest.raises(RecipeError, match="Did you mean 'latent-space'"):
        load_config(path)
    assert main(["train", str(path)]) == 2
    assert main(["schema", "latent-spac"]) == 2
    assert main(["schema", "latent-space"]) == 0
    with pytest.raises(ValueError, match="betas"):
        Optimisation(betas=(0.5, 1.0))


def test_every_experiment_keeps_to_the_contract() -> None:
    for name in EXPERIMENTS:
        kind = find_experiment(name)
        fields = kind.Config.model_fields
        assert {"experiment", "name", "training", "watching", "workers", "output"} <= set(fields), name
        assert fields["experiment"].default == name
        assert kind.players
        assert kind.citation, name


@pytest.mark.slow
def test_two_workers_on_ray_give_the_same_curve_and_go_on(ray_cluster: Any, tmp_path: Path) -> None:
    def run(steps: int, kind: type[Experiment] = ToyPair, **more: Any) -> Outcome:
        return train(kind, SETTINGS, tmp_path, settings(steps, **more), EVERY, Workers(number=2, cpus=0.5))

    outcome = run(12)
    assert (outcome.step, outcome.exit_code, outcome.before) == (12, ExitCode.COMPLETE, False)
    folder = tmp_path / "training"
    lines = read_log(folder)
    assert [line["step"] for line in lines] == list(range(1, 13))
    alone = start(ToyPair, steps=12)
    seen: list[float] = []
    alone.run(lambda progress: seen.append(progress.metrics["generator_loss"]))
    np.testing.assert_allclose([line["generator_loss"] for line in lines], seen, rtol=1e-5)
    assert 0 <= lines[-1]["data_wait"] < 1
    table = pd.read_parquet(folder / "metrics.parquet")
    np.testing.assert_array_equal(table.generator_loss, [line["generator_loss"] for line in lines])
    assert (folder / "losses.png").read_bytes()[:4] == b"\x89PNG"
    assert list(folder.glob("tensorboard/*"))
    assert {path.stem for path in (folder / "samples").iterdir()} == {"5", "10", "12"}
    assert Path(outcome.checkpoint).name == "checkpoint_00000012"
    assert (Path(outcome.checkpoint) / "card.md").is_file()
    # Again: nothing to do. More steps: it goes on. Another seed: another training.
    assert run(12).before
    longer = run(14)
    assert (longer.step, longer.before) == (14, False)
    assert [line["step"] for line in read_log(folder)] == list(range(1, 15))
    with pytest.raises(StoreError, match="another training"):
        run(14, seed=1)


@pytest.mark.slow
def test_an_error_of_the_training_is_not_tried_again(ray_cluster: Any, tmp_path: Path) -> None:
    began = tmp_path / "began"
    given = SETTINGS | {"bad": (3, 1), "began": str(began)}
    with pytest.raises(DivergedError, match="At step 3"):
        train(Toy, given, tmp_path, settings(12), EVERY, Workers(number=2, cpus=0.5, maximum_failures=5))
    # Once on either worker.
    assert len(began.read_text().splitlines()) == 2
