"""Transforms between physical units (DN/s, gauss) and network inputs, described so that a checkpoint can carry them.

A value is stretched by its channel's kind and then normalised by statistics of the stretched training data::

    asinh       t = asinh(x / scale)            emission over orders of magnitude; linear below the scale
    log         t = log(1 + max(x, 0) / scale)  the same for data without negative values: those are lifted to 0
    symmetric   t = asinh(x / scale)            signed data: statistics are taken about 0, so both polarities stay alike
    none        t = x

    standard    (t - mean) / std
    range       2 (t - minimum) / (maximum - minimum) - 1
    none        t

Channels are the third axis from the end. NaN stays NaN; `network_input` fills it and returns the mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch

from sdoml_dist.errors import UsageError
from sdoml_dist.models.moments import ChannelMoments

Kind = Literal["asinh", "log", "symmetric", "none"]
Normalisation = Literal["standard", "range", "none"]
Values = TypeVar("Values", np.ndarray, torch.Tensor)

# Saturation of AIA images in DN/s per pixel and softening of the asinh stretch, as in the code of
# Instrument-to-Instrument translation (Jarolim et al. 2025, Nature Communications 16; iti/data/editor.py, sdo_norms),
# where 1600 and 1700 are marked as provisional. The scale of a channel is the product of both.
_SOFTENING = 0.005
_SATURATION = {
    "94A": 411.0, "131A": 1268.0, "171A": 6463.0, "193A": 8392.0, "211A": 4184.0, "304A": 6481.0, "335A": 637.0,
    "1600A": 4000.0, "1700A": 4000.0,
}  # fmt: skip
# Order of magnitude of the noise of HMI's vector field in gauss, across and along the line of sight (Hoeksema et al.
# 2014, Solar Physics 289, 3483): linear within the noise, logarithmic above it. Bz points to SDO here.
_FIELD_NOISE_GAUSS = {"Bx": 100.0, "By": 100.0, "Bz": 10.0}

DEFAULTS: dict[str, tuple[Kind, float]] = {
    **{channel: ("asinh", _SOFTENING * saturation) for channel, saturation in _SATURATION.items()},
    **{channel: ("symmetric", noise) for channel, noise in _FIELD_NOISE_GAUSS.items()},
}
"""Kind and scale of every channel by default, for images binned by the mean (DN/s per pixel, gauss)."""


@dataclass(frozen=True)
class ChannelTransforms:
    """Transforms of an ordered set of channels.

    Attributes
    ----------
    channels : tuple of str
        Names as in the dataset, in the order of the array axis.
    kinds : tuple of {"asinh", "log", "symmetric", "none"}
        Stretch of each channel.
    scales : tuple of float
        Scale of each stretch in the channel's unit; above 0.
    means, stds : tuple of float
        Mean and standard deviation of the stretched training data (for ``symmetric``: 0 and the root mean square).
    minima, maxima : tuple of float
        Their extremes; may be empty unless `normalisation` is ``range``.
    normalisation : {"standard", "range", "none"}
        Which of these statistics are applied.

    Raises
    ------
    UsageError
        If the parts do not fit each other.

    Examples
    --------
    >>> transforms = ChannelTransforms.default(("171A", "Bz"))
    >>> transforms.kinds
    ('asinh', 'symmetric')
    """

    channels: tuple[str, ...]
    kinds: tuple[Kind, ...]
    scales: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    minima: tuple[float, ...] = ()
    maxima: tuple[float, ...] = ()
    normalisation: Normalisation = "standard"

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise UsageError(f"channels of a transform must be named, and once each: {self.channels}")
        _choose("normalisation", self.normalisation, get_args(Normalisation))
        for name in ("kinds", "scales", "means", "stds", "minima", "maxima"):
            values = getattr(self, name)
            optional = name in ("minima", "maxima") and self.normalisation != "range"
            if len(values) != len(self.channels) and not (optional and not values):
                raise UsageError(f"{name}: {len(values)} values for the {len(self.channels)} channels {self.channels}")
            for channel, value in zip(self.channels, values, strict=False):
                if name == "kinds":
                    _choose(f"kind of {channel}", value, get_args(Kind))
                elif not math.isfinite(value) or (name in ("scales", "stds") and value <= 0):
                    raise UsageError(f"{name}: {value} of channel {channel} is no number that can be used")
        if self.normalisation == "range":
            for channel, low, high in zip(self.channels, self.minima, self.maxima, strict=True):
                if low >= high:
                    raise UsageError(f"range of channel {channel} is empty: {low} to {high}")

    @classmethod
    def default(cls, channels: Sequence[str], normalisation: Normalisation = "standard") -> ChannelTransforms:
        """Return the default stretches of channels, with statistics that change nothing until `fit` finds others.

        Raises
        ------
        UsageError
            If there is no default for a channel.
        """
        unknown = [channel for channel in channels if channel not in DEFAULTS]
        if unknown:
            raise UsageError(
                f"no default transform for {', '.join(unknown)}",
                hint=f"Give kinds and scales for these channels; there are defaults for {', '.join(DEFAULTS)}.",
            )
        kinds, scales = zip(*(DEFAULTS[channel] for channel in channels), strict=True) if channels else ((), ())
        zeros, ones = (0.0,) * len(channels), (1.0,) * len(channels)
        return cls(tuple(channels), kinds, scales, zeros, ones, tuple(-one for one in ones), ones, normalisation)

    def fit(self, samples: Iterable[np.ndarray]) -> ChannelTransforms:
        """Return the same stretches with statistics of training samples, read one by one.

        Parameters
        ----------
        samples : iterable of numpy.ndarray
            Physical units, each of shape (..., C, Y, X); what is not finite is left out.

        Raises
        ------
        UsageError
            If a channel has no valid pixels or a constant value.
        """
        moments = ChannelMoments.empty(len(self.channels))
        for sample in samples:
            moments = moments.merge(self.measure(sample))
        return self.with_moments(moments)

    def measure(self, values: np.ndarray) -> ChannelMoments:
        """Return moments of the stretched values, for workers that each see a part of the data."""
        return ChannelMoments.of(self._stretch(np.asarray(values, np.float64)))

    def with_moments(self, moments: ChannelMoments) -> ChannelTransforms:
        """Return the same stretches with the statistics of merged moments; raises `UsageError` as `fit` does."""
        mean, std = moments.mean.copy(), np.sqrt(moments.variance)
        lowest, highest = moments.minimum.copy(), moments.maximum.copy()
        for place, (channel, kind) in enumerate(zip(self.channels, self.kinds, strict=True)):
            if moments.count[place] == 0:
                raise UsageError(f"channel {channel} has no valid pixels to take statistics of")
            if lowest[place] == highest[place]:
                raise UsageError(
                    f"channel {channel} is {lowest[place]} everywhere (stretched)",
                    why="A constant cannot be normalised and teaches a network nothing.",
                    hint="Leave the channel out, or take statistics of a longer period.",
                )
            if kind == "symmetric":
                std[place] = math.hypot(mean[place], std[place])
                mean[place] = 0.0
                highest[place] = max(-lowest[place], highest[place])
                lowest[place] = -highest[place]
        means, stds, low, high = (tuple(values.tolist()) for values in (mean, std, lowest, highest))
        return replace(self, means=means, stds=stds, minima=low, maxima=high)

    def to_network(self, values: Values) -> Values:
        """Return network inputs for physical values of shape (..., C, Y, X); NaN stays NaN.

        Raises
        ------
        ValueError
            If the third axis from the end does not hold these channels.
        """
        offsets, divisors = self._affine()
        return _per_channel(self._stretch(values), lambda place, image: (image - offsets[place]) / divisors[place])

    def to_physical(self, values: Values) -> Values:
        """Return physical values for network outputs: the inverse of `to_network`, for ``log`` from 0 upwards.

        Raises
        ------
        ValueError
            If the third axis from the end does not hold these channels.
        """
        self._check_axis(values)
        offsets, divisors = self._affine()

        def invert(place: int, image: Any) -> Any:
            stretched, scale = image * divisors[place] + offsets[place], self.scales[place]
            match self.kinds[place]:
                case "none":
                    return stretched
                case "log":
                    return scale * (torch.expm1 if isinstance(image, torch.Tensor) else np.expm1)(stretched)
                case "asinh" | "symmetric":
                    return scale * (torch.sinh if isinstance(image, torch.Tensor) else np.sinh)(stretched)

        return _per_channel(values, invert)

    def check(self, channels: Sequence[str]) -> None:
        """Refuse data of other channels, or in another order.

        Raises
        ------
        UsageError
            If `channels` differ from those of this description.
        """
        if tuple(channels) == self.channels:
            return
        lacking = [channel for channel in self.channels if channel not in channels]
        foreign = [channel for channel in channels if channel not in self.channels]
        difference = "; ".join(
            f"{word} {', '.join(names)}" for word, names in (("lacking", lacking), ("unknown", foreign)) if names
        )
        raise UsageError(
            f"the network was trained on channels {', '.join(self.channels)}, but gets {', '.join(channels)}"
            f" ({difference or 'another order'})",
            why="Weights and transforms belong to channels by their position.",
            hint=f"Read the channels in this order: {' '.join(self.channels)}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain lists and words, ready for JSON; numbers keep every bit."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChannelTransforms:
        """Return the object of a description made by `to_dict`.

        Raises
        ------
        UsageError
            If entries are missing, unknown or unusable.
        """
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise UsageError(
                f"not a description of channel transforms: lacks {sorted(names - set(data))},"
                f" unknown {sorted(set(data) - names)}"
            )
        words = {name: tuple(str(value) for value in data[name]) for name in ("channels", "kinds")}
        try:
            numbers = {
                name: tuple(float(value) for value in data[name])
                for name in ("scales", "means", "stds", "minima", "maxima")
            }
        except (TypeError, ValueError) as error:
            raise UsageError(f"a description of channel transforms holds what is no number: {error}") from error
        return cls(**words, **numbers, normalisation=data["normalisation"])  # type: ignore[arg-type]

    def _affine(self) -> tuple[Sequence[float], Sequence[float]]:
        """Return what is subtracted from and what divides stretched values."""
        if self.normalisation == "standard":
            return self.means, self.stds
        if self.normalisation == "none":
            return (0.0,) * len(self.channels), (1.0,) * len(self.channels)
        pairs = list(zip(self.minima, self.maxima, strict=True))
        return [(low + high) / 2 for low, high in pairs], [(high - low) / 2 for low, high in pairs]

    def _stretch(self, values: Values) -> Values:
        self._check_axis(values)

        def stretch(place: int, image: Any) -> Any:
            scale, tensor = self.scales[place], isinstance(image, torch.Tensor)
            match self.kinds[place]:
                case "none":
                    return image
                case "log":
                    lifted = image.clamp_min(0) if tensor else np.maximum(image, 0)
                    return (torch.log1p if tensor else np.log1p)(lifted / scale)
                case "asinh" | "symmetric":
                    return (torch.asinh if tensor else np.arcsinh)(image / scale)

        return _per_channel(values, stretch)

    def _check_axis(self, values: np.ndarray | torch.Tensor) -> None:
        if values.ndim < 3 or values.shape[-3] != len(self.channels):
            raise ValueError(
                f"values of shape {tuple(values.shape)} for {len(self.channels)} channels (..., channel, y, x)"
            )


def network_input(transforms: ChannelTransforms, values: Values) -> tuple[Values, Values]:
    """Return what a network can take, and where it is real.

    Parameters
    ----------
    transforms : ChannelTransforms
        Description of the channels.
    values : numpy.ndarray or torch.Tensor
        Physical units, shape (..., C, Y, X), NaN where there is no data.

    Returns
    -------
    tuple
        Network inputs with 0 for what is not finite (with ``standard`` the mean of the channel), and the mask of valid
        pixels: bool, same shape.
    """
    inputs = transforms.to_network(values)
    if isinstance(values, torch.Tensor):
        valid = torch.isfinite(values)
        return torch.where(valid, inputs, inputs.new_zeros(())), valid
    mask = np.isfinite(values)
    return np.where(mask, inputs, inputs.dtype.type(0)), mask


def _per_channel(values: Values, function: Any) -> Values:
    """Apply a function of (position, image) along the channel axis."""
    images = [function(place, values[..., place, :, :]) for place in range(values.shape[-3])]
    if isinstance(values, torch.Tensor):
        return torch.stack(images, -3)
    return np.stack(images, -3)


def _choose(what: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{what}: {value!r} is unknown", hint=f"Use one of {', '.join(allowed)}.")
