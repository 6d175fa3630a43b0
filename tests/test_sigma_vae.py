"""The sigma-VAE as published: layers, numbers of parameters, sizes of files, determinism."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.errors import UsageError
from sdoml_dist.models.sigma_vae import LOG_SIGMA_FLOOR, SIZES, SigmaVAE, soft_clip

# Table 1 of Brown et al. 2022, column "model size" in MiB, and the parameters that Table 2 leads to.
PUBLISHED = {256: (34_390_669, 131.1), 512: (40_682_637, 155.3), 1024: (53_266_573, 203.3), 2048: (78_434_445, 299.3)}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _meta(**options: Any) -> SigmaVAE:
    with torch.device("meta"):
        return SigmaVAE(**options)


def _small(**options: Any) -> SigmaVAE:
    torch.manual_seed(1)
    return SigmaVAE(**{"channels": 3, "latent": 5, "narrowing": 32} | options).eval()


class _Counter(io.RawIOBase):
    """A file that counts bytes instead of keeping them."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


@pytest.mark.parametrize("latent", PUBLISHED)
def test_parameters_are_those_of_the_closed_form(latent: int) -> None:
    # Weights of the convolutions by hand, layer by layer (Table 2): inputs x outputs x kernel^2.
    convolutions = 16 * (12 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 512) + 9 * 3 * 512 * 512
    filters = 64 + 128 + 256 + 5 * 512  # biases of the encoder
    mirrored = 5 * 512 - 512 + 512 + 256 + 128 + 64 - 64 - 512 + 64 + 12  # biases of the decoder: outputs of each layer
    assert mirrored == 4 * 512 + 256 + 128 + 64 + 12 == 2508
    norms = 2 * filters + 2 * (mirrored - 12)  # the last layer has none
    linear = 3 * 8192 * latent + 2 * latent + 8192
    assert 2 * convolutions == 28_073_984
    by_hand = 2 * convolutions + filters + mirrored + norms + linear + 1
    assert by_hand == PUBLISHED[latent][0]
    assert sum(weights.numel() for weights in _meta(latent=latent).parameters()) == by_hand


@pytest.mark.parametrize("latent", PUBLISHED)
def test_file_sizes_are_those_of_table_1(latent: int) -> None:
    counter = _Counter()
    torch.save(_meta(latent=latent).to_empty(device="cpu").state_dict(), counter)
    assert counter.size / 2**20 == pytest.approx(PUBLISHED[latent][1], rel=2e-3)


def test_layers_are_those_of_table_2() -> None:
    filters = (64, 128, 256, 512, 512, 512, 512, 512)
    kernels, strides = (4, 4, 4, 4, 4, 3, 3, 3), (2, 2, 1, 1, 1, 1, 2, 2)
    model = _meta()
    encoder = [layer for layer in model.encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in encoder] == list(filters)
    assert [layer.kernel_size for layer in encoder] == [(kernel, kernel) for kernel in kernels]
    assert [layer.stride for layer in encoder] == [(stride, stride) for stride in strides]
    decoder = [layer for layer in model.decoder.modules() if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in decoder] == [*filters[-2::-1], 12]
    assert [layer.kernel_size for layer in decoder] == [(kernel, kernel) for kernel in reversed(kernels)]
    assert [layer.stride for layer in decoder] == [(stride, stride) for stride in reversed(strides)]
    assert [layer.output_padding[0] for layer in decoder] == [0, 0, 0, 0, 0, 0, 1, 0]
    assert {layer.padding for layer in [*encoder, *decoder]} == {(0, 0)}
    # Sides of the maps, and normalisation and ReLU behind every convolution except the last.
    x, sides = torch.empty(1, 12, 128, 128, device="meta"), []
    for stage in model.encoder:
        assert [type(layer).__name__ for layer in stage] == ["Conv2d", "BatchNorm2d", "ReLU"]
        x = stage(x)
        sides.append(x.shape[-1])
    assert sides == [63, 30, 27, 24, 21, 19, 9, 4]
    for stage in model.decoder:
        x = stage(x)
        sides.append(x.shape[-1])
    assert sides[8:] == [9, 19, 21, 24, 27, 30, 63, 128]
    assert [len(stage) for stage in model.decoder] == [3, 3, 3, 3, 3, 3, 3, 1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("sigma", "shape"), [("shared", ()), ("channel", (12,)), ("none", None)])
