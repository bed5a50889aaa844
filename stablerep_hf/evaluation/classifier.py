"""A trained image classifier, whole or as adapters, in the form that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from ..assets import find_encoder
from ..errors import InputError, refusing
from .adapters import load_adapters
from .encoder import ImageProcessor, VisionEncoder, load_image_processor, move


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
        options = {"revision": revision, "trust_remote_code": trust_remote_code, "use_safetensors": True}
        if (Path(source) / "adapter_config.json").is_file():
            model, processor_source = load_adapters(Path(source), AutoModelForImageClassification)
        else:
            model, processor_source = _load_classifier(find_encoder(str(source)), options), str(source)
        move(model, device)
        image_processor = image_processor or load_image_processor(processor_source, revision, trust_remote_code)
        name = name or (Path(source).resolve().name if Path(source).is_dir() else str(source))
    classes = tuple(str(model.config.id2label[index]) for index in range(len(model.config.id2label)))
    return VisionEncoder(_Logits(model), image_processor, name or type(model).__name__, classes=classes)


def _load_classifier(source: str, options: dict[str, Any]) -> nn.Module:
    with refusing(
        f"The classifier {source!r} cannot be loaded",
        "give a folder of `stablerep finetune` or the id of an image classifier that this machine can reach",
    ):
        model, report = AutoModelForImageClassification.from_pretrained(source, output_loading_info=True, **options)
    if missing := report["missing_keys"]:
        raise InputError(
            f"{source!r} is not a trained classifier: it lacks weights such as {min(missing)!r}; fine-tune it first, "
            "or measure its features by knn and linear_probe."
        )
    classifier: nn.Module = model
    return classifier


class _Logits(nn.Module):
    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pixel_values=pixel_values).logits
        return logits
