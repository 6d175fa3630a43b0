"""Magnetograms of the Sun's far side from its EUV emission (AISFM: Kim et al. 2019; Jeong et al. 2020, 2022).

Networks learn on the front side, where SDO sees both, and are applied to STEREO's EUVI. Three versions::

                 1 (2019)            2 (2020)                      3 (2022)
    inputs       304                 304, 193, 171                 304, 193, 171; and all three and the field, a rotation before
    field        limited to 100 G    limited to 3000 G             divided by 1500 G, not limited
    networks     U-Net, PatchGAN     Pix2PixHD                     Pix2PixCC
    losses       BCE, 100 L1         least squares, 10 features    least squares, 10 features, 5 concordance correlation
    test         September, October  2 months a year at random     2 months a year at random

The paper of version 2 has no correlation loss; ``network.correlation: 5`` adds that of version 3. Every EUV image is divided
by its median over the disc, times 100, limited to 1 to 200, and its logarithm brought to -1 to 1. In versions 2 and 3
nothing is seen or made beyond 0.98 solar radii; version 1 sees the corona. How version 1 scaled its EUV images is not
published; it does here what the others do.

Differences from the papers: images are on the dataset's grid (a radius of 397/1024 of the frame, published 392 and 450),
and the best checkpoint is chosen on months of validation, where the papers used the test months or said nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.translation import Translation
from sdoml_dist.experiments.translation_config import (
    DESIGNS,
    Design,
    TranslationConfig,
    TranslationData,
    TranslationNetwork,
)
from sdoml_dist.experiments.translation_pairs import Pairs
from sdoml_dist.experiments.translation_table import BASELINE_IMAGES, Table, Trained, evenly
from sdoml_dist.recipe_base import Store, parse_duration
from sdoml_dist.solar.field_scores import MEASURES, REGIONS, FieldScores, Regression
from sdoml_dist.solar.translation import (
    MEDIAN_LEVEL,
    RANGES,
    ValueRange,
    reference_reach_s,
    reference_times,
    to_disc_median,
)
from sdoml_dist.training.experiment import Batch
from sdoml_dist.training.parts import Months, RandomMonths, Split
from sdoml_dist.training.samples import Samples

_EUV = {1: ("304A",), 2: ("304A", "193A", "171A"), 3: ("304A", "193A", "171A")}
_FIELD_RANGES = {1: "field-100", 2: "field-3000", 3: "field-1500"}
_DESIGNS = {1: "kim2019", 2: "jeong2020", 3: "jeong2022"}
_SPLITS: dict[int, Split] = {
    1: Months(months={"train": (1, 2, 3, 4, 5, 6, 7, 11, 12), "validation": (8,), "test": (9, 10)}),
    2: RandomMonths(), 3: RandomMonths(),
}  # fmt: skip
_DARKEST = 1.0
# Times the median over the disc.
_BRIGHT = 2.0 * MEDIAN_LEVEL

# Correlations of total unsigned flux, net flux and binned pixels: Kim et al. 2019 (1), Jeong et al. 2020 (2) and 2022 (3,
# pixels only); NaN where a paper has none.
_NONE = float("nan")
PUBLISHED: dict[int, dict[str, tuple[float, ...]]] = {
    1: {"full disc": (0.97, _NONE, 0.77), "active regions": (0.95, _NONE, 0.66), "quiet regions": (0.74, _NONE, 0.21)},
    2: {"full disc": (0.99, 0.86, 0.81), "active regions": (0.95, 0.93, 0.79), "quiet regions": (0.98, 0.97, 0.62)},
    3: {"full disc": (_NONE, _NONE, 0.88), "active regions": (_NONE, _NONE, 0.91), "quiet regions": (_NONE, _NONE, 0.70)},
}  # fmt: skip
"""Published figures by version and region; 825 images and 1033 patches of active regions for versions 1 and 2."""


class FarSideData(TranslationData):
    """Which samples."""

    cadence: int | None = parse_duration("12h")
    """Spacing of the samples; 12 hours as published."""
    field: Literal["M_720s", "M_45s", "Bz"] = "M_720s"
    """Channel with the field along the line of sight."""
    brightest: float = Field(200.0, gt=1)
    """EUV intensities, with the disc's median at 100, are limited to this; published: 200."""
    limit_gauss: float | None = Field(None, gt=0)
    """The field that becomes 1; by default as in the version: 100, 3000, 1500 G."""
    mirrored: bool = False
    """Whether training samples are mirrored at the solar equator with probability one half, their fields with the other
    polarity: by Hale's law such a Sun is as likely. No paper does it."""


class FarSideNetwork(TranslationNetwork):
    """Which network."""

    version: Literal[1, 2, 3] = 2
    """Of AISFM."""


class FarSideConfig(TranslationConfig):
    """Everything that determines the experiment."""

    experiment: Literal["far-side"] = "far-side"
    """Which experiment."""
    data: FarSideData
    network: FarSideNetwork = FarSideNetwork.model_validate({})


