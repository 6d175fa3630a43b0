"""Generators and discriminators of image-to-image translation, as published for solar images.

Shapes
------
B images of a batch, C input and D target channels, S pixels per side, W filters of the first stage::

    x          (B, C, S, S)    network input, 0 where there is no data
    target     (B, D, S, S)    network target, or what a generator makes of x
    features   list over scales of lists over stages, each (B, F, s, s); the last of a scale are its logits (B, 1, s, s)

Three generators with their discriminators::

    UNetGenerator        Kim et al. 2019 (AISFM 1.0), Park et al. 2019: 4x4 kernels down to one pixel and up again, with skips
    ResidualGenerator    Jeong et al. 2020 (Pix2PixHD): 3x3 kernels, 4 stages, 9 residual blocks
                         Jeong et al. 2022 (Pix2PixCC): 5x5 kernels, Mish, 5 stages
    PatchDiscriminator   looks at patches of 70 pixels; one or more scales

Normalisation is over each image alone. At batch 1, which all of these papers trained with, that is what their batch
normalisation in training mode does (also when they applied the networks); at other batches an image's result does not
depend on its neighbours in the batch, and not on the number of workers. Dropout draws from a generator that is passed in,
so that a training that goes on draws what it would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdoml_dist.errors import UsageError

Features = list[list[Tensor]]
"""Maps of a discriminator: scales, then stages; the last stage has the logits."""

# Of the code of Kim et al. 2019: Keras' normalisation with this epsilon, LeakyReLU of slope 0.2, half of the values dropped
# where maps have at most 8 pixels a side.
_EPSILON = 1.01e-5
_SLOPE = 0.2
_DROPPED = 0.5
_DROPPED_BELOW = 8
_MOST_FILTERS = 8
"""Times the filters of the first stage."""


def draw_weights(network: nn.Module) -> None:
    """Draw weights as pix2pix does: N(0, 0.02) for kernels, N(1, 0.02) for scales, 0 for offsets (Isola et al. 2017)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.InstanceNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


def _normalised(channels: int, learned: bool) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, eps=_EPSILON if learned else 1e-5, affine=learned)


class UNetGenerator(nn.Module):
    """U-Net from an image down to one pixel and up again.

    Parameters
    ----------
    inputs, outputs : int
        C and D.
    size : int
        S, a power of two from 16.
    filters : int
        W; 64 as published. Filters double from stage to stage up to eight times W.

    Raises
    ------
    UsageError
        If the size is no power of two.

    Notes
    -----
    Parameters with 64 filters, one input and one output: 79 578 305 at 1024 pixels, 66 993 345 at 512, 54 408 385 at 256.
    """

    def __init__(self, inputs: int = 1, outputs: int = 1, size: int = 1024, filters: int = 64) -> None:
        super().__init__()
        if size < 16 or size & (size - 1):
            raise UsageError(
                f"A U-Net halves its maps down to one pixel: {size} pixels are not a power of two from 16."
            )
        depth = size.bit_length() - 1
        widths = [filters * min(2**stage, _MOST_FILTERS) for stage in range(depth)]
        self.size, self.inputs = size, inputs
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        before = inputs
        for stage, width in enumerate(widths):
            # A map of one pixel has nothing to be normalised by; the first stage keeps the levels of the input.
            plain = stage in (0, depth - 1)
            convolution = nn.Conv2d(before, width, 4, 2, 1, bias=plain)
            self.down.append(convolution if plain else nn.Sequential(convolution, _normalised(width, True)))
            before = width
        self._dropped = []
        for stage in reversed(range(depth)):
            last = stage == 0
            into = widths[stage] * (1 if stage == depth - 1 else 2)
            out = outputs if last else widths[stage - 1]
            convolution = nn.ConvTranspose2d(into, out, 4, 2, 1, bias=last)  # type: ignore[assignment]
            self.up.append(convolution if last else nn.Sequential(convolution, _normalised(out, True)))
            self._dropped.append(size >> stage <= _DROPPED_BELOW)
        draw_weights(self)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the target, from -1 to 1, shape (B, D, S, S).

        Parameters
        ----------
        x : torch.Tensor
            Shape (B, C, S, S).
        generator : torch.Generator, optional
            Source of dropout, which the papers leave on when they apply the network. Without it nothing is dropped.
        """
        maps = []
        for stage, layer in enumerate(self.down):
            x = layer(x if stage == 0 else functional.leaky_relu(x, _SLOPE))
            maps.append(x)
        maps.pop()
        for layer, drops in zip(self.up, self._dropped, strict=True):
            x = layer(functional.relu(x))
            if drops and generator is not None:
                x = _drop(x, generator)
            if maps:
                x = torch.cat([x, maps.pop()], 1)
        return torch.tanh(x)


def _drop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Set half of the values to 0 and double the others."""
    kept = torch.rand(x.shape, generator=generator, device=generator.device) >= _DROPPED
    return x * kept.to(x) / (1.0 - _DROPPED)


@dataclass(frozen=True)
class _Style:
    """What differs between the published residual generators."""

    kernel: int
    padding: Literal["reflect", "replicate"]
    activation: type[nn.Module]


STYLES = {
    "pix2pixhd": _Style(3, "reflect", nn.ReLU),
    "pix2pixcc": _Style(5, "replicate", nn.Mish),
}
"""Residual generators by name."""


