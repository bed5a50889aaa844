"""Checkpoints of the release as models of ours."""

from __future__ import annotations

import argparse
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextConfig, ViTConfig

from .configuration_stablerep import LAYER_NORM_EPS, StableRepConfig
from .modeling_stablerep import StableRepModel
from .pretrained import first_line
from .timm_layout import from_timm

_HEAD = {"layer1": "fc1", "bn1": "norm1", "layer2": "fc2", "bn2": "norm2", "layer3": "fc3"}
_TEXT_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_HEAD_DIM = 64  # of every attention in the release, of images (S, B, L) and of texts


def convert_official_checkpoint(path: str | Path) -> StableRepModel:
    """Read a checkpoint of the release (google-research/syn-rep-learn): StableRep or StableRep++, S, B or L.

    Sizes are read off the weights. The file is a pickle; it is read with `weights_only=True`, and of what is not
    tensors `argparse.Namespace` (the release saves its flags) alone is let in, so nothing in it is run.

    The layout was derived from the release's code (`main_stablerep.py`, `models_stablerep.py`); its files could not be
    obtained to try it on.

    Args:
        path: The `.pth` file: {"model": weights, ...}, or the weights alone.

    Returns:
        The model in evaluation mode, `head_norm="batch_per_sibling"`, float32.

    Raises:
        ValueError: Not a checkpoint, or weights too many or too few; the sentence lists them.
    """
    weights = _read_official(Path(path))
    visual = from_timm({name.removeprefix("visual."): t for name, t in weights.items() if name.startswith("visual.")})
    ours = {f"vision_model.{name}": tensor for name, tensor in visual.items()}
    unknown = []
    for name, tensor in weights.items():
        if name.startswith("visual."):
            continue
        renamed = _rename_official(name, tensor)
        ours.update(renamed)
        if not renamed:
            unknown.append(name)
    try:
        model = StableRepModel(_official_config(ours))
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{path} lacks {error.args[0]!r}, without which its size is unknown: give a checkpoint that "
            "main_stablerep.py of the release wrote."
        ) from error
    expected = model.state_dict()
    missing = sorted(expected.keys() - ours.keys())
    unknown += sorted(ours.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} is not a StableRep checkpoint of the release: it lacks {missing or 'nothing'} and has "
            f"{unknown or 'nothing'} besides."
        )
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()[:160]  # what is above names the class alone
        raise ValueError(f"{path} has weights whose shapes do not fit each other ({first}).") from error
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _read_official(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # mapped, so that the optimiser's state, twice as large as the weights, is not read
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of a damaged pickle anything at all
        raise ValueError(f"{path} cannot be read as a checkpoint of the release ({first_line(error)}).") from error
    weights = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise ValueError(f"{path} holds no weights under 'model': give a checkpoint that main_stablerep.py wrote.")
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def _rename_official(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Our names and shapes of a weight outside the encoder; {} if there is no such weight."""
    if name in _TEXT:
        return {_TEXT[name]: tensor}
    if name == "logit_scale":
        return {name: tensor.reshape(1)}
    if name in ("image_projection", "text_projection"):  # the release multiplies from the right
        return {f"{name}.weight": tensor.T.contiguous()}
    if match := re.fullmatch(r"image_mlp\.(\w+)\.(\w+)", name):
        return {f"projection_head.{_HEAD[match[1]]}.{match[2]}": tensor} if match[1] in _HEAD else {}
    if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name):
        block, part, kind = match.groups()
        prefix = f"text_model.encoder.layers.{block}"
        if part == "attn.in_proj":
            shares = zip("qkv", tensor.chunk(3), strict=True)
            return {f"{prefix}.self_attn.{letter}_proj.{kind}": share.contiguous() for letter, share in shares}
        return {f"{prefix}.{_TEXT_BLOCK[part]}.{kind}": tensor} if part in _TEXT_BLOCK else {}
    return {}


def _official_config(weights: dict[str, Tensor]) -> StableRepConfig:
    """Sizes, as the renamed weights have them; KeyError names a weight that is not there."""
    hidden_size, _, _, patch_size = weights["vision_model.embeddings.patch_embeddings.projection.weight"].shape
    patches = weights["vision_model.embeddings.position_embeddings"].shape[1] - 1
    vision = ViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=_count_layers(weights, "vision_model.layers"),
        num_attention_heads=hidden_size // _HEAD_DIM,
        intermediate_size=weights["vision_model.layers.0.mlp.fc1.weight"].shape[0],
        image_size=round(patches**0.5) * patch_size,
        patch_size=patch_size,
        layer_norm_eps=LAYER_NORM_EPS,
    )
    head = weights["projection_head.fc3.weight"]
    fields: dict[str, Any] = {"projection_dim": head.shape[0], "projection_hidden_dim": head.shape[1]}
    if "text_model.embeddings.token_embedding.weight" in weights:
        vocab_size, width = weights["text_model.embeddings.token_embedding.weight"].shape
        fields["image_text_dim"] = weights["text_projection.weight"].shape[0]
        fields["text_config"] = CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=_count_layers(weights, "text_model.encoder.layers"),
            num_attention_heads=width // _HEAD_DIM,
            max_position_embeddings=weights["text_model.embeddings.position_embedding.weight"].shape[0],
            hidden_act="quick_gelu",
            # CLIP's tokenizer: the last two tokens start and end a text
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
        )
    return StableRepConfig(vision_config=vision, **fields)


def _count_layers(weights: dict[str, Tensor], prefix: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    return 1 + max((int(match[1]) for name in weights if (match := pattern.match(name))), default=-1)
