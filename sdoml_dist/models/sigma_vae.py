"""The sigma-VAE of Brown et al. 2022, "Learning the solar latent space", Table 2.

Shapes
------
B images of a batch, C channels, S pixels per side, Z latent dimensions, F = 8192 features (512 filters x 4 x 4)::

    x               (B, C, S, S)    network input: transformed channels, missing pixels are 0
    mean            (B, Z)          mean of the posterior; the features of an image
    log_variance    (B, Z)          logarithm of the variance of the posterior
    latent          (B, Z)          mean + exp(log_variance / 2) * noise
    reconstruction  (B, C, S, S)    mean of the Gaussian likelihood
    log_sigma       () or (C,)      logarithm of its standard deviation

Side of the maps in the encoder (the decoder runs through them backwards)::

    128 -> 63 -> 30 -> 27 -> 24 -> 21 -> 19 -> 9 -> 4      4x4 kernels up to 21, then 3x3; no padding

The paper gives no padding, but the sizes of its Table 1 do: they grow by 3 F float32 numbers per latent dimension, which
makes F = 8192, and only unpadded convolutions end at 4 x 4. In the decoder 30 -> 63 needs an output padding of 1.

Images of 256 and 512 pixels are variants of this package, not of the paper: one or two padded stages of 32 filters
(4x4, stride 2) halve the image before the published network and mirrored ones double it behind.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdoml_dist.errors import UsageError

Sigma = Literal["shared", "channel", "none"]

SIZES = (128, 256, 512)
"""Pixels per side that the network is defined for; 128 is the published one."""
# Table 2 of Brown et al. 2022: filters, kernel, stride of the eight convolutions.
_PUBLISHED = ((64, 4, 2), (128, 4, 2), (256, 4, 1), (512, 4, 1), (512, 4, 1), (512, 3, 1), (512, 3, 2), (512, 3, 2))
_STEM_FILTERS = 32
LOG_SIGMA_FLOOR = -6.0
"""Soft lower limit of log sigma in the reference implementation of Rybkin et al. 2021 (sigma-vae-pytorch, model.py)."""


class VAEOutput(NamedTuple):
    """What one pass through the network gives; shapes on top of this module."""

    reconstruction: Tensor
    mean: Tensor
    log_variance: Tensor
    latent: Tensor
    log_sigma: Tensor | None


class _Stage(NamedTuple):
    """One convolution of the encoder and its mirror image in the decoder."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    output_padding: int


def soft_clip(values: Tensor, floor: float) -> Tensor:
    """Limit values from below without a kink: floor + softplus(values - floor)."""
    return floor + functional.softplus(values - floor)


