"""Training by the package against plain PyTorch at the same total work; on a GPU also bfloat16 and torch.compile.

python benchmarks/training.py            (two CPUs, two minutes; on a machine with a GPU it measures that instead)

Every step is two micro-batches of 12-channel images of 128 x 128 pixels through the sigma-VAE, its loss, Adam. Four ways:
a plain loop of one process with two threads; two plain processes of one thread that each do one of the two micro-batches
and an update, without telling each other; the package with one worker of two threads, in this process; and the package
with two workers of one thread on Ray, which average their gradients. Times are medians of steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdoml_dist.models.sigma_vae import SigmaVAE
from sdoml_dist.models.vae_loss import sigma_vae_loss
from sdoml_dist.training.config import Optimisation, Watching, Workers
from sdoml_dist.training.experiment import Batch, Experiment
from sdoml_dist.training.log import read_log
from sdoml_dist.training.loop import Loop, Progress, Worker
from sdoml_dist.training.trainer import train

CHANNELS, PIXELS, WARM = 12, 128, 2


class Fixed(Experiment):
    """The sigma-VAE on a batch that is always the same, so that nothing is measured but the loop."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def model(self) -> nn.Module:
        """Return the network."""
        return SigmaVAE(CHANNELS, 64, PIXELS, narrowing=self.settings["narrowing"])

    def batch(self) -> Batch:
        """Return a micro-batch."""
        shape = (self.settings["batch"], CHANNELS, PIXELS, PIXELS)
        return {"x": torch.randn(shape, generator=torch.Generator().manual_seed(1))}

    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        """Yield the same micro-batches."""
        batch = self.batch()
        for _ in range(start_step, steps):
            yield [batch for _ in mine]

    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        """Yield none."""
        return iter(())

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the published loss."""
        return sigma_vae_loss(model(batch["x"], generator), batch["x"])

    def describe(self) -> dict[str, Any]:
        """Return the name."""
        return {"experiment": "fixed"}


def plain(given: dict[str, Any], steps: int, micro_batches: int, device: str = "cpu") -> float:
    """Return the median seconds of a step of a loop as one writes it by hand."""
    torch.manual_seed(0)
    experiment = Fixed(given)
    network = experiment.model().to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)
    batch = experiment.batch()
    generator = torch.Generator(device).manual_seed(0)
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        optimiser.zero_grad()
        for _ in range(micro_batches):
            moved = {name: value.to(device) for name, value in batch.items()}
            loss = experiment.loss(network, moved, generator)["loss"] / micro_batches
            loss.backward()
        optimiser.step()
        float(loss.detach())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM:])


def _apart(rank: int, given: dict[str, Any], steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    Path(folder, str(rank)).write_text(str(plain(given, steps, 1)))


def apart(given: dict[str, Any], steps: int) -> float:
    """Return the median seconds of a step of two processes that know nothing of each other."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_apart, (given, steps, folder), nprocs=2)
        return max(float(Path(folder, str(rank)).read_text()) for rank in range(2))


def how(given: dict[str, Any], steps: int, **more: Any) -> Optimisation:
    """Return the settings of the package's loop."""
    return Optimisation(
        steps=steps, micro_batch=given["batch"], global_batch=2 * given["batch"], learning_rate=1e-4, **more
    )


def ours(given: dict[str, Any], steps: int, device: str = "cpu", **more: Any) -> float:
    """Return the median seconds of a step of the package's loop with one worker."""
    watching = Watching(validate_every=10**9, checkpoint_every=10**9)
    loop = Loop(Fixed(given), how(given, steps, **more), watching, Worker(device=torch.device(device)))
    times: list[float] = [time.perf_counter()]

    def note(_: Progress) -> None:
        times.append(time.perf_counter())

    loop.run(note)
    return statistics.median([b - a for a, b in pairwise(times)][WARM:])


def on_ray(given: dict[str, Any], steps: int) -> tuple[float, float]:
    """Return the median seconds of a step of two workers, and the share of time that they waited for data."""
    with tempfile.TemporaryDirectory() as folder:
        watching = Watching(validate_every=10**9, checkpoint_every=10**9, log_every=1)
        train(Fixed, given, folder, how(given, steps), watching, Workers(number=2), cpus=2)
        lines = read_log(Path(folder) / "training")
    times = [line["unix_s"] for line in lines]
    return statistics.median([b - a for a, b in pairwise(times)][WARM:]), lines[-1]["data_wait"]


def on_cpus(options: argparse.Namespace) -> None:
    """Compare the four ways."""
    given = {"batch": options.batch, "narrowing": options.narrowing}
    torch.set_num_threads(2)
    alone, one = plain(given, options.steps, 2), ours(given, options.steps)
    os.environ["OMP_NUM_THREADS"] = "1"
    two, wait = on_ray(given, options.steps)
    free = apart(given, options.steps)
    print(
        f"{sum(p.numel() for p in Fixed(given).model().parameters()):,} parameters, 2 x {options.batch} samples a step"
    )
    for name, value in (
        ("plain loop, one process of two threads", alone),
        ("package, one worker of two threads", one),
        ("two plain processes of one thread that share nothing", free),
        ("package, two workers of one thread on Ray", two),
    ):
        print(f"  {value:7.3f} s a step, {2 * options.batch / value:6.1f} samples/s  {name}")
    print(
        f"two workers cost {two / alone - 1:+.1%} over the plain loop on the same two cores, {two / free - 1:+.1%} over two "
        f"processes that share nothing; one worker {one / alone - 1:+.1%} over the plain loop; data-wait share {wait:.2%}"
    )


def on_gpu(options: argparse.Namespace) -> None:
    """Compare precisions and compilation on one GPU."""
    given = {"batch": options.batch, "narrowing": options.narrowing}
    print(torch.cuda.get_device_name())
    rows = {"plain loop, float32": plain(given, options.steps, 2, "cuda")}
    for precision in ("float32", "bfloat16"):
        for compile_it in (False, True):
            name = f"package, {precision}{', compiled' if compile_it else ''}"
            rows[name] = ours(given, options.steps, "cuda", precision=precision, compile=compile_it)
    for name, seconds in rows.items():
        print(f"  {1 / seconds:7.2f} steps/s, {2 * options.batch / seconds:8.1f} samples/s  {name}")


def main() -> None:
    """Measure on what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16, help="samples of a micro-batch")
    parser.add_argument("--narrowing", type=int, default=4, help="divides the filters; 1 is the published network")
    options = parser.parse_args()
    if torch.cuda.is_available():
        on_gpu(options)
    else:
        on_cpus(options)


if __name__ == "__main__":
    main()
