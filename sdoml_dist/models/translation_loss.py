"""Losses of image-to-image translation, each a mean over the batch in float32.

    adversarial        BCE of logits (Isola et al. 2017) or least squares (Mao et al. 2017), mean over a network's scales
    L1                 mean absolute difference of the valid pixels
    feature matching   L1 between the discriminator's maps of true and made pairs (Wang et al. 2018)
    correlation        1 - Pearson's or 1 - Lin's concordance correlation, mean over scales (Jeong et al. 2022)

The released code of Pix2PixHD for magnetograms and of Pix2PixCC adds the sum of feature matching inside its loop over
scales, so that with two scales the first counts twice. Here every scale counts once.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sdoml_dist.models.translation import Features

Adversarial = Literal["bce", "least-squares"]
_SMALLEST_VARIANCE = 1e-8


def adversarial_loss(features: Features, true: bool, kind: Adversarial) -> Tensor:
    """Return how far the logits are from saying that pairs are true, or that they are made.

    Parameters
    ----------
    features : list of list of torch.Tensor
        Of :class:`sdoml_dist.models.translation.PatchDiscriminator`.
    true : bool
        What they should say.
    kind : {"bce", "least-squares"}
        Which loss.
    """
    losses = []
    for maps in features:
        logits = maps[-1].float()
        wanted = torch.full_like(logits, float(true))
        if kind == "bce":
            losses.append(functional.binary_cross_entropy_with_logits(logits, wanted))
        else:
            losses.append(functional.mse_loss(logits, wanted))
    return torch.stack(losses).mean()


def split_features(features: Features) -> tuple[Features, Features]:
    """Return the first and the second half of a batch: true and made pairs go through the discriminator together."""
    halves = [[one.chunk(2) for one in maps] for maps in features]
    return [[one[0] for one in maps] for maps in halves], [[one[1] for one in maps] for maps in halves]


def feature_loss(true: Features, made: Features) -> Tensor:
    """Return the L1 distance of the maps before the logits, summed over stages and averaged over scales."""
    scales = [
        torch.stack([(a.detach().float() - b.float()).abs().mean() for a, b in zip(left[:-1], right[:-1], strict=True)])
        for left, right in zip(true, made, strict=True)
    ]
    return torch.stack([stages.sum() for stages in scales]).mean()


def masked_l1(made: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute difference over valid pixels; 0 without any.

    Parameters
    ----------
    made, target, mask : torch.Tensor
        Shape (B, D, S, S).
    """
    differences = (made.float() - target.float()).abs() * mask
    return differences.sum() / mask.sum().clamp_min(1)


def correlation_loss(made: Tensor, target: Tensor, scales: int = 4, *, concordance: bool = True) -> Tensor:
    """Return 1 - correlation of each image, averaged over images, channels and scales.

    Parameters
    ----------
    made, target : torch.Tensor
        Shape (B, D, S, S), without NaN; off the disc both are 0, as published.
    scales : int
        The image, and means of 3x3 pixels at every second pixel of the scale before.
    concordance : bool
        Whether offsets and other contrasts count (Lin 1989): 2 cov / (var + var + (difference of means)^2), which is 1 for
        identical images only. Pearson's correlation is 1 for every increasing linear relation.
    """
    left, right = made.float(), target.float()
    losses = []
    for scale in range(scales):
        if scale:
            left, right = (functional.avg_pool2d(one, 3, 2, 1, count_include_pad=False) for one in (left, right))
        losses.append(1.0 - _correlation(left.flatten(2), right.flatten(2), concordance).mean())
    return torch.stack(losses).mean()


def _correlation(left: Tensor, right: Tensor, concordance: bool) -> Tensor:
    means = left.mean(-1), right.mean(-1)
    a, b = left - means[0][..., None], right - means[1][..., None]
    covariance, variances = (a * b).mean(-1), (a.square().mean(-1), b.square().mean(-1))
    if concordance:
        below = variances[0] + variances[1] + (means[0] - means[1]).square() + _SMALLEST_VARIANCE
        return (2 * covariance + _SMALLEST_VARIANCE) / below
    return covariance / ((variances[0] + _SMALLEST_VARIANCE) * (variances[1] + _SMALLEST_VARIANCE)).sqrt()
