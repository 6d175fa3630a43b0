"""ResNet-18 as a source of features: parameters by hand, shapes, what a block does, weights of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdoml_dist.errors import UsageError
from sdoml_dist.models.resnet import FEATURES, Block, FeatureNetwork, ResNet18, load_torchvision


def _parameters(module: torch.nn.Module) -> int:
    return sum(values.numel() for values in module.parameters())


def test_parameters_by_hand() -> None:
    network = ResNet18()
    # 7x7 x 3 x 64 and two per filter; layers: two 3x3 convolutions a block, a 1x1 one where the width doubles.
    expected = {"conv1": 9408, "bn1": 128, "layer1": 4 * (9 * 64 * 64 + 128), "fc": 512 * 1000 + 1000}
    for number, width in ((2, 128), (3, 256), (4, 512)):
        convolutions = 9 * width * width // 2 + 3 * 9 * width * width + width * width // 2
        expected[f"layer{number}"] = convolutions + 5 * 2 * width
    assert {name: _parameters(module) for name, module in network.named_children()} == expected
    assert _parameters(network) == sum(expected.values()) == 11_689_512
    assert _parameters(ResNet18(channels=1, classes=None)) == 11_689_512 - 513_000 - 2 * 49 * 64


def test_names_are_those_of_torchvision() -> None:
    state = ResNet18().state_dict()
    # 20 convolutions, each with a normalisation of 5 entries; the last layer has 2.
    assert len(state) == 20 + 20 * 5 + 2
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.1.conv2.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "layer4.1.bn2.bias": (512,),
        "fc.weight": (1000, 512),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert "layer1.0.downsample.0.weight" not in state


def test_sides_of_maps() -> None:
    network = ResNet18(channels=2, classes=5).eval()
    sides: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: sides.update({name: tuple(output.shape[1:])})

    for name, module in network.named_children():
        module.register_forward_hook(note(name))
    x = torch.rand(1, 2, 224, 224)
    with torch.no_grad():
        scores, features = network(x), network.features(x)
    assert sides["conv1"] == (64, 112, 112)
    assert [sides[f"layer{n}"] for n in (1, 2, 3, 4)] == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    assert features.shape == (1, FEATURES)
    torch.testing.assert_close(scores, features @ network.fc.weight.T + network.fc.bias)  # type: ignore[operator]


def test_block_adds_its_input() -> None:
    block = Block(4, 4, 1).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    torch.nn.init.constant_(block.bn2.bias, 0.25)
    x = torch.linspace(-1, 1, 2 * 4 * 9).reshape(2, 4, 3, 3)
    # The branch is 0.25 everywhere; the sum is cut at 0.
    torch.testing.assert_close(block(x), (x + 0.25).clamp(min=0))
    half = Block(4, 8, 2).eval()
    assert half(x).shape == (2, 8, 2, 2)


def test_random_features_say_so_and_repeat() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (FeatureNetwork(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "random" in one.name
    assert not one.pretrained
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    features = one(x)
    assert features.shape == (2, 512)
    assert torch.isfinite(features).all()
    assert not features.requires_grad
    assert torch.equal(features, same(x))
    assert not torch.equal(features, other(x))
    # Each image by itself: nothing is normalised over the batch.
    torch.testing.assert_close(features[1:], one(x[1:]), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def published() -> ResNet18:
    """Return a network whose running statistics are not those of a fresh one either."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(11)
        network = ResNet18()
        network.train()(torch.rand(2, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("form", ["safetensors", "plain", "nested", "before 2018"])
def test_weights_of_files(published: ResNet18, tmp_path: Path, form: str) -> None:
    state: dict[str, Any] = dict(published.state_dict())
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "before 2018":
        torch.save({name: value for name, value in state.items() if "num_batches" not in name}, path)
    else:
        torch.save({"state_dict": state} if form == "nested" else state, path)
    network = FeatureNetwork(path)
    assert "random" not in network.name
    x = torch.rand(1, 1, 64, 64)
    # One channel is repeated; red is (x - 0.485) / 0.229, green and blue likewise.
    channels = [(x - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    with torch.no_grad():
        expected = published.features(torch.cat(channels, dim=1))
    torch.testing.assert_close(network(x), expected)


def test_weights_that_do_not_fit(published: ResNet18, tmp_path: Path) -> None:
    good = dict(published.state_dict())
    network = ResNet18(classes=None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    bad: dict[str, Any] = {
        "absent: 1": {name: value for name, value in good.items() if name != "layer3.0.conv1.weight"},
        "unknown: 1": good | {"layer5.weight": torch.zeros(1)},
        "of another shape: 1": good | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
        "no dictionary of tensors": [1, 2],
    }
    path = tmp_path / "weights.pth"
    for message, state in bad.items():
        torch.save(state, path)
        with pytest.raises(UsageError, match=message):
            load_torchvision(network, path)
    path.write_bytes(b"no weights")
    with pytest.raises(UsageError, match="cannot be read"):
        load_torchvision(network, path)
    with pytest.raises(UsageError, match="no file"):
        load_torchvision(network, tmp_path / "absent.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_files_run_no_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"conv1.weight": Attack()}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="cannot be read"):
        load_torchvision(ResNet18(classes=None), tmp_path / "weights.pth")
    assert not (tmp_path / "touched").exists()


def test_images_that_do_not_fit() -> None:
    network = FeatureNetwork(channels=1)
    with pytest.raises(UsageError, match=r"0\.\.1"):
        network(torch.full((1, 1, 32, 32), 1.5))
    with pytest.raises(UsageError, match=r"0\.\.1"):
        network(torch.full((1, 1, 32, 32), torch.nan))
    with pytest.raises(UsageError, match=r"\(B, 1, S, S\)"):
        network(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UsageError, match="1 or 3"):
        FeatureNetwork("weights.pth", channels=12)
    with pytest.raises(UsageError, match="0 channels"):
        ResNet18(channels=0)
