"""The pictograms that ship as tensors, and the prompts the embedded generator learns them under."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image

from .captioned import CaptionedPictures
from .world import World

IMAGE_SIZE = 32  # pixels the generator draws; the data set has twice as many
# One word per hand: it tells the generator whose drawing is meant, and lets siblings differ.
STYLE_WORDS = {
    "noto": "cartoon",
    "noto-v1": "blob",
    "fluent": "glossy",
    "fluent-flat": "flat",
    "fxemoji": "retro",
    "emojione": "classic",
}
PROMPT_TEMPLATES = tuple(f"{{caption}}, {word} style" for word in STYLE_WORDS.values())


def load_rows(assets: Path, split: str) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Pixels as uint8 (N, 3, 64, 64) and the other columns, of one split of the pictograms."""
    table = pq.read_table(assets / "pictograms" / "data" / f"{split}-00000-of-00001.parquet")
    images = [Image.open(io.BytesIO(b["bytes"])).convert("RGB") for b in table["image"].to_pylist()]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()
    return pixels, table.drop_columns(["image"]).to_pylist()


def load_tags(assets: Path) -> dict[str, list[str]]:
    """Tags of each training concept, by hexcode."""
    table = pq.read_table(assets / "captions" / "train.parquet", columns=["concept", "tags"]).to_pylist()
    return {row["concept"]: row["tags"] for row in table}


def to_small(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, 64, 64) -> float (N, 3, 32, 32) in [-1, 1], each pixel the mean of four."""
    return F.avg_pool2d(pixels.float() / 127.5 - 1, pixels.shape[-1] // IMAGE_SIZE)


def moved(pixels: torch.Tensor, size: int, dx: int, dy: int) -> torch.Tensor:
    """Shrink the 64-pixel pictures to `size`, shift them by (dx, dy) on white, and bring them to 32 pixels."""
    x = pixels.float() / 127.5 - 1
    full = x.shape[-1]
    if size != full:
        x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    left, top = (full - size) // 2 + dx, (full - size) // 2 + dy
    x = F.pad(x, (left, full - size - left, top, full - size - top), value=1.0)
    return F.avg_pool2d(x, full // IMAGE_SIZE)


def drawable_weight(row: dict[str, Any]) -> float:
    """How often a picture is drawn in training, relative to a plain one.

    Clock faces, keycaps and lettered buttons cannot be told apart at 32 pixels, and gender variants repeat one
    drawing up to three times: they would take a third of the capacity.
    """
    caption, subgroup = row["caption"], row["subgroup"]
    if subgroup in ("keycap", "alphanum") or "o'clock" in caption or caption.endswith("-thirty"):
        return 0.3
    if row["group"] == "symbols" or subgroup in ("family", "person-symbol"):
        return 0.5
    if row["group"] == "people-body" and caption.split()[0] in ("man", "woman", "men", "women", "person"):
        return 0.5
    return 1.0


def prompt(row: dict[str, Any], tags: list[str], rng: random.Random) -> str:
    """A training prompt: mostly "name, style word style", as the templates ask; sometimes other ways to say it."""
    name = row["caption"]
    draw = rng.random()
    if draw < 0.08:
        article = "an" if name[0].lower() in "aeiou" else "a"
        name = f"{article} {name}"
    elif draw < 0.16 and tags:
        name = f"{name}, {rng.choice(tags)}"
    elif draw < 0.20 and tags:
        name = " ".join(rng.sample(tags, min(len(tags), 2)))
    return f"{name}, {STYLE_WORDS[row['style']]} style" if rng.random() < 0.88 else name


class Pictograms(CaptionedPictures):
    """The training drawings of 64 pixels, brought to 32 when they are used: moves are finer there.

    Args:
        world: Ignored but for the form.
        data: Folder of the assets.
    """

    def __init__(self, world: World, data: Path) -> None:
        self.pixels, self.rows = load_rows(data, "train")
        self.tags = load_tags(data)
        self.weights = [drawable_weight(row) for row in self.rows]
        self.labels = [row["concept"] for row in self.rows]
        self.dropped = {}

    def plain(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, 64, 64) -> float (N, 3, 32, 32) in [-1, 1]."""
        return to_small(pixels)

    def moved(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """A second version of each drawing for the denoiser: a little smaller, a little aside."""
        return moved(pixels, rng.choice((58, 60, 62)), rng.randint(-2, 2), rng.randint(-2, 2))

    def augmented(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """One random move for the batch, plus mirror and colour-channel shuffles: for the autoencoder only.

        Its job is to reproduce any picture, so shuffled colours are free data; the generator must learn true colours.
        """
        size = rng.choice((52, 56, 60, 64, 64, 64))
        x = moved(pixels, size, rng.randint(-2, 2), rng.randint(-2, 2))
        flip = torch.tensor([rng.random() < 0.5 for _ in range(len(x))])
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
        order = [rng.sample(range(3), 3) if rng.random() < 0.5 else [0, 1, 2] for _ in range(len(x))]
        return torch.gather(x, 1, torch.tensor(order)[:, :, None, None].expand_as(x))

    def prompt(self, index: int, rng: random.Random) -> str:
        """A training prompt for one drawing."""
        row = self.rows[index]
        return prompt(row, self.tags[row["concept"]], rng)

    def corpus(self) -> list[str]:
        """What the training prompts are made of, each drawing's words once a style: training concepts only."""
        rng = random.Random(0)
        lines = [self.prompt(index, rng) for index in range(len(self.rows))]
        return lines + sorted({tag for row in self.rows for tag in self.tags[row["concept"]]})
