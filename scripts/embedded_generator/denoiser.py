"""Stage `unet`: learn to draw latents from captions; the text encoder learns along."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from . import autoencoder, checkpoint, pictures, words

BATCH = 64
LEARNING_RATE = 1e-3
HOLD = 0.7  # share of the budget at the peak learning rate, before it falls to zero
CAPTION_DROPOUT = 0.1  # empty prompts, so that guidance has something to push away from
EMA_DECAY = 0.998
PLAIN_SHARE = 0.8  # of the draws show the picture as it is, the others slightly moved
NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,  # the last step is pure noise: empty white must be learned, not inherited
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


def new_unet() -> UNet2DConditionModel:
    """Two levels (8 x 8 and 4 x 4), each attending to the words."""
    return UNet2DConditionModel(
        sample_size=pictures.IMAGE_SIZE // 4,
        in_channels=autoencoder.LATENT_CHANNELS,
        out_channels=autoencoder.LATENT_CHANNELS,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
        use_linear_projection=True,
    )


class Average:
    """Exponential moving average of parameters, with a short memory at the start."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.values = [p.detach().clone() for p in parameters]

    def update(self, parameters: Iterable[nn.Parameter], step: int) -> None:
        """Move towards the parameters."""
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)


def cached_latents(assets: Path, work: Path) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Latent means (2, N, 8, 8, 8) of the training pictures, as they are and slightly moved, and their rows."""
    pixels, rows = pictures.load_rows(assets, "train")
    path = work / "latents.pt"
    cached = checkpoint.load(path)
    if cached is None:
        state = checkpoint.load(work / "vae.pt")
        if state is None or not state["done"]:
            raise SystemExit("the autoencoder is not finished: run the stage `vae` first")
        vae = autoencoder.new_autoencoder().eval()
        vae.load_state_dict(state["vae"])
        rng, parts = random.Random(0), []
        with torch.inference_mode():
            for part in pixels.split(64):
                moved = pictures.moved(part, rng.choice((58, 60, 62)), rng.randint(-2, 2), rng.randint(-2, 2))
                both = (pictures.to_small(part), moved)
                parts.append(torch.stack([vae.encode(x).latent_dist.mean for x in both]))
        cached = {"latents": torch.cat(parts, dim=1)}
        checkpoint.save(path, cached)
    return cached["latents"], rows


def noise_levels(count: int) -> torch.Tensor:
    """Timesteps (count,): mostly the middle, where the caption decides what is drawn, sometimes any."""
    middle = torch.sigmoid(torch.randn(count) * 1.2 + 0.3)
    share = torch.where(torch.rand(count) < 0.3, torch.rand(count), middle)
    return (share * 1000).long().clamp_(0, 999)


def train(assets: Path, work: Path, minutes: float, seed: int = 0) -> None:
    """Train until the budget is spent; go on from the last checkpoint if there is one."""
    path, journal = work / "unet.pt", work / "unet.jsonl"
    latents, rows = cached_latents(assets, work)
    tags = pictures.load_tags(assets)
    tokenizer_path = work / "tokenizer"
    if not (tokenizer_path / "tokenizer_config.json").exists():
        words.new_tokenizer(words.corpus(rows, tags)).save_pretrained(tokenizer_path)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_path)
    torch.manual_seed(seed)
    text_encoder: CLIPTextModel = words.new_text_encoder(tokenizer).train()
    unet = new_unet().to(memory_format=torch.channels_last).train()
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    average = Average(parameters)
    state = checkpoint.load(path)
    step, spent = 0, 0.0
    if state:
        unet.load_state_dict(state["unet"])
        text_encoder.load_state_dict(state["text_encoder"])
        optimizer.load_state_dict(state["optimizer"])
        average.values = state["average"]
        step, spent = state["step"], state["seconds"]
    print(sum(p.numel() for p in unet.parameters()), sum(p.numel() for p in text_encoder.parameters()), len(tokenizer))
    rng = random.Random(seed + step)
    torch.manual_seed(seed + step)
    schedule = DDPMScheduler(**{k: v for k, v in NOISE.items() if k != "steps_offset"}).alphas_cumprod.sqrt()
    signal, noise_scale = schedule, (1 - schedule**2).clamp_min(0).sqrt()
    weights = [pictures.drawable_weight(row) for row in rows]
    clock = checkpoint.Clock(minutes, spent)
    saved, total, since = clock.seconds, 0.0, 0
    pace = checkpoint.Pace(torch.get_num_threads())
    while clock.progress < 1:
        chosen = rng.choices(range(len(rows)), weights, k=BATCH)
        variant = [0 if rng.random() < PLAIN_SHARE else 1 for _ in chosen]
        x = latents[variant, chosen]
        prompts = [
            "" if rng.random() < CAPTION_DROPOUT else pictures.prompt(r, tags[r["concept"]], rng)
            for r in (rows[i] for i in chosen)
        ]
        tokens = tokenizer(
            prompts, padding="max_length", truncation=True, max_length=words.MAX_TOKENS, return_tensors="pt"
        ).input_ids
        t = noise_levels(BATCH)
        a, b = signal[t][:, None, None, None], noise_scale[t][:, None, None, None]
        noise = torch.randn_like(x)
        noisy = (a * x + b * noise).contiguous(memory_format=torch.channels_last)
        predicted = unet(noisy, t, text_encoder(tokens)[0], return_dict=False)[0]
        loss = F.mse_loss(predicted, a * noise - b * x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        rate = clock.learning_rate(LEARNING_RATE, step, hold=HOLD)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        average.update(parameters, step)
        pace.step()
        step, since, total = step + 1, since + 1, total + loss.item()
        if clock.seconds - saved > 60 or clock.progress >= 1:
            saved = clock.seconds
            checkpoint.log(
                journal,
                step=step,
                seconds=saved,
                samples=step * BATCH,
                loss=total / since,
                rate=rate,
                threads=torch.get_num_threads(),
            )
            total, since = 0.0, 0
            checkpoint.save(
                path,
                {
                    "unet": unet.state_dict(),
                    "text_encoder": text_encoder.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.values,
                    "step": step,
                    "seconds": saved,
                },
            )