class FarSide(Translation):
    """Magnetograms from EUV images."""

    Config = FarSideConfig
    citation = (
        "T. Kim, E. Park, H. Lee et al. 2019, Solar farside magnetograms from deep learning analysis of STEREO/EUVI data, "
        "Nature Astronomy 3, 397; H.-J. Jeong, Y.-J. Moon, E. Park & H. Lee 2020, ApJL 903, L25; H.-J. Jeong et al. 2022, "
        "ApJS 262, 50. AIA and HMI data are courtesy of NASA/SDO and the AIA and HMI science teams."
    )

    @classmethod
    def sampled(cls, config: FarSideConfig) -> tuple[tuple[str, ...], Split]:
        """Return the channels of a sample and the split of the paper."""
        return (*_EUV[config.network.version], config.data.field), _SPLITS[config.network.version]

    def _design(self) -> Design:
        return DESIGNS[_DESIGNS[self.config.network.version]]

    @property
    def euv(self) -> tuple[str, ...]:
        """Channels of EUV."""
        return _EUV[self.config.network.version]

    def input_names(self) -> tuple[str, ...]:
        """Return the EUV channels and, in version 3, those of the reference."""
        if self.config.network.version < 3:
            return self.euv
        return (*self.euv, *(f"{name} before" for name in (*self.euv, self.config.data.field)))

    def beyond(self) -> tuple[float, ...]:
        """Return darkness for EUV, and no field."""
        return tuple(0.0 if name.startswith(self.config.data.field) else -1.0 for name in self.input_names())

    def output_names(self) -> tuple[str, ...]:
        """Return the field's channel."""
        return (self.config.data.field,)

    def varied(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return a batch of the training, some of its samples mirrored at the solar equator if so configured."""
        if not self.config.data.mirrored:
            return batch
        x, target, mask = batch["inputs"], batch["target"], batch["mask"]
        drawn = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
        chosen = drawn.to(x.device)[:, None, None, None]
        # Fields, of the target and of a rotation before, change their sign.
        signs = [-1.0 if name.startswith(self.config.data.field) else 1.0 for name in self.input_names()]
        other = x.flip(-2) * torch.tensor(signs, dtype=x.dtype, device=x.device)[:, None, None]
        return batch | {
            "inputs": torch.where(chosen, other, x), "target": torch.where(chosen, -target.flip(-2), target),
            "mask": torch.where(chosen, mask.flip(-2), mask),
        }  # fmt: skip

    def groups(self) -> tuple[Samples, ...]:
        """Return the samples and, in version 3, what was seen of the same longitudes a rotation before."""
        config = self.config
        samples = self.find(config, self.prepared["snapshot"])
        if config.network.version < 3:
            return (samples,)
        reference = self.references(config.data.split or _SPLITS[3])
        return with_reference(samples, reference, reference_reach_s(int(reference.settings["cadence_s"])))

    def references(self, split: Split | None = None) -> Samples:
        """Return what may be seen a rotation before: a whole rotation is no multiple of the samples' cadence."""
        data = self.config.data
        return Samples.find(
            data.store, (*self.euv, data.field), version=self.prepared["snapshot"], tolerance=data.tolerance, split=split
        )

    @cached_property
    def field_range(self) -> ValueRange:
        """Values of the field."""
        published = RANGES[_FIELD_RANGES[self.config.network.version]]
        limit = self.config.data.limit_gauss
        return published if limit is None else ValueRange("linear", -limit, limit, limited=published.limited)

    def applied_inputs(self) -> tuple[str, ...]:
        """Return the EUV channels."""
        return self.euv

    def applied_before(self) -> tuple[str, ...]:
        """Return the EUV channels and the field for version 3."""
        return (*self.euv, self.config.data.field) if self.config.network.version == 3 else ()

    def encode_inputs(self, physical: np.ndarray) -> np.ndarray:
        """Return network inputs of the EUV channels and, in version 3, of what was there a rotation before."""
        number = len(self.euv)
        inputs = [self.encode_euv(physical[:, :number])]
        if self.config.network.version == 3:
            before = physical[:, number:]
            inputs += [self.encode_euv(before[:, :number]), self.encode_field(before[:, number:])[0]]
        return np.concatenate(inputs, axis=1)

    def encode_euv(self, images: np.ndarray) -> np.ndarray:
        """Return network inputs of EUV images of shape (..., Y, X), whatever their unit."""
        values = to_disc_median(images, self.mask)
        if self.config.network.version > 1:
            values = np.where(self.mask, values, np.nan)
        darkest = np.asarray(_DARKEST, images.dtype)
        return ValueRange("log10", _DARKEST, self.config.data.brightest).to_network(
            np.where(np.isfinite(values), values, darkest)
        )  # fmt: skip

    def encode_field(self, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return network values, 0 where there are none, and where there are, of fields of shape (..., Y, X)."""
        valid = np.isfinite(field) & self.mask
        values = self.field_range.to_network(np.where(valid, field, np.asarray(0, field.dtype)))
        return np.where(valid, values, np.asarray(0, values.dtype)), valid

    def encode(self, physical: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return network inputs, targets and where these count."""
        number = len(self.euv)
        target, valid = self.encode_field(physical[:, number : number + 1])
        return self.encode_inputs(np.delete(physical, number, axis=1)), target, valid

    def decode(self, made: np.ndarray) -> np.ndarray:
        """Return the field in gauss, NaN beyond the limb."""
        return np.where(self.mask, self.field_range.to_physical(made), np.asarray(np.nan, made.dtype))


def with_reference(samples: Samples, reference: Samples, tolerance_s: int) -> tuple[Samples, Samples]:
    """Return samples together with observations of the same longitudes from one synodic rotation before.

    Parameters
    ----------
    samples, reference : Samples
        What is translated, and where references are taken from.
    tolerance_s : int
        Largest distance of a reference from a whole rotation before.

    Returns
    -------
    tuple of Samples
        Rows that belong together; samples without a reference are left out. So are samples that are not of the test and whose
        reference is neither of their own part nor of the training: a network would see there what it is tested on.

    Raises
    ------
    UsageError
        If no sample is left.
    """
    rows = reference.nearest(reference_times(samples.times, front=True), tolerance_s)
    labels = reference.labels[np.maximum(rows, 0)]
    fit = (samples.labels == "test") | (labels == samples.labels) | (labels == "train")
    kept = np.flatnonzero((rows >= 0) & fit)
    if not kept.size:
        raise UsageError(
            f"None of {len(samples)} samples has a reference a rotation before.",
            f"The samples begin at {samples.times[0]}, the references at {reference.times[0]}; a rotation is 27.3 days.",
            "Use a dataset that covers several months, or version 2.",
        )
    return samples.take(kept), reference.take(rows[kept])


def evaluate(
    checkpoint: Path, output: Path, *, store: Store | None = None, version: str | None = None, part: str = "test",
    most: int | None = None,
) -> str:  # fmt: skip
    """Evaluate a checkpoint: the published layout, with the published figures and regressions from brightness beside.

    Parameters
    ----------
    checkpoint : pathlib.Path
        Its folder.
    output : pathlib.Path
        Where files go.
    store, version : optional
        Another dataset, and its version; by default that of the training.
    part : str
        Which samples: ``train``, ``validation`` or ``test`` of the training's split.
    most : int, optional
        At most so many images, evenly over the time.

    Returns
    -------
    str
        The table for a terminal, and the names of the files.
    """
    trained = Trained.load(FarSide, checkpoint, store, version)
    pairs = trained.part(part)
    table = field_table(trained, pairs, part, most)
    trained.picture(pairs, output)
    return table.write(output)


def brightnesses(experiment: FarSide) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what unsigned flux is regressed on: functions from EUV images, shape (channels, Y, X), to brightnesses, (..., Y, X).

    A network should beat them. They are the intensity at 304 Angstrom, where the channel that shows active regions best is
    brighter than twice its median over the disc, and for every channel this and its intensity over the median: of three
    channels, six numbers of a region.
    """
    bright = "193A" if "193A" in experiment.euv else "304A"
    place = experiment.euv.index(bright)

    def both(euv: np.ndarray) -> np.ndarray:
        values = to_disc_median(euv, experiment.mask)
        return np.concatenate([values, np.where(values > _BRIGHT, 1.0, 0.0)])

    return {
        "regression from 304": lambda euv: euv[0],
        f"regression from bright area at {bright[:-1]}": lambda euv: both(euv[place, None])[1],
        "regression from means, bright areas": both,
    }


def field_table(trained: Trained, pairs: Pairs, part: str, most: int | None = None) -> Table:
    """Return the table of a network that makes magnetograms; the first input is 304 Angstrom in every version."""
    experiment = trained.experiment
    assert isinstance(experiment, FarSide)
    scores = FieldScores(experiment.size)
    bright = brightnesses(experiment)
    regressions = {name: Regression(scores) for name in bright}

    def regressed(one: Pairs, row: int, true: np.ndarray, what: Callable[..., None]) -> None:
        euv = np.nan_to_num(one.physical(np.array([row]))[0, : len(experiment.euv)])
        for name, chosen in bright.items():
            what(regressions[name], true, chosen(euv))

    training = trained.part("train")
    for row in evenly(training, BASELINE_IMAGES):
        regressed(training, row, trained.true(training.read(np.array([row])))[0, 0], Regression.learn)
    for row in evenly(pairs, most):
        batch = pairs.read(np.array([row]))
        true = trained.true(batch)[0, 0]
        scores.add(true, trained.made(batch)[0, 0])
        regressed(pairs, row, true, Regression.add)
    found, counts = scores.scores()
    version = experiment.config.network.version
    baselines = {name: regression.scores() for name, regression in regressions.items()}
    beside = {"network": found, **baselines, f"published, version {version}": PUBLISHED[version]}
    rows = {f"{region}, {who}": values[region] for region in REGIONS for who, values in beside.items()}
    return Table(
        f"{experiment.config.name}: correlations, part {part}", MEASURES, rows,
        {f"{region}, {who}": counts[region] for region in REGIONS for who in ("network", *baselines)},
        trained.about(part) | {
            "patch": scores.patch, "block": scores.block, "version": version, "limit_gauss": experiment.field_range.high,
        },
    )  # fmt: skip
