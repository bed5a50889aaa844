"""The smallest models that have every part; built here, never downloaded."""

from __future__ import annotations

from typing import Any

import torch

from stablerep_hf.models import StableRepConfig, StableRepModel

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
    "max_position_embeddings": 10,
    "bos_token_id": 98,
    "eos_token_id": 99,
    "pad_token_id": 0,
}


def tiny_config(text: bool = False, **fields: Any) -> StableRepConfig:
    fields = {"projection_dim": 16, "projection_hidden_dim": 40, "image_text_dim": 12, **fields}
    return StableRepConfig(vision_config=dict(VISION), text_config=dict(TEXT) if text else None, **fields)


def tiny_model(text: bool = False, **fields: Any) -> StableRepModel:
    torch.manual_seed(0)
    return StableRepModel(tiny_config(text, **fields))


def pixels(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
