"""Trained adapters on the encoder that they name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import InputError, one_line, refusing

CLASSES = "classes.json"
"""Beside adapters of a classifier: the names of its classes, which nothing of peft holds."""


def load_adapters(folder: Path, auto_class: Any) -> tuple[Any, str]:
    """Load the encoder that adapters name, with them on it.

    transformers would load adapters of another encoder as far as their names fit, and leave the rest random.

    Args:
        folder: Of the adapters, with `adapter_config.json`.
        auto_class: What loads their encoder: `AutoModel`, or for a classifier `AutoModelForImageClassification`.

    Returns:
        The model with its adapters, and where the encoder was found.

    Raises:
        InputError: Adapters that cannot be read or do not fit, no such encoder within reach, or peft is missing.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise InputError(
            f"{folder} holds adapters, and peft, which puts them on, is missing: pip install 'stablerep_hf[lora]'."
        ) from error
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        base = str(config["base_model_name_or_path"])
        weights = load_file(folder / "adapter_model.safetensors")
        classes = json.loads((folder / CLASSES).read_text("utf-8")) if (folder / CLASSES).is_file() else []
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"The adapters in {folder} cannot be read ({type(error).__name__}: {one_line(error)}); give a folder as "
            "a training run with adapters writes it, with adapter_config.json and adapter_model.safetensors."
        ) from error
    head = weights.get(f"base_model.model.{(config.get('modules_to_save') or ['classifier'])[0]}.weight")
    with refusing(
        f"{folder} holds adapters for {base!r}, which cannot be loaded",
        "name the encoder in its adapter_config.json by a folder or Hub id within reach",
    ):
        options = {"use_safetensors": True} | ({} if head is None else {"num_labels": len(head)})
        encoder = auto_class.from_pretrained(base, trust_remote_code=False, **options)
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
