"""How to train: the part of an experiment's configuration that all experiments share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from sdoml_dist.recipe_base import Section


class Optimisation(Section):
    """Steps, batches, learning rate."""

    steps: int = Field(10_000, ge=1)
    """Updates of the weights in all."""
    global_batch: int = Field(64, ge=1)
    """Samples per update, whatever the number of workers."""
    micro_batch: int = Field(16, ge=1)
    """Samples that go through the network at once. It divides `global_batch`."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of the Adam optimiser."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's running means of gradients and of their squares."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay (AdamW); 0 is Adam."""
    schedule: Literal["constant", "cosine"] = "constant"
    """``cosine``: to 0 at the last step."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate grows from 0."""
    gradient_norm: float | None = Field(None, gt=0)
    """Longer gradients are shortened to this."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 for the network where a GPU has it, else float32. Weights and losses stay float32."""
    compile: bool = False
    """Whether to compile the network by ``torch.compile``."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is validated and kept besides them; none by default."""
    seed: int = 0
    """Of weights, order of samples and noise."""

    @field_validator("betas")
    @classmethod
    def _shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"betas are at least 0 and below 1, not {value}")
        return value

    @model_validator(mode="after")
    def _divides(self) -> Optimisation:
        if self.global_batch % self.micro_batch:
            raise ValueError(f"micro_batch ({self.micro_batch}) does not divide global_batch ({self.global_batch})")
        return self

    @property
    def micro_batches(self) -> int:
        """Micro-batches per update."""
        return self.global_batch // self.micro_batch


class Watching(Section):
    """Validation, checkpoints, early stop."""

    validate_every: int = Field(500, ge=1)
    """Steps between validations. The last step is validated too."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints. There is also one at every validation that is the best so far, and at the last step."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints that are kept; the best by validation loss is kept besides."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of the log."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many validations without a better loss."""


class Workers(Section):
    """Where training runs. Changes nothing in the result but rounding."""

    number: int = Field(1, ge=1)
    """Workers of the data-parallel group."""
    cpus: float = Field(1.0, gt=0)
    """CPUs per worker."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """``auto``: a GPU per worker where the cluster has that many."""
    maximum_failures: int = Field(3, ge=-1)
    """Worker and node losses that are survived; -1 for any number. Announced preemptions do not count."""
    drain_s: float = Field(60.0, gt=0)
    """How long a run that is told to stop may take to finish its step and write a checkpoint."""


class ExperimentConfig(Section):
    """What every experiment is configured by, besides its name, its data and its network."""

    training: Optimisation = Optimisation.model_validate({})
    watching: Watching = Watching.model_validate({})
    workers: Workers = Workers.model_validate({})
    output: str = "runs"
    """Folder that every node can reach."""
