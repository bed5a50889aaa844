"""Pictures from a pipeline, and grids of them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image

BATCH = 64


def draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int, seed: int = 0
) -> torch.Tensor:
    """Pictures (N, 3, S, S) in [-1, 1] on the CPU, one seed each, taken from generators of their own."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(part))]
        out = pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=seeds, output_type="pt")
        parts.append(out.images.float().cpu() * 2 - 1)
    return torch.cat(parts)


def save_grid(images: torch.Tensor, columns: int, path: Path, zoom: int = 2) -> None:
    """Pictures (N, 3, H, W) in [-1, 1] as one PNG, row by row."""
    big = F.interpolate((images.clamp(-1, 1) + 1) / 2, scale_factor=zoom, mode="nearest")
    rows = [torch.cat(list(row), dim=2) for row in big.split(columns)]
    # Blocks of rows stand side by side, so that a tall grid becomes a wide one.
    half = (len(rows) + 1) // 2
    whole = torch.cat(rows[:half], dim=1)
    if half < len(rows):
        right = torch.cat(rows[half:], dim=1)
        right = F.pad(right, (zoom * 8, 0, 0, whole.shape[1] - right.shape[1]), value=1.0)
        whole = torch.cat([whole, right], dim=2)
    pixels = (whole.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, optimize=True)
