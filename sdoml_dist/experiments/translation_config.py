"""Designs of published image translation, and what is configured of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from sdoml_dist.models.translation_loss import Adversarial
from sdoml_dist.recipe_base import Section, Store, parse_duration
from sdoml_dist.solar.translation import LIMB
from sdoml_dist.training.config import ExperimentConfig
from sdoml_dist.training.parts import SplitField


@dataclass(frozen=True)
class Design:
    """Networks and weights of losses of one paper.

    Attributes
    ----------
    generator : {"unet", "pix2pixhd", "pix2pixcc"}
        Which one.
    filters, stages, blocks : int
        Of the generator; stages and blocks are for the residual ones.
    judge_filters, judge_scales : int
        Of the discriminator.
    learned : bool
        Whether the discriminator's normalisation has a learned scale.
    balance : float
        See :func:`sdoml_dist.models.translation.repetitions`; 0 gives the target once.
    adversarial : {"bce", "least-squares"}
        Which adversarial loss.
    judged, l1, feature, correlation, unsigned : float
        Weights of the generator's losses; with ``judged`` and ``feature`` at 0 there is no discriminator.
    shift : int
        By how many pixels of 1024 training images are padded and then cut out at random.
    """

    generator: Literal["unet", "pix2pixhd", "pix2pixcc"]
    filters: int
    stages: int
    blocks: int
    judge_filters: int
    judge_scales: int
    learned: bool
    balance: float
    adversarial: Adversarial
    judged: float
    l1: float
    feature: float
    correlation: float
    unsigned: float = 0.0
    shift: int = 0

    @property
    def alone(self) -> bool:
        """Whether the generator learns without a discriminator."""
        return self.judged == 0 and self.feature == 0


DESIGNS = {
    "kim2019": Design("unet", 64, 0, 0, 64, 1, True, 0.0, "bce", 1.0, 100.0, 0.0, 0.0, shift=15),
    "park2019": Design("unet", 64, 0, 0, 64, 1, True, 0.0, "bce", 0.0, 1.0, 0.0, 0.0, shift=15),
    "jeong2020": Design("pix2pixhd", 32, 4, 9, 64, 2, False, 0.0, "least-squares", 1.0, 0.0, 10.0, 0.0),
    "jeong2022": Design("pix2pixcc", 40, 5, 9, 40, 1, False, 1.5, "least-squares", 1.0, 0.0, 10.0, 5.0, shift=62),
}
"""By paper. Park et al. 2019 has two models: L1 alone, as here, and that of Kim et al. 2019. Jeong et al. 2022 halve the
adversarial loss and then double it. Code of 2020 cuts channels instead of pixels where it pads; no shift is taken for it."""

DesignName = Literal["kim2019", "park2019", "jeong2020", "jeong2022"]
"""A paper of `DESIGNS`."""


class TranslationData(Section):
    """Which samples."""

    store: Store
    """The dataset."""
    version: str | None = None
    """Tag or snapshot; by default the newest, which is then pinned."""
    cadence: int | None = None
    """Spacing of the samples, for example ``12h``; by default the coarsest of the products."""
    tolerance: int = parse_duration("12min")
    """Largest distance of an observation from its sample's time. Inputs and target are each the good observation that is
    nearest, so that they are at most twice this apart."""
    split: SplitField | None = None
    """How time is parted into ``train``, ``validation`` and ``test``; by default as in the paper, with validation apart."""
    size: int | None = Field(None, ge=16)
    """Pixels per side; images are binned to it. By default as they are stored."""
    limb: float = Field(LIMB, gt=0, le=1)
    """Share of the solar radius within which there are targets."""
    shuffle_shards: int = Field(4, ge=1)
    """Stored shards whose samples are shuffled together."""
    threads: int = Field(8, ge=1)
    """Threads per worker that read and decode."""

    _durations = field_validator("cadence", "tolerance", mode="before")(
        lambda value: None if value is None else parse_duration(value)
    )


class TranslationNetwork(Section):
    """What may differ from the published design."""

    narrowing: int = Field(1, ge=1)
    """Divides the number of filters of all networks, for small experiments; 1 is the published size."""
    design: DesignName | None = None
    """Networks, losses and shifts of this paper; by default of the experiment's own. What follows changes it."""
    generator: Literal["unet", "pix2pixhd", "pix2pixcc"] | None = None
    """Which generator; by default as published."""
    stages: int | None = Field(None, ge=1)
    """How often a residual generator halves the image; by default as published."""
    blocks: int | None = Field(None, ge=0)
    """Residual blocks; by default as published."""
    adversarial: Adversarial | None = None
    """Which adversarial loss, ``bce`` or ``least-squares``; by default as published."""
    judged: float | None = Field(None, ge=0)
    """Weight of the adversarial loss; by default as published."""
    l1: float | None = Field(None, ge=0)
    """Weight of the mean absolute difference; by default as published."""
    feature: float | None = Field(None, ge=0)
    """Weight of feature matching; by default as published."""
    correlation: float | None = Field(None, ge=0)
    """Weight of 1 - concordance correlation; by default as published."""
    unsigned: float | None = Field(None, ge=0)
    """Weight of 1 - concordance correlation of absolute values, for magnetic fields; by default 0. Where a network cannot know
    which polarity is where, all other losses are least for a weak field; this one asks for its flux. No paper has it."""
    shift: int | None = Field(None, ge=0)
    """Training images are shifted at random by up to so many of their pixels; by default as published, of 1024 pixels: 15 in the
    designs of 2019, none in that of 2020, 62 in that of 2022."""


class TranslationConfig(ExperimentConfig):
    """What all these experiments are configured by."""

    name: str = Field("translation", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder."""
