"""The encoder in closed form of `scripts/embedded_generator/principal.py`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from embedded_generator import autoencoder, principal
from embedded_generator.world import World
from test_train_generator import TINY


def world(widths: list[int], channels: int) -> World:
    part = {"steps": 1, "widths": widths, "latent_channels": channels, "encoder": "principal"}
    return World.model_validate(TINY | {"sources": [{"data": "x"}], "autoencoder": part})


def smooth_pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.randn(48, 3, 8, 8, generator=generator), size=32, mode="bicubic")
    return (coarse + 0.1 * torch.randn(48, 3, 32, 32, generator=generator)).clamp(-1, 1)


@pytest.mark.parametrize(("widths", "channels"), [([32, 64, 64], 16), ([16, 48, 48], 8), ([16, 48, 96, 96], 24)])
def test_the_latents_are_the_principal_components_of_patches(widths: list[int], channels: int) -> None:
    x = smooth_pictures()
    vae = autoencoder.new_autoencoder(world(widths, channels))
    principal.set_principal_encoder(vae, x)
    patch = 2 ** (len(widths) - 1)
    weight, bias = principal.principal_components(x, patch, channels)
    expected = torch.einsum("nchw,kc->nkhw", F.pixel_unshuffle(x, patch), weight) + bias[:, None, None]
    latents = vae.encode(x).latent_dist
    torch.testing.assert_close(latents.mean, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(principal.principal_latents(vae, x), expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(vae.half().encode(x.half()).latent_dist.mean.float(), expected, atol=2e-2, rtol=2e-2)
    assert latents.std.mean().item() == pytest.approx(principal.NOISE, rel=1e-4)
    assert not any(p.requires_grad for p in vae.encoder.parameters())
    assert all(p.requires_grad for p in vae.decoder.parameters())


def test_the_components_are_uncorrelated_and_lose_the_least() -> None:
    x = smooth_pictures()
    weight, bias = principal.principal_components(x, 4, 16)
    patches = F.pixel_unshuffle(x, 4).movedim(1, -1).flatten(0, -2)
    components = patches @ weight.T + bias
    covariance = components.T @ components / len(components)
    variances = covariance.diagonal()
    assert (covariance - variances.diag()).abs().max() < 1e-3
    assert components.mean(0).abs().max() < 1e-4
    assert (variances.diff() <= 1e-5).all() and variances.sqrt().mean() > 0.5
    kept = patches @ torch.linalg.pinv(weight) @ weight  # projection onto the components
    singular = torch.linalg.svdvals(patches - patches.mean(0))
    lost = ((patches - patches.mean(0)) - (kept - kept.mean(0))).square().sum()
    torch.testing.assert_close(lost, singular[16:].square().sum(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("widths", "channels"), [([32, 64, 64], 12), ([8, 64, 64], 16), ([32, 32, 64], 16)])
def test_widths_that_cannot_hold_the_components_are_refused(widths: list[int], channels: int) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        world(widths, channels)
