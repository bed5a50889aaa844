"""Stage `denoiser`: learn to draw latents from captions; the text encoder learns along."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from stablerep_hf.errors import InputError

from . import checkpoint, machine, principal, words
from .captioned import CaptionedPictures
from .world import Denoiser, World

LEVELS = 1000
NOISE: dict[str, dict[str, Any]] = {
    "v_prediction": {
        "num_train_timesteps": LEVELS,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,  # the last step is pure noise: empty white must be learned, not inherited
        "timestep_spacing": "trailing",
        "steps_offset": 1,
    },
    # A straight line from picture to noise (Lipman et al. 2023, Liu et al. 2023).
    "flow": {
        "num_train_timesteps": LEVELS,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "steps_offset": 1,
    },
}


def new_unet(world: World) -> UNet2DConditionModel:
    """A UNet on the latents."""
    settings = world.denoiser
    pooled = {
        "resnet_time_scale_shift": "scale_shift",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": settings.heads,
    }
    return UNet2DConditionModel(
        sample_size=world.image_size // 2 ** (len(world.autoencoder.widths) - 1),
        in_channels=world.autoencoder.latent_channels,
        out_channels=world.autoencoder.latent_channels,
        block_out_channels=settings.widths,
        layers_per_block=1,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in settings.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(settings.attention)),
        cross_attention_dim=world.text.width,
        attention_head_dim=settings.heads,  # diffusers reads this as the number of heads
        norm_num_groups=settings.norm_groups,
        use_linear_projection=True,
        **(pooled if settings.pooled_text else {}),
    )


def signal_and_noise(settings: Denoiser) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much the picture and the noise are multiplied at each level: two of (1000,)."""
    if settings.objective == "flow":
        noise = torch.arange(LEVELS) / LEVELS
        return 1 - noise, noise
    schedule = {k: v for k, v in NOISE["v_prediction"].items() if k != "steps_offset"}
    signal = DDPMScheduler(**schedule).alphas_cumprod.sqrt()
    return signal, (1 - signal**2).clamp_min(0).sqrt()


def noise_levels(settings: Denoiser, count: int) -> torch.Tensor:
    """Timesteps (count,): mostly the middle, where the caption decides what is drawn, sometimes any."""
    middle = torch.sigmoid(torch.randn(count) * settings.noise_spread + settings.noise_mean)
    share = torch.where(torch.rand(count) < settings.noise_uniform, torch.rand(count), middle)
    return (share * LEVELS).long().clamp_(0, LEVELS - 1)


def cached_latents(world: World, pictures: CaptionedPictures, vae: AutoencoderKL, path: Path) -> torch.Tensor:
    """Latent means (2, N, C, H, W) of the training pictures, as they are and moved."""

    def encoded(x: torch.Tensor) -> torch.Tensor:
        if world.autoencoder.encoder == "principal":
            return principal.principal_latents(vae, x)
        with machine.autocast(world.precision):
            return vae.encode(x).latent_dist.mean.float()

    cached = checkpoint.load(path)
    if cached is None:
        vae = vae.to(machine.device())
        rng, parts = random.Random(0), []
        with torch.inference_mode():
            for part in pictures.pixels.split(64):
                both = (pictures.plain(part), pictures.moved(part, rng))
                parts.append(torch.stack([encoded(x.to(vae.device)).cpu() for x in both]))
        cached = {"latents": torch.cat(parts, dim=1)}
        checkpoint.save(path, cached)
        vae.cpu()
    return cached["latents"]


