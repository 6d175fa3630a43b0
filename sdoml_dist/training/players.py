"""What the loop is made of: networks with their optimisers, running statistics, averaged weights, seeds."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sdoml_dist.training.config import Optimisation

# PyTorch 2.13 has renamed it.
_SYNCHRONISE = next(
    name for name in ("forward_sync_buffers", "broadcast_buffers") if name in signature(DistributedDataParallel).parameters
)


def seed(*parts: int) -> int:
    """Return a seed for a sub-stream of random numbers, the same on every machine."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = (value ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value & 0x7FFFFFFFFFFFFFFF


class Player:
    """A network and its optimiser.

    Parameters
    ----------
    name : str
        Its name.
    bare : torch.nn.Module
        The network, on its device.
    settings : Optimisation
        Learning rate and others.
    world : int
        Workers that share its updates.
    """

    def __init__(self, name: str, bare: nn.Module, settings: Optimisation, world: int) -> None:
        self.name, self.bare, self.settings = name, bare, settings
        self.parameters = [parameter for parameter in bare.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.network: nn.Module = torch.compile(bare) if settings.compile else bare  # type: ignore[assignment]
        if world > 1:
            # The loop keeps buffers equal itself; broadcasting them with every pass would cost time for nothing.
            more: dict[str, Any] = {_SYNCHRONISE: False, "gradient_as_bucket_view": True}
            self.network = DistributedDataParallel(self.network, **more)

    def sharing(self, share: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of a backward pass: whether its gradients are averaged over the workers afterwards."""
        if isinstance(self.network, DistributedDataParallel) and not share:
            return self.network.no_sync()
        return contextlib.nullcontext()

    def learn(self, wanted: bool) -> None:
        """Let the parameters that the experiment left trainable get gradients, or not."""
        for parameter in self.parameters:
            parameter.requires_grad_(wanted)

    def clip(self) -> Tensor:
        """Shorten a gradient that is too long, and return the length it had."""
        return torch.nn.utils.clip_grad_norm_(
            self.parameters, self.settings.gradient_norm or math.inf, error_if_nonfinite=False
        )

    def update(self, step: int) -> None:
        """Change the weights by the gradients, with the learning rate of a step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.settings, step)
        self.optimiser.step()


def rate(settings: Optimisation, step: int) -> float:
    """Return the learning rate of a step; it depends on nothing else, so there is no state to keep."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


class Statistics:
    """Buffers that forward passes change, such as running means, made independent of who computes which micro-batch.

    Every micro-batch starts from the buffers of the step's beginning, and the step ends with the mean of what all of them
    made. With one micro-batch that is what a plain loop does.

    Parameters
    ----------
    networks : list of torch.nn.Module
        The bare networks.
    world : int
        Workers.
    micro_batches : int
        Micro-batches per update, of all workers.
    """

    def __init__(self, networks: list[nn.Module], world: int, micro_batches: int) -> None:
        self.world, self.micro_batches = world, micro_batches
        buffers = [buffer for network in networks for buffer in network.buffers()] if micro_batches > 1 else []
        self.means = [buffer for buffer in buffers if buffer.is_floating_point()]
        self.counts = [buffer for buffer in buffers if not buffer.is_floating_point()]

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Enclose the passes of a step; within, each is enclosed by :meth:`micro_batch`."""
        self._start = [buffer.clone() for buffer in self.means + self.counts]
        self._sums = [torch.zeros_like(buffer) for buffer in self.means]
        yield
        if not self.means:
            return
        flat = torch.cat([total.flatten() for total in self._sums])
        if self.world > 1:
            dist.all_reduce(flat)
        flat /= self.micro_batches
        for buffer, values in zip(self.means, torch.split(flat, [one.numel() for one in self.means]), strict=True):
            buffer.copy_(values.view_as(buffer))

    @contextlib.contextmanager
    def micro_batch(self) -> Iterator[None]:
        """Enclose the passes of one micro-batch."""
        if self._start:
            torch._foreach_copy_(self.means + self.counts, self._start)
        yield
        if self.means:
            torch._foreach_add_(self._sums, self.means)


class Average:
    """Exponential moving average of a network's weights (Polyak & Juditsky 1992, doi:10.1137/0330046, with forgetting).

    Parameters
    ----------
    source : torch.nn.Module
        The network.
    decay : float
        Share that is kept at each step; less in the first steps, so that the random weights of the beginning are forgotten.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.source, self.decay = source, decay
        self.network = copy.deepcopy(source).requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after a step in."""
        share = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(self.source.parameters()), share)
        for mine, theirs in zip(self.network.buffers(), self.source.buffers(), strict=True):
            mine.copy_(theirs)
