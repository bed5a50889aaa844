"""Stage `export`: the averaged weights as a stock `StableDiffusionPipeline` folder in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

from . import autoencoder, checkpoint, denoiser, pictures, words

# Chosen by eye and by the numbers in the card.
DRAWING = {"guidance_scale": 2.0, "num_inference_steps": 12}


def averaged_pipeline(work: Path) -> StableDiffusionPipeline:
    """The pipeline at the last checkpoint, float32, from the averaged weights."""
    state, vae_state = checkpoint.load(work / "unet.pt"), checkpoint.load(work / "vae.pt")
    if state is None or vae_state is None:
        raise SystemExit("nothing trained yet: run the stages `vae` and `unet` first")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    unet, text_encoder = denoiser.new_unet(), words.new_text_encoder(tokenizer)
    with torch.no_grad():
        for parameter, value in zip([*unet.parameters(), *text_encoder.parameters()], state["average"], strict=True):
            parameter.copy_(value)
    vae = autoencoder.new_autoencoder()
    vae.load_state_dict(vae_state["vae"])
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=DPMSolverMultistepScheduler(**denoiser.NOISE, solver_order=2, algorithm_type="dpmsolver++"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(assets: Path, work: Path) -> None:
    """Write `assets/generator`, replacing its weights but not its card, and beside them how to ask."""
    folder = assets / "generator"
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(folder / part, ignore_errors=True)
    averaged_pipeline(work).to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # written for the owner alone, but shipped to everyone
    defaults = {**DRAWING, "prompt_templates": list(pictures.PROMPT_TEMPLATES), "style_words": pictures.STYLE_WORDS}
    (folder / "drawing.json").write_text(json.dumps(defaults, indent=2) + "\n")
    print(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, "MB")
