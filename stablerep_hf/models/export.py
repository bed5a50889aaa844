"""The encoder alone, as a stock transformers or timm checkpoint that needs no code of this project."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import ViTForImageClassification, ViTImageProcessor, ViTModel

from .modeling_classification import StableRepForImageClassification
from .modeling_stablerep import StableRepModel, StableRepVisionModel
from .timm_layout import save_timm

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def export_encoder(
    model: StableRepModel | StableRepVisionModel,
    output_dir: str | Path,
    image_processor: Any | None = None,
    *,
    format: Literal["transformers", "timm"] = "transformers",
) -> Path:
    """Write the vision encoder as a plain `ViTModel` with its image processor, or as a timm checkpoint.

    "transformers": `AutoModel.from_pretrained(output_dir)` and `AutoImageProcessor.from_pretrained(output_dir)` load
    it, with no warning and no weight made up. The stock model has a pooler (a linear layer and an activation on the
    class token); it is written as the identity, so that `pooler_output` is exactly the class token after the final
    norm. "timm": `timm.create_model("local-dir:...", pretrained=True)`, or "hf-hub:..." from a repository of these
    files, gives the class token; so does transformers' TimmWrapper, under its name for it.

    Args:
        model: A `StableRepModel` or its encoder; it is not changed.
        output_dir: Folder to write to; made if missing.
        image_processor: What to save beside it, that of `encoder_image_processor` if not given; of a timm checkpoint
            its mean and deviation are.
        format: Whose checkpoint to write.

    Returns:
        The folder.
    """
    output_dir = Path(output_dir)
    vision_model = model.vision_model if isinstance(model, StableRepModel) else model
    if image_processor is None:
        image_processor = encoder_image_processor(vision_model.config)
    if format == "timm":
        save_timm(vision_model, output_dir, tuple(image_processor.image_mean), tuple(image_processor.image_std))
        return output_dir
    config = copy.deepcopy(vision_model.config)
    config.pooler_act = "linear"
    config.pooler_output_size = config.hidden_size
    encoder = ViTModel(config)
    weights = {name: weight.detach() for name, weight in vision_model.state_dict().items()}
    weights["pooler.dense.weight"] = torch.eye(config.hidden_size)
    weights["pooler.dense.bias"] = torch.zeros(config.hidden_size)
    encoder.load_state_dict(weights)
    nn.Module.to(encoder, vision_model.dtype)
    encoder.save_pretrained(output_dir)
    image_processor.save_pretrained(output_dir)
    return output_dir


def export_classifier(
    model: StableRepForImageClassification, output_dir: str | Path, image_processor: Any | None = None
) -> Path:
    """Write a classifier as a plain `ViTForImageClassification` with its image processor: no code of ours to load.

    Args:
        model: It is not changed.
        output_dir: Folder to write to; made if missing.
        image_processor: What to save beside it, that of `encoder_image_processor` if not given.

    Returns:
        The folder.
    """
    config = copy.deepcopy(model.config.vision_config)
    config.id2label, config.label2id = dict(model.config.id2label), dict(model.config.label2id)
    config.problem_type = model.config.problem_type
    classifier = ViTForImageClassification(config)
    weights = {name.replace("vision_model.", "vit.", 1): weight for name, weight in model.state_dict().items()}
    classifier.load_state_dict(weights)
    nn.Module.to(classifier, model.dtype)
    classifier.save_pretrained(output_dir)
    (image_processor or encoder_image_processor(model.config.vision_config)).save_pretrained(output_dir)
    return Path(output_dir)


def encoder_image_processor(config: Any) -> ViTImageProcessor:
    """What prepares images for an encoder: resized to its size, with mean and deviation of ImageNet as in the release.

    Args:
        config: A `ViTConfig`.
    """
    height, width = _height_and_width(config.image_size)
    return ViTImageProcessor(size={"height": height, "width": width}, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)


def _height_and_width(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
