"""Networks and losses of image translation: published sizes, and values that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdoml_dist.errors import UsageError
from sdoml_dist.models.translation import PatchDiscriminator, ResidualGenerator, UNetGenerator, repetitions
from sdoml_dist.models.translation_loss import (
    adversarial_loss,
    correlation_loss,
    feature_loss,
    masked_l1,
    split_features,
)


def parameters(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def test_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        assert parameters(UNetGenerator(size=1024)) == 79_578_305
        assert parameters(UNetGenerator(size=512)) == 66_993_345
        assert parameters(UNetGenerator(size=256)) == 54_408_385
        assert parameters(PatchDiscriminator(learned=True)) == 2_765_505
        assert parameters(ResidualGenerator(3)) == 45_617_729
        assert parameters(PatchDiscriminator(3, scales=2)) == 5_531_522
        assert parameters(ResidualGenerator(7, style="pix2pixcc", filters=40, stages=5)) == 302_564_081
        assert parameters(ResidualGenerator(3, style="pix2pixcc", filters=64, stages=4)) == 193_578_113
        assert repetitions(7, 1) == 10
        assert parameters(PatchDiscriminator(7, filters=40, repeat=repetitions(7, 1))) == 1_091_801
    with pytest.raises(UsageError, match="power of two"):
        UNetGenerator(size=96)
    with pytest.raises(UsageError, match="pix2pixcc"):
        ResidualGenerator(style="pix2pix")


def test_an_image_does_not_depend_on_its_batch_and_dropout_on_its_generator_alone() -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 2, 32, 32)
    for network in (UNetGenerator(2, 1, 32, 4), ResidualGenerator(2, filters=4, stages=2, blocks=1)):
        whole = network(x)
        assert whole.shape == (3, 1, 32, 32)
        torch.testing.assert_close(whole[1:2], network(x[1:2]))
    unet = UNetGenerator(2, 1, 32, 4)
    first, again, other = (unet(x, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, unet(x))
    judge = PatchDiscriminator(2, filters=4, scales=2)
    sides = [
        [one.shape[-1] for one in maps] for maps in judge(torch.zeros(1, 2, 128, 128), torch.zeros(1, 1, 128, 128))
    ]
    assert sides == [[64, 32, 16, 15, 14], [32, 16, 8, 7, 6]]
    # Every logit of the patch discriminator sees 70 pixels (Isola et al. 2017).
    plain = nn.Sequential(*(layer for stage in PatchDiscriminator(1, 1, 4).scales[0][:-1] for layer in stage  # type: ignore
                            if not isinstance(layer, nn.InstanceNorm2d)), PatchDiscriminator(1, 1, 4).scales[0][-1])  # type: ignore  # fmt: skip
    picture = torch.zeros(1, 2, 256, 256, requires_grad=True)
    plain(picture)[0, 0, 15, 15].backward()
    assert picture.grad is not None
    assert int((picture.grad.abs().sum((0, 1, 2)) > 0).sum()) == 70


def test_losses_have_their_closed_forms() -> None:
    zeros = [[torch.zeros(2, 4, 3, 3), torch.zeros(2, 1, 2, 2)], [torch.ones(2, 4, 2, 2), torch.zeros(2, 1, 2, 2)]]
    assert float(adversarial_loss(zeros, True, "bce")) == pytest.approx(0.693147, abs=1e-5)
    assert float(adversarial_loss(zeros, True, "least-squares")) == 1.0
    assert float(adversarial_loss(zeros, False, "least-squares")) == 0.0
    # Feature matching counts every scale once: distances 3 and 1 give their mean, 2, not (3 + 3 + 1) / 2.
    others = [
        [torch.full((2, 4, 3, 3), 3.0), torch.ones(2, 1, 2, 2)],
        [torch.zeros(2, 4, 2, 2), torch.ones(2, 1, 2, 2)],
    ]
    assert float(feature_loss(zeros, others)) == pytest.approx(2.0)
    true, made = split_features([[torch.arange(4.0)[:, None]]])
    assert true[0][0].flatten().tolist() == [0, 1]
    assert made[0][0].flatten().tolist() == [2, 3]
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    mask[..., :5, :] = True
    assert float(masked_l1(image + 2 * mask + 100 * ~mask, image, mask)) == pytest.approx(2.0, abs=1e-5)
    assert float(correlation_loss(image, image)) == pytest.approx(0.0, abs=1e-5)
    assert float(correlation_loss(3 * image + 1, image, concordance=False)) == pytest.approx(0.0, abs=1e-4)
    # Lin's concordance of x and 3x + 1: 2 * 3 v / (10 v + (2 m + 1)^2).
    v, m = image.var((2, 3), correction=0), image.mean((2, 3))
    expected = 1 - (6 * v / (10 * v + (2 * m + 1) ** 2)).mean()
    assert float(correlation_loss(3 * image + 1, image, 1)) == pytest.approx(float(expected), abs=1e-5)
    assert float(correlation_loss(torch.zeros_like(image), image)) == pytest.approx(1.0, abs=1e-5)
