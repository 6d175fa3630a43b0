"""Image-to-image translation: what the experiments of far sides, of HMI to AIA and of drawings have in common.

A conditional generative adversarial network (Isola et al. 2017): in every step the discriminator learns to tell true pairs
of input and target from made ones, then the generator learns to make targets that it takes for true, and that are near the
true ones besides. Designs are the published ones; what a file of an experiment adds is its channels, its ranges of values,
its split and its table.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.translation_config import DESIGNS, Design
from sdoml_dist.experiments.translation_pairs import Pairs
from sdoml_dist.models.translation import (
    PatchDiscriminator,
    ResidualGenerator,
    UNetGenerator,
    repetitions,
)
from sdoml_dist.models.translation_loss import (
    adversarial_loss,
    correlation_loss,
    feature_loss,
    masked_l1,
    split_features,
)
from sdoml_dist.solar.field_scores import scaled
from sdoml_dist.solar.translation import (
    BLOCK,
    GRID_RADIUS_ARCSEC,
    PUBLISHED_PIXELS,
    block_means,
    correlation,
    disc_mask,
)
from sdoml_dist.training.experiment import Batch, Experiment
from sdoml_dist.training.order import Order
from sdoml_dist.training.parts import Split
from sdoml_dist.training.samples import Samples

_SHOWN = 4
_SMALLEST_JUDGED = 32
# What a configuration may change of a design, by the same name.
_CHANGED = ("generator", "stages", "blocks", "adversarial", "judged", "l1", "feature", "correlation", "unsigned")


class Translation(Experiment):
    """Translate images into images. Subclasses give channels, samples and values."""

    players: ClassVar[tuple[str, ...]] = ("discriminator", "generator")
    inputs: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]]

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        network = self.config.network
        changed = {name: value for name in _CHANGED if (value := getattr(network, name)) is not None}
        self.design = replace(self._design() if network.design is None else DESIGNS[network.design], **changed)
        if self.design.alone:
            # This instance trains one network; what its class says is for those that train two.
            self.players = ("generator",)  # type: ignore[misc]

    @abc.abstractmethod
    def _design(self) -> Design:
        """Return the published design of the experiment's own."""

    @abc.abstractmethod
    def input_names(self) -> tuple[str, ...]:
        """Return what the generator sees, in order."""

    @abc.abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """Return what it makes, in order."""

    def beyond(self) -> tuple[float, ...]:
        """Return what each input is beyond the edge of an image: by default as dark as can be."""
        return (-1.0,) * len(self.input_names())

    @classmethod
    @abc.abstractmethod
    def sampled(cls, config: Any) -> tuple[tuple[str, ...], Split]:
        """Return the channels of a sample, inputs before targets, and how the paper parts time."""

    @classmethod
    def find(cls, config: Any, version: str | None) -> Samples:
        """Return the samples of a configuration at a version of its dataset."""
        data = config.data
        channels, split = cls.sampled(config)
        samples = Samples.find(
            data.store, channels, version=version, cadence=data.cadence, tolerance=data.tolerance, split=data.split or split
        )
        samples.refuse_other_radius(GRID_RADIUS_ARCSEC)
        return samples

    @classmethod
    def prepare(cls, config: Any, folder: Path) -> dict[str, Any]:
        """Pin the dataset at its snapshot."""
        samples = cls.find(config, config.data.version)
        return {"snapshot": samples.snapshot, "pixels": samples.pixels}

    def groups(self) -> tuple[Samples, ...]:
        """Return samples whose rows belong together; their channels one after the other are what `encode` gets."""
        return (self.find(self.config, self.prepared["snapshot"]),)

    @cached_property
    def mask(self) -> np.ndarray:
        """The disc within which the field or the drawing counts, shape (size, size)."""
        return disc_mask(self.size, self.config.data.limb)

    def applied_inputs(self) -> tuple[str, ...]:
        """Return the channels that outputs are made of."""
        return self.input_names()

    def applied_before(self) -> tuple[str, ...]:
        """Return the channels of one rotation before that outputs are made of, too."""
        return ()

    @abc.abstractmethod
    def encode_inputs(self, physical: np.ndarray) -> np.ndarray:
        """Return network inputs of the channels of `applied_inputs` and `applied_before`, shape (B, channels, Y, X)."""

    def stored(self, made: np.ndarray, physical: np.ndarray) -> np.ndarray:
        """Return what was made of `physical` in the units of a dataset."""
        return made

    @abc.abstractmethod
    def encode(self, physical: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return network inputs and targets, float32 without NaN, and where targets count, of (B, channels, Y, X)."""

    @abc.abstractmethod
    def decode(self, made: np.ndarray) -> np.ndarray:
        """Return physical values of what the generator made, NaN where there are none; shape (B, D, Y, X)."""

    @property
    def size(self) -> int:
        """Pixels per side of the network's images."""
        chosen = self.config.data.size
        return self.prepared["pixels"] if chosen is None else chosen

    @cached_property
    def pairs(self) -> Pairs:
        """All samples, at the snapshot that was pinned."""
        data = self.config.data
        return Pairs(self.encode, self.groups(), self.size, data.threads)

    def models(self) -> dict[str, nn.Module]:
        """Return fresh networks."""
        design, narrow = self.design, self.config.network.narrowing
        inputs, outputs = len(self.input_names()), len(self.output_names())
        filters = max(1, design.filters // narrow)
        generator: nn.Module
        if design.generator == "unet":
            generator = UNetGenerator(inputs, outputs, self.size, filters)
        else:
            generator = ResidualGenerator(inputs, outputs, design.generator, filters, design.stages, design.blocks)
            if self.size % 2**design.stages:
                raise UsageError(
                    f"Images of {self.size} pixels cannot be halved {design.stages} times.",
                    "", "Change data.size or network.stages.",
                )  # fmt: skip
        if design.alone:
            return {"generator": generator}
        # Below this, the last but one map of the smallest scale is a single pixel.
        least = _SMALLEST_JUDGED * 2 ** (design.judge_scales - 1)
        if self.size < least:
            raise UsageError(f"Images of {self.size} pixels are too small for the discriminator, which needs {least}.")
        repeat = repetitions(inputs, outputs, design.balance) if design.balance else 1
        judge = PatchDiscriminator(
            inputs, outputs, max(1, design.judge_filters // narrow), design.judge_scales, learned=design.learned,
            repeat=repeat,
        )  # fmt: skip
        return {"discriminator": judge, "generator": generator}

    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        training = self.config.training
        part = self.pairs.part("train")
        order = Order(
            part.samples.shards, training.micro_batch, training.micro_batches, seed=training.seed,
            window=self.config.data.shuffle_shards,
        )  # fmt: skip
        return part.steps(order, start_step, steps, mine)

    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        """Yield the validation samples of a worker; none where the split has no such part."""
        if "validation" not in self.pairs.samples.counts():
            return iter(())
        return self.pairs.part("validation").validation(self.config.training.micro_batch, rank, world)

    def loss(
        self, networks: dict[str, nn.Module] | nn.Module, batch: Batch, generator: torch.Generator, player: str = "generator"
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the loss of a player and its terms."""
        design = self.design
        made_by = networks if isinstance(networks, nn.Module) else networks["generator"]
        x, target, mask = self._shifted(self.varied(batch, generator), generator)
        if player == "discriminator":
            assert isinstance(networks, dict)
            with torch.no_grad():
                made = made_by(x, generator) * mask
            true, false = split_features(networks["discriminator"](x.repeat(2, 1, 1, 1), torch.cat([target, made])))
            right = adversarial_loss(true, True, design.adversarial)
            wrong = adversarial_loss(false, False, design.adversarial)
            return {"loss": 0.5 * (right + wrong), "true": right.detach(), "made": wrong.detach()}
        made = made_by(x, generator) * mask
        terms: dict[str, Tensor] = {"l1": masked_l1(made, target, mask)}
        total = design.l1 * terms["l1"]
        if design.correlation:
            terms["correlation"] = correlation_loss(made, target)
            total = total + design.correlation * terms["correlation"]
        if design.unsigned:
            terms["unsigned"] = correlation_loss(made.abs(), target.abs())
            total = total + design.unsigned * terms["unsigned"]
        if not design.alone:
            assert isinstance(networks, dict)
            true, false = split_features(networks["discriminator"](x.repeat(2, 1, 1, 1), torch.cat([target, made])))
            terms["judged"] = adversarial_loss(false, True, design.adversarial)
            terms["feature"] = feature_loss(true, false)
            total = total + design.judged * terms["judged"] + design.feature * terms["feature"]
        return {"loss": total, **{name: value.detach() for name, value in terms.items()}}

    def varied(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return a batch of the training as it is varied at random besides its shifts: by default not at all."""
        return batch

    def _shifted(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs, targets and mask, each sample shifted by a random number of pixels."""
        most = self.config.network.shift
        if most is None:
            most = round(self.design.shift * self.size / PUBLISHED_PIXELS)
        x, target, mask = batch["inputs"], batch["target"], batch["mask"].to(batch["target"].dtype)
        if most == 0:
            return x, target, mask
        offsets = torch.randint(0, 2 * most + 1, (len(x), 2), generator=generator, device=generator.device).tolist()
        beyond = torch.tensor(self.beyond(), dtype=x.dtype, device=x.device)[:, None, None]
        around = beyond.expand(*x.shape[:2], *(side + 2 * most for side in x.shape[2:])).clone()
        around[..., most:-most, most:-most] = x
        # Beyond the edge there is no target.
        padded = (around, *(functional.pad(one, (most,) * 4) for one in (target, mask)))
        cut = [
            torch.stack([one[k, :, j : j + self.size, i : i + self.size] for k, (j, i) in enumerate(offsets)])
            for one in padded
        ]
        return cut[0], cut[1], cut[2]

    @torch.no_grad()
    def validate(self, networks: dict[str, nn.Module], batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return 1 - the mean correlation of binned pixels, by which the best checkpoint is chosen, and the L1 difference."""
        made = networks["generator"](batch["inputs"], generator).float()
        mask = batch["mask"]
        left, right = (
            np.where(mask.cpu().numpy(), one.cpu().numpy(), np.nan) for one in (made, batch["target"].float())
        )
        block = scaled(BLOCK, self.size)
        found = [
            correlation(block_means(left[k, c], block), block_means(right[k, c], block))
            for k in range(len(left))
            for c in range(left.shape[1])
        ]
        defined = [value for value in found if np.isfinite(value)]
        mean = float(np.mean(defined)) if defined else 0.0
        return {"loss": torch.tensor(1.0 - mean, device=made.device), "l1": masked_l1(made, batch["target"], mask)}

    @torch.no_grad()
    def generate(self, network: nn.Module, inputs: Tensor, seeds: Sequence[int]) -> np.ndarray:
        """Return physical images for network inputs; where the network drops, image by image, drawn by the seed of each."""
        device = next(network.parameters()).device
        if self.design.generator != "unet":
            made = network(inputs.to(device))
        else:
            images = [
                network(inputs[k : k + 1].to(device), torch.Generator(device).manual_seed(int(seed)))
                for k, seed in enumerate(seeds)
            ]
            made = torch.cat(images)
        return self.decode(made.float().cpu().numpy())

    def sample_grid(self, networks: dict[str, nn.Module], folder: Path, step: int) -> None:
        """Draw some validation samples: inputs, truth, and what the generator makes."""
        from sdoml_dist.report.translation import sample_picture

        label = "validation" if "validation" in self.pairs.samples.counts() else "train"
        part = self.pairs.part(label)
        rows = np.unique(np.linspace(0, len(part.samples) - 1, _SHOWN).astype(int))
        batch = part.read(rows)
        made = self.generate(networks["generator"], batch["inputs"], rows.tolist())
        true = self.decode(np.where(batch["mask"].numpy(), batch["target"].numpy(), np.nan))
        sample_picture(
            folder / f"samples_{step:08d}.png", batch["inputs"].numpy(), true, made, self.input_names(),
            self.output_names(), part.samples.times[rows],
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of data and model."""
        return super().describe() | {"samples": self.pairs.part("train").samples.describe()}
