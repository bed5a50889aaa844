"""Stage `vae`: pictures of 32 pixels to 8 x 8 x 8 latents and back."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from . import checkpoint, pictures

LATENT_CHANNELS = 8
KL_WEIGHT = 5e-5
LEARNING_RATE = 1.2e-3
BATCH = 16


def new_autoencoder() -> AutoencoderKL:
    """An AutoencoderKL with factor 4 and 8 latent channels (0.93 M parameters)."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=pictures.IMAGE_SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # the latents are normalised inside the quant convolutions, see `normalise`
    )


def psnr(vae: AutoencoderKL, pixels: torch.Tensor) -> float:
    """Mean PSNR in dB over pictures (uint8 (N, 3, 64, 64)) at 32 pixels, values in [0, 1], through the latent mean."""
    values = []
    with torch.inference_mode():
        for part in pixels.split(128):
            x = pictures.to_small(part)
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            values.append(-10 * torch.log10((((x - y) / 2) ** 2).mean((1, 2, 3)).clamp_min(1e-10)))
    return float(torch.cat(values).mean())


def normalise(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    """Give each latent channel zero mean and unit variance, by folding the affine map into the quant convolutions.

    A `StableDiffusionPipeline` knows one scaling factor only; this way it needs none.
    """
    with torch.no_grad():
        means = torch.cat([vae.encode(pictures.to_small(p)).latent_dist.mean for p in pixels.split(256)])
        shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
        out = vae.quant_conv
        out.weight[:LATENT_CHANNELS] /= scale[:, None, None, None]
        out.bias[:LATENT_CHANNELS] = (out.bias[:LATENT_CHANNELS] - shift) / scale
        out.bias[LATENT_CHANNELS:] -= 2 * scale.log()  # the other half is the log-variance
        back = vae.post_quant_conv
        back.bias += torch.einsum("oi,i->o", back.weight[:, :, 0, 0], shift)
        back.weight *= scale[None, :, None, None]


def train(assets: Path, work: Path, minutes: float, seed: int = 0) -> None:
    """Train until the budget is spent; go on from the last checkpoint if there is one."""
    path, journal = work / "vae.pt", work / "vae.jsonl"
    torch.manual_seed(seed)
    vae = new_autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    state = checkpoint.load(path)
    step, spent = 0, 0.0
    if state:
        vae.load_state_dict(state["vae"])
        if state["done"]:
            return
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    rng = random.Random(seed + step)
    pixels, _ = pictures.load_rows(assets, "train")
    held_out, _ = pictures.load_rows(assets, "held_out_concepts")
    probe = held_out[:: max(1, len(held_out) // 256)]  # watched, never trained on
    clock = checkpoint.Clock(minutes, spent)
    saved, losses = clock.seconds, []
    while clock.progress < 1:
        x = pictures.augmented(pixels[torch.tensor(rng.choices(range(len(pixels)), k=BATCH))], rng)
        x = x.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        error = y - x
        # Edges carry a drawing: the differences between neighbours count besides the values.
        edges = F.l1_loss(y.diff(dim=2), x.diff(dim=2)) + F.l1_loss(y.diff(dim=3), x.diff(dim=3))
        loss = error.abs().mean() + 2 * error.square().mean() + 0.5 * edges
        loss = loss + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = clock.learning_rate(LEARNING_RATE, step)
        optimizer.step()
        step += 1
        losses.append(float(loss.detach()))
        if clock.seconds - saved > 60 or clock.progress >= 1:
            saved = clock.seconds
            checkpoint.log(
                journal,
                step=step,
                seconds=saved,
                samples=step * BATCH,
                loss=sum(losses) / len(losses),
                psnr_held_out=psnr(vae, probe),
                latent_std=posterior.std.mean().item(),
                latent_scale=posterior.mean.std().item(),
            )
            losses.clear()
            checkpoint.save(
                path,
                {
                    "vae": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "seconds": saved,
                    "done": False,
                },
            )
    normalise(vae, pixels)
    checkpoint.log(journal, step=step, seconds=clock.seconds, psnr_held_out=psnr(vae, held_out), split="whole")
    checkpoint.save(
        path,
        {
            "vae": vae.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": clock.seconds,
            "done": True,
        },
    )
