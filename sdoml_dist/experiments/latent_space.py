"""Learning the solar latent space (Brown et al. 2022): a sigma-VAE of AIA's and HMI's channels.

Published: 12 channels at 128 x 128 pixels, latent vectors of 256 to 2048 numbers, one sigma for all channels. Not published:
how channels are normalised and resized. Here they are binned by block means, stretched (asinh or logarithm, symmetric for
the field) and brought to mean 0 and variance 1 by the statistics of the training part.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from sdoml_dist.models.sigma_vae import SIZES, SigmaVAE
from sdoml_dist.models.transforms import ChannelTransforms
from sdoml_dist.models.vae_loss import beta_vae_loss, sigma_vae_loss
from sdoml_dist.recipe_base import Section, Store, parse_duration
from sdoml_dist.report.suns import write_suns
from sdoml_dist.solar.times import format_fits_time
from sdoml_dist.training.config import ExperimentConfig
from sdoml_dist.training.experiment import Batch, Experiment
from sdoml_dist.training.loading import Loader, fit_transforms
from sdoml_dist.training.order import Order
from sdoml_dist.training.parts import Months, SplitField
from sdoml_dist.training.samples import Samples

CHANNELS = ("94A", "131A", "171A", "193A", "211A", "304A", "335A", "1600A", "1700A", "Bx", "By", "Bz")
"""Channels of the paper."""
_SHOWN = 2


class Data(Section):
    """Which samples."""

    store: Store
    """The dataset."""
    version: str | None = None
    """Tag or snapshot; by default the newest, which is then pinned."""
    channels: tuple[str, ...] = CHANNELS
    """Channels of any products that have images."""
    cadence: int | None = None
    """Spacing of the samples, for example ``12min``; by default the coarsest of the products."""
    tolerance: int | None = None
    """Largest distance of an observation from its sample's time; by default half the cadence."""
    require: Literal["all", "any"] = "all"
    """Whether a sample needs all channels; pixels that are missing count neither in the loss nor in statistics."""
    split: SplitField = Months()
    """How time is parted; the parts ``train`` and ``validation`` are used."""
    shuffle_shards: int = Field(4, ge=1)
    """Stored shards whose samples are shuffled together."""
    statistics_samples: int = Field(256, ge=2)
    """Training samples that the normalisation is taken from."""
    threads: int = Field(8, ge=1)
    """Threads per worker that read and decode."""

    _durations = field_validator("cadence", "tolerance", mode="before")(
        lambda value: None if value is None else parse_duration(value)
    )


class Network(Section):
    """The network and its loss."""

    size: int = 128
    """Pixels per side; images are binned to it."""
    latent: int = Field(256, ge=1)
    """Numbers that an image is described by; published: 256, 512, 1024, 2048."""
    loss: Literal["sigma", "beta"] = "sigma"
    """``sigma``: the likelihood's sigma is learned, as published. ``beta``: the KL divergence is weighted instead."""
    sigma: Literal["shared", "channel", "optimal", "optimal-channel"] = "shared"
    """One sigma for all channels, as published, or one for each; learned, or the best one of every batch."""
    beta: float = Field(1.0, gt=0)
    """For ``beta``."""
    narrowing: int = Field(1, ge=1)
    """Divides the number of filters, for small experiments; 1 is the published network."""

    @field_validator("size")
    @classmethod
    def _known(cls, value: int) -> int:
        if value not in SIZES:
            raise ValueError(f"size is one of {', '.join(map(str, SIZES))}")
        return value


