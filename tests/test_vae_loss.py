"""Losses of the sigma-VAE and the beta-VAE against their closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sdoml_dist.models import vae_loss
from sdoml_dist.models.sigma_vae import SigmaVAE, VAEOutput
from sdoml_dist.models.vae_loss import beta_vae_loss, optimal_log_sigma, sigma_vae_loss, squared_errors

B, C, Y, Z = 3, 2, 4, 5
D = C * Y * Y


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _case(log_sigma: Any = None, seed: int = 0) -> tuple[VAEOutput, torch.Tensor]:
    """Return an output of a network and its target in float64; all of it wants gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sigma = None if log_sigma is None else torch.tensor(log_sigma, dtype=torch.float64, requires_grad=True)
    reconstruction, mean, log_variance = (draw(*shape).requires_grad_() for shape in ((B, C, Y, Y), (B, Z), (B, Z)))
    return VAEOutput(reconstruction, mean, log_variance, mean, sigma), draw(B, C, Y, Y)


def test_kl_is_that_of_normal_distributions() -> None:
    output, _ = _case()
    expected = kl_divergence(Normal(output.mean, output.log_variance.exp().sqrt()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(vae_loss.kl_divergence(output.mean, output.log_variance), expected)
    # By hand: a mean of 2 and a variance of 1 give 2^2 / 2; the prior itself gives 0.
    assert vae_loss.kl_divergence(torch.tensor([[2.0]]), torch.tensor([[0.0]])).tolist() == [2.0]
    assert vae_loss.kl_divergence(torch.zeros(1, 9), torch.zeros(1, 9)).tolist() == [0.0]
    (gradient,) = torch.autograd.grad(expected.sum(), output.log_variance)
    torch.testing.assert_close(gradient, 0.5 * (output.log_variance.exp() - 1))  # its derivative in closed form


def test_learned_sigma_is_equation_2() -> None:
    output, target = _case(0.3)
    terms = sigma_vae_loss(output, target)
    mse = (target - output.reconstruction).square().mean((1, 2, 3))
    kl = vae_loss.kl_divergence(output.mean, output.log_variance)
    expected = (kl + D / (2 * math.exp(0.3) ** 2) * mse + D * 0.3).mean()
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["loss"], terms["kl"] + terms["reconstruction"])
    assert float(terms["mse"]) == pytest.approx(mse.mean().item())
    assert float(terms["valid"]) == 1
    assert float(terms["log_sigma"]) == pytest.approx(0.3)
    assert all(value.ndim == 0 for value in terms.values())
    # It is the Gaussian likelihood of all elements but for the constant.
    likelihood = -Normal(output.reconstruction, math.exp(0.3)).log_prob(target).sum() / B
    assert terms["reconstruction"].item() == pytest.approx(likelihood.item() - D / 2 * math.log(2 * math.pi))


def test_gradient_of_sigma_vanishes_where_sigma_squared_is_the_mse() -> None:
    _, target = _case()
    mse = (target - _case()[0].reconstruction).square().mean().item()
    for factor, sign in ((1.0, 0), (1.1, 1), (0.9, -1)):
        output, _ = _case(0.5 * math.log(mse) + math.log(factor))
        sigma_vae_loss(output, target)["loss"].backward()
        assert output.log_sigma is not None
        gradient = output.log_sigma.grad
        assert gradient is not None
        assert round(gradient.item(), 9) == pytest.approx(D * (1 - factor**-2))
        assert math.copysign(1, gradient) == sign or sign == 0


def test_optimal_sigma_has_its_closed_form_and_the_gradients_of_a_learned_one() -> None:
    output, target = _case()
    mse = (target - output.reconstruction).square().mean()
    optimal = sigma_vae_loss(output, target, sigma="optimal", floor=None)
    torch.testing.assert_close(optimal["loss"], optimal["kl"] + D / 2 + D / 2 * mse.log())
    (gradient,) = torch.autograd.grad(optimal["loss"], output.reconstruction)
    learned = sigma_vae_loss(output._replace(log_sigma=(0.5 * mse.log()).detach()), target)
    torch.testing.assert_close(torch.autograd.grad(learned["loss"], output.reconstruction)[0], gradient)
    # No other sigma is better.
    for step in (-0.1, 0.1):
        worse = sigma_vae_loss(output._replace(log_sigma=(0.5 * mse.log()).detach() + step), target)
        assert worse["loss"] > optimal["loss"]


def test_sigma_per_channel_sums_over_channels() -> None:
    output, target = _case([0.2, -0.4])
    terms = sigma_vae_loss(output, target)
    mse = (target - output.reconstruction).square().mean((2, 3))
    expected = sum(
        Y * Y * (mse[:, place] / (2 * math.exp(2 * value)) + value) for place, value in enumerate([0.2, -0.4])
    )
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(terms["reconstruction"], expected.mean())
    sums = squared_errors(target, output.reconstruction)
    best = optimal_log_sigma(*sums, per_channel=True, floor=None)
    torch.testing.assert_close(best, 0.5 * mse.mean(0).log())
    torch.testing.assert_close(optimal_log_sigma(*sums, floor=None), 0.5 * mse.mean().log())
    each = sigma_vae_loss(output, target, sigma="optimal-channel", floor=None)["loss"]
    assert each <= sigma_vae_loss(output, target, sigma="optimal", floor=None)["loss"]


def test_beta_vae_is_its_formula() -> None:
    output, target = _case()
    terms = beta_vae_loss(output, target, beta=4.0)
    mse = (target - output.reconstruction).square().mean()
    torch.testing.assert_close(terms["loss"], 4 * terms["kl"] + D / 2 * mse)
    # With beta 1 and sigma 1 both losses are one.
    unit = output._replace(log_sigma=torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(beta_vae_loss(output, target)["loss"], sigma_vae_loss(unit, target)["loss"])


LOSSES: list[Any] = [
    lambda output, target, mask=None: sigma_vae_loss(output, target, mask=mask),
    lambda output, target, mask=None: sigma_vae_loss(output, target, mask=mask, sigma="optimal"),
    lambda output, target, mask=None: sigma_vae_loss(output, target, mask=mask, sigma="optimal-channel"),
    lambda output, target, mask=None: beta_vae_loss(output, target, mask=mask),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_full_mask_is_no_mask(loss: Any) -> None:
    output, target = _case([0.1, 0.2])
    plain = loss(output, target)
    for mask in (torch.ones(B, C, Y, Y, dtype=torch.bool), torch.ones(B, 1, 1, Y)):
        for name, value in loss(output, target, mask).items():
            torch.testing.assert_close(value, plain[name])


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_behind_the_mask_reaches_neither_loss_nor_gradient(loss: Any) -> None:
    output, target = _case([0.1, 0.2])
    mask = torch.rand(B, C, Y, Y, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[0] = False  # an image without any data
    terms = loss(output, torch.where(mask, target, torch.nan), mask)
    other = loss(output, torch.where(mask, target, 1e6), mask)
    assert all(torch.equal(value, other[name]) and value.isfinite() for name, value in terms.items())
    assert float(terms["valid"]) == pytest.approx(float(mask.double().mean()))
    terms["loss"].backward()
    gradient = output.reconstruction.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).all()


def test_masked_image_is_the_smaller_image() -> None:
    # Masking the lower half away is the same as never having had it: D counts valid elements.
    output, target = _case(0.3)
    mask = torch.zeros(1, 1, Y, 1, dtype=torch.bool)
    mask[:, :, : Y // 2] = True
    half = output._replace(reconstruction=output.reconstruction[:, :, : Y // 2])
    for sigma in ("learned", "optimal"):
        masked = sigma_vae_loss(output, target, mask=mask, sigma=sigma)
        cut = sigma_vae_loss(half, target[:, :, : Y // 2], sigma=sigma)
        torch.testing.assert_close(masked["loss"], cut["loss"])
        torch.testing.assert_close(masked["mse"], cut["mse"])


def test_weights_count_as_parts_of_pixels() -> None:
    target, reconstruction = torch.tensor([[[[3.0, 5.0]]]]), torch.tensor([[[[1.0, 1.0]]]])
    errors, valid = squared_errors(target, reconstruction, torch.tensor([1.0, 0.25]))
    assert (errors.item(), valid.item()) == (4 + 16 / 4, 1.25)


def test_perfect_reconstruction_keeps_everything_finite() -> None:
    output, _ = _case()
    target = output.reconstruction.detach().clone()
    terms = sigma_vae_loss(output, target, sigma="optimal")
    terms["loss"].backward()
    assert float(terms["log_sigma"]) == pytest.approx(-6)
    assert output.reconstruction.grad is not None
    assert output.reconstruction.grad.isfinite().all()


def test_half_precision_is_summed_in_single() -> None:
    # 8192 errors of 10: a sum of 819200 is beyond float16 (65504).
    target = torch.full((1, 2, 64, 64), 10.0, dtype=torch.float16)
    errors, valid = squared_errors(target, torch.zeros_like(target))
    assert (errors.tolist(), valid.tolist()) == ([[409600.0] * 2], [[4096.0] * 2])
    assert errors.dtype == torch.float32


def test_wrong_use_is_refused() -> None:
    output, target = _case()
    with pytest.raises(ValueError, match="no sigma of its own"):
        sigma_vae_loss(output, target)
    with pytest.raises(ValueError, match="differ in shape"):
        beta_vae_loss(output, target[:1])


def test_sigma_learns_the_noise_of_the_data() -> None:
    # Noise of 0.5 that no network can explain: with everything else fixed the learned sigma ends at 0.5.
    torch.manual_seed(0)
    model = SigmaVAE(channels=1, latent=2, narrowing=32)
    target = 0.5 * torch.randn(4, 1, 128, 128, generator=torch.Generator().manual_seed(1))
    blank = VAEOutput(torch.zeros_like(target), torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 2), None)
    assert model.free_log_sigma is not None
    optimizer = torch.optim.Adam([model.free_log_sigma], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        sigma_vae_loss(blank._replace(log_sigma=model.log_sigma), target)["loss"].backward()
        optimizer.step()
    assert model.log_sigma is not None
    assert math.exp(model.log_sigma.item()) == pytest.approx(float(target.square().mean().sqrt()), rel=2e-3)


def test_training_lowers_the_loss_of_a_tiny_network() -> None:
    torch.manual_seed(0)
    model = SigmaVAE(channels=2, latent=4, narrowing=32)
    ramp = torch.linspace(-1, 1, 128)
    x = torch.stack(
        [torch.stack([ramp.outer(ramp) * sign, (ramp + ramp[:, None]) * sign]) for sign in (1.0, -1.0, 0.5, -0.5)]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        optimizer.zero_grad()
        terms = sigma_vae_loss(model(x, torch.Generator().manual_seed(step)), x)
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.7 * losses[0]