class ResidualGenerator(nn.Module):
    """Stages that halve, residual blocks, and stages that double; the output is not limited.

    Parameters
    ----------
    inputs, outputs : int
        C and D.
    style : {"pix2pixhd", "pix2pixcc"}
        Kernels, padding and activation.
    filters, stages, blocks : int
        W, how often the image is halved, and residual blocks. Published: 32, 4, 9 (Pix2PixHD of Jeong et al. 2020) and
        40, 5, 9 (Jeong et al. 2022; the released defaults are 64, 4, 9).

    Raises
    ------
    UsageError
        If the style is unknown.

    Notes
    -----
    Parameters: 45 617 729 (Pix2PixHD, 3 inputs), 302 564 081 (Pix2PixCC, 7 inputs), 193 578 113 (its defaults, 3 inputs).
    """

    def __init__(
        self, inputs: int = 3, outputs: int = 1, style: str = "pix2pixhd", filters: int = 32, stages: int = 4,
        blocks: int = 9,
    ) -> None:  # fmt: skip
        super().__init__()
        if style not in STYLES:
            raise UsageError(f"There is no generator {style!r}.", hint=f"Use one of {', '.join(STYLES)}.")
        kind = STYLES[style]
        self.inputs, self.halvings = inputs, stages

        def rim(into: int, out: int) -> nn.Conv2d:
            return nn.Conv2d(into, out, 7, 1, 3, padding_mode=kind.padding)

        layers: list[nn.Module] = [rim(inputs, filters), _normalised(filters, False), kind.activation()]
        width = filters
        for _ in range(stages):
            down = nn.Conv2d(width, 2 * width, kind.kernel, 2, kind.kernel // 2)
            layers += [down, _normalised(2 * width, False), kind.activation()]
            width *= 2
        layers += [_Residual(width, kind) for _ in range(blocks)]
        for _ in range(stages):
            up = nn.ConvTranspose2d(width, width // 2, 3, 2, 1, 1)
            layers += [up, _normalised(width // 2, False), kind.activation()]
            width //= 2
        self.layers = nn.Sequential(*layers, rim(width, outputs))
        draw_weights(self)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the target, shape (B, D, S, S); S must be divisible by two to the number of stages.

        Parameters
        ----------
        x : torch.Tensor
            Shape (B, C, S, S).
        generator : torch.Generator, optional
            Not used: this network draws nothing.

        Raises
        ------
        ValueError
            If the side cannot be halved so often.
        """
        if x.shape[-1] % 2**self.halvings or x.shape[-2] % 2**self.halvings:
            raise ValueError(f"images of {tuple(x.shape[-2:])} pixels cannot be halved {self.halvings} times")
        made: Tensor = self.layers(x)
        return made


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a way past them."""

    def __init__(self, width: int, kind: _Style) -> None:
        super().__init__()

        def convolution() -> nn.Conv2d:
            return nn.Conv2d(width, width, 3, 1, 1, padding_mode=kind.padding)

        self.layers = nn.Sequential(
            convolution(), _normalised(width, False), kind.activation(), convolution(), _normalised(width, False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        added: Tensor = x + self.layers(x)
        return added


class PatchDiscriminator(nn.Module):
    """Judge pairs of input and target patch by patch: stages of stride 2, 2, 2, 1 and a last one with the logits.

    Parameters
    ----------
    inputs, outputs : int
        C and D.
    filters : int
        W; 64, 64 and 40 as published.
    scales : int
        How many networks look at the image, each at half the resolution of the one before; 1, 2 and 1.
    learned : bool
        Whether normalisation has a learned scale and offset (Kim et al. 2019) or none.
    repeat : int
        How often the target is given beside the inputs (Pix2PixCC: with 7 inputs 10 times, or it would be one channel of
        eight); see :func:`repetitions`.

    Notes
    -----
    Parameters: 2 765 505 (1 + 1 channels, learned), 5 531 522 (3 + 1 channels, two scales), 1 091 801 (7 + 10, 40 filters).
    """

    def __init__(
        self, inputs: int = 1, outputs: int = 1, filters: int = 64, scales: int = 1, *, learned: bool = False,
        repeat: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.repeat = repeat
        channels = inputs + outputs * repeat
        self.scales = nn.ModuleList(_judge(channels, filters, learned) for _ in range(scales))
        draw_weights(self)

    def forward(self, x: Tensor, target: Tensor) -> Features:
        """Return maps and logits of pairs.

        Parameters
        ----------
        x, target : torch.Tensor
            Shapes (B, C, S, S) and (B, D, S, S).
        """
        pair = torch.cat([x, *[target] * self.repeat], 1)
        found: Features = []
        for index, stages in enumerate(self.scales):
            if index:
                pair = functional.avg_pool2d(pair, 3, 2, 1, count_include_pad=False)
            maps = [pair]
            assert isinstance(stages, nn.ModuleList)
            for stage in stages:
                maps.append(stage(maps[-1]))
            found.append(maps[1:])
        return found


def _judge(channels: int, filters: int, learned: bool) -> nn.ModuleList:
    widths = [filters, 2 * filters, 4 * filters, 8 * filters]
    stages: list[nn.Module] = [nn.Sequential(nn.Conv2d(channels, filters, 4, 2, 1), nn.LeakyReLU(_SLOPE))]
    for before, width in pairwise(widths):
        stride = 1 if width == widths[-1] else 2
        stages.append(
            nn.Sequential(
                nn.Conv2d(before, width, 4, stride, 1), _normalised(width, learned), nn.LeakyReLU(_SLOPE)
            )
        )  # fmt: skip
    return nn.ModuleList([*stages, nn.Conv2d(widths[-1], 1, 4, 1, 1)])


def repetitions(inputs: int, outputs: int, balance: float = 1.5) -> int:
    """Return how often Pix2PixCC gives the target to its discriminator: ``inputs / outputs * balance``, at least once."""
    return max(1, int(inputs / outputs * balance))
