"""AIA images from magnetograms (the task of Galvez et al. 2019, by the protocol of Park et al. 2019).

Galvez et al. give the network the three components of the field, Park et al. the one along the line of sight;
``data.field`` says which. One U-Net per channel in Park's paper; here all channels asked for are outputs of one network.
Model A learns by the mean absolute difference alone, model B is that of Kim et al. 2019 (adversarial loss and 100 times the
difference). Every component is limited to 3000 G, and is 0 where there is none; an image x becomes log2(x + 1) / 7 - 1. The
dataset's unit is DN/s. Published split: 2011 to 2016 for training, January to June 2017 for validation, July to December
2017 for the test.

Scores, after binning images of 1024 pixels by 4, inside 0.98 of the solar radius (published: all of it): correlation (CC),
relative error of the total RE = (sum made - sum true) / sum true, and the shares of pixels within 10 and 50 % (PPE10, PPE50).
Galvez et al. give no figures in what could be read of their paper; those beside are Park's. Two baselines are fitted on the
training part for every channel: its mean image plus a linear function of the logarithm of |B|, and a table of its mean by |B|,
pixel by pixel. What a network is better by than the second it knows from a pixel's surroundings and its place on the disc.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from sdoml_dist.experiments.translation import Translation
from sdoml_dist.experiments.translation_config import (
    DESIGNS,
    Design,
    TranslationConfig,
    TranslationData,
    TranslationNetwork,
)
from sdoml_dist.experiments.translation_pairs import Pairs
from sdoml_dist.experiments.translation_table import BASELINE_IMAGES, Table, Trained, evenly, mean_of
from sdoml_dist.recipe_base import Store, parse_duration
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.field_scores import scaled
from sdoml_dist.solar.translation import RANGES, ValueRange, block_means, correlation, disc_mask, refuse_empty
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
# The table by |B|: fields of the strongest umbrae (Livingston et al. 2006, Solar Phys. 239, 41: up to 6.1 kG) are rare.
_BINS, _LAST_GAUSS = 64, 5000.0
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
    field: Literal["M_720s", "M_45s", "Bz"] | tuple[Literal["Bx"], Literal["By"], Literal["Bz"]] = "M_720s"
    """A channel with the field along the line of sight, or ``[Bx, By, Bz]``: the vector (Galvez et al. 2019)."""
    channels: tuple[str, ...] = tuple(AIA)
    """Channels of AIA that are made."""
    limit_gauss: float = Field(3000.0, gt=0)
    """Every component of the field is limited to this; published: 3000 G."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The field's channels."""
        return (self.field,) if isinstance(self.field, str) else self.field

    @field_validator("field", mode="wrap")
    @classmethod
    def _one_or_three(cls, value: object, known: ValidatorFunctionWrapHandler) -> object:
        try:
            return known(value)
        except ValidationError:
            # Of a union, pydantic would tell what is wrong with each of its members.
            raise ValueError("field is M_720s, M_45s or Bz, or the list [Bx, By, Bz]") from None

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
        return (*config.data.fields, *config.data.channels), _SPLIT

    def _design(self) -> Design:
        return DESIGNS["park2019" if self.config.network.model == "A" else "kim2019"]

    def input_names(self) -> tuple[str, ...]:
        """Return the field's channels."""
        fields: tuple[str, ...] = self.config.data.fields
        return fields

    def beyond(self) -> tuple[float, ...]:
        """Return no field."""
        return (0.0,) * len(self.input_names())

    def output_names(self) -> tuple[str, ...]:
        """Return the channels of AIA."""
        channels: tuple[str, ...] = self.config.data.channels
        return channels

    def encode_inputs(self, physical: np.ndarray) -> np.ndarray:
        """Return network inputs of the field.

        Raises
        ------
        UsageError
            If an image has no field on the disc.
        """
        limit = self.config.data.limit_gauss
        valid = np.isfinite(physical) & self.mask
        refuse_empty(valid, "field")
        field = np.where(valid, physical, np.float32(0))
        return ValueRange("linear", -limit, limit).to_network(field)

    def encode(self, physical: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return network inputs, targets and where these count: everywhere that AIA has data, the corona too."""
        components = len(self.input_names())
        inputs = self.encode_inputs(physical[:, :components])
        emission = physical[:, components:]
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
    """A baseline: a channel's mean image plus a linear function of log10(1 + |B| / 10 G), one slope for all pixels.

    Parameters
    ----------
    channels, size : int
        Channels of AIA, and pixels per side.
    """

    def __init__(self, channels: int, size: int) -> None:
        self._images = 0
        self._logs, self._squares = np.zeros((2, size, size))
        self._valid, self._sums, self._logs_valid, self._products = np.zeros((4, channels, size, size))

    def learn(self, strength: np.ndarray, images: np.ndarray) -> None:
        """Add a training image: |B| in gauss, shape (Y, X), and DN/s, shape (D, Y, X), NaN where there is no data."""
        x, valid = _logarithm(strength), np.isfinite(images)
        known = np.where(valid, images, 0.0).astype(np.float64)
        self._images += 1
        self._logs += x
        self._squares += x**2
        self._valid += valid
        self._sums += known
        self._logs_valid += valid * x
        self._products += known * x

    def predict(self, strength: np.ndarray) -> np.ndarray:
        """Return images, shape (D, Y, X), of |B| of shape (Y, X); NaN where no training image has data."""
        level = self._logs / max(self._images, 1)
        with np.errstate(invalid="ignore"):
            mean = np.where(self._valid > 0, self._sums / np.maximum(self._valid, 1), np.nan)
        spread = float((self._squares - self._images * level**2).sum())
        # Sum of (image - mean image) (x - its mean at the pixel) over the pixels that have data.
        together = self._products - np.nan_to_num(mean) * self._logs_valid
        slopes = together.sum(axis=(1, 2)) / max(spread, 1e-30)
        made: np.ndarray = mean + slopes[:, None, None] * (_logarithm(strength) - level)
        return made


class FieldLookup:
    """A baseline: a channel's mean over all pixels with about the same |B|.

    Bins are equal in log10(1 + |B| / 10 G) from 0 to 5000 G; stronger fields count in the last. One that no pixel fell into
    takes what a line between its neighbours gives, and pixels without a field, off the disc, have a mean of their own.

    Parameters
    ----------
    channels : int
        Channels of AIA.
    """

    def __init__(self, channels: int) -> None:
        self._counts, self._sums = np.zeros((2, channels, _BINS + 1))

    @staticmethod
    def _bins(strength: np.ndarray) -> np.ndarray:
        share = _logarithm(strength) / _logarithm(np.float64(_LAST_GAUSS))
        return np.where(np.isfinite(strength), np.minimum((share * _BINS).astype(int), _BINS - 1), _BINS)

    def learn(self, strength: np.ndarray, images: np.ndarray) -> None:
        """Add a training image, as :meth:`MeanAndField.learn` takes it."""
        bins = self._bins(strength)
        for place, image in enumerate(images):
            valid = np.isfinite(image)
            self._counts[place] += np.bincount(bins[valid], minlength=_BINS + 1)
            self._sums[place] += np.bincount(bins[valid], image[valid].astype(np.float64), _BINS + 1)

    def predict(self, strength: np.ndarray) -> np.ndarray:
        """Return images, shape (D, Y, X), of |B| of shape (Y, X); NaN for a channel that was never seen."""
        means = np.full(self._sums.shape, np.nan)
        np.divide(self._sums, self._counts, out=means, where=self._counts > 0)
        for line in means[:, :_BINS]:
            known = np.flatnonzero(np.isfinite(line))
            if known.size:
                line[:] = np.interp(np.arange(_BINS), known, line[known])
        made: np.ndarray = means[:, self._bins(strength)]
        return made


def field_strength(field: np.ndarray) -> np.ndarray:
    """Return |B| of components of shape (C, Y, X): of the vector, or along the line of sight; NaN where one is missing."""
    strength: np.ndarray = np.sqrt((field.astype(np.float64) ** 2).sum(axis=0))
    return strength


def _logarithm(strength: np.ndarray | np.float64) -> np.ndarray:
    values: np.ndarray = np.log10(1.0 + np.nan_to_num(strength) / _SOFT_GAUSS)
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
    training, components = trained.part("train"), len(experiment.input_names())
    channels = len(experiment.output_names())
    baselines: dict[str, MeanAndField | FieldLookup] = {
        "mean image and |B|": MeanAndField(channels, experiment.size), "lookup by |B|": FieldLookup(channels),
    }  # fmt: skip
    for row in evenly(training, BASELINE_IMAGES):
        physical = training.physical(np.array([row]))[0]
        for baseline in baselines.values():
            baseline.learn(field_strength(physical[:components]), physical[components:])
    mask, block = disc_mask(experiment.size), scaled(_BLOCK, experiment.size)
    found: dict[str, list[np.ndarray]] = {"network": [], **{who: [] for who in baselines}}
    for row in evenly(pairs, most):
        physical = pairs.physical(np.array([row]))[0]
        strength, true = field_strength(physical[:components]), physical[components:]
        found["network"].append(channel_scores(true, trained.made(pairs.read(np.array([row])))[0], mask, block))
        for who, baseline in baselines.items():
            found[who].append(channel_scores(true, baseline.predict(strength), mask, block))
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
