"""Trained models as stock checkpoints of transformers, timm and sentence-transformers: no code of this project."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    PreTrainedModel,
    Siglip2ImageProcessor,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    ViTImageProcessor,
)

from .backbones import backbone_of, image_shape
from .configuration_stablerep import StableRepConfig
from .modeling_classification import StableRepForImageClassification, check_classifier
from .modeling_stablerep import StableRepModel
from .timm_layout import pretrained_cfg, save_timm

# What sentence-transformers 6 writes for CLIP: which method embeds what, and that embeddings have unit length.
_SENTENCE_TRANSFORMERS_IMAGES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {"image": {"method": "forward", "method_output_name": "pooler_output"}},
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
}
_SENTENCE_TRANSFORMERS_FILES: dict[str, Any] = {
    **_SENTENCE_TRANSFORMERS_IMAGES,
    "modules.json": [
        *_SENTENCE_TRANSFORMERS_IMAGES["modules.json"],
        {
            "idx": 1,
            "name": "1",
            "path": "1_Normalize",
            "type": "sentence_transformers.base.modules.normalize.Normalize",
        },
    ],
    "sentence_bert_config.json": {
        **_SENTENCE_TRANSFORMERS_IMAGES["sentence_bert_config.json"],
        "modality_config": {
            "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
            "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
        },
    },
    "1_Normalize/config.json": {
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    },
}


def export_encoder(
    model: StableRepModel | PreTrainedModel,
    output_dir: str | Path,
    image_processor: Any | None = None,
    *,
    format: Literal["transformers", "timm"] = "transformers",
) -> Path:
    """Write the vision encoder in its own stock class (`ViTModel`, `Dinov2Model`, ...), or as a timm checkpoint.

    "transformers": `AutoModel.from_pretrained(output_dir)` and `AutoImageProcessor.from_pretrained(output_dir)` load
    it, with no warning and no weight made up, and so do the pipeline "image-feature-extraction" and
    `SentenceTransformer(output_dir)` (6.2 or newer), which gives the feature. A stock ViT has a pooler (a linear layer
    and an activation on the class token); it is written as the identity, so that `pooler_output` is the feature there,
    too. "timm": `timm.create_model("local-dir:...", pretrained=True)`, or "hf-hub:..." from a repository of these
    files, gives the feature; so does transformers' TimmWrapper. An encoder of timm comes out as both.

    Args:
        model: A `StableRepModel` or a vision tower; it is not changed.
        output_dir: Folder to write to; made if missing.
        image_processor: What to save beside it, that of `encoder_image_processor` if not given (of a tower with mean
            and deviation of ImageNet); of a timm checkpoint its mean and deviation are.
        format: Whose checkpoint to write.

    Returns:
        The folder.

    Raises:
        ValueError: timm cannot express the encoder: see `save_timm`.
    """
    output_dir = Path(output_dir)
    whole = isinstance(model, StableRepModel)
    tower: Any = model.vision_model if whole else model
    if image_processor is None:
        image_processor = encoder_image_processor(
            model.config if whole else StableRepConfig(vision_config=tower.config)
        )
    mean, std = tuple(image_processor.image_mean), tuple(image_processor.image_std)
    if tower.config.model_type == "siglip2_vision_model":  # the stock class takes patches
        image_processor = Siglip2ImageProcessor(
            patch_size=tower.config.patch_size,
            max_num_patches=tower.config.num_patches,
            image_mean=list(mean),
            image_std=list(std),
        )
    if format == "timm" and tower.config.model_type != "timm_wrapper":
        save_timm(tower, output_dir, mean, std)
        return output_dir
    config = _stock_config(tower.config)
    if config.model_type == "timm_wrapper":
        config.pretrained_cfg = pretrained_cfg(image_shape(config), mean, std)
    kind: Any = MODEL_MAPPING[type(config)]
    encoder = kind(config)
    nn.Module.to(encoder, tower.dtype)
    encoder.load_state_dict(_stock_weights(tower))
    _save(encoder, output_dir)
    image_processor.save_pretrained(output_dir)
    if config.model_type != "resnet":  # whose feature has two edges of length 1, which they take for more pixels
        _write_files(output_dir, _SENTENCE_TRANSFORMERS_IMAGES)
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
    if model.config.text_pooling != "end_of_text":
        raise ValueError(
            f"The text tower {type(model.text_model).__name__} is read by {model.config.text_pooling!r}, and "
            "transformers' dual encoder reads another token: publish the model with its head (`pretraining`), "
            "which brings its code."
        )
    config = VisionTextDualEncoderConfig(
        vision_config=_stock_config(model.config.vision_config).to_dict(),  # transformers 5.16 takes no objects
        text_config=text.to_dict(),
        projection_dim=model.config.image_text_dim,
    )
    dual = VisionTextDualEncoderModel(config)
    weights = {f"vision_model.{name}": weight for name, weight in _stock_weights(model.vision_model).items()}
    weights |= {f"text_model.{name}": weight for name, weight in model.text_model.state_dict().items()}
    weights["visual_projection.weight"] = model.image_projection.weight.detach()
    weights["text_projection.weight"] = model.text_projection.weight.detach()
    weights["logit_scale"] = model.logit_scale.detach().squeeze(0)
    nn.Module.to(dual, model.dtype)
    dual.load_state_dict(weights)
    dual.save_pretrained(output_dir)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = text.max_position_embeddings  # sentence-transformers cuts there
    image_processor = image_processor or encoder_image_processor(model.config)
    processor = VisionTextDualEncoderProcessor(image_processor, tokenizer)  # type: ignore[no-untyped-call]
    processor.save_pretrained(output_dir)
    _write_files(output_dir, _SENTENCE_TRANSFORMERS_FILES)
    return Path(output_dir)


def _write_files(folder: str | Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _stock_config(config: Any) -> Any:
    """The configuration to publish: with a linear pooler where the stock class has one that we left out."""
    config = copy.deepcopy(config)
    if backbone_of(config).options:
        config.pooler_act = "linear"
        config.pooler_output_size = config.hidden_size
    return config


def _stock_weights(tower: Any) -> dict[str, torch.Tensor]:
    """The weights to publish: with the identity as pooler where the stock class has one that we left out."""
    weights = {name: weight.detach() for name, weight in tower.state_dict().items()}
    if backbone_of(tower.config).options:
        weights["pooler.dense.weight"] = torch.eye(tower.config.hidden_size)
        weights["pooler.dense.bias"] = torch.zeros(tower.config.hidden_size)
    return weights


def stock_classifier(config: Any) -> PreTrainedModel:
    """The stock classifier of a vision configuration, with random weights.

    Raises:
        ValueError: transformers has none that reads the feature: see `check_classifier`.
    """
    check_classifier(config)
    kind: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    if isinstance(kind, tuple):  # DeiT has a second one, with a distillation token
        kind = kind[0]
    classifier: PreTrainedModel = kind(config)
    return classifier


def stock_classifier_weight(classifier: PreTrainedModel, name: str, weight: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Name and value in a stock classifier of a weight of `StableRepForImageClassification`, or of an adapter on it.

    Args:
        classifier: The stock classifier.
        name: Of the weight.
        weight: Its value.
    """
    kind = classifier.config.model_type
    head = "classifier"
    if kind == "timm_wrapper":
        model: Any = classifier.timm_model
        head = next(name for name, module in classifier.named_modules() if module is model.get_classifier())
    elif kind == "resnet":
        head = "classifier.1"  # after a module that flattens
    theirs = {"vision_model": "" if kind == "timm_wrapper" else f"{classifier.base_model_prefix}", "classifier": head}
    parts = [theirs.get(part, part) for part in name.split(".")]
    if kind.startswith("dinov2") and name.endswith("classifier.weight"):
        weight = torch.cat([weight, torch.zeros_like(weight)], dim=1)  # the mean of the patches counts for nothing
    return ".".join(part for part in parts if part), weight


