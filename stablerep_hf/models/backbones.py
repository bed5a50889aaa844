"""Vision towers: the types of transformers that can be one, and how each gives the feature of an image.

Training, evaluation, index, export and cards all read features here. Travels with saved models as remote code: imports
torch and transformers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

_DEFAULT_SIZE = 224  # of configurations that name no size, such as ResNet's


@dataclass(frozen=True)
class Backbone:
    """How one type of vision model gives the feature of an image.

    Attributes:
        feature: Where it is read: the first token of `last_hidden_state`, or `pooler_output`.
        description: The same in words.
        source: Who reads it so.
        positions: Name of the learned position embeddings, which another image size needs resampled; None: the type
            takes any size.
        options: Arguments of the model class: no pooler that nobody reads.
        unused: Parameters that features do not depend on.
    """

    feature: Literal["class_token", "pooler_output"]
    description: str
    source: str
    positions: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    unused: tuple[str, ...] = ()


_TOKEN, _PARAMETER = "class token after the final norm", "embeddings.position_embeddings"
_EMBEDDING = "embeddings.position_embedding.weight"
_NO_POOLER = (("add_pooling_layer", False),)  # its tanh layer is random in most checkpoints
_MASK = ("embeddings.mask_token",)

BACKBONES: dict[str, Backbone] = {
    # Dosovitskiy et al. 2021, equation 4; DeiT: Touvron et al. 2021
    "vit": Backbone("class_token", _TOKEN, "ViT, equation 4", _PARAMETER, _NO_POOLER),
    "deit": Backbone("class_token", _TOKEN, "DeiT, section 3", _PARAMETER, _NO_POOLER),
    # facebookresearch/dinov2, dinov2/eval/knn.py: "x_norm_clstoken"; dinov3 likewise
    "dinov2": Backbone("class_token", _TOKEN, "DINOv2, section 7.1", _PARAMETER, unused=_MASK),
    "dinov2_with_registers": Backbone("class_token", _TOKEN, "DINOv2, section 7.1", _PARAMETER, unused=_MASK),
    "dinov3_vit": Backbone("class_token", _TOKEN, "DINOv3, section 6.1", unused=_MASK),
    "dinov3_convnext": Backbone("pooler_output", "mean of the last stage, then its norm", "DINOv3, section 7.1"),
    # google-research/big_vision, big_vision/models/vit.py, MAPHead
    "siglip_vision_model": Backbone("pooler_output", "attention pooling of the patches", "SigLIP", _EMBEDDING),
    "siglip2_vision_model": Backbone("pooler_output", "attention pooling of the patches", "SigLIP 2", _EMBEDDING),
    # openai/CLIP, clip/model.py: ln_post(x[:, 0])
    "clip_vision_model": Backbone("pooler_output", "class token, then its norm", "CLIP, section 2.4", _EMBEDDING),
    # facebookresearch/ConvNeXt-V2, forward_features: norm(x.mean([-2, -1]))
    "convnext": Backbone("pooler_output", "mean of the last stage, then its norm", "ConvNeXt"),
    "convnextv2": Backbone("pooler_output", "mean of the last stage, then its norm", "ConvNeXt V2"),
    "swin": Backbone("pooler_output", "mean of the patches after the final norm", "Swin, section 3.1"),
    "swinv2": Backbone("pooler_output", "mean of the patches after the final norm", "Swin V2"),
    "resnet": Backbone("pooler_output", "mean of the last stage", "ResNet, section 3.3"),
    # timm: what the classifier would read (forward_head)
    "timm_wrapper": Backbone("pooler_output", "what timm's classifier reads", "timm"),
}


def backbone_of(config: Any) -> Backbone:
    """How models of a configuration are pooled.

    Raises:
        ValueError: It is not known.
    """
    model_type = str(getattr(config, "model_type", type(config).__name__))
    if model_type not in BACKBONES:
        raise ValueError(
            f"How a model of type {model_type!r} gives the feature of an image is not known: choose a model of one of "
            f"the types {', '.join(sorted(BACKBONES))}."
        )
    if getattr(config, "vision_use_head", True) is False:
        raise ValueError(
            f"This {model_type} has vision_use_head=False, so nothing pools its patches into the feature of an image: "
            "choose one with its pooling head."
        )
    return BACKBONES[model_type]


def make_vision_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """Make the stock model of a configuration with random weights."""
    kind: Any = MODEL_MAPPING[type(config)]
    tower: PreTrainedModel = kind(config, **dict(backbone_of(config).options))
    return tower


def encode_images(tower: Any, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
    """Run a vision tower and read the feature of each image from what it returns.

    A process whose images all failed to decode has a batch of none. One blank image is looked at for it and left out
    of what is returned, so that each weight is in the graph, as DistributedDataParallel expects, with gradient 0.

    Args:
        tower: A model of a type in `BACKBONES`.
        pixel_values: (N, channels, height, width), N >= 0, normalised as the tower's image processor does.
        kwargs: For the tower, such as `output_hidden_states`.

    Returns:
        `last_hidden_state` as the tower gives it, `pooler_output` (N, D) the features, and `hidden_states` and
        `attentions` if asked for.

    Raises:
        ValueError: The type is not known.
    """
    none_there = not pixel_values.shape[0]
    if none_there:
        pixel_values = pixel_values.new_zeros(1, *pixel_values.shape[1:])
    outputs: Any = tower(**tower_inputs(tower.config, pixel_values), return_dict=True, **kwargs)
    parts = {
        "last_hidden_state": outputs.last_hidden_state,
        "pooler_output": read_feature(tower.config, outputs),
        "hidden_states": outputs.get("hidden_states"),
        "attentions": outputs.get("attentions"),
    }
    if none_there:
        parts = {
            name: value[:0] if isinstance(value, Tensor) else value and tuple(part[:0] for part in value)
            for name, value in parts.items()
        }
    return BaseModelOutputWithPooling(**parts)


def read_feature(config: Any, outputs: Any) -> Tensor:
    """(N, D) features of images in what a vision tower returned.

    Args:
        config: Of the tower.
        outputs: What it returned, by name.

    Raises:
        ValueError: The type is not known.
    """
    named = backbone_of(config).feature
    feature: Tensor = outputs.last_hidden_state[:, 0] if named == "class_token" else outputs.pooler_output
    return feature.flatten(1).contiguous()  # a copy: a view would keep all tokens in memory


def tower_inputs(config: Any, pixel_values: Tensor) -> dict[str, Tensor]:
    """Arguments of a vision tower for images (N, channels, height, width).

    SigLIP 2 takes a row of values for each patch, row by row (`Siglip2ImageProcessor`).
    """
    kind = getattr(config, "model_type", None)
    if kind in ("resnet", "timm_wrapper"):
        # augmented images are channels last in memory, where torch 2.14 on a CPU crashes in the backward pass of a
        # convolution of 1 x 1 with a stride
        return {"pixel_values": pixel_values.contiguous()}
    if kind != "siglip2_vision_model":
        return {"pixel_values": pixel_values}
    patch_size = config.patch_size
    images, channels = pixel_values.shape[:2]
    height, width = (edge // patch_size for edge in pixel_values.shape[2:])
    grid = pixel_values.reshape(images, channels, height, patch_size, width, patch_size)
    patches = grid.permute(0, 2, 4, 3, 5, 1).flatten(3)
    return {
        "pixel_values": patches.flatten(1, 2),
        "pixel_attention_mask": torch.ones(images, height * width, dtype=torch.int64, device=patches.device),
        "spatial_shapes": torch.tensor([[height, width]], device=patches.device).expand(images, 2),
    }


def feature_size(tower: nn.Module) -> int:
    """Width of a tower's features."""
    config: Any = tower.config
    if config.model_type == "timm_wrapper":
        model: Any = tower.timm_model
        return int(getattr(model, "head_hidden_size", None) or model.num_features)
    return int(config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size)