def _stages(channels: int, size: int, narrowing: int) -> tuple[list[_Stage], int]:
    """Return the stages of the encoder and the side of its last map."""
    stages = []
    inputs = channels
    while size > SIZES[0]:
        stages.append(_Stage(inputs, _STEM_FILTERS // narrowing, 4, 2, 1, 0))
        inputs = _STEM_FILTERS // narrowing
        size //= 2
    for filters, kernel, stride in _PUBLISHED:
        smaller = (size - kernel) // stride + 1
        lost = size - ((smaller - 1) * stride + kernel)
        stages.append(_Stage(inputs, filters // narrowing, kernel, stride, 0, lost))
        inputs, size = filters // narrowing, smaller
    return stages, size


def _down(stage: _Stage) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(stage.inputs, stage.outputs, stage.kernel, stage.stride, stage.padding),
        nn.BatchNorm2d(stage.outputs),
        nn.ReLU(),
    )


def _up(stage: _Stage, last: bool) -> nn.Sequential:
    widen = nn.ConvTranspose2d(
        stage.outputs, stage.inputs, stage.kernel, stage.stride, stage.padding, stage.output_padding
    )
    return nn.Sequential(widen) if last else nn.Sequential(widen, nn.BatchNorm2d(stage.inputs), nn.ReLU())


class SigmaVAE(nn.Module):
    """Variational autoencoder of solar images with a learned standard deviation of its Gaussian likelihood.

    Parameters
    ----------
    channels : int
        C; 12 in the paper: nine of AIA and the three components of the field of HMI.
    latent : int
        Z; 256, 512, 1024 or 2048 in the paper.
    size : int
        S: 128 (published), 256 or 512 (variants, see the top of this module).
    sigma : {"shared", "channel", "none"}
        One learned sigma (published), one per channel, or none: for a loss that computes the best sigma, or a beta-VAE.
    narrowing : int
        Divide every number of filters by this power of two up to 32. 1 is the published network; others are for trials.

    Raises
    ------
    UsageError
        If a parameter is not one of the above.

    Notes
    -----
    Latent 256 with 12 channels and a shared sigma has 34 390 669 parameters.
    """

    def __init__(
        self, channels: int = 12, latent: int = 256, size: int = 128, sigma: Sigma = "shared", *, narrowing: int = 1
    ) -> None:
        super().__init__()
        if channels < 1 or latent < 1:
            raise UsageError(f"a network of {channels} channels and {latent} latent dimensions has nothing to learn")
        if size not in SIZES:
            raise UsageError(f"no network for images of {size} pixels", hint=f"Bin them to one of {SIZES}.")
        if sigma not in get_args(Sigma):
            raise UsageError(f"sigma: {sigma!r} is unknown", hint=f"Use one of {', '.join(get_args(Sigma))}.")
        if narrowing not in (1, 2, 4, 8, 16, 32):
            raise UsageError(f"narrowing: {narrowing} is not a power of two from 1 to 32")
        self.channels, self.latent, self.size = channels, latent, size
        stages, side = _stages(channels, size, narrowing)
        self._folded = (stages[-1].outputs, side, side)
        features = stages[-1].outputs * side * side
        self.encoder = nn.Sequential(*(_down(stage) for stage in stages))
        self.to_mean = nn.Linear(features, latent)
        self.to_log_variance = nn.Linear(features, latent)
        self.from_latent = nn.Linear(latent, features)
        self.decoder = nn.Sequential(*(_up(stage, last=stage is stages[0]) for stage in reversed(stages)))
        shape = {"shared": (), "channel": (channels,)}.get(sigma)
        self.free_log_sigma = None if shape is None else nn.Parameter(torch.zeros(shape))

    @property
    def log_sigma(self) -> Tensor | None:
        """Logarithm of sigma, softly limited to -6 from below; shape () or (C,), or None without a sigma."""
        return None if self.free_log_sigma is None else soft_clip(self.free_log_sigma, LOG_SIGMA_FLOOR)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the posterior, each of shape (B, Z); the means are an image's features."""
        if x.shape[1:] != (self.channels, self.size, self.size):
            expected = (self.channels, self.size, self.size)
            raise ValueError(f"images of shape {tuple(x.shape)}, but the network takes (batch, *{expected})")
        features = self.encoder(x).flatten(1)
        return self.to_mean(features), self.to_log_variance(features)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images of latents of shape (B, Z); shape (B, C, S, S)."""
        images: Tensor = self.decoder(self.from_latent(latent).unflatten(1, self._folded))
        return images

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> VAEOutput:
        """Encode images, draw one latent for each and decode it.

        Parameters
        ----------
        x : torch.Tensor
            Shape (B, C, S, S), without NaN.
        generator : torch.Generator, optional
            Source of the noise; PyTorch's own by default. One of another device works, and gives that device's noise.

        Returns
        -------
        VAEOutput
            Shapes on top of this module.
        """
        mean, log_variance = self.encode(x)
        latent = mean + torch.exp(0.5 * log_variance) * _noise(mean, generator)
        return VAEOutput(self.decode(latent), mean, log_variance, latent, self.log_sigma)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode the means of images, without noise: what the quality of reconstruction is measured on."""
        return self.decode(self.encode(x)[0])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Decode n draws of a standard normal distribution; shape (n, C, S, S).

        Put the network into evaluation mode first: in training mode batch normalisation sees only these n images.
        """
        like = self.from_latent.weight.new_empty((n, self.latent))
        return self.decode(_noise(like, generator))


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard normal noise of a tensor's shape, dtype and device."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