class LatentSpaceConfig(ExperimentConfig):
    """Everything that determines the experiment."""

    experiment: Literal["latent-space"] = "latent-space"
    """Which experiment."""
    name: str = Field("latent-space", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder."""
    data: Data
    network: Network = Network.model_validate({})

    @model_validator(mode="after")
    def _fits(self) -> LatentSpaceConfig:
        if self.network.loss == "beta" and self.network.sigma != "shared":
            raise ValueError("network.sigma is for network.loss: sigma")
        return self


class LatentSpace(Experiment):
    """The experiment on one worker; the dataset is opened when it is first needed."""

    Config = LatentSpaceConfig
    citation = (
        "E. Brown, S. Bonasera, B. Benson et al. 2022, Learning the solar latent space: sigma-variational autoencoders for "
        "multiple channel solar imaging, Machine Learning and the Physical Sciences workshop, NeurIPS. AIA and HMI data are "
        "courtesy of NASA/SDO and the AIA and HMI science teams."
    )

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.transforms = ChannelTransforms.from_dict(self.prepared["transforms"])
        self.transforms.check(list(self.config.data.channels))

    @classmethod
    def prepare(cls, config: LatentSpaceConfig, folder: Path) -> dict[str, Any]:
        """Pin the dataset at its snapshot and measure the normalisation on the training part."""
        samples = find_samples(config.data)
        transforms = fit_transforms(
            samples, ChannelTransforms.default(config.data.channels), config.network.size,
            number=config.data.statistics_samples, threads=config.data.threads,
        )  # fmt: skip
        return {"snapshot": samples.snapshot, "transforms": transforms.to_dict()}

    @cached_property
    def samples(self) -> Samples:
        """All samples, at the snapshot that was pinned."""
        return find_samples(self.config.data.model_copy(update={"version": self.prepared["snapshot"]}))

    @cached_property
    def _train(self) -> Loader:
        data = self.config.data
        return Loader(
            self.samples.part("train"), self.transforms, self.config.network.size, threads=data.threads,
            pin=torch.cuda.is_available(),
        )  # fmt: skip

    def model(self) -> nn.Module:
        """Return a fresh network."""
        return make_network(self.config)

    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        training = self.config.training
        order = Order(
            self._train.samples.shards, training.micro_batch, training.micro_batches, seed=training.seed,
            window=self.config.data.shuffle_shards,
        )  # fmt: skip
        return self._train.steps(order, start_step, steps, mine)

    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        """Yield the validation samples of a worker; none where the split has no such part."""
        if "validation" not in self.samples.counts():
            return iter(())
        loader = Loader(
            self.samples.part("validation"), self.transforms, self.config.network.size, threads=self.config.data.threads
        )
        return loader.validation(self.config.training.micro_batch, rank, world)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss and its terms."""
        network = self.config.network
        output = model(batch["inputs"], generator)
        if network.loss == "beta":
            return beta_vae_loss(output, batch["inputs"], beta=network.beta, mask=batch["mask"])
        if network.sigma in ("optimal", "optimal-channel"):
            return sigma_vae_loss(output, batch["inputs"], mask=batch["mask"], sigma=network.sigma)
        return sigma_vae_loss(output, batch["inputs"], mask=batch["mask"])

    @cached_property
    def _shown(self) -> tuple[list[str], np.ndarray, Tensor]:
        """Times, images and network inputs of some samples that are drawn: of the validation part if there is one."""
        part = "validation" if "validation" in self.samples.counts() else "train"
        these = self.samples.part(part)
        rows = np.linspace(0, len(these) - 1, min(_SHOWN, len(these))).round().astype(int)
        loader = Loader(these, self.transforms, self.config.network.size, physical=True, threads=1)
        batch = loader.read(np.unique(rows))
        stamps = [format_fits_time(moment, 0).replace("T", "\n") for moment in these.times[np.unique(rows)]]
        return stamps, batch["physical"].numpy(), batch["inputs"]

    @torch.no_grad()
    def sample_grid(self, networks: dict[str, nn.Module], folder: Path, step: int) -> None:
        """Draw some images, their reconstructions, and suns drawn from the prior."""
        network = networks["model"]
        assert isinstance(network, SigmaVAE)
        stamps, images, inputs = self._shown
        device = network.from_latent.weight.device
        learning = network.training
        network.eval()
        made = network.reconstruct(inputs.to(device)).float().cpu().numpy()
        drawn = network.sample(_SHOWN, torch.Generator(device).manual_seed(0)).float().cpu().numpy()
        network.train(learning)
        rows = []
        for stamp, real, inner in zip(stamps, images, self.transforms.to_physical(made), strict=True):
            rows += [(f"{stamp}\nobserved", real), (f"{stamp}\nreconstructed", inner)]
        rows += [("drawn from\nthe prior", sun) for sun in self.transforms.to_physical(drawn)]
        path = folder / f"suns_{step:08d}.png"
        title = f"{self.config.name}, step {step}"
        write_suns(path, rows, self.config.data.channels, title, reference=range(0, 2 * len(stamps), 2))

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of data and model."""
        return super().describe() | {"samples": self._train.samples.describe()}


def find_samples(data: Data) -> Samples:
    """Return the samples of a configuration."""
    return Samples.find(
        data.store, data.channels, version=data.version, cadence=data.cadence, tolerance=data.tolerance,
        require=data.require, split=data.split,
    )  # fmt: skip


def make_network(config: LatentSpaceConfig) -> SigmaVAE:
    """Return the network of a configuration, its weights drawn from torch's generator."""
    network = config.network
    learned = network.sigma if network.loss == "sigma" and network.sigma in ("shared", "channel") else "none"
    return SigmaVAE(
        len(config.data.channels), network.latent, network.size, learned, narrowing=network.narrowing
    )  # fmt: skip
