"""Magnetograms, continuum or EUV images from drawings of sunspots (Lee et al. 2021).

Drawings of the pairs are made from HMI's continuum images (:mod:`sdoml_dist.solar.drawing`), so that networks can be trained
without an archive of drawings; :mod:`sdoml_dist.sources.drawing` brings real ones to the same grid and grey levels. The
network is the U-Net with its PatchGAN of Kim et al. 2019. What can be read of the paper gives the idea but no figures;
beside the network stands the mean image of the training part.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import field_validator

from sdoml_dist.experiments.hmi_to_aia import MEASURES, channel_scores
from sdoml_dist.experiments.translation import Translation
from sdoml_dist.experiments.translation_config import (
    DESIGNS,
    Design,
    TranslationConfig,
    TranslationData,
    TranslationNetwork,
)
from sdoml_dist.experiments.translation_table import BASELINE_IMAGES, Table, Trained, evenly, mean_of
from sdoml_dist.recipe_base import Store, parse_duration
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.drawing import contrast, draw, quiet_sun
from sdoml_dist.solar.field_scores import scaled
from sdoml_dist.solar.translation import RANGES, ValueRange, disc_mask, refuse_empty
from sdoml_dist.training.parts import Months, Split

CONTINUA = ("Ic_720s", "Ic_45s")
"""Channels of the continuum; as a target they are its contrast to the quiet Sun."""
_FIELDS = ("M_720s", "M_45s", "Bz")
_BLOCK = 4
_SPLIT = Months(months={"train": (1, 2, 3, 4, 5, 6, 7, 11, 12), "validation": (8,), "test": (9, 10)})


class GalileoData(TranslationData):
    """Which samples."""

    cadence: int | None = parse_duration("12h")
    """Spacing of the samples."""
    continuum: Literal["Ic_720s", "Ic_45s"] = "Ic_720s"
    """Channel that drawings are made from."""
    target: str = "M_720s"
    """What is made of drawings: a field (M_720s, M_45s, Bz), the continuum itself, or a channel of AIA."""

    @field_validator("target")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (*_FIELDS, *CONTINUA, *AIA):
            raise ValueError(f"target is one of {', '.join((*_FIELDS, *CONTINUA, *AIA))}")
        return value


class GalileoConfig(TranslationConfig):
    """Everything that determines the experiment."""

    experiment: Literal["galileo"] = "galileo"
    """Which experiment."""
    data: GalileoData
    network: TranslationNetwork = TranslationNetwork.model_validate({})


class Galileo(Translation):
    """Images of the Sun from drawings of its spots."""

    Config = GalileoConfig
    citation = (
        "H. Lee, E. Park & Y.-J. Moon 2021, Generation of modern satellite data from Galileo sunspot drawings in 1612 by deep "
        "learning, ApJ 907, 118. AIA and HMI data are courtesy of NASA/SDO and the AIA and HMI science teams."
    )

    @classmethod
    def sampled(cls, config: GalileoConfig) -> tuple[tuple[str, ...], Split]:
        """Return the channels of a sample and the split of the paper."""
        return tuple(dict.fromkeys((config.data.continuum, config.data.target))), _SPLIT

    def _design(self) -> Design:
        return DESIGNS["kim2019"]

    def input_names(self) -> tuple[str, ...]:
        """Return the one input."""
        return ("drawing",)

    def beyond(self) -> tuple[float, ...]:
        """Return paper."""
        return (1.0,)

    def output_names(self) -> tuple[str, ...]:
        """Return the target."""
        return (self.config.data.target,)

    @property
    def values(self) -> ValueRange:
        """Values of the target."""
        target = self.config.data.target
        return RANGES["field-3000" if target in _FIELDS else "continuum" if target in CONTINUA else "aia"]

    def encode_drawing(self, drawings: np.ndarray) -> np.ndarray:
        """Return network inputs of grey levels of any shape: paper is 1, black -1; beyond the limb there is paper."""
        inside: np.ndarray = np.where(self.mask, 2 * drawings - 1, np.asarray(1, drawings.dtype))
        return inside

    def applied_inputs(self) -> tuple[str, ...]:
        """Return the continuum's channel."""
        return (self.config.data.continuum,)

    def stored(self, made: np.ndarray, physical: np.ndarray) -> np.ndarray:
        """Return the continuum in the unit of the one that was drawn, by its quiet Sun; a contrast is no channel."""
        if self.config.data.target not in CONTINUA:
            return made
        quiet = np.stack([quiet_sun(image) for image in physical[:, 0]])
        return made * quiet[:, None]

    def encode_inputs(self, physical: np.ndarray) -> np.ndarray:
        """Return network inputs: drawings of continuum images.

        Strokes and paper follow from the image, so that a sample always has the same drawing.

        Raises
        ------
        UsageError
            If an image shows no Sun.
        """
        images = np.ascontiguousarray(physical[:, 0])
        refuse_empty(np.stack([np.isfinite(quiet_sun(one)) for one in images]), "intensity")
        drawings = np.stack([draw(one, zlib.crc32(one.tobytes())) for one in images])
        return self.encode_drawing(drawings)[:, None]

    def encode(self, physical: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return network inputs, targets and where these count.

        The continuum as a target is its contrast to the quiet Sun.
        """
        continuum = np.ascontiguousarray(physical[:, 0])
        inputs = self.encode_inputs(physical[:, :1])
        target = physical[:, -1:]
        if self.config.data.target in CONTINUA:
            target = np.stack([contrast(one) for one in continuum])[:, None].astype(np.float32)
        valid = np.isfinite(target)
        if self.config.data.target not in AIA:
            valid = valid & self.mask
        network = self.values.to_network(np.where(valid, target, np.asarray(0, target.dtype)))
        return inputs, np.where(valid, network, np.asarray(0, network.dtype)), valid

    def decode(self, made: np.ndarray) -> np.ndarray:
        """Return gauss, contrast to the quiet Sun, or DN/s; the first two have no values beyond the limb."""
        physical = self.values.to_physical(made)
        if self.config.data.target in AIA:
            return physical
        return np.where(self.mask, physical, np.asarray(np.nan, physical.dtype))


def evaluate(
    checkpoint: Path, output: Path, *, store: Store | None = None, version: str | None = None, part: str = "test",
    most: int | None = None,
) -> str:  # fmt: skip
    """Evaluate a checkpoint: scores of the made images, beside those of the training part's mean image.

    Parameters
    ----------
    checkpoint, output, store, version, part, most
        As in :func:`sdoml_dist.experiments.far_side.evaluate`.

    Returns
    -------
    str
        The table for a terminal, and the names of the files.
    """
    trained = Trained.load(Galileo, checkpoint, store, version)
    pairs, training = trained.part(part), trained.part("train")
    experiment = trained.experiment
    known = [trained.true(training.read(np.array([row])))[0] for row in evenly(training, BASELINE_IMAGES)]
    mean = mean_of(known)
    mask, block = disc_mask(experiment.size), scaled(_BLOCK, experiment.size)
    found: dict[str, list[np.ndarray]] = {"network": [], "mean image": []}
    for row in evenly(pairs, most):
        batch = pairs.read(np.array([row]))
        true = trained.true(batch)[0]
        for who, made in (("network", trained.made(batch)[0]), ("mean image", mean)):
            found[who].append(channel_scores(true, made, mask, block)[0])
    (name,) = experiment.output_names()
    count = len(found["network"])
    table = Table(
        f"{experiment.config.name}: {name} from drawings, part {part}, binned by {block}", MEASURES,
        {who: tuple(mean_of(scores).tolist()) for who, scores in found.items()},
        dict.fromkeys(found, count), trained.about(part) | {"block": block, "target": name},
    )  # fmt: skip
    trained.picture(pairs, output)
    return table.write(output)
