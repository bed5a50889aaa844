"""Pretrained towers of transformers and timm, as the stock models that they are.

Travels with saved models as remote code: imports torch, transformers and sibling files only.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel, SiglipTextModel

from .backbones import BACKBONES, backbone_of, check_vision_config, image_shape, make_vision_tower
from .text_towers import TEXT_TOWERS, TextPooling, default_pooling, make_text_tower

_TIMM_PREFIXES = ("hf-hub:", "hf_hub:", "local-dir:")


def load_backbone(
    source: str,
    *,
    image_size: int | None = None,
    image_processor: Any | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, list[float], list[float]]:
    """Read a pretrained vision tower and what its images are normalised with.

    Args:
        source: Folder or Hub id of a model of transformers of a type in `BACKBONES`, of a dual encoder with such a
            vision tower, of a model of ours, or of timm ("timm/...", "hf-hub:...", "local-dir:...").
        image_size: Height and width in pixels that it is to take; position embeddings are resampled as its own code
            resamples them. None: what its image processor prepares.
        image_processor: Where none is beside the weights.
        dtype: Of the weights; None: as they were saved.
        revision: Branch, tag or commit of a Hub id.
        trust_remote_code: Run the code that the folder or repository brings.

    Returns:
        The tower in evaluation mode, without a pooler or head that nobody reads, its configuration for images of
        `image_size`; and mean and standard deviation of each channel, of values in [0, 1].

    Raises:
        ValueError: No such model, a type without a known pooling, weights or the image processor missing, or an image
            size that it cannot take.
    """
    for prefix in _TIMM_PREFIXES:
        source = source.removeprefix(prefix)
    trusted: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _config(source, trusted)
    vision: Any = getattr(config, "vision_config", None) or config
    backbone = backbone_of(vision)
    if vision is config:
        if config.model_type == "timm_wrapper":  # timm writes it there, and transformers gives it a second time
            config.model_args = {k: v for k, v in (config.model_args or {}).items() if k != "num_classes"}
        tower = _load(
            AutoModel, source, backbone.unused, config=config, dtype=dtype, **dict(backbone.options), **trusted
        )
    else:
        whole = _load(AutoModel, source, backbone.unused, "vision_model.", dtype=dtype, **trusted)
        tower = whole.vision_model
        if backbone.options:  # its own pooler is left behind
            weights = tower.state_dict()
            bare = make_vision_tower(tower.config)
            nn.Module.to(bare, tower.dtype)
            bare.load_state_dict({name: weights[name] for name in bare.state_dict()})
            tower = bare
    mean, std, prepared = _normalisation(source, tower.config, config, image_processor, trusted)
    tower = resize(tower, image_size or prepared)
    check_vision_config(tower.config)
    tower.train(False)
    return tower, mean, std


def load_text_tower(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, TextPooling]:
    """Read a pretrained text tower, float32, and how its features are read.

    Args:
        source: Folder or Hub id of a text model of a type in `TEXT_TOWERS`, of a dual encoder (CLIP, SigLIP) with such
            a tower, or of a sentence-transformers model, whose own pooling is kept.
        revision: Branch, tag or commit of a Hub id.
        trust_remote_code: Run the code that the folder or repository brings.

    Raises:
        ValueError: No such model, a type or pooling that is not known, or weights missing.
    """
    trusted: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _config(source, trusted)
    text: Any = getattr(config, "text_config", None) or config
    pooling = _sentence_pooling(source, text, revision) or default_pooling(text)
    if text is not config:
        whole = _load(AutoModel, source, (), "text_model.", dtype=torch.float32, **trusted)
        loaded = whole.text_model
    else:
        kind: Any = SiglipTextModel if text.model_type == "siglip_text_model" else AutoModel
        loaded = _load(kind, source, ("pooler",), dtype=torch.float32, **trusted)
    tower = make_text_tower(loaded.config)
    weights = loaded.state_dict()
    tower.load_state_dict({name: weights[name] for name in tower.state_dict()})
    return tower, pooling


def resize(tower: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """A vision tower for square images of another size; the same tower if that is its size already.

    Raises:
        ValueError: Its patches do not divide the size, or its type is bound to one size.
    """
    config: Any = copy.deepcopy(tower.config)
    backbone, shape = backbone_of(config), image_shape(config)[1:]
    if shape == (image_size, image_size):
        return tower
    patch = getattr(config, "patch_size", 1)
    if image_size < 1 or (isinstance(patch, int) and image_size % patch):
        raise ValueError(
            f"image_size={image_size} cannot be cut into the patches of {patch} pixels of {type(tower).__name__}: "
            f"choose a multiple of {patch}."
        )
    if config.model_type == "timm_wrapper":
        return _resize_timm(tower, config, image_size)
    weights: dict[str, Any] = tower.state_dict()
    if config.model_type == "siglip2_vision_model":
        edge = image_size // patch
        config.num_patches = edge * edge
    else:
        config.image_size = image_size
    if backbone.positions is not None:
        weights[backbone.positions] = _resampled_positions(tower, backbone.positions, image_size, patch)
    resized = make_vision_tower(config)
    nn.Module.to(resized, tower.dtype)
    resized.load_state_dict(weights)
    return resized


@torch.no_grad()
def _resampled_positions(tower: Any, name: str, image_size: int, patch: int) -> torch.Tensor:
    """Position embeddings for another size, by the tower's own code."""
    positions: torch.Tensor = tower.get_parameter(name)
    embeddings = tower.embeddings
    if tower.config.model_type == "siglip2_vision_model":
        edge, old = image_size // patch, round(len(positions) ** 0.5)
        shapes = torch.tensor([[edge, edge]])
        resampled: torch.Tensor = embeddings.resize_positional_embeddings(
            positions.view(old, old, -1), shapes, edge * edge
        )
    else:
        width = positions.shape[-1]
        tokens = torch.empty(1, (image_size // patch) ** 2 + 1, width)  # looked at for its shape alone
        resampled = embeddings.interpolate_pos_encoding(tokens, image_size, image_size)
    return resampled.reshape(-1, positions.shape[-1]) if positions.ndim == 2 else resampled


def _resize_timm(tower: Any, config: Any, image_size: int) -> PreTrainedModel:
    known = dict(getattr(config, "pretrained_cfg", None) or {})
    known["input_size"] = [image_shape(config)[0], image_size, image_size]
    if hasattr(tower.timm_model, "set_input_size"):
        config.model_args = {**(config.model_args or {}), "img_size": image_size}
        tower.timm_model.set_input_size(img_size=image_size)
    elif known.get("fixed_input_size"):
        raise ValueError(
            f"timm's {config.architecture} takes images of {image_shape(config)[1]} pixels alone, and "
            f"image_size={image_size}: leave image_size out."
        )
    config.pretrained_cfg = known
    tower.config = config
    return tower  # type: ignore[no-any-return]


def _config(source: str, trusted: dict[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(source, **trusted)
    except Exception as error:  # damaged files make libraries raise anything
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{source} brings code of its own, which is not run unless `trust_remote_code` says so: read it first."
            ) from error
        raise ValueError(
            f"{source} is neither a folder nor a repository within reach with a model in it that this transformers "
            f"knows ({first_line(error)})."
        ) from error


def _load(kind: Any, source: str, unused: tuple[str, ...], part: str = "", **options: Any) -> Any:
    """`kind.from_pretrained`, but a weight of `part` that the checkpoint lacks is not made up at random."""
    options = {name: value for name, value in options.items() if not (name == "dtype" and value is None)}
    options["use_safetensors"] = True  # a pickle is never read
    try:
        model, report = kind.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except Exception as error:
        raise ValueError(f"{source} holds no weights that can be read ({first_line(error)}).") from error
    lost = {*report["missing_keys"], *(name for name, *_shapes in report["mismatched_keys"])}
    read = {name for name in lost if name.startswith(part) and not name.removeprefix(part).startswith(unused or "\0")}
    if part and _has_unread_pooler(model):
        read = {name for name in read if not name.startswith(f"{part}pooler.")}
    if read:
        raise ValueError(
            f"{source} lacks {len(read)} weights of its {type(model).__name__}, or has them in another shape "
            f"({min(read)!r} and so on), and they would be random: give a whole checkpoint."
        )
    return model


def _has_unread_pooler(model: nn.Module) -> bool:
    vision: Any = getattr(model, "vision_model", None)
    return vision is not None and bool(BACKBONES[vision.config.model_type].options)


def _normalisation(
    source: str, vision: Any, config: Any, processor: Any | None, trusted: dict[str, Any]
) -> tuple[list[float], list[float], int]:
    """Mean and deviation of an encoder's own processor, and the edge of the images that it prepares."""
    channels, height, _ = image_shape(vision)
    if config.model_type == "stablerep":
        return list(config.image_mean), list(config.image_std), height
    known = getattr(vision, "pretrained_cfg", None)
    if vision.model_type == "timm_wrapper" and known:
        return list(known["mean"]), list(known["std"]), height
    if processor is None:
        try:
            processor = AutoImageProcessor.from_pretrained(source, **trusted)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise ValueError(
                f"{source} has no image processor that transformers can read ({first_line(error)}), so what its "
                "images are normalised with is unknown: save one beside the weights, or pass `image_processor`."
            ) from error
    size: Any = (
        processor.crop_size if getattr(processor, "do_center_crop", False) else getattr(processor, "size", None)
    )
    size = dict(size or {})
    edge = size.get("height") or size.get("shortest_edge") or height
    if vision.model_type == "siglip2_vision_model":  # its processor names a number of patches
        edge = height
    if not getattr(processor, "do_normalize", True):
        return [0.0] * channels, [1.0] * channels, int(edge)
    return list(processor.image_mean), list(processor.image_std), int(edge)


def _sentence_pooling(source: str, config: Any, revision: str | None) -> TextPooling | None:
    """The pooling that a sentence-transformers model names; None of any other model."""
    from transformers.utils.hub import cached_file

    name = "1_Pooling/config.json"
    file = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    if file is None:
        return None
    fields = json.loads(Path(file).read_text("utf-8"))
    old = [name.removeprefix("pooling_mode_") for name, on in fields.items() if on is True and "mode_" in name]
    modes = fields.get("pooling_mode") or old
    modes = [modes] if isinstance(modes, str) else modes
    known: dict[str, TextPooling] = {"mean": "mean", "cls": "first", "mean_tokens": "mean", "cls_token": "first"}
    if len(modes) != 1 or modes[0] not in known or config.model_type not in TEXT_TOWERS:
        raise ValueError(
            f"{source} pools its {config.model_type!r} tokens by {modes}, and only the mean and the first token of "
            f"{', '.join(sorted(TEXT_TOWERS))} are known: choose another text tower."
        )
    return known[modes[0]]


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:160]
