"""The smallest backbone of each type, for images of 32 pixels; built here, never downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel, ViTImageProcessor

from stablerep_hf.models import StableRepConfig, StableRepModel, export_encoder
from stablerep_hf.models.backbones import make_vision_tower

_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
_MLP = {**_VIT, "intermediate_size": 64}
_CONV = {"hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32}
_SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
TIMM_VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 4}

FIELDS: dict[str, dict[str, Any]] = {
    "vit": {**_MLP, "layer_norm_eps": 1e-6},
    "deit": _MLP,
    "dinov2": _VIT,
    "dinov2_with_registers": {**_VIT, "num_register_tokens": 2},
    "dinov3_vit": {**_MLP, "num_register_tokens": 2},
    "dinov3_convnext": _CONV,
    "siglip_vision_model": _MLP,
    "siglip2_vision_model": {
        **{name: value for name, value in _MLP.items() if name != "image_size"},
        "num_patches": 16,
    },
    "clip_vision_model": _MLP,
    "convnext": {**_CONV, "num_stages": 2},
    "convnextv2": {**_CONV, "num_stages": 2},
    "swin": {**_SWIN, "drop_path_rate": 0.0},
    "swinv2": {**_SWIN, "drop_path_rate": 0.0},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "timm_wrapper": {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {**TIMM_VIT, "init_values": 1e-2, "reg_tokens": 2},
    },
}
TYPES = sorted(FIELDS)
MAIN = ("vit", "dinov2_with_registers", "siglip_vision_model", "convnextv2")
"""Types that stand for the others where a test is slow."""


def backbone_config(model_type: str, **fields: Any) -> PreTrainedConfig:
    return CONFIG_MAPPING[model_type](**{**FIELDS[model_type], **fields})


def tiny_tower(model_type: str, **fields: Any) -> PreTrainedModel:
    """Weights that are all their own: no norm is one, no bias nought."""
    torch.manual_seed(0)
    tower = make_vision_tower(backbone_config(model_type, **fields))
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tower


def model_on(model_type: str, **fields: Any) -> StableRepModel:
    tower = tiny_tower(model_type)
    fields = {"projection_dim": 16, "projection_hidden_dim": 24, "head_norm": "batch", **fields}
    model = StableRepModel(StableRepConfig(vision_config=tower.config, **fields))
    model.vision_model.load_state_dict(tower.state_dict())
    return model


def saved(tower: PreTrainedModel, folder: Path, mean: float = 0.4, std: float = 0.3) -> Path:
    """As the stock class and its users save it, with a processor of its own."""
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[mean] * 3, image_std=[std] * 3)
    if tower.config.model_type in ("timm_wrapper", "siglip2_vision_model"):
        return export_encoder(tower, folder, processor)
    tower.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pictures(count: int, size: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
