"""Trained models as stock checkpoints of transformers, timm and sentence-transformers: no code of this project."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from .configuration_stablerep import height_and_width
from .modeling_classification import StableRepForImageClassification
from .modeling_stablerep import StableRepModel, StableRepVisionModel
from .timm_layout import save_timm

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What sentence-transformers 6 writes for CLIP: which method embeds what, and that embeddings have unit length.
_SENTENCE_TRANSFORMERS_FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Normalize",
            "type": "sentence_transformers.base.modules.normalize.Normalize",
        },
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
            "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
        },
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    "1_Normalize/config.json": {
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    },
}


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

    Raises:
        ValueError: timm cannot express the encoder: see `save_timm`.
    """
    output_dir = Path(output_dir)
    vision_model = model.vision_model if isinstance(model, StableRepModel) else model
    if image_processor is None:
        image_processor = encoder_image_processor(vision_model.config)
    if format == "timm":
        save_timm(vision_model, output_dir, tuple(image_processor.image_mean), tuple(image_processor.image_std))
        return output_dir
    encoder = ViTModel(_with_pooler(vision_model.config))
    nn.Module.to(encoder, vision_model.dtype)
    encoder.load_state_dict(_with_pooler_weights(vision_model))
    encoder.save_pretrained(output_dir)
    image_processor.save_pretrained(output_dir)
    return output_dir


def export_dual_encoder(
    model: StableRepModel, output_dir: str | Path, tokenizer: Any, image_processor: Any | None = None
) -> Path:
    """Write both towers as a stock `VisionTextDualEncoderModel`, as sentence-transformers and transformers load it.

    `SentenceTransformer(output_dir).encode` (6.2 or newer) takes texts and PIL images alike; so do `AutoModel` with
    `get_text_features` and `get_image_features`, and the pipeline "zero-shot-image-classification". The projection
    head of the loss between images stays behind.

    Args:
        model: With a text tower; it is not changed.
        output_dir: Folder to write to; made if missing.
        tokenizer: Of the text tower.
        image_processor: As in `export_encoder`.

    Returns:
        The folder.

    Raises:
        ValueError: The model has no text tower, or the tokenizer does not fit it.
    """
    text: Any = model.config.text_config
    if text is None or model.text_model is None:
        raise ValueError(
            "The model has no text tower, and a dual encoder is two: train one with --objective stablerep+."
        )
    if len(tokenizer) > text.vocab_size or tokenizer.eos_token_id != text.eos_token_id:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and ends a text with {tokenizer.eos_token_id}, but the text "
            f"tower knows {text.vocab_size} and reads at {text.eos_token_id}: give the tokenizer it was trained with."
        )
    config = VisionTextDualEncoderConfig(
        vision_config=_with_pooler(model.config.vision_config),
        text_config=copy.deepcopy(text),
        projection_dim=model.config.image_text_dim,
    )
    dual = VisionTextDualEncoderModel(config)
    weights = {f"vision_model.{name}": weight for name, weight in _with_pooler_weights(model.vision_model).items()}
    weights |= {f"text_model.{name}": weight for name, weight in model.text_model.state_dict().items()}
    weights["visual_projection.weight"] = model.image_projection.weight.detach()
    weights["text_projection.weight"] = model.text_projection.weight.detach()
    weights["logit_scale"] = model.logit_scale.detach().squeeze(0)
    nn.Module.to(dual, model.dtype)
    dual.load_state_dict(weights)
    dual.save_pretrained(output_dir)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = text.max_position_embeddings  # sentence-transformers cuts there
    image_processor = image_processor or encoder_image_processor(model.config.vision_config)
    processor = VisionTextDualEncoderProcessor(image_processor, tokenizer)  # type: ignore[no-untyped-call]
    processor.save_pretrained(output_dir)
    for name, content in _SENTENCE_TRANSFORMERS_FILES.items():
        path = Path(output_dir, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return Path(output_dir)


def _with_pooler(config: Any) -> Any:
    """The configuration of a stock `ViTModel` whose pooler is linear."""
    config = copy.deepcopy(config)
    config.pooler_act = "linear"
    config.pooler_output_size = config.hidden_size
    return config


def _with_pooler_weights(model: StableRepVisionModel) -> dict[str, torch.Tensor]:
    """The weights of a stock `ViTModel` whose pooler is the identity."""
    weights = {name: weight.detach() for name, weight in model.state_dict().items()}
    weights["pooler.dense.weight"] = torch.eye(model.config.hidden_size)
    weights["pooler.dense.bias"] = torch.zeros(model.config.hidden_size)
    return weights


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
    theirs: Any = model.config
    config = copy.deepcopy(theirs.vision_config)
    config.id2label, config.label2id = dict(theirs.id2label), dict(theirs.label2id)
    config.problem_type = theirs.problem_type
    classifier = ViTForImageClassification(config)
    weights = {name.replace("vision_model.", "vit.", 1): weight for name, weight in model.state_dict().items()}
    nn.Module.to(classifier, model.dtype)
    classifier.load_state_dict(weights)
    classifier.save_pretrained(output_dir)
    (image_processor or encoder_image_processor(model.config.vision_config)).save_pretrained(output_dir)
    return Path(output_dir)


def encoder_image_processor(config: Any) -> ViTImageProcessor:
    """What prepares images for an encoder: resized to its size, with mean and deviation of ImageNet as in the release.

    Args:
        config: A `ViTConfig`.
    """
    height, width = height_and_width(config.image_size)
    return ViTImageProcessor(size={"height": height, "width": width}, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