def test_shapes_of_every_size(size: int, sigma: Any, shape: tuple[int, ...] | None) -> None:
    model = _meta(latent=7, size=size, sigma=sigma)
    output = model(torch.empty(2, 12, size, size, device="meta"), torch.Generator())
    assert output.reconstruction.shape == (2, 12, size, size)
    assert output.mean.shape == output.log_variance.shape == output.latent.shape == (2, 7)
    assert (None if output.log_sigma is None else output.log_sigma.shape) == shape
    assert model.sample(3, torch.Generator()).shape == (3, 12, size, size)
    assert (model.from_latent.out_features, model._folded) == (8192, (512, 4, 4))


def test_larger_sizes_only_add_stages_around_the_published_core() -> None:
    core = {name: weights.shape for name, weights in _meta().state_dict().items()}
    for size, extra in ((256, 1), (512, 2)):
        wider = {name: weights.shape for name, weights in _meta(size=size).state_dict().items()}
        for name, shape in core.items():
            part, _, rest = name.partition(".")
            # Only the outermost layers change: they take and give the 32 filters of the stem, not 12 channels.
            if part in ("encoder", "decoder") and name not in (
                "encoder.0.0.weight",
                "decoder.7.0.weight",
                "decoder.7.0.bias",
            ):
                place, _, what = rest.partition(".")
                assert wider[f"{part}.{int(place) + extra * (part == 'encoder')}.{what}"] == shape
            elif part not in ("encoder", "decoder"):
                assert wider[name] == shape
        assert wider[f"encoder.{extra}.0.weight"] == (64, 32, 4, 4)
        assert wider["encoder.0.0.weight"] == (32, 12, 4, 4)
        assert wider["decoder.7.0.weight"] == (64, 32, 4, 4)
        assert wider[f"decoder.{7 + extra}.0.weight"] == (32, 12, 4, 4)


def test_same_seed_same_bits() -> None:
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    first, second = _small(), _small()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    one = first(x, torch.Generator().manual_seed(3))
    two = second(x, torch.Generator().manual_seed(3))
    assert torch.equal(one.reconstruction, two.reconstruction)
    assert not torch.equal(one.latent, first(x, torch.Generator().manual_seed(4)).latent)
    sample = first.sample(2, torch.Generator().manual_seed(5))
    assert torch.equal(sample, second.sample(2, torch.Generator().manual_seed(5)))
    torch.manual_seed(9)
    drawn = first(x).latent
    torch.manual_seed(9)
    assert torch.equal(drawn, first(x).latent)


def test_latent_is_mean_plus_scaled_noise() -> None:
    model, x = _small(), torch.zeros(2, 3, 128, 128)
    output = model(x, torch.Generator().manual_seed(3))
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(3))
    expected = output.mean + noise * output.log_variance.exp().sqrt()
    torch.testing.assert_close(output.latent, expected)
    assert torch.equal(model.reconstruct(x), model.decode(output.mean))
    assert torch.equal(model.encode(x)[0], output.mean)
    # What a sample is: the decoded standard normal draw.
    assert torch.equal(model.sample(2, torch.Generator().manual_seed(3)), model.decode(noise))


def test_every_parameter_of_the_network_learns() -> None:
    model = _small(sigma="channel").train()
    output = model(torch.randn(2, 3, 128, 128))
    assert output.log_sigma is not None
    (output.reconstruction.square().sum() + output.log_variance.sum() + output.log_sigma.sum()).backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in model.parameters())


@settings(max_examples=50, deadline=None)
@given(st.floats(-50, 50))
def test_soft_clip_never_falls_below_its_floor(value: float) -> None:
    clipped = float(soft_clip(torch.tensor(value, dtype=torch.float64), LOG_SIGMA_FLOOR))
    # softplus by hand; PyTorch takes it as linear above 20.
    assert clipped == pytest.approx(LOG_SIGMA_FLOOR + math.log1p(math.exp(value - LOG_SIGMA_FLOOR)), abs=1e-8)
    assert clipped >= max(LOG_SIGMA_FLOOR, value - 1e-8)


def test_sigma_starts_near_one() -> None:
    # softplus(6) - 6 = log(1 + exp(-6)) = 0.0024757
    log_sigma = _small().log_sigma
    assert log_sigma is not None
    assert float(log_sigma.detach()) == pytest.approx(0.0024757, abs=1e-6)
    assert _small(sigma="none").log_sigma is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 100}, "100 pixels"),
        ({"sigma": "both"}, "both"),
        ({"channels": 0}, "0 channels"),
        ({"latent": 0}, "0 latent"),
        ({"narrowing": 3}, "narrowing: 3"),
    ],
)
def test_unknown_networks_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _small(**options)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\)"):
        _small().encode(torch.zeros(1, 3, 64, 64))