class Models:
    """Tokenizer, text encoder and UNet of a world, and the average of their weights.

    Args:
        world: What they are to be.
        tokenizer: Learned on the texts of the training pictures.
    """

    def __init__(self, world: World, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        torch.manual_seed(world.seed)
        self.text_encoder: CLIPTextModel = words.new_text_encoder(world.text, self.tokenizer)
        self.unet = new_unet(world).to(memory_format=torch.channels_last)
        for model in (self.text_encoder, self.unet):
            model.to(machine.device()).train()
        self.parameters = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.average = checkpoint.Average(self.parameters, world.denoiser.average_decay)

    def tokens(self, prompts: list[str]) -> torch.Tensor:
        """Ids (N, max_tokens) of prompts."""
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        return tokens.input_ids.to(machine.device())


def load_trained(world: World, work: Path) -> Models:
    """The models of the last checkpoint of a work folder, to draw with: only their average is loaded.

    Raises:
        InputError: There is no checkpoint yet.
    """
    state = checkpoint.load(work / "denoiser.pt")
    if state is None:
        raise InputError(f"{work} holds no checkpoint of a denoiser: train first.")
    models = Models(world, CLIPTokenizer.from_pretrained(work / "tokenizer"))
    models.average.load_state_dict(state["average"])
    return models


def train(
    world: World,
    pictures: CaptionedPictures,
    vae: AutoencoderKL,
    work: Path,
    minutes: float | None = None,
    look: Callable[[Models, int], None] | None = None,
) -> tuple[Models, bool]:
    """Train to the end, or for so many minutes; go on from the last checkpoint if there is one.

    Args:
        world: What to train.
        pictures: To learn from.
        vae: The finished autoencoder.
        work: Folder of the checkpoints and logs.
        minutes: None trains to the end.
        look: Called every `world.look_every` steps with the models and the step; leaves torch's generator alone.

    Returns:
        The models, and whether they are finished.
    """
    settings = world.denoiser
    latents = cached_latents(world, pictures, vae, work / "latents.pt")
    models = Models(world, words.cached_tokenizer(world.text, pictures, work / "tokenizer"))
    optimizer = torch.optim.AdamW(
        models.parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    torch.manual_seed(world.seed)
    run = checkpoint.Run(
        work / "denoiser.pt",
        {
            "unet": models.unet,
            "text_encoder": models.text_encoder,
            "optimizer": optimizer,
            "average": models.average,
        },
        world.shaping("denoiser") | {"pictures learned": len(pictures)},
        steps=settings.steps,
        save_seconds=world.save_seconds,
        minutes=minutes,
        seed=world.seed,
    )
    machine.compile_on_gpu(models.unet, models.text_encoder)
    if machine.device().type == "cpu" and world.precision == "bf16":
        models.unet.set_attn_processor(AttnProcessor())  # the fused kernel is slow there: a third of all time
    signal, noise_scale = signal_and_noise(settings)
    cumulated = torch.tensor(pictures.weights, dtype=torch.float64).cumsum(0).tolist()
    while run.goes_on:
        chosen = run.rng.choices(range(len(pictures)), cum_weights=cumulated, k=settings.batch_size)
        variant = [0 if run.rng.random() < settings.plain_share else 1 for _ in chosen]
        prompts = ["" if run.rng.random() < settings.caption_dropout else pictures.prompt(i, run.rng) for i in chosen]
        x = latents[variant, chosen]
        t = noise_levels(settings, settings.batch_size)
        a, b = signal[t][:, None, None, None], noise_scale[t][:, None, None, None]
        noise = torch.randn_like(x)
        goal = noise - x if settings.objective == "flow" else a * noise - b * x
        noisy = (a * x + b * noise).to(machine.device()).contiguous(memory_format=torch.channels_last)
        with machine.autocast(world.precision):
            hidden = models.text_encoder(models.tokens(prompts))[0]
            predicted = models.unet(noisy, t.to(noisy.device), hidden, return_dict=False)[0]
        loss = F.mse_loss(predicted.float(), goal.to(noisy.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(models.parameters, 1.0)
        rate = checkpoint.learning_rate(settings.learning_rate, run.step, settings.steps, settings.hold)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        models.average.update(models.parameters, run.step)
        if run.advance(loss):
            run.save(samples=run.step * settings.batch_size, rate=rate, threads=torch.get_num_threads())
        if look is not None and run.step % world.look_every == 0:
            look(models, run.step)
    return models, run.step >= settings.steps