def export_classifier(
    model: StableRepForImageClassification, output_dir: str | Path, image_processor: Any | None = None
) -> Path:
    """Write a classifier and its image processor in its backbone's stock class, `ViTForImageClassification` and so on.

    Args:
        model: It is not changed.
        output_dir: Folder to write to; made if missing.
        image_processor: What to save beside it, that of `encoder_image_processor` if not given.

    Returns:
        The folder.

    Raises:
        ValueError: transformers has no such class: see `check_classifier`.
    """
    theirs: Any = model.config
    processor = image_processor or encoder_image_processor(theirs)
    config = copy.deepcopy(theirs.vision_config)
    config.id2label, config.label2id = dict(theirs.id2label), dict(theirs.label2id)
    config.problem_type = theirs.problem_type
    if config.model_type == "timm_wrapper":
        config.pretrained_cfg = pretrained_cfg(
            image_shape(config), tuple(processor.image_mean), tuple(processor.image_std)
        )
    classifier = stock_classifier(config)
    weights = dict(stock_classifier_weight(classifier, name, weight) for name, weight in model.state_dict().items())
    nn.Module.to(classifier, model.dtype)
    classifier.load_state_dict(weights)
    _save(classifier, output_dir)
    processor.save_pretrained(output_dir)
    return Path(output_dir)


def _save(model: Any, output_dir: str | Path) -> None:
    """Save a stock model, a timm model under timm's own names."""
    weights = None
    if model.config.model_type == "timm_wrapper":
        weights = {name.removeprefix("timm_model."): weight for name, weight in model.state_dict().items()}
    model.save_pretrained(output_dir, state_dict=weights)


def encoder_image_processor(config: Any) -> ViTImageProcessor:
    """What prepares images for an encoder: resized to its size, with the mean and deviation that it was trained with.

    Args:
        config: A `StableRepConfig`.
    """
    _, height, width = image_shape(config.vision_config)
    return ViTImageProcessor(
        size={"height": height, "width": width}, image_mean=list(config.image_mean), image_std=list(config.image_std)
    )
