"""ResNet-18 of He et al. 2016 ("Deep residual learning for image recognition", Table 1) as a source of features.

Shapes
------
B images of a batch, C channels, S pixels per side::

    x          (B, C, S, S)      images
    features   (B, 512)          mean over the last maps: the penultimate layer
    classes    (B, K)            scores of the last, linear layer

Side of the maps for S = 224, and parameters (convolutions without bias, two per filter of a batch normalisation)::

    conv1    7x7, 64, stride 2     112       9,536    (C = 3)
    maxpool  3x3, stride 2          56
    layer1   2 blocks of 64         56     147,968
    layer2   2 blocks of 128        28     525,568
    layer3   2 blocks of 256        14   2,099,712
    layer4   2 blocks of 512         7   8,393,728
    fc       512 -> 1000                   513,000    together 11,689,512

Names and order are those of torchvision's ``resnet18``, whose weights therefore fit.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from sdoml_dist.errors import UsageError

FEATURES = 512
"""Length of the features."""
# Mean and standard deviation of the red, green and blue of ImageNet in 0..1, which torchvision's weights were trained on
# (torchvision, "Models and pre-trained weights").
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WIDTHS = (64, 128, 256, 512)
_BLOCKS = 2


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added; its own 1x1 convolution where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of shape (B, outputs, S / stride, S / stride)."""
        changed = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        kept = x if self.downsample is None else self.downsample(x)
        return functional.relu(changed + kept)


class ResNet18(nn.Module):
    """The network of 18 layers with weights.

    Weights are drawn from torch's global generator: normal with variance 2 / (filters x kernel area), after He et al.
    2015, biases of normalisations 0.

    Parameters
    ----------
    channels : int
        Channels of the images; 3 for published weights.
    classes : int or None
        Scores of the last layer; None leaves it away, the network then returns features.
    """

    def __init__(self, channels: int = 3, classes: int | None = 1000) -> None:
        super().__init__()
        if channels < 1 or (classes is not None and classes < 1):
            raise UsageError(f"A network of {channels} channels and {classes} classes cannot be made.")
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, _WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        inputs = _WIDTHS[0]
        for number, width in enumerate(_WIDTHS, 1):
            blocks = [Block(inputs if first else width, width, 2 if first and number > 1 else 1) for first in (1, 0)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inputs = width
        self.fc: nn.Module = nn.Identity() if classes is None else nn.Linear(FEATURES, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor) -> Tensor:
        """Return the maps of the last block, shape (B, 512, S / 32, S / 32)."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for number in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    def features(self, x: Tensor) -> Tensor:
        """Return the values of the penultimate layer, shape (B, 512)."""
        return self.maps(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of classes, shape (B, K), or features where there are no classes."""
        scores: Tensor = self.fc(self.features(x))
        return scores


class FeatureNetwork:
    """ResNet-18 that is not trained here and gives features of images.

    The baseline of Brown et al. 2022 ("Learning the solar latent space") is the penultimate layer of a pretrained ResNet
    on 211 angstrom images; which ResNet, and how its images were scaled, the paper does not say. With weights, images of
    one channel are repeated to three and normalised by mean and standard deviation of ImageNet, which such weights
    expect. Without weights the network is random and says so in its name: a baseline of random features, not the
    published one.

    Parameters
    ----------
    weights : path, optional
        State dictionary of torchvision's ``resnet18``, as ``.safetensors`` or as written by ``torch.save`` (read without
        running code). The last layer is not needed.
    channels : int
        Channels of the images; 1 or 3 with weights.
    seed : int
        Seed of the random network.
    device : str or torch.device
        Where it runs.

    Attributes
    ----------
    name : str
        What gives the features; goes into tables.

    Raises
    ------
    UsageError
        If the weights do not fit.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        channels: int = 1,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if weights is not None and channels not in (1, 3):
            raise UsageError(f"Published weights need 1 or 3 channels, not {channels}.")
        self.channels, self.pretrained = channels, weights is not None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = ResNet18(3 if self.pretrained else channels, classes=None)
        if weights is None:
            self.name = f"ResNet-18, random features (seed {seed})"
        else:
            path = Path(weights)
            load_torchvision(self.network, path)
            self.name = f"ResNet-18, weights {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        self.network.to(device).eval().requires_grad_(False)
        self._device = device
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def prepared(self, x: Tensor) -> Tensor:
        """Return images as the network takes them.

        Parameters
        ----------
        x : Tensor
            Images, shape (B, C, S, S), in 0..1: intensities must be stretched and clipped before.

        Raises
        ------
        UsageError
            If shape or range do not fit.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise UsageError(f"Images of shape (B, {self.channels}, S, S) are expected, not {tuple(x.shape)}.")
        x = x.to(self._device, torch.float32)
        # A comparison with NaN is false, so that missing pixels are refused too.
        if x.numel() and not bool(((x >= 0) & (x <= 1)).all()):
            raise UsageError(
                "Images must be in 0..1 without missing pixels.", hint="Stretch and clip intensities first."
            )
        return (x.expand(-1, 3, -1, -1) - self._mean) / self._std if self.pretrained else x

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return features of images in 0..1, shape (B, 512)."""
        return self.network.features(self.prepared(x))


def load_torchvision(network: ResNet18, path: str | Path) -> None:
    """Load a state dictionary of torchvision's ``resnet18`` into the network, whole or not at all.

    Parameters
    ----------
    network : ResNet18
        The network; without classes it does without the last layer of the file.
    path : path
        ``.safetensors``, or a file of ``torch.save`` with the dictionary itself or under ``state_dict``; read with
        ``weights_only``, which runs no code.

    Raises
    ------
    UsageError
        If the file is no such dictionary, or its names or shapes are not those of the network.
    """
    path = Path(path)
    try:
        read: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError as error:
        raise UsageError(f"There is no file of weights at {path}.") from error
    except Exception as error:
        raise UsageError(f"{path} cannot be read as weights: {error}") from error
    state = read.get("state_dict", read) if isinstance(read, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{path} holds no dictionary of tensors.")
    if isinstance(network.fc, nn.Identity):
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    own = network.state_dict()
    # Weights from before 2018 have no counters of batches, which only training needs.
    absent = sorted(name for name in own.keys() - state.keys() if not name.endswith("num_batches_tracked"))
    unknown = sorted(state.keys() - own.keys())
    other = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if absent or unknown or other:
        faults = (("absent", absent), ("unknown", unknown), ("of another shape", other))
        raise UsageError(
            f"The weights of {path} are not those of this ResNet-18: "
            + "; ".join(f"{what}: {len(names)} ({', '.join(names[:3])})" for what, names in faults if names)
        )
    network.load_state_dict(own | state)
