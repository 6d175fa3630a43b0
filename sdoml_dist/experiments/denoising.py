"""Denoising of line-of-sight magnetograms of 45 seconds (Park et al. 2020, ApJL 891, L4).

Two methods. M1 translates a magnetogram into the mean of 21 of them, 10 before and 10 after, with the Sun's rotation taken out:
a conditional GAN with 100 times L1, or L1 alone. M2 needs no targets: noise as the magnetogram has is added once more, and
the network learns to take it off again.

Published: patches of 256 pixels, fields limited to 100 G, Adam with a learning rate of 2e-4. Different here:

* Field beyond the limit passes a network by, so that what is strong stays what it is; published, it is cut off.
* By what M2 learns from, half of a magnetogram's own noise stays in it: the network cannot tell own noise from added. What it
  takes off is therefore made larger by the known share (Moran et al. 2020); ``network.correct: false`` is as published.
* M2 adds noise of the level that is found at each place of the disc, correlated between pixels as registration makes it.
* The network's last layer makes the noise (``network.predicts``), and the shallow generator has no normalisation; see
  :mod:`sdoml_dist.models.denoiser`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.denoising_patches import Patches, grid_mu
from sdoml_dist.models.denoiser import Predicts, ShallowGenerator, add_noise, without_noise
from sdoml_dist.models.translation import PatchDiscriminator, UNetGenerator
from sdoml_dist.models.translation_loss import adversarial_loss, masked_l1, split_features
from sdoml_dist.recipe_base import Section, Store, parse_duration
from sdoml_dist.solar.geometry import Pointing
from sdoml_dist.solar.magnetogram_noise import fine_noise, noise_kernel
from sdoml_dist.store.reader import open_products
from sdoml_dist.store.template import group_path
from sdoml_dist.training.config import ExperimentConfig
from sdoml_dist.training.experiment import Batch, Experiment
from sdoml_dist.training.parts import Blocks, SplitField
from sdoml_dist.training.reading import Reader
from sdoml_dist.training.samples import Samples

# Edges of the rings in which the noise is measured, cosines of the heliocentric angle.
_RINGS = (0.15, 0.35, 0.55, 0.75, 0.9, 1.0)
_SHOWN = 4


class DenoisingData(Section):
    """Which samples."""

    store: Store
    """The dataset, with magnetograms and, for M1, their stacks (product ``hmi_stack``) on one grid."""
    version: str | None = None
    """Tag or snapshot; by default the newest, which is then pinned."""
    field: str = "M_45s"
    """Channel of the magnetograms."""
    target: str = "M_stack"
    """Channel of the stacks."""
    cadence: int | None = None
    """Spacing of the samples; by default the coarsest of the products. Published: one hour."""
    tolerance: int | None = 45
    """Largest distance of an observation from its sample's time."""
    split: SplitField = Blocks(
        fractions={"train": 0.8, "validation": 0.1, "test": 0.1}, block=28 * 86400, gap=2 * 86400
    )
    """How time is parted into ``train``, ``validation`` and ``test``. Published: January to October, November and
    December of 2013."""
    size: int = Field(256, ge=16)
    """Side of the patches."""
    place: Literal["disc", "centre"] = "disc"
    """Patches from anywhere on the disc, or its middle alone, as published."""
    patches: int = Field(16, ge=1)
    """Patches of an image in an epoch; 1 for the middle of the disc."""
    shuffle_images: int = Field(4, ge=1)
    """Images whose patches are shuffled together. A worker holds two more than that."""
    limit_gauss: float = Field(100.0, gt=0)
    """Field that becomes 1; beyond it a network neither sees nor changes anything. Published: 100."""
    statistics_samples: int = Field(8, ge=1)
    """Training samples that the noise is measured in."""
    threads: int = Field(4, ge=1)
    """Threads per worker that read and decode."""

    _durations = field_validator("cadence", "tolerance", mode="before")(
        lambda value: None if value is None else parse_duration(value)
    )


