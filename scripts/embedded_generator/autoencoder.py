"""Stage `autoencoder`: pictures to small latents and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from . import checkpoint, machine, principal
from .captioned import CaptionedPictures, HeldOut
from .world import World

PROBE = 256  # held-out pictures watched during training
NORMALISED_ON = 8192  # pictures at most


def new_autoencoder(world: World) -> AutoencoderKL:
    """An AutoencoderKL that halves the picture once for each width but the first."""
    settings = world.autoencoder
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(settings.widths),
        up_block_types=("UpDecoderBlock2D",) * len(settings.widths),
        block_out_channels=settings.widths,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=principal.GROUPS,
        sample_size=world.image_size,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # the latents are normalised inside the quant convolutions, see `normalise`
    )


def psnr(vae: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Mean PSNR in dB over pictures (float (N, 3, S, S) in [-1, 1]), values in [0, 1], through the latent mean."""
    values = []
    with torch.inference_mode():
        for part in pictures.split(128):
            x = part.to(vae.device)
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            values.append(-10 * torch.log10((((x - y) / 2) ** 2).mean((1, 2, 3)).clamp_min(1e-10)))
    return float(torch.cat(values).mean())


def normalise(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Give each latent channel zero mean and unit variance, by folding the affine map into the quant convolutions.

    A `StableDiffusionPipeline` knows one scaling factor only; this way it needs none.

    Args:
        vae: Changed in place.
        pictures: float (N, 3, S, S) in [-1, 1].
    """
    channels = vae.config.latent_channels
    with torch.no_grad():
        means = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mean for part in pictures.split(256)])
        shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
        out = vae.quant_conv
        out.weight[:channels] /= scale[:, None, None, None]
        out.bias[:channels] = (out.bias[:channels] - shift) / scale
        out.bias[channels:] -= 2 * scale.log()  # the other half is the log-variance
        back = vae.post_quant_conv
        back.bias += torch.einsum("oi,i->o", back.weight[:, :, 0, 0], shift)
        back.weight *= scale[None, :, None, None]


def load_finished(world: World, work: Path) -> AutoencoderKL | None:
    """The finished autoencoder of a work folder, on the CPU; None while it is trained."""
    state = checkpoint.load(work / "autoencoder-finished.pt")
    if state is None:
        return None
    vae = new_autoencoder(world)
    vae.load_state_dict(state["vae"])
    return vae.eval()


def train(
    world: World, pictures: CaptionedPictures, held_out: HeldOut | None, work: Path, minutes: float | None = None
) -> AutoencoderKL | None:
    """Train to the end, or for so many minutes; go on from the last checkpoint if there is one.

    Args:
        world: What to train.
        pictures: To learn from.
        held_out: Pictures that are watched, never trained on.
        work: Folder of the checkpoints and logs.
        minutes: None trains to the end.

    Returns:
        The finished autoencoder, or None where the minutes ended first.
    """
    finished = load_finished(world, work)
    if finished is not None:
        return finished
    settings = world.autoencoder
    torch.manual_seed(world.seed)
    vae = new_autoencoder(world)
    if settings.encoder == "principal":
        principal.set_principal_encoder(
            vae, pictures.plain(pictures.pixels[:: max(1, len(pictures) // NORMALISED_ON)])
        )
    vae.to(device=machine.device(), memory_format=torch.channels_last)
    learned = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    run = checkpoint.Run(
        work / "autoencoder.pt",
        {"vae": vae, "optimizer": optimizer},
        world.shaping("autoencoder"),
        steps=settings.steps,
        save_seconds=world.save_seconds,
        minutes=minutes,
        seed=world.seed,
    )
    probe = None if held_out is None else held_out.pictures[:: max(1, len(held_out.pictures) // PROBE)]
    machine.compile_on_gpu(vae.encoder, vae.decoder)
    while run.goes_on:
        chosen = torch.tensor(run.rng.choices(range(len(pictures)), k=settings.batch_size))
        x = pictures.augmented(pictures.pixels[chosen], run.rng)
        x = x.to(vae.device).contiguous(memory_format=torch.channels_last)
        with machine.autocast(world.precision):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample(torch.default_generator)).sample
        error = y.float() - x
        # Edges carry a picture: the differences between neighbours count besides the values.
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        loss = error.abs().mean() + 2 * error.square().mean() + 0.5 * edges
        loss = loss + settings.kl_weight * posterior.kl().float().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = checkpoint.learning_rate(settings.learning_rate, run.step, settings.steps)
        optimizer.step()
        if run.advance(loss):
            quality = {} if probe is None else {"psnr_held_out": psnr(vae, probe)}
            run.save(
                samples=run.step * settings.batch_size,
                latent_std=posterior.std.mean().item(),
                latent_scale=posterior.mean.std().item(),
                **quality,
            )
    if run.step < settings.steps:
        return None
    if settings.encoder == "learned":
        normalise(vae, pictures.plain(pictures.pixels[:: max(1, len(pictures) // NORMALISED_ON)]))
    if held_out is not None:
        whole = psnr(vae, held_out.pictures)
        checkpoint.log(run.journal, step=run.step, seconds=run.seconds, psnr_held_out=whole, split="whole")
    vae = vae.cpu()
    checkpoint.save(work / "autoencoder-finished.pt", {"vae": vae.state_dict()})
    return vae.eval()
