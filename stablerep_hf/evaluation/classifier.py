"""A trained image classifier, whole or as adapters, in the form that is measured."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from ..errors import InputError
from .encoder import ImageProcessor, VisionEncoder, first_line, load_image_processor, move

CLASSES = "classes.json"
"""Beside adapters: the names of their classes, which nothing of peft holds."""


def load_classifier(
    source: str | Path | nn.Module | VisionEncoder,
    image_processor: ImageProcessor | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
) -> VisionEncoder:
    """Bring an image classifier of transformers into the form that is measured: its logits are the features.

    Args:
        source: a folder or Hub id, a model that returns `logits` and has `config.id2label`, or one loaded before.
        image_processor: required with a model; by default read from the folder or repository.
        name: what results call it; default the id, the folder's name or the class.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the modelling code that the folder or repository carries.
        device: where a loaded classifier goes; default the accelerator if there is one.

    Raises:
        InputError: no such folder or repository, or it holds no trained classifier.
    """
    if isinstance(source, VisionEncoder):
        return source
    if isinstance(source, nn.Module):
        model: Any = source
        assert image_processor is not None
    else:
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        if (Path(source) / "adapter_config.json").is_file():
            model, processor_source = _load_adapters(Path(source))
        else:
            model, processor_source = _load_classifier(str(source), options), str(source)
        move(model, device)
        image_processor = image_processor or load_image_processor(processor_source, revision, trust_remote_code)
        name = name or (Path(source).resolve().name if Path(source).is_dir() else str(source))
    classes = tuple(str(model.config.id2label[index]) for index in range(len(model.config.id2label)))
    return VisionEncoder(_Logits(model), image_processor, name or type(model).__name__, classes=classes)


def _load_classifier(source: str, options: dict[str, Any]) -> nn.Module:
    try:
        model, report = AutoModelForImageClassification.from_pretrained(source, output_loading_info=True, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"The classifier {source!r} cannot be loaded ({first_line(error)}); give a folder of "
            "`stablerep finetune` or the id of an image classifier that this machine can reach."
        ) from error
    if missing := report["missing_keys"]:
        raise InputError(
            f"{source!r} is no trained classifier: it lacks weights such as {min(missing)!r}; fine-tune it first, or "
            "measure its features by knn and linear_probe."
        )
    classifier: nn.Module = model
    return classifier


def _load_adapters(folder: Path) -> tuple[nn.Module, str]:
    """The encoder that adapters name with them on it, and where that encoder was found."""
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise InputError(
            f"{folder} holds adapters, and peft, which puts them on, is missing: pip install 'stablerep_hf[lora]'."
        ) from error
    from safetensors.torch import load_file

    try:
        base = str(json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"])
        weights = load_file(folder / "adapter_model.safetensors")
        classes = json.loads((folder / CLASSES).read_text("utf-8")) if (folder / CLASSES).is_file() else []
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"The adapters in {folder} cannot be read ({type(error).__name__}: {first_line(error)}); give a folder as "
            "`stablerep finetune --mode lora` writes it, with adapter_config.json and adapter_model.safetensors."
        ) from error
    head = weights.get("base_model.model.classifier.weight")
    try:
        encoder = AutoModelForImageClassification.from_pretrained(
            base, num_labels=0 if head is None else len(head), trust_remote_code=False
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{folder} holds adapters for {base!r}, which cannot be loaded ({first_line(error)}): name the encoder in "
            "its adapter_config.json by a folder or Hub id within reach."
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):  # of keys that do not fit, which are looked at here
            model = PeftModel.from_pretrained(encoder, str(folder))
        fits = get_peft_model_state_dict(model).keys() == weights.keys()
    except (RuntimeError, ValueError, KeyError, TypeError):  # layers of other sizes, none of those names, no settings
        fits = False
    if not fits:
        raise InputError(
            f"The adapters in {folder} do not fit {base!r}: they were trained on another encoder; name that one in "
            "adapter_config.json, or take other adapters."
        )
    if classes:
        model.config.id2label = dict(enumerate(classes))
    return model, base


class _Logits(nn.Module):
    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pixel_values=pixel_values).logits
        return logits
