"""Tiny experiments whose data depend on step and micro-batch alone; as a program, the driver of a training of one."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from sdoml_dist.errors import SdomlError
from sdoml_dist.training.config import Optimisation, Watching, Workers
from sdoml_dist.training.experiment import Batch, Experiment
from sdoml_dist.training.loop import Loop, Worker

SETTINGS = {"batch": 8}
EVERY = Watching(validate_every=5, checkpoint_every=5, log_every=1)


def settings(steps: int, **more: Any) -> Optimisation:
    return Optimisation(steps=steps, global_batch=32, micro_batch=8, learning_rate=0.05, schedule="cosine", **more)


def sign(settings: dict[str, Any]) -> None:
    """Add this worker's host and process to the file that a test asks for."""
    if "began" in settings:
        with Path(settings["began"]).open("a") as file:
            file.write(f"{socket.gethostname()} {os.getpid()}\n")


class Toy(Experiment):
    """A small network with batch norm, dropout and noise on numbers that depend on step and micro-batch alone."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        sign(settings)

    def model(self) -> nn.Module:
        # A bias before batch norm has no gradient but rounding, which Adam makes large.
        return nn.Sequential(
            nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1)
        )

    def _batch(self, *key: int) -> Batch:
        x = np.random.default_rng([7, *key]).normal(size=(self.settings["batch"], 6)).astype(np.float32)
        if key == self.settings.get("bad"):
            x[0, 0] = np.nan
        return {"x": torch.from_numpy(x), "y": torch.from_numpy(np.tanh(x.sum(1, keepdims=True)))}

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


class ToyPair(Experiment):
    """A generator with batch norm and dropout against a discriminator, on numbers."""

    players = ("discriminator", "generator")
    citation = "A made-up paper, 2026."

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.prepared = {"channels": settings.get("channels", ["a", "b"])}
        sign(settings)

    def models(self) -> dict[str, nn.Module]:
        generator = nn.Sequential(
            nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
        )
        return {
            "generator": generator,
            "discriminator": nn.Sequential(nn.Linear(5, 8), nn.LeakyReLU(), nn.Linear(8, 1)),
        }

    def _batch(self, *key: int) -> Batch:
        x = np.random.default_rng([11, *key]).normal(size=(8, 3)).astype(np.float32)
        return {"x": torch.from_numpy(x), "y": torch.from_numpy(x[:, :2] + x[:, 2:])}

    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        for step in range(start_step, steps):
            time.sleep(self.settings.get("pause_s", 0.0))
            while step in self.settings.get("hold", ()) and not Path(self.settings["gates"], f"go{step}").exists():
                time.sleep(0.05)
            yield [self._batch(step, number) for number in mine]

    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        for number in range(rank, 3, world):
            yield self._batch(10_000, number)

    def loss(
        self, networks: dict[str, nn.Module], batch: Batch, generator: torch.Generator, player: str
    ) -> dict[str, Tensor]:
        noise = 0.05 * torch.randn(batch["x"].shape, generator=generator)
        made = networks["generator"](batch["x"] + noise)
        judged = networks["discriminator"](torch.cat([batch["x"], made], 1))
        if player == "generator":
            error = functional.l1_loss(made, batch["y"])
            return {"loss": functional.softplus(-judged).mean() + 10 * error, "error": error}
        for parameter in networks["generator"].parameters():
            assert not parameter.requires_grad
        real = networks["discriminator"](torch.cat([batch["x"], batch["y"]], 1))
        return {"loss": functional.softplus(judged).mean() + functional.softplus(-real).mean()}

    def sample_grid(self, networks: dict[str, nn.Module], folder: Path, step: int) -> None:
        assert not networks["generator"].training
        (folder / f"{step}.txt").write_text(str(networks["generator"](torch.ones(1, 3)).tolist()))

    def describe(self) -> dict[str, Any]:
        return {"experiment": "toy-pair", "prepared": self.prepared}


def start(kind: type[Experiment], worker: Worker | None = None, steps: int = 20, **more: Any) -> Loop:
    return Loop(kind(SETTINGS), settings(steps, **more), EVERY, worker or Worker())


def weights(loop: Loop) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, net in loop.shown().items() for key, value in net.state_dict().items()}


def in_group(rank: int, world: int, folder: str, steps: int) -> None:
    """Be one of several processes that train together without Ray; the first keeps what came of it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        for kind in (Toy, ToyPair):
            loop = start(kind, Worker(rank, world), steps, ema=0.9)
            told: list[Any] = []
            loop.run(lambda progress, told=told: told.append((progress.metrics, progress.validation)))
            if rank == 0:
                place = Path(folder) / kind.__name__
                place.mkdir()
                loop.save(place, {})
                torch.save({"told": told, "weights": weights(loop)}, place / "told.pt")
    finally:
        dist.destroy_process_group()


def main(output: str, steps: int, given: dict[str, Any]) -> int:
    """Train the pair on two workers, as a command does."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    # By its importable name, not as a class of the program.
    from sdoml_dist.training.trainer import train
    from tests.toys import ToyPair as Pair

    try:
        workers = Workers(number=2, cpus=1, drain_s=120)
        how = settings(steps, ema=0.9)
        # When it waits changes nothing in the training.
        outcome = train(Pair, SETTINGS | given, output, how, EVERY, workers, identity=SETTINGS)
    except SdomlError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    print(json.dumps({"step": outcome.step, "before": outcome.before, "checkpoint": outcome.checkpoint}))
    return int(outcome.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))