def height_and_width(size: Any) -> tuple[int, int]:
    """Both edges of an `image_size` or a `patch_size`, which is a number or a pair."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def image_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that a vision configuration is for."""
    if config.model_type == "timm_wrapper":
        args, known = config.model_args or {}, getattr(config, "pretrained_cfg", None) or {}
        channels, *size = known.get("input_size", (3, _DEFAULT_SIZE, _DEFAULT_SIZE))
        return (args.get("in_chans", channels), *height_and_width(args.get("img_size", size)))
    if config.model_type == "siglip2_vision_model":
        edge = round(config.num_patches**0.5) * config.patch_size
        return config.num_channels, edge, edge
    return (config.num_channels, *height_and_width(getattr(config, "image_size", _DEFAULT_SIZE)))


def has_batch_norm(tower: nn.Module) -> bool:
    """Whether the output of one image depends on the others of its batch in training."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in tower.modules())


def can_checkpoint(tower: Any) -> bool:
    """Whether a tower can compute activations again in the backward pass instead of keeping them."""
    if hasattr(tower, "timm_model"):
        return hasattr(tower.timm_model, "set_grad_checkpointing")
    return any(hasattr(module, "gradient_checkpointing") for module in tower.modules())


def freeze_unused(tower: nn.Module) -> None:
    """Freeze the parameters that features do not depend on, so that DistributedDataParallel waits for none of them."""
    for name in backbone_of(tower.config).unused:
        parameter = dict(tower.named_parameters()).get(name)
        if parameter is not None:
            parameter.requires_grad_(False)


def check_vision_config(config: Any) -> None:
    """Refuse a vision configuration that no model can be made of.

    Raises:
        ValueError: A type without a known pooling, sizes below 1, or an image that patches do not divide.
    """
    backbone_of(config)
    for size in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels"):
        if isinstance(value := getattr(config, size, 1), int) and value < 1:
            raise ValueError(f"{size} is {value} in vision_config, which leaves nothing of it: give 1 or more.")
    hidden, heads = getattr(config, "hidden_size", 0), getattr(config, "num_attention_heads", 1)
    if isinstance(heads, int) and hidden % heads:
        raise ValueError(
            f"hidden_size {hidden} cannot be shared out among {heads} attention heads: choose a multiple of "
            "num_attention_heads."
        )
    _, *sizes = image_shape(config)
    if config.model_type == "siglip2_vision_model" and sizes[0] ** 2 != config.num_patches * config.patch_size**2:
        raise ValueError(f"num_patches {config.num_patches} make no square image: choose a square number.")
    patches = height_and_width(getattr(config, "patch_size", 1))
    if any(patch < 1 or size < patch or size % patch for size, patch in zip(sizes, patches, strict=True)):
        raise ValueError(
            f"image_size {getattr(config, 'image_size', sizes)} cannot be cut into patches of {config.patch_size} "
            "pixels: choose a multiple of patch_size."
        )
