"""Networks that forecast the continuum intensity of the tiles of a tracked region.

Shapes
------
B examples, T input steps, C channels, N tiles::

    inputs     (B, T, C, N)    four acoustic powers from low to high frequency, then the unsigned flux
    forecast   (B, N)          intensity of each tile so many steps after the last input

The order of channels and how many steps lie ahead are the caller's (:mod:`sdoml_dist.experiments.emergence_forecast` states
both). Three networks are published:

================================  ==========  =====================================================================
:class:`SpatioTemporalAttention`     200,385  NASA-IMPACT/SuryaBench, ``ar_emergence`` (Roy et al. 2025)
:class:`SpatioTemporalResNet`     33,217,407  the same: the ``r3d_18`` of Tran et al. 2018 with another stem and head
:class:`TileLSTM`                    184,641  Kasapis et al. 2025, ApJS 280, 64 (code skasapis/AR_Emergence_Prediction)
================================  ==========  =====================================================================

The fourth, of this package, is :mod:`sdoml_dist.models.emergence_change`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 5
"""Four powers and the flux."""
_POSITIONS = 5000


def _sinusoids(length: int, width: int) -> Tensor:
    """Return sines and cosines of positions, shape (length, width), after Vaswani et al. 2017, section 3.5."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(position * rate), torch.cos(position * rate)], dim=-1).flatten(1)


class Positions(nn.Module):
    """Add the sinusoids of its place to each element of a sequence, shape (B, length, width)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("table", _sinusoids(_POSITIONS, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sequence with places."""
        table: Tensor = self.table  # type: ignore[assignment]
        added: Tensor = self.dropout(x + table[: x.shape[1]])
        return added


class SpatioTemporalAttention(nn.Module):
    """Attention over the steps of each tile, then over the tiles of each step.

    Linear 5 -> 64; sinusoids; two encoder layers over time; sinusoids; two encoder layers over tiles; mean over time;
    linear 64 -> 1 for each tile. Layers are normalised after the sum, with ReLU, as published: 200,385 parameters.

    Parameters
    ----------
    channels : int
        Channels of the input.
    width, heads, inner, layers : int
        Width of the encoders, their heads, inner width and number each.
    dropout : float
        Of the encoders and places.
    """

    def __init__(
        self, channels: int = CHANNELS, width: int = 64, heads: int = 8, inner: int = 256, layers: int = 2,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.steps, self.tiles = Positions(width, dropout), Positions(width, dropout)
        self.temporal = _encoder(width, heads, inner, layers, dropout)
        self.spatial = _encoder(width, heads, inner, layers, dropout)
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts, shape (B, N), from inputs (B, T, C, N)."""
        batch, steps, _, tiles = inputs.shape
        x = self.embed(inputs.permute(0, 3, 1, 2))  # (B, N, T, width)
        x = self.temporal(self.steps(x.flatten(0, 1)))
        x = x.view(batch, tiles, steps, -1).transpose(1, 2)
        x = self.spatial(self.tiles(x.flatten(0, 1)))
        forecast: Tensor = self.head(x.view(batch, steps, tiles, -1).mean(dim=1)).squeeze(-1)
        return forecast


def _encoder(width: int, heads: int, inner: int, layers: int, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(width, heads, inner, dropout, activation="relu", batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class _Block3d(nn.Module):
    """Two 3x3x3 convolutions around which the input is added; a 1x1x1 convolution of it where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()
        )
        self.conv2 = nn.Sequential(nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm3d(outputs))
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.conv2(self.conv1(x)) + kept)


class SpatioTemporalResNet(nn.Module):
    """The 3D ResNet of 18 layers (Tran et al. 2018, "A closer look at spatiotemporal convolutions") over time and tiles.

    Inputs are taken as (B, channels, T, 1, N): a picture one tile high. Names and order of the weights are those of
    torchvision's ``r3d_18``, of which stem and head are replaced: a convolution of `channels` to 64 of 3 x 7 x 7, stride
    (1, 2, 2), and a linear layer 512 -> N. Weights are drawn as there: normal by fan-out, the head normal of 0.01.

    Parameters
    ----------
    channels : int
        Channels of the input.
    tiles : int
        N.
    widths : tuple of int
        Filters of the four stages; (64, 128, 256, 512) is the published network.
    """

    def __init__(
        self, channels: int = CHANNELS, tiles: int = 63, widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            nn.Conv3d(channels, first, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(first), nn.ReLU()
        )
        before = first
        for number, width in enumerate(widths, start=1):
            stage = nn.Sequential(_Block3d(before, width, 1 if number == 1 else 2), _Block3d(width, width, 1))
            self.add_module(f"layer{number}", stage)
            before = width
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(before, tiles)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, 0, 0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts, shape (B, N), from inputs (B, T, C, N)."""
        x = self.stem(inputs.transpose(1, 2).unsqueeze(3))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        forecast: Tensor = self.fc(self.avgpool(x).flatten(1))
        return forecast


class TileLSTM(nn.Module):
    """Encoder and decoder of three LSTM layers each, for every tile by itself.

    The decoder begins with the encoder's state and zeros as input, and is then fed its own output; a linear layer makes an
    intensity of each. As published the first of 12 steps is the time of the last input, so that the last lies 11 steps
    ahead; `steps` is the number of steps, whatever the first one stands for. 184,641 parameters.

    Parameters
    ----------
    channels : int
        Channels of the input.
    width, layers : int
        Of encoder and decoder.
    steps : int
        Steps of the decoder.
    """

    def __init__(self, channels: int = CHANNELS, width: int = 64, layers: int = 3, steps: int = 12) -> None:
        super().__init__()
        self.steps, self.width = steps, width
        self.encoder = nn.LSTM(channels, width, layers, batch_first=True)
        self.decoder = nn.LSTM(width, width, layers, batch_first=True)
        self.fc = nn.Linear(width, 1)

    def sequence(self, inputs: Tensor) -> Tensor:
        """Return all steps, shape (B, steps, N), from inputs (B, T, C, N)."""
        batch, _, _, tiles = inputs.shape
        each = inputs.permute(0, 3, 1, 2).flatten(0, 1)
        _, state = self.encoder(each)
        fed = each.new_zeros(len(each), 1, self.width)
        outputs = []
        for _ in range(self.steps):
            fed, state = self.decoder(fed, state)
            outputs.append(fed)
        values: Tensor = self.fc(torch.cat(outputs, dim=1)).squeeze(-1)
        return values.view(batch, tiles, self.steps).transpose(1, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last step, shape (B, N)."""
        return self.sequence(inputs)[:, -1]
