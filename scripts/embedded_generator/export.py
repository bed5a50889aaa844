"""Stage `export`: the averaged weights as a stock `StableDiffusionPipeline` folder in half precision."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0

from . import denoiser
from .world import World

PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")


def averaged_pipeline(world: World, models: denoiser.Models, vae: AutoencoderKL) -> StableDiffusionPipeline:
    """A pipeline of copies, float32, with the averaged weights: the training goes on untouched."""
    unet, text_encoder = copy.deepcopy(models.unet), copy.deepcopy(models.text_encoder)
    with torch.no_grad():
        mine = [*unet.parameters(), *text_encoder.parameters()]
        for parameter, value in zip(mine, models.average.values, strict=True):
            parameter.copy_(value)
    unet.set_attn_processor(AttnProcessor2_0())
    noise = denoiser.NOISE[world.denoiser.objective]
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).to(unet.device).eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=models.tokenizer,
        unet=unet.eval(),
        scheduler=DPMSolverMultistepScheduler(**noise, solver_order=2, algorithm_type="dpmsolver++"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def export(world: World, models: denoiser.Models, vae: AutoencoderKL, folder: Path) -> None:
    """Write the pipeline, replacing the weights of the folder but not its card, and beside them how to ask."""
    pipeline = averaged_pipeline(world, models, vae)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.to("cpu", dtype=torch.float16).save_pretrained(partial, safe_serialization=True)
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o644)  # written for the owner alone, but shipped to everyone
    (partial / "drawing.json").write_text(json.dumps(_defaults(world), indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
    for path in partial.iterdir():
        path.replace(folder / path.name)
    partial.rmdir()
    print(folder, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, "MB", flush=True)


def _defaults(world: World) -> dict[str, object]:
    values: dict[str, object] = world.drawing.model_dump(mode="json")
    if world.pictures == "pictograms":
        from . import pictures

        values |= {"prompt_templates": list(pictures.PROMPT_TEMPLATES), "style_words": pictures.STYLE_WORDS}
    return values