class DenoisingNetwork(Section):
    """Method, network and losses."""

    method: Literal["M1", "M2"] = "M1"
    """``M1``: towards the stack. ``M2``: from added noise, without targets."""
    generator: Literal["shallow", "unet"] = "shallow"
    """The shallow generator, or the U-Net down to one pixel, which is for patches alone: it makes no discs of several."""
    predicts: Predicts = "noise"
    """What the shallow generator's last layer makes: the noise, or the image as published."""
    loss: Literal["gan", "l1"] = "gan"
    """Of M1: a discriminator beside L1, or L1 alone. M2 has the mean square."""
    l1: float = Field(100.0, gt=0)
    """Weight of L1 beside the discriminator's judgement; published: 100."""
    added: float = Field(1.0, gt=0)
    """Level of the noise that M2 adds, over that of the magnetogram."""
    correct: bool = True
    """Whether M2 takes off all noise, not just the share that was added."""
    narrowing: int = Field(1, ge=1)
    """Divides the number of filters, for small experiments; 1 is the published network."""
    stages: int = Field(4, ge=1)
    """Stages of the shallow generator; published: 4."""
    blocks: int = Field(9, ge=0)
    """Residual blocks of the shallow generator; published: 9."""


class DenoisingConfig(ExperimentConfig):
    """Everything that determines the experiment."""

    experiment: Literal["denoising"] = "denoising"
    """Which experiment."""
    name: str = Field("denoising", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder."""
    data: DenoisingData
    network: DenoisingNetwork = DenoisingNetwork.model_validate({})

    @model_validator(mode="after")
    def _fits(self) -> DenoisingConfig:
        size, network = self.data.size, self.network
        if network.generator == "unet" and size & (size - 1):
            raise ValueError(f"a U-Net halves its patches down to one pixel: data.size {size} is no power of two")
        if network.generator == "shallow" and size % 2**network.stages:
            raise ValueError(f"patches of {size} pixels cannot be halved {network.stages} times")
        if self.data.place == "centre" and self.data.patches != 1:
            raise ValueError("the middle of the disc is one patch: data.patches: 1")
        return self


class Denoising(Experiment):
    """The experiment on one worker; the dataset is opened when it is first needed."""

    Config = DenoisingConfig
    players: ClassVar[tuple[str, ...]] = ("discriminator", "generator")
    citation = (
        "E. Park, Y.-J. Moon, D. Lim & H. Lee 2020, De-noising SDO/HMI solar magnetograms by image translation method based on "
        "deep learning, ApJL 891, L4; N. Moran, D. Schmidt, Y. Zhong & P. Coady 2020, Noisier2Noise, CVPR. HMI data are courtesy "
        "of NASA/SDO and the HMI science team."
    )

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        network = self.config.network
        self.judged = network.method == "M1" and network.loss == "gan"
        if not self.judged:
            # This instance trains one network; what its class says is for those that train two.
            self.players = ("generator",)  # type: ignore[misc]
        self._kernel = torch.tensor(self.prepared["noise"]["kernel"])

    @classmethod
    def prepare(cls, config: DenoisingConfig, folder: Path) -> dict[str, Any]:
        """Pin the dataset at its snapshot, and measure the noise and its correlation on the training part."""
        samples = find_samples(config, config.data.version)
        opened = open_products(config.data.store, samples.snapshot, channels=[config.data.field])[0]
        grid, part = opened.recipe.grid, samples.part("train")
        kernel = _kernel(part, opened)
        rows = np.unique(np.linspace(0, len(part) - 1, config.data.statistics_samples).astype(int))
        mu = grid_mu(grid.pixels, grid.solar_radius_arcsec)
        reader = Reader(part)
        levels: dict[float, list[float]] = {}
        for row in rows:
            image = reader.image(int(row), 0)
            assert image is not None
            for low, high in pairwise(_RINGS):
                ring = np.where((mu >= low) & (mu <= high), image, np.nan)
                try:
                    level = fine_noise(ring, kernel, config.data.limit_gauss)
                except ValueError:
                    # A ring of a small image has too few pixels; its neighbours speak for it.
                    continue
                levels.setdefault((low + high) / 2, []).append(level.sigma)
        if not levels:
            raise UsageError(
                f"The noise of {config.data.field} cannot be measured in images of {grid.pixels} pixels.",
                "No ring of the disc has enough of them.", "Use a larger grid.",
            )  # fmt: skip
        found = {place: float(np.mean(values)) for place, values in levels.items()}
        return {
            "snapshot": samples.snapshot, "pixels": grid.pixels, "solar_radius_arcsec": grid.solar_radius_arcsec,
            "noise": {"mu": list(found), "gauss": list(found.values()), "kernel": kernel.tolist()},
        }  # fmt: skip

    @cached_property
    def samples(self) -> Samples:
        """All samples, at the snapshot that was pinned."""
        return find_samples(self.config, self.prepared["snapshot"])

    @cached_property
    def _train(self) -> Patches:
        return self.part("train")

    def part(self, part: str) -> Patches:
        """Return the patches of a part."""
        data = self.config.data
        return Patches(
            self.samples.part(part), self.prepared["solar_radius_arcsec"], data.size, per_image=data.patches,
            where=data.place, seed=self.config.training.seed, window=data.shuffle_images, threads=data.threads,
        )  # fmt: skip

    def models(self) -> dict[str, nn.Module]:
        """Return fresh networks."""
        network = self.config.network
        filters = max(1, 64 // network.narrowing)
        generator: nn.Module
        if network.generator == "unet":
            generator = UNetGenerator(1, 1, self.config.data.size, filters)
        else:
            generator = ShallowGenerator(filters, network.stages, network.blocks, network.predicts)
        if not self.judged:
            return {"generator": generator}
        return {"discriminator": PatchDiscriminator(1, 1, filters, learned=True), "generator": generator}

    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        training = self.config.training
        order = self._train.order(training.micro_batch, training.micro_batches)
        return self._train.steps(order, start_step, steps, mine)

    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        """Yield the validation patches of a worker; none where the split has no such part."""
        if "validation" not in self.samples.counts():
            return iter(())
        return self.part("validation").validation(self.config.training.micro_batch, rank, world)

    def pair(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return network inputs, targets and mask of a micro-batch."""
        field, mask = batch["field"], batch["mask"].to(batch["field"].dtype)
        if self.config.network.method == "M1":
            return self.limited(field) * mask, self.limited(batch["target"]) * mask, mask
        noise = self.noise_at(batch["mu"]) * self.config.network.added
        noisier = add_noise(field, noise, self._kernel, generator)
        return self.limited(noisier) * mask, self.limited(field) * mask, mask

    def limited(self, field: Tensor) -> Tensor:
        """Return network values of a field in gauss."""
        limit = self.config.data.limit_gauss
        return field.clamp(-limit, limit) / limit

    def noise_at(self, mu: Tensor) -> Tensor:
        """Return the level of the noise in gauss at cosines of the heliocentric angle."""
        noise = self.prepared["noise"]
        found = np.interp(mu.cpu().numpy(), noise["mu"], noise["gauss"]).astype(np.float32)
        return torch.from_numpy(found).to(mu.device)

    def loss(
        self, networks: dict[str, nn.Module] | nn.Module, batch: Batch, generator: torch.Generator, player: str = "generator"
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the loss of a player and its terms."""
        x, target, mask = _turned(self.pair(batch, generator), generator)
        made_by = networks if isinstance(networks, nn.Module) else networks["generator"]
        if player == "discriminator":
            assert isinstance(networks, dict)
            with torch.no_grad():
                made = made_by(x) * mask
            true, false = split_features(networks["discriminator"](x.repeat(2, 1, 1, 1), torch.cat([target, made])))
            right, wrong = adversarial_loss(true, True, "bce"), adversarial_loss(false, False, "bce")
            return {"loss": 0.5 * (right + wrong), "true": right.detach(), "made": wrong.detach()}
        made = made_by(x) * mask
        if self.config.network.method == "M2":
            square = ((made.float() - target.float()).square() * mask).sum() / mask.sum().clamp_min(1)
            return {"loss": square, "error_gauss": self.config.data.limit_gauss * square.detach().sqrt()}
        difference = masked_l1(made, target, mask)
        told = {"l1_gauss": self.config.data.limit_gauss * difference.detach()}
        if not self.judged:
            return {"loss": difference} | told
        assert isinstance(networks, dict)
        judged = adversarial_loss(networks["discriminator"](x, made), True, "bce")
        return {"loss": judged + self.config.network.l1 * difference, "judged": judged.detach()} | told

    @torch.no_grad()
    def validate(self, networks: dict[str, nn.Module], batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the difference to the target in gauss, by which the best checkpoint is chosen: L1 for M1, RMS for M2."""
        x, target, mask = self.pair(batch, generator)
        difference = (networks["generator"](x).float() * mask - target.float()) * self.config.data.limit_gauss
        if self.config.network.method == "M1":
            return {"loss": difference.abs().sum() / mask.sum().clamp_min(1)}
        return {"loss": (difference.square().sum() / mask.sum().clamp_min(1)).sqrt()}

    @torch.no_grad()
    def denoise(self, network: nn.Module, field: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
        """Return fields without noise.

        Parameters
        ----------
        network : torch.nn.Module
            The generator.
        field : numpy.ndarray
            Patches in gauss, shape (B, S, S), NaN where there is none.
        device : torch.device
            Where it computes.

        Returns
        -------
        numpy.ndarray
            The same shape, float32; finite where the field is.
        """
        limit, settings = self.config.data.limit_gauss, self.config.network
        physical = torch.from_numpy(np.nan_to_num(np.asarray(field, np.float32)))[:, None].to(device)
        x = self.limited(physical)
        made = network(x).float()
        if settings.method == "M2" and settings.correct:
            made = without_noise(x, made, settings.added)
        # What lies beyond the limit passes by.
        result = made * limit + (physical - x * limit)
        found: np.ndarray = result[:, 0].cpu().numpy()
        return np.where(np.isfinite(field), found, np.float32(np.nan))

    def sample_grid(self, networks: dict[str, nn.Module], folder: Path, step: int) -> None:
        """Draw validation patches before and after, and their targets where there are any."""
        if "validation" not in self.samples.counts():
            return
        from sdoml_dist.report.denoising import patch_picture

        with contextlib.closing(self.part("validation").validation(_SHOWN, 0, 1)) as batches:
            batch = next(batches)
        field = np.where(batch["mask"], batch["field"], np.nan)[:, 0]
        generator = networks["generator"]
        device = next(generator.parameters()).device
        columns = {"45 s": field, self.config.network.method: self.denoise(generator, field, device)}
        if "target" in batch:
            columns["stack"] = np.where(batch["mask"], batch["target"], np.nan)[:, 0]
        folder.mkdir(parents=True, exist_ok=True)
        patch_picture(folder / f"samples_{step:08d}.png", columns, self.config.data.limit_gauss)

    def waited_s(self) -> float:
        """Return the seconds that this worker has waited for data."""
        return self._train.waited_s

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of data and model."""
        return super().describe() | {"samples": self._train.samples.describe()}


def _turned(pair: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return a micro-batch mirrored along both axes and with polarities exchanged at random: noise knows neither."""
    x, target, mask = pair
    sides, upside, sign = torch.randint(0, 2, (3,), generator=generator, device=generator.device).tolist()
    axes = [axis for axis, turn in ((-1, sides), (-2, upside)) if turn]
    if axes:
        x, target, mask = (torch.flip(one, axes) for one in (x, target, mask))
    return (-x, -target, mask) if sign else (x, target, mask)


def find_samples(config: DenoisingConfig, version: str | None) -> Samples:
    """Return the samples of a configuration: magnetograms and, for M1, their stacks."""
    data = config.data
    channels = (data.field, data.target) if config.network.method == "M1" else (data.field,)
    return Samples.find(
        data.store, channels, version=version, cadence=data.cadence, tolerance=data.tolerance, split=data.split
    )


def _kernel(samples: Samples, opened: Any) -> np.ndarray:
    """Return the correlation that registration gives the noise, by the geometry of the first sample's source frame."""
    place, year, slot = samples.places[0], int(samples.years[0, 0]), int(samples.slots[0, 0])
    keywords = opened.group[f"{group_path(year)}/keywords"]
    names = ("CRPIX1_L1", "CRPIX2_L1", "CDELT1_L1", "CDELT2_L1", "CROTA2_L1", "RSUN_OBS")
    values = [float(keywords[name][slot, place.column]) for name in names]
    recipe = opened.recipe
    shape = recipe.settings.expected_shape
    if not np.isfinite(values).all():
        return np.ones((1, 1))
    return noise_kernel(
        Pointing(*values), recipe.grid.pixels, recipe.grid.solar_radius_arcsec, shape[0] if shape else 4096
    )
