"""timm's Vision Transformer and ours: the same network under other names, q, k and v in one matrix there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, ViTModel

from .backbones import height_and_width

_LARGEST_EPS = 2e-6
_OUTSIDE_BLOCKS = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
_IN_A_BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}


def from_timm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of timm's `VisionTransformer` (no head, class token, learned positions) under the names of ours.

    Raises:
        ValueError: Weights that the plain architecture does not have, or too few; the sentence lists them.
    """
    depth = 1 + max((int(name.split(".")[1]) for name in weights if name.startswith("blocks.")), default=-1)
    names = dict(_names(depth))
    missing, unknown = sorted(names.keys() - weights.keys()), sorted(weights.keys() - names.keys())
    if missing or unknown:
        raise ValueError(
            f"These are not the weights of a plain Vision Transformer: they lack {missing or 'nothing'} and have "
            f"{unknown or 'nothing'} besides."
        )
    return {
        name: share.contiguous()
        for theirs, ours in names.items()
        for name, share in zip(ours, weights[theirs].tensor_split(len(ours)), strict=True)
    }


def to_timm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `ViTModel` under timm's names; the inverse of `from_timm`."""
    depth = sum(name.endswith(".layernorm_before.bias") for name in weights)
    return {theirs: torch.cat([weights[name] for name in ours]) for theirs, ours in _names(depth)}


def _names(depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name of each weight in timm and in ours, which are three where timm keeps q, k and v in one matrix."""
    yield "cls_token", ("embeddings.cls_token",)
    yield "pos_embed", ("embeddings.position_embeddings",)
    for kind in ("weight", "bias"):
        for theirs, ours in _OUTSIDE_BLOCKS.items():
            yield f"{theirs}.{kind}", (f"{ours}.{kind}",)
        for block in range(depth):
            for theirs, parts in _IN_A_BLOCK.items():
                yield f"blocks.{block}.{theirs}.{kind}", tuple(f"layers.{block}.{part}.{kind}" for part in parts)


def save_timm(model: PreTrainedModel, output_dir: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Write `model.safetensors` and the `config.json` that `timm.create_model("local-dir:...")` and the Hub read.

    `num_classes` is beside `model_args` and not in it: transformers' TimmWrapper gives it a second time and fails.

    Raises:
        ValueError: timm's network would compute something else: it has GELU and an epsilon of 1e-6 in its layer norms,
            and no configuration file can say otherwise. (A smaller one, as of transformers' own ViTs, is let pass: it
            shows where a layer norm's input deviates by less than about 0.1, as in a network that was not trained.) Or
            the encoder is no ViT, has other than three channels, or no biases of queries, keys and values.
    """
    config: Any = model.config
    if config.model_type != "vit":
        raise ValueError(
            f"timm's checkpoint of a {config.model_type!r} cannot be written, only that of a ViT or of a model that "
            "came from timm: write it in the format of transformers."
        )
    if config.num_channels != 3 or not config.qkv_bias:
        raise ValueError(
            f"timm's Vision Transformer has three channels and biases of queries, keys and values, this encoder has "
            f"num_channels={config.num_channels} and qkv_bias={config.qkv_bias}: write it in the format of "
            "transformers."
        )
    if config.hidden_act != "gelu" or config.layer_norm_eps > _LARGEST_EPS:
        raise ValueError(
            f"timm's Vision Transformer has hidden_act 'gelu' and layer_norm_eps 1e-6, this encoder "
            f"{config.hidden_act!r} and {config.layer_norm_eps}: write it in the format of transformers."
        )
    height, width = height_and_width(config.image_size)
    architecture = {192: "vit_tiny", 384: "vit_small", 768: "vit_base", 1024: "vit_large"}
    args = {
        "img_size": [height, width],
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
    }
    hub_config = {
        "architecture": f"{architecture.get(config.hidden_size, 'vit_tiny')}_patch16_224",
        "num_classes": 0,
        "num_features": config.hidden_size,
        "global_pool": "token",
        "model_args": args,
        "pretrained_cfg": pretrained_cfg((3, height, width), mean, std),
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    weights = to_timm({name: tensor.detach() for name, tensor in model.state_dict().items()})
    save_file(weights, output_dir / "model.safetensors", metadata={"format": "pt"})
    (output_dir / "config.json").write_text(json.dumps(hub_config, indent=2) + "\n", "utf-8")


def pretrained_cfg(
    image_shape: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """What timm says of a checkpoint: how images are prepared, the same way as by `encoder_image_processor`."""
    return {
        "input_size": list(image_shape),
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": list(mean),
        "std": list(std),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def vit_of_timm(tower: PreTrainedModel) -> ViTModel:
    """A plain Vision Transformer of timm as a `ViTModel` without a pooler, which computes the same.

    Args:
        tower: A `TimmWrapperModel`.

    Raises:
        ValueError: It is of another architecture; the sentence says what is different.
    """
    model: Any = tower.timm_model
    weights = from_timm(model.state_dict())
    activation = type(model.blocks[0].mlp.act).__name__
    if activation != "GELU":
        raise ValueError(f"timm's model activates by {activation}, a plain Vision Transformer by GELU.")
    hidden_size, _, _, patch_size = weights["embeddings.patch_embeddings.projection.weight"].shape
    height, width = model.patch_embed.img_size
    config = ViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=model.blocks[0].attn.num_heads,
        intermediate_size=weights["layers.0.mlp.fc1.weight"].shape[0],
        image_size=height if height == width else [height, width],
        patch_size=patch_size,
        layer_norm_eps=model.norm.eps,
    )
    vit = ViTModel(config, add_pooling_layer=False)
    positions, expected = (
        tensors["embeddings.position_embeddings"].shape[1] for tensors in (weights, vit.state_dict())
    )
    if positions != expected or model.global_pool != "token":
        raise ValueError(
            f"timm's model has {positions} position embeddings and pools by {model.global_pool!r}, a plain Vision "
            f"Transformer of its size has {expected} and gives its class token."
        )
    vit.load_state_dict(weights)
    vit.train(False)
    return vit
