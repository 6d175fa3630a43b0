"""Networks that take the noise out of magnetograms (Park et al. 2020, ApJL 891, L4).

Shapes
------
B patches of a batch, S pixels per side, W filters of the first stage::

    x      (B, 1, S, S)    line-of-sight field over its limit, from -1 to 1; 0 where there is none
    made   (B, 1, S, S)    the same without noise

Two generators::

    ShallowGenerator    four stages that halve, residual blocks, four that double, with skips
    UNetGenerator       of :mod:`sdoml_dist.models.translation`: down to one pixel and up again

A patch is a piece of a disc, and its result should depend on its place on the Sun, not on where it was cut. The shallow generator
has therefore no normalisation, which would be by the patch. Its last layer makes the noise, which is taken off the input and
does not depend on the field, or the image itself. That does not make patches equal where they overlap: with four stages and nine
blocks a pixel sees 336 pixels to each side, more than a patch of 256 has, and so the zeros that convolutions put around a patch.
Patches of a disc therefore share a quarter of their side and fade into each other (:mod:`sdoml_dist.solar.blending`). The U-Net
normalises by the patch and is for patches alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdoml_dist.errors import UsageError

Predicts = Literal["noise", "image"]
_SLOPE = 0.2
# Residual blocks begin as almost nothing: without normalisation nine of them would otherwise double the field nine times.
_SMALL = 0.1


class ShallowGenerator(nn.Module):
    """Stages that halve, residual blocks and stages that double, with a skip between stages of one size.

    Parameters
    ----------
    filters, stages, blocks : int
        Filters of the first stage, which double from stage to stage; stages; residual blocks. Published: 64 (to 512), 4, 9.
    predicts : {"noise", "image"}
        What the last layer makes.

    Raises
    ------
    UsageError
        If there is no stage.
    """

    def __init__(self, filters: int = 64, stages: int = 4, blocks: int = 9, predicts: Predicts = "noise") -> None:
        super().__init__()
        if stages < 1:
            raise UsageError("A generator needs a stage at least.")
        self.halvings, self.predicts = stages, predicts
        widths = [filters * 2**stage for stage in range(stages)]
        self.first = nn.Conv2d(1, filters, 3, 1, 1)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise([filters, *widths])
        )  # fmt: skip
        self.blocks = nn.ModuleList(_Residual(widths[-1]) for _ in range(blocks))
        self.up = nn.ModuleList()
        into = widths[-1]
        for below in reversed([filters, *widths[:-1]]):
            # Interpolated and then filtered: transposed convolutions leave a pattern of the stride on flat fields.
            self.up.append(nn.Conv2d(into + below, below, 3, 1, 1))
            into = below
        self.last = nn.Conv2d(into, 1, 3, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, _SLOPE, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            nn.init.normal_(block.second.weight, 0.0, _SMALL * (2.0 / (9 * widths[-1])) ** 0.5)  # type: ignore[arg-type, union-attr]
        if predicts == "noise":
            # A network that has learned nothing changes nothing.
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the field without noise, shape (B, 1, S, S); S must be divisible by two to the number of stages.

        Parameters
        ----------
        x : torch.Tensor
            Shape (B, 1, S, S).
        generator : torch.Generator, optional
            Not used: this network draws nothing.

        Raises
        ------
        ValueError
            If the side cannot be halved so often.
        """
        if x.shape[-1] % 2**self.halvings or x.shape[-2] % 2**self.halvings:
            raise ValueError(f"patches of {tuple(x.shape[-2:])} pixels cannot be halved {self.halvings} times")
        values = functional.leaky_relu(self.first(x), _SLOPE)
        skips = [values]
        for layer in self.down:
            values = functional.leaky_relu(layer(values), _SLOPE)
            skips.append(values)
        skips.pop()
        for block in self.blocks:
            values = block(values)
        for layer in self.up:
            values = functional.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            values = functional.leaky_relu(layer(torch.cat([values, skips.pop()], 1)), _SLOPE)
        made: Tensor = self.last(values)
        return x - made if self.predicts == "noise" else made


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a way past them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        added: Tensor = x + self.second(functional.leaky_relu(self.first(x), _SLOPE))
        return added


def add_noise(field: Tensor, sigma: Tensor, kernel: Tensor, generator: torch.Generator) -> Tensor:
    """Return a field with Gaussian noise of a given level and correlation between pixels.

    Parameters
    ----------
    field : torch.Tensor
        Shape (B, 1, S, S).
    sigma : torch.Tensor
        Level of the noise, broadcastable to it.
    kernel : torch.Tensor
        Filter of white noise, shape (k, k) with odd k, whose squares add up to 1; see
        :func:`sdoml_dist.solar.magnetogram_noise.noise_kernel`.
    generator : torch.Generator
        Source of the noise.
    """
    reach = kernel.shape[-1] // 2
    shape = (*field.shape[:-2], field.shape[-2] + 2 * reach, field.shape[-1] + 2 * reach)
    white = torch.randn(shape, generator=generator, device=generator.device).to(field)
    return field + sigma * functional.conv2d(white, kernel.to(field)[None, None])


def without_noise(x: Tensor, made: Tensor, added: float) -> Tensor:
    """Return what a network that was trained to take off *added* noise says of all noise (Moran et al. 2020, CVPR).

    It sees ``field + own + added`` noise and cannot tell the two apart, so it takes off of their sum the share that was
    added: with independent Gaussian noise of the levels s and a s that is a^2 / (1 + a^2), wherever the field shows them.

    Parameters
    ----------
    x, made : torch.Tensor
        Input, and what the network makes of it.
    added : float
        a, the level of the added noise over that of the input's own.
    """
    return x - (1.0 + 1.0 / added**2) * (x - made)
