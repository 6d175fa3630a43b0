"""Losses of variational autoencoders of images: the sigma-VAE (Rybkin et al. 2021) and the beta-VAE.

Shapes: B images of a batch, C channels, Y and X pixels, Z latent dimensions. Every term is summed over an image, as the
evidence lower bound demands, and averaged over the batch. With the per-image sums

    KL  = -1/2 sum_Z (1 + s - mean^2 - exp(s)),  s = log-variance
    D   = number of valid elements (C Y X without a mask),  MSE = sum of squared errors over them / D

the losses are (Brown et al. 2022, equation 2; the constant D/2 log 2 pi is left out)

    sigma-VAE   KL + D / (2 sigma^2) MSE + D log sigma
    beta-VAE    beta KL + D / 2 MSE

The sigma-VAE is least at sigma^2 = MSE, where it is KL + D/2 + D/2 log MSE. With one sigma per channel D and MSE are the
channel's, and the terms are summed over the channels.

Missing pixels are given by a mask: they add nothing to the errors and nothing to D, so a NaN behind the mask reaches
neither a loss nor a gradient. An image without any valid pixel adds its KL only. Without a mask every pixel counts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sdoml_dist.models.sigma_vae import LOG_SIGMA_FLOOR, VAEOutput, soft_clip

SigmaFrom = Literal["learned", "optimal", "optimal-channel"]

# Far below any squared error that matters (the soft limit of sigma^2 is exp(-12) = 6e-6): keeps log 0 out of gradients.
_LEAST_VARIANCE = 1e-20


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence of the posterior from a standard normal distribution, from (B, Z) to (B,).

    Closed form of Kingma & Welling 2014, appendix B.
    """
    mean, log_variance = _wide(mean), _wide(log_variance)
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)


def squared_errors(target: Tensor, reconstruction: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the sums of squared errors and the numbers of valid pixels, each of shape (B, C).

    Parameters
    ----------
    target, reconstruction : torch.Tensor
        Shape (B, C, Y, X). Half precision is summed in float32.
    mask : torch.Tensor, optional
        Broadcastable to that shape: bool (True is valid) or weights from 0 to 1, which count as parts of a pixel.
    """
    if target.shape != reconstruction.shape:
        raise ValueError(
            f"target {tuple(target.shape)} and reconstruction {tuple(reconstruction.shape)} differ in shape"
        )
    difference = _wide(target) - _wide(reconstruction)
    if mask is None:
        valid = difference.new_full(difference.shape[:2], float(target.shape[-2] * target.shape[-1]))
        return difference.square().sum((-2, -1)), valid
    mask = mask.expand(target.shape)
    weights = mask.to(difference.dtype)
    # Selecting before squaring keeps NaN out of the gradient, where 0 * NaN would be NaN.
    errors = torch.where(mask > 0, difference, difference.new_zeros(())).square() * weights
    return errors.sum((-2, -1)), weights.sum((-2, -1))


def optimal_log_sigma(
    errors: Tensor, valid: Tensor, *, per_channel: bool = False, floor: float | None = LOG_SIGMA_FLOOR
) -> Tensor:
    """Return the log sigma of least loss, sigma^2 = MSE over the whole batch, from sums of shape (B, C).

    Parameters
    ----------
    errors, valid : torch.Tensor
        Sums of squared errors and numbers of valid pixels, as `squared_errors` gives them.
    per_channel : bool
        Return shape (C,) rather than ().
    floor : float, optional
        Soft lower limit, as in the reference implementation; None for the exact optimum.
    """
    axis = (0,) if per_channel else (0, 1)
    variance = errors.sum(axis) / valid.sum(axis).clamp_min(1.0)
    log_sigma = 0.5 * variance.clamp_min(_LEAST_VARIANCE).log()
    return log_sigma if floor is None else soft_clip(log_sigma, floor)


def sigma_vae_loss(
    output: VAEOutput,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    sigma: SigmaFrom = "learned",
    floor: float | None = LOG_SIGMA_FLOOR,
) -> dict[str, Tensor]:
    """Return the loss of the sigma-VAE and its terms.

    Parameters
    ----------
    output : VAEOutput
        What the network returned.
    target : torch.Tensor
        Shape (B, C, Y, X).
    mask : torch.Tensor, optional
        True or a weight above 0 where the target is valid; broadcastable to the target.
    sigma : {"learned", "optimal", "optimal-channel"}
        The network's own sigma, or the best one of this batch: one for all channels or one for each.
    floor : float, optional
        Soft lower limit of a computed log sigma; a learned one has passed the network's own.

    Returns
    -------
    dict of str to torch.Tensor
        Scalars: `loss`; its parts `kl` and `reconstruction`; and, without gradients, `mse` over the valid elements,
        `log_sigma` (mean over channels) and `valid` (the fraction of valid elements).
    """
    errors, valid = squared_errors(target, output.reconstruction, mask)
    if sigma == "learned":
        if output.log_sigma is None:
            raise ValueError("the network has no sigma of its own: make it with sigma='shared' or 'channel'")
        log_sigma = _wide(output.log_sigma)
    else:
        log_sigma = optimal_log_sigma(errors, valid, per_channel=sigma == "optimal-channel", floor=floor)
    fit = (errors * (0.5 * torch.exp(-2 * log_sigma)) + valid * log_sigma).sum(1)
    return _terms(kl_divergence(output.mean, output.log_variance), fit, 1.0, errors, valid, target, log_sigma)


def beta_vae_loss(
    output: VAEOutput, target: Tensor, *, beta: float = 1.0, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the loss of the beta-VAE (sigma is 1) and its terms, as `sigma_vae_loss` does; `kl` is without beta."""
    errors, valid = squared_errors(target, output.reconstruction, mask)
    kl = kl_divergence(output.mean, output.log_variance)
    return _terms(kl, 0.5 * errors.sum(1), beta, errors, valid, target, errors.new_zeros(()))


def _terms(
    kl: Tensor, fit: Tensor, beta: float, errors: Tensor, valid: Tensor, target: Tensor, log_sigma: Tensor
) -> dict[str, Tensor]:
    """Average per-image terms over the batch."""
    count = valid.sum().detach()
    return {
        "loss": (beta * kl + fit).mean(),
        "kl": kl.mean(),
        "reconstruction": fit.mean(),
        "mse": errors.sum().detach() / count.clamp_min(1.0),
        "log_sigma": log_sigma.detach().mean(),
        "valid": count / target.numel(),
    }


def _wide(values: Tensor) -> Tensor:
    """Return values in float32 or wider: sums over 200 000 elements are meaningless in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
