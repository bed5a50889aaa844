"""The embedded default: captions, a small text-to-image pipeline, and real artwork to evaluate on.

Everything here is data; these functions say where it lies. Importing this package imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "EMBEDDED",
    "ENCODERS",
    "captions_path",
    "drawing_defaults",
    "drawings_path",
    "dual_encoder_path",
    "encoder_path",
    "find_encoder",
    "generator_path",
    "licensed_parts",
    "pictograms_path",
    "prompt_templates",
]

_FOLDER = Path(__file__).resolve().parent

EMBEDDED = "embedded"
"""What commands call the captions, the generator and the pictograms that ship."""

ENCODERS = ("embedded", "embedded-stablerep")
"""What commands and the search page call the encoders that ship: StableRep+ with its text tower, and StableRep."""


def generator_path() -> Path:
    """Folder of the embedded `StableDiffusionPipeline` (32 x 32 pixels, half precision)."""
    return _FOLDER / "generator"


def encoder_path() -> Path:
    """Folder of a small StableRep encoder, a plain `ResNetModel` that learned from real and drawn siblings."""
    return _FOLDER / "encoder"


def dual_encoder_path() -> Path:
    """Folder of a small StableRep+ model: image and text tower, tokenizer and image processor, for search by words.

    `StableRepModel.from_pretrained` loads it, and `AutoModel` with `trust_remote_code=True`. Stored with its matrices
    in half precision, loaded in float32.
    """
    return _FOLDER / "dual_encoder"


def find_encoder(name: str) -> str:
    """The folder of an encoder that ships, by its name in `ENCODERS`; any other name as it is."""
    folders = dict(zip(ENCODERS, (dual_encoder_path(), encoder_path()), strict=True))
    return str(folders.get(name, name))


def pictograms_path() -> Path:
    """Folder that `datasets.load_dataset` loads: splits `train`, `held_out_concepts`, `held_out_artist`."""
    return _FOLDER / "pictograms"


def drawings_path() -> Path:
    """Folder that `datasets.load_dataset` loads: drawings of the embedded generator, splits `siblings`, `guidance`."""
    return _FOLDER / "drawings"


def captions_path(split: Literal["train", "held_out"] = "train") -> Path:
    """Parquet with `caption`, `caption_id`, `concept`, `group`, `subgroup`, `tags`.

    Args:
        split: `train` are the captions the generator learned; it never saw those of `held_out`.
    """
    return _FOLDER / "captions" / f"{split}.parquet"


def drawing_defaults() -> dict[str, Any]:
    """How the embedded generator is best asked: `guidance_scale`, `num_inference_steps`, `prompt_templates`.

    The file was written with the weights, so the templates use the style words that those know.
    """
    defaults: dict[str, Any] = json.loads((generator_path() / "drawing.json").read_text(encoding="utf-8"))
    return defaults


def prompt_templates() -> tuple[str, ...]:
    """Templates with the placeholder `{caption}`, one for each hand the embedded generator learned."""
    return tuple(drawing_defaults()["prompt_templates"])


def licensed_parts() -> tuple[dict[str, str], ...]:
    """Artwork and names behind the embedded generator: `name`, `role`, `license`, `url`, `attribution`."""
    return tuple(json.loads((_FOLDER / "licenses.json").read_text(encoding="utf-8")))
