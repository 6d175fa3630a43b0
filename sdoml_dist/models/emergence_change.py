"""A small forecaster of emerging regions: running means of every tile and its neighbours, a linear part, a network on top.

What the intensity of a tile will do shows in how the quantities of the tile and of those around it have changed over the
last hours and days. So each channel of each tile is averaged over windows of several lengths that end now, and over three
hours around the same times of the last two days as the target's (the spacecraft's orbit leaves a period of a day). Each of
these is taken of the tile, of its four neighbours, of its four diagonal ones and of all tiles; N more features say which
tile it is. A linear part and a small network, which is the same for all tiles, make the forecast of them.

Shapes
------
B examples, T steps, C channels, N tiles, K averages, F = 4 K C + N features::

    inputs    (B, T, C, N)   NaN where something is missing: it does not count in averages
    features  (B, N, F)
    forecast  (B, N)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

LENGTHS = (1, 3, 6, 12, 24, 48, 72)
"""Steps of the running means."""
_DAY, _DAYS, _AROUND, _CLAMP = 24, 2, 3, 8.0


@dataclass(frozen=True)
class Averages:
    """Which steps are averaged.

    Attributes
    ----------
    steps : int
        T.
    horizon : int
        Steps from the last input to the target.
    lengths : tuple of int
        Running means; those longer than the input are of all of it.
    """

    steps: int
    horizon: int
    lengths: tuple[int, ...] = LENGTHS

    def weights(self) -> Tensor:
        """Return which steps each average takes, shape (K, T); the longest running mean is the last."""
        step = torch.arange(self.steps)
        rows = []
        for day in range(1, _DAYS + 1):
            centre = self.steps - 1 + self.horizon - _DAY * day
            rows.append((step - centre).abs() <= _AROUND // 2)
        rows += [step >= self.steps - length for length in sorted(self.lengths)]
        return torch.stack(rows).float()


class ChangeNetwork(nn.Module):
    """The forecaster.

    Parameters
    ----------
    averages : Averages
        Steps of the input, and how they are averaged.
    channels : int
        C.
    grid : tuple of int
        Rows and columns of the tiles; row by row they are the N tiles.
    width, layers : int
        Of the network; 0 layers leave the linear part alone.
    dropout : float
        In the network.

    Notes
    -----
    :meth:`set_linear` gives the linear part weights that were fitted before; the network begins as zero, so that a training
    starts from the linear regression.
    """

    def __init__(
        self, averages: Averages, channels: int, grid: tuple[int, int] = (7, 9), width: int = 64, layers: int = 2,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.grid, self.channels = grid, channels
        weights = averages.weights()
        features = 4 * len(weights) * channels + grid[0] * grid[1]
        self.register_buffer("windows", weights, persistent=False)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        parts: list[nn.Module] = []
        for number in range(layers):
            parts += [nn.Linear(width if number else features, width), nn.GELU(), nn.Dropout(dropout)]
        if parts:
            last = nn.Linear(width, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            parts.append(last)
        self.network = nn.Sequential(*parts) if parts else None

    def features(self, inputs: Tensor) -> Tensor:
        """Return features before they are standardised, shape (B, N, F)."""
        windows: Tensor = self.windows  # type: ignore[assignment]
        batch, _, _, tiles = inputs.shape
        known = torch.isfinite(inputs)
        total = torch.einsum("kt,btcn->bkcn", windows, torch.where(known, inputs, 0.0))
        count = torch.einsum("kt,btcn->bkcn", windows, known.to(inputs.dtype))
        own = total / count.clamp(min=1)
        # Where a window holds nothing, the longest one stands for it.
        own = torch.where(count > 0, own, own[:, -1:]).flatten(1, 2)
        maps = functional.pad(own.view(batch, -1, *self.grid), (1, 1, 1, 1))
        # Rows beyond the first and last are zero in truth: the baseline between them is taken off.
        near = (maps[..., :-2, 1:-1] + maps[..., 2:, 1:-1] + maps[..., 1:-1, :-2] + maps[..., 1:-1, 2:]) / 4
        corners = (maps[..., :-2, :-2] + maps[..., 2:, :-2] + maps[..., :-2, 2:] + maps[..., 2:, 2:]) / 4
        everywhere = own.mean(dim=-1, keepdim=True).expand_as(own)
        place = torch.eye(tiles, dtype=own.dtype, device=own.device).expand(batch, tiles, tiles)
        stacked = torch.cat([own, near.flatten(2), corners.flatten(2), everywhere, place], dim=1)
        return stacked.transpose(1, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts, shape (B, N)."""
        return self.of_features(self.features(inputs))

    def of_features(self, features: Tensor) -> Tensor:
        """Return forecasts from features, shape (B, N)."""
        x = (features - self.mean) / self.scale  # type: ignore[operator]
        forecast: Tensor = self.linear(x)
        if self.network is not None:
            # Beyond what it has learned from, the linear part goes on alone.
            forecast = forecast + self.network(x.clamp(-_CLAMP, _CLAMP))
        return forecast.squeeze(-1)

    @torch.no_grad()
    def set_linear(self, mean: Tensor, scale: Tensor, weights: Tensor, constant: float) -> None:
        """Set the linear part, as :meth:`LinearSums.solve` returns it, and how features are standardised."""
        self.mean.copy_(mean)  # type: ignore[operator]
        self.scale.copy_(scale)  # type: ignore[operator]
        self.linear.weight.copy_(weights[None])
        self.linear.bias.fill_(constant)


class LinearSums:
    """Sums over examples that a weighted ridge regression needs; they can be added part by part.

    Parameters
    ----------
    features : int
        F.
    """

    def __init__(self, features: int) -> None:
        # One row and column more, for the constant.
        self.products = torch.zeros(features + 1, features + 1, dtype=torch.float64)
        self.with_target = torch.zeros(features + 1, dtype=torch.float64)

    def add(self, features: Tensor, target: Tensor, weight: Tensor) -> None:
        """Add examples: features (n, F), target and weight (n,)."""
        x = torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
        weighted = x * weight.double()[:, None]
        self.products += weighted.T @ x
        self.with_target += weighted.T @ target.double()

    def solve(self, penalty: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean and scale of the features, weights of the standardised features, and the constant.

        Parameters
        ----------
        penalty : float
            Added to the diagonal of the normal equations of standardised features; an example of weight 1 counts as 1.
            Features that never change get the weight 0.
        """
        total = self.products[-1, -1]
        mean, of_target = self.products[-1, :-1] / total, self.with_target[-1] / total
        covariance = self.products[:-1, :-1] / total - torch.outer(mean, mean)
        scale = covariance.diagonal().clamp(min=0).sqrt()
        scale = torch.where(scale > 1e-6 * scale.max().clamp(min=1e-12), scale, torch.inf)
        normal = total * covariance / torch.outer(scale, scale) + penalty * torch.eye(len(mean), dtype=torch.float64)
        right = total * (self.with_target[:-1] / total - mean * of_target) / scale
        weights = torch.linalg.solve(normal, right)
        return mean, torch.where(torch.isfinite(scale), scale, 1.0), weights, of_target
