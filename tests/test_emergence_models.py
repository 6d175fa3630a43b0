"""Networks of the emergence forecast: published sizes and layouts, and what missing values and neighbours do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdoml_dist.models.emergence import SpatioTemporalAttention, SpatioTemporalResNet, TileLSTM
from sdoml_dist.models.emergence_change import Averages, ChangeNetwork, LinearSums


def parameters(model: nn.Module) -> int:
    return sum(values.numel() for values in model.parameters())


def inputs(batch: int = 2, steps: int = 120, channels: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, steps, channels, 63, generator=torch.Generator().manual_seed(seed))


def test_published_numbers_of_parameters() -> None:
    assert parameters(SpatioTemporalAttention()) == 200_385
    assert parameters(TileLSTM()) == 184_641
    # torchvision's r3d_18 has 33,371,472 with 3 channels and 400 classes.
    resnet = SpatioTemporalResNet()
    stem, head = 64 * 147, 513
    assert parameters(resnet) == 33_371_472 + (5 - 3) * stem + (63 - 400) * head
    first = resnet.stem[0]
    assert (first.kernel_size, first.stride, first.padding) == ((3, 7, 7), (1, 2, 2), (1, 3, 3))
    assert first.bias is None
    assert {"stem.0.weight", "layer1.0.conv1.0.weight", "layer2.0.downsample.1.running_var", "fc.bias"} <= set(
        resnet.state_dict()
    )


@torch.no_grad()
def test_each_network_makes_an_intensity_per_tile() -> None:
    torch.manual_seed(0)
    x = inputs(steps=24)
    for model in (SpatioTemporalAttention(), TileLSTM(), SpatioTemporalResNet(widths=(8, 8, 16, 16))):
        assert model.eval()(x).shape == (2, 63)
    change = ChangeNetwork(Averages(24, 12), 5)
    assert change(x).shape == (2, 63)
    assert not change(x).any()  # before anything is learned it is persistence


@torch.no_grad()
def test_attention_looks_at_time_then_at_tiles() -> None:
    torch.manual_seed(0)
    model = SpatioTemporalAttention().eval()
    x = inputs(1, 12)
    there = model(x)
    other = x.clone()
    other[:, 3, 2, 40] += 5.0
    changed = (model(other) - there).abs()[0]
    assert changed[40] > 10 * changed.median()
    assert (changed > 0).all()  # through the attention over tiles
    # Times and tiles have places: their order matters.
    assert (model(x.flip(1)) - there).abs().max() > 1e-3
    assert (model(x.flip(3)).flip(1) - there).abs().max() > 1e-3


@torch.no_grad()
def test_the_lstm_takes_tiles_one_by_one() -> None:
    torch.manual_seed(0)
    model = TileLSTM(steps=3).eval()
    x = inputs(1, 10)
    steps = model.sequence(x)
    assert steps.shape == (1, 3, 63)
    torch.testing.assert_close(model(x), steps[:, -1])
    torch.testing.assert_close(model(x[..., 7:8]), steps[:, -1, 7:8])
    # The decoder's input is what it gave out before, zeros at first.
    tile = x[:, :, :, 7]
    _, state = model.encoder(tile)
    fed = torch.zeros(1, 1, 64)
    for step in range(3):
        fed, state = model.decoder(fed, state)
        torch.testing.assert_close(model.fc(fed)[:, 0, 0], steps[:, step, 7])


@torch.no_grad()
def test_the_resnet_sees_a_picture_one_tile_high() -> None:
    torch.manual_seed(0)
    model = SpatioTemporalResNet(widths=(8, 8, 16, 16)).eval()
    x = inputs(1, 16)
    seen = model.stem(x.transpose(1, 2).unsqueeze(3))
    assert seen.shape == (1, 8, 16, 1, 32)


def test_averages_are_of_what_was_observed() -> None:
    averages = Averages(30, 12, lengths=(1, 6, 24))
    model = ChangeNetwork(averages, 1, layers=0)
    x = torch.zeros(1, 30, 1, 63)
    x[0, :, 0, 30] = torch.arange(30.0)  # row 3, column 3
    found = model.features(x)[0]
    # Two windows a day and two days before the target (steps 17 and -7), then the running means.
    assert found[30, 0] == pytest.approx(17.0)
    assert found[30, 2:5].tolist() == pytest.approx([29.0, 26.5, 17.5])
    assert found[30, 1] == pytest.approx(17.5)  # two days before there is nothing: the longest stands for it
    assert found[31, 5 + 2] == pytest.approx(29 / 4)
    assert found[40, 10 + 2] == pytest.approx(29 / 4)  # row 4, column 4
    assert found[62, 15 + 2] == pytest.approx(29 / 63)
    assert found[30, 20 + 30] == 1.0
    assert found[30, 20:].sum() == 1.0
    x[0, 27:, 0, 30] = torch.nan
    gap = model.features(x)[0, 30]
    assert gap[3] == pytest.approx((24 + 25 + 26) / 3)
    assert gap[2] == pytest.approx(sum(range(6, 27)) / 21)  # the last step is missing
    x[0, :, 0, 30] = torch.nan
    assert torch.isfinite(model.features(x)).all()


def test_the_linear_part_is_the_weighted_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 4, generator=generator) * torch.tensor([1.0, 5.0, 0.0, 0.1]) + 3.0
    target = 2.0 * x[:, 0] - 0.3 * x[:, 1] + 7.0
    target[250:] += 100.0
    weight = torch.ones(500)
    weight[250:] = 0.0
    whole, parts = LinearSums(4), LinearSums(4)
    whole.add(x, target, weight)
    for some in torch.arange(500).split(123):
        parts.add(x[some], target[some], weight[some])
    torch.testing.assert_close(whole.products, parts.products)
    mean, scale, weights, constant = whole.solve(1e-6)
    made = ((x.double() - mean) / scale) @ weights + constant
    torch.testing.assert_close(made[:250], target[:250].double(), atol=1e-3, rtol=0)
    assert weights[2] == 0
    shrunk = whole.solve(1e6)[2]
    assert shrunk.abs().max() < 1e-2
