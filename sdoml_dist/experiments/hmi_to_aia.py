"""AIA images from magnetograms (the task of Galvez et al. 2019, by the protocol of Park et al. 2019).

One U-Net per channel in the paper; here all channels asked for are outputs of one network. Model A learns by the mean
absolute difference alone, model B is that of Kim et al. 2019 (adversarial loss and 100 times the difference). The field is
limited to 3000 G; an image x becomes log2(x + 1) / 7 - 1. The dataset's unit is DN/s. Published split: 2011 to 2016 for
training, January to June 2017 for validation, July to December 2017 for the test.

Scores, after binning images of 1024 pixels by 4, inside the disc: correlation (CC), relative error of the total
RE = (sum made - sum true) / sum true, and the shares of pixels within 10 and 50 % (PPE10, PPE50). Galvez et al. give no
figures in what could be read of their paper; those beside are Park's. The baseline fits, for every channel, the mean
image of the training part plus a linear function of the logarithm of |B|.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from sdoml_dist.experiments.translation import (
    DESIGNS,
    Design,
    Translation,
    TranslationConfig,
    TranslationData,
    TranslationNetwork,
)
from sdoml_dist.experiments.translation_pairs import Pairs
from sdoml_dist.experiments.translation_table import BASELINE_IMAGES, Table, Trained, evenly, mean_of
from sdoml_dist.recipe_base import Store, parse_duration
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.field_scores import scaled
from sdoml_dist.solar.translation import RANGES, ValueRange, block_means, correlation, disc_mask
from sdoml_dist.training.parts import Periods, Split

MEASURES = ("CC", "RE", "PPE10", "PPE50")
# Park et al. 2019: mean correlations on the test part of models A and B.
PUBLISHED_CC = {
    "A": {"94A": 0.79, "131A": 0.81, "171A": 0.69, "193A": 0.78, "211A": 0.86, "304A": 0.84, "335A": 0.86, "1600A": 0.94,
          "1700A": 0.97},
    "B": {"94A": 0.75, "131A": 0.78, "171A": 0.66, "193A": 0.74, "211A": 0.78, "304A": 0.83, "335A": 0.85, "1600A": 0.92,
          "1700A": 0.95},
}  # fmt: skip
"""Published correlations by model and channel; their means are 0.84 and 0.83."""
_BLOCK = 4
# Gauss: about the noise of a magnetogram, below which |B| says nothing.
_SOFT_GAUSS = 10.0
_SPLIT = Periods(
    periods={
        "train": ("2011-01-01", "2017-01-01"), "validation": ("2017-01-01", "2017-07-01"),
        "test": ("2017-07-01", "2018-01-01"),
    }
)  # fmt: skip


class HmiToAiaData(TranslationData):
    """Which samples."""

    cadence: int | None = parse_duration("6h")
    """Spacing of the samples."""
    field: Literal["M_720s", "M_45s", "Bz"] = "M_720s"
    """Channel with the field along the line of sight."""
    channels: tuple[str, ...] = tuple(AIA)
    """Channels of AIA that are made."""
    limit_gauss: float = Field(3000.0, gt=0)
    """The field is limited to this; published: 3000 G."""

    @field_validator("channels")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or set(value) - set(AIA) or len(set(value)) != len(value):
            raise ValueError(f"channels are some of {', '.join(AIA)}, once each")
        return value


class HmiToAiaNetwork(TranslationNetwork):
    """Which network."""

    model: Literal["A", "B"] = "A"
    """A: the mean absolute difference alone. B: adversarial."""


class HmiToAiaConfig(TranslationConfig):
    """Everything that determines the experiment."""

    experiment: Literal["hmi-to-aia"] = "hmi-to-aia"
    """Which experiment."""
    data: HmiToAiaData
    network: HmiToAiaNetwork = HmiToAiaNetwork.model_validate({})


class HmiToAia(Translation):
    """AIA images from magnetograms."""

    Config = HmiToAiaConfig
    citation = (
        "R. Galvez, D. F. Fouhey, M. Jin et al. 2019, A machine-learning data set prepared from the NASA Solar Dynamics "
        "Observatory mission, ApJS 242, 7; E. Park, Y.-J. Moon, J.-Y. Lee et al. 2019, Generation of solar UV and EUV images "
        "from SDO/HMI magnetograms by deep learning, ApJL 884, L23. AIA and HMI data are courtesy of NASA/SDO and the AIA and "
        "HMI science teams."
    )

    @classmethod
    def sampled(cls, config: HmiToAiaConfig) -> tuple[tuple[str, ...], Split]:
        """Return the channels of a sample and the split of the paper."""
        return (config.data.field, *config.data.channels), _SPLIT

    def _design(self) -> Design:
        return DESIGNS["park2019" if self.config.network.model == "A" else "kim2019"]

    def input_names(self) -> tuple[str, ...]:
        """Return the field's channel."""
        return (self.config.data.field,)

    def output_names(self) -> tuple[str, ...]:
        """Return the channels of AIA."""
        channels: tuple[str, ...] = self.config.data.channels
        return channels

    def encode_inputs(self, physical: np.ndarray) -> np.ndarray:
        """Return network inputs of the field."""
        limit = self.config.data.limit_gauss
        field = np.where(np.isfinite(physical) & self.mask, physical, np.float32(0))
        return ValueRange("linear", -limit, limit).to_network(field)

    def encode(self, physical: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return network inputs, targets and where these count: everywhere that AIA has data, the corona too."""
        inputs = self.encode_inputs(physical[:, :1])
        emission = physical[:, 1:]
        valid = np.isfinite(emission)
        target = RANGES["aia"].to_network(np.where(valid, emission, np.float32(0)))
        return inputs, np.where(valid, target, np.float32(0)), valid

    def decode(self, made: np.ndarray) -> np.ndarray:
        """Return the emission in DN/s."""
        return RANGES["aia"].to_physical(made)


def channel_scores(true: np.ndarray, made: np.ndarray, mask: np.ndarray, block: int) -> np.ndarray:
    """Return the scores of one image per channel.

    Parameters
    ----------
    true, made : numpy.ndarray
        DN/s, shape (D, Y, X), NaN where there is no data.
    mask : numpy.ndarray
        The disc, bool, shape (Y, X).
    block : int
        Pixels that are averaged along each axis.

    Returns
    -------
    numpy.ndarray
        Shape (D, 4), in the order of `MEASURES`; NaN where a score is not defined.
    """
    inside = block_means(np.where(mask, np.float64(1), np.float64(0)), block) == 1
    scores = np.full((len(true), len(MEASURES)), np.nan)
    for place, (left, right) in enumerate(zip(block_means(true, block), block_means(made, block), strict=True)):
        both = inside & np.isfinite(left) & np.isfinite(right)
        a, b = left[both], right[both]
        if not a.size:
            continue
        scores[place, 0] = correlation(a, b)
        scores[place, 1] = (b.sum() - a.sum()) / a.sum() if a.sum() != 0 else np.nan
        relative = np.abs(b - a) / np.where(a != 0, np.abs(a), np.nan)
        scores[place, 2:] = (relative < 0.1).mean(), (relative < 0.5).mean()
    return scores


class MeanAndField:
    """The baseline: a channel's mean image plus a linear function of log10(1 + |B| / 10 G).

    Parameters
    ----------
    fields, images : numpy.ndarray
        Training images: gauss, shape (n, Y, X), and DN/s, shape (n, D, Y, X).
    """

    def __init__(self, fields: np.ndarray, images: np.ndarray) -> None:
        self.mean = mean_of(images)
        x = _logarithm(fields)
        self.level = x.mean(axis=0)
        departure = x - self.level
        spread = (departure**2).sum()
        excess = np.nan_to_num(images - self.mean)
        self.slopes = (excess * departure[:, None]).sum(axis=(0, 2, 3)) / max(float(spread), 1e-30)

    def predict(self, field: np.ndarray) -> np.ndarray:
        """Return images, shape (D, Y, X), of a field of shape (Y, X)."""
        made: np.ndarray = self.mean + self.slopes[:, None, None] * (_logarithm(field) - self.level)
        return made


def _logarithm(field: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.log10(1.0 + np.abs(np.nan_to_num(field.astype(np.float64))) / _SOFT_GAUSS)
    return values


def evaluate(
    checkpoint: Path, output: Path, *, store: Store | None = None, version: str | None = None, part: str = "test",
    most: int | None = None,
) -> str:  # fmt: skip
    """Evaluate a checkpoint: scores by channel, with the baseline's and the published ones beside.

    Parameters
    ----------
    checkpoint, output, store, version, part, most
        As in :func:`sdoml_dist.experiments.far_side.evaluate`.

    Returns
    -------
    str
        The table for a terminal, and the names of the files.
    """
    trained = Trained.load(HmiToAia, checkpoint, store, version)
    pairs = trained.part(part)
    table = channel_table(trained, pairs, part, most)
    trained.picture(pairs, output)
    return table.write(output)


def channel_table(trained: Trained, pairs: Pairs, part: str, most: int | None = None) -> Table:
    """Return the table of a network that makes images of AIA."""
    experiment = trained.experiment
    training = trained.part("train")
    kept = [training.physical(np.array([row]))[0] for row in evenly(training, BASELINE_IMAGES)]
    baseline = MeanAndField(np.stack([one[0] for one in kept]), np.stack([one[1:] for one in kept]))
    mask, block = disc_mask(experiment.size), scaled(_BLOCK, experiment.size)
    found: dict[str, list[np.ndarray]] = {"network": [], "mean image and |B|": []}
    for row in evenly(pairs, most):
        physical = pairs.physical(np.array([row]))[0]
        made = {
            "network": trained.made(pairs.read(np.array([row])))[0],
            "mean image and |B|": baseline.predict(physical[0]),
        }
        for who, images in made.items():
            found[who].append(channel_scores(physical[1:], images, mask, block))
    means = {who: mean_of(scores) for who, scores in found.items()}
    model = experiment.config.network.model
    rows: dict[str, tuple[float, ...]] = {}
    names = experiment.output_names()
    for place, channel in enumerate(names):
        rows |= {f"{channel}, {who}": tuple(scores[place].tolist()) for who, scores in means.items()}
        rows[f"{channel}, published model {model}"] = (PUBLISHED_CC[model][channel], *[float("nan")] * 3)
    count = len(found["network"])
    return Table(
        f"{experiment.config.name}: part {part}, binned by {block}", MEASURES, rows,
        {f"{channel}, {who}": count for channel in names for who in means},
        trained.about(part) | {"block": block, "model": model},
    )  # fmt: skip
