"""What the recipes make of pictures, for the eye: `model_cards/images/augmentations.png`.

python scripts/draw_augmentations.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image, ImageDraw

from stablerep_hf import assets
from stablerep_hf.training import ColorAugmentation
from stablerep_hf.training.augmentation import RECIPES, crop_and_flip, draw_view
from stablerep_hf.training.color import IMAGENET_MEAN, IMAGENET_STD

OUTPUT = Path(__file__).parents[1] / "model_cards" / "images" / "augmentations.png"
EDGE, VIEWS, MARGIN = 64, 8, 96
ROWS = {
    "strong": RECIPES["strong"],
    "weak": RECIPES["weak"],
    "downsample": replace(RECIPES["weak"], downsample_probability=1.0),
}


def views(image: Image.Image, name: str) -> np.ndarray:
    """A row of views (EDGE, VIEWS x EDGE, 3) uint8 of one picture."""
    rng = np.random.default_rng(0)
    drawn = [draw_view(rng, *image.size, ROWS[name], EDGE) for _ in range(VIEWS)]
    pixels = torch.stack([crop_and_flip(np.array(image), view, EDGE) for view in drawn]).permute(0, 3, 1, 2)
    normal = ColorAugmentation()(pixels, torch.stack([torch.from_numpy(view.color) for view in drawn]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    shown = ((normal * std + mean).clamp(0, 1) * 255).round().byte()
    return np.concatenate(list(shown.permute(0, 2, 3, 1).numpy()), axis=1)


def main() -> None:
    """Draw three pictures under each recipe."""
    pictures = datasets.load_dataset(str(assets.pictograms_path()), split="train")
    chosen = [pictures[row]["image"].convert("RGB") for row in (40, 1500, 4000)]
    sheet = Image.new("RGB", (MARGIN + (VIEWS + 1) * EDGE + 8, len(chosen) * len(ROWS) * (EDGE + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, name) in enumerate((image, name) for image in chosen for name in ROWS):
        top = index * (EDGE + 2)
        pen.text((8, top + EDGE // 2 - 6), name, fill="black")
        sheet.paste(image.resize((EDGE, EDGE)), (MARGIN, top))
        sheet.paste(Image.fromarray(views(image, name)), (MARGIN + EDGE + 8, top))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(OUTPUT, optimize=True)
    print(OUTPUT)


if __name__ == "__main__":
    main()
