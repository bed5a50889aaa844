"""Low-rank adapters (PEFT) on the encoder: which projections, and folders that load without this package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ..errors import InputError
from ..models.export import stock_classifier, stock_classifier_weight

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from ..models import StableRepModel

# Names of the projections in a block, as regular expressions over module names: those of transformers' types, and of
# timm, which packs query, key and value into one. A text tower, whose blocks are named alike, is left as it is.
_IN_A_BLOCK = r"(?!text_model\.)(?:.*\.)?(?:layers?|blocks)\.\d+\."
_TARGETS = {
    "attention": _IN_A_BLOCK
    + r"(?:(?:attention|self_attn)\.(?:self\.|attention\.)?(?:[qv]_proj|query|value)|attn\.qkv)",
    "all": _IN_A_BLOCK
    + r"(?:(?:attention|self_attn)\.(?:self\.|attention\.|output\.)?(?:[qkvo]_proj|out_proj|query|key|value|dense)"
    r"|attn\.(?:qkv|proj)|mlp\.(?:fc[12]|(?:gate|up|down)_proj|weights_(?:in|out))|(?:intermediate|output)\.dense"
    r"|(?:pointwise_|pw)conv[12])",
}
_HEADS = ("classifier", "projection_head", "head")  # trained whole beside the adapters, and saved with them


def lora_config(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
    adapter_targets: Literal["attention", "all"] = "attention",
    dora: bool = False,
) -> LoraConfig:
    """Low-rank adapters for the encoder of a model of ours, or for an encoder of transformers or timm.

    The heads of the model are trained whole and saved with the adapters; its text tower, if any, stays as it is.

    Args:
        model: What the adapters go on.
        rank: r, >= 1.
        alpha: The update is scaled by alpha / rank; 2 x rank if not given (ours, because it is the common choice).
        dropout: On the adapters' input, in [0, 1).
        adapter_targets: "attention": queries and values, as in the LoRA paper (Hu et al. 2021, section 4.2; timm's
            packed projection whole). "all": every linear layer of the blocks (a ConvNeXt's pointwise convolutions).
        dora: Weight-decomposed adapters (Liu et al. 2024).

    Raises:
        InputError: The model has none of these layers, or a value cannot work.
    """
    from peft import LoraConfig

    if rank < 1 or not 0 <= dropout < 1:
        raise InputError(f"rank={rank} and dropout={dropout} make no adapter: give a rank from 1 and a share below 1.")
    if adapter_targets not in _TARGETS:
        raise InputError(f"adapter_targets={adapter_targets} names no layers: choose one of {', '.join(_TARGETS)}.")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not any(re.fullmatch(_TARGETS[adapter_targets], name) for name in linear):
        kind = type(getattr(model, "vision_model", model)).__name__
        others = any(re.fullmatch(_TARGETS["all"], name) for name in linear)
        raise InputError(
            f"{kind} has no layer for adapters with adapter_targets={adapter_targets}: "
            + ("give adapter_targets=all." if others else "train it whole.")
        )
    heads = [head for head in _HEADS if isinstance(getattr(model, head, None), nn.Module)]
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=_TARGETS[adapter_targets],
        modules_to_save=heads or None,
        use_dora=dora,
    )


def add_adapters(model: StableRepModel, **settings: Any) -> PeftModel:
    """Put low-rank adapters into the vision tower of a model, and freeze the rest of the tower.

    Projection head and text tower are trained as before. The model stays what it is; its checkpoints hold the frozen
    weights too, so that a resumed run needs no other file.

    Args:
        model: Changed in place.
        settings: As for `lora_config`.

    Returns:
        The tower with its adapters, as peft sees it: `save_adapter` writes them alone, and `merge_and_unload()` makes
        the tower the stock model that it was.

    Raises:
        InputError: See `lora_config`.
    """
    from peft import get_peft_model

    config = lora_config(model.vision_model, **settings)
    config.modules_to_save = None  # a tower's own head pools, as SigLIP's does: it is not new
    return get_peft_model(model.vision_model, config)


def save_adapter(model: PeftModel, folder: str | Path, base_model: str) -> Path:
    """Write trained adapters so that peft loads them onto the *stock* class of the encoder they were trained on.

        base = AutoModelForImageClassification.from_pretrained(base_model, num_labels=...)  # AutoModel of an encoder
        model = PeftModel.from_pretrained(base, folder)

    peft's own `save_pretrained` would name the class they were trained on, which `AutoPeftModel` refuses to import
    (it is not of transformers), and the path of the encoder on this machine.

    Args:
        model: Adapters on a `StableRepForImageClassification`, or on a vision tower.
        folder: To write to; made if missing.
        base_model: Hub id or folder of the encoder, as users of the adapters are to load it.
    """
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import load_file, save_file

    folder = Path(folder)
    model.save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    config |= {"base_model_name_or_path": base_model, "auto_mapping": None}
    trained: Any = model.get_base_model()
    if hasattr(trained, "vision_model"):
        with torch.device("meta"):  # looked at for its names alone
            stock = stock_classifier(trained.config.vision_config)
        weights = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        renamed = dict(stock_classifier_weight(stock, name, weight) for name, weight in weights.items())
        save_file(renamed, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        head, _ = stock_classifier_weight(stock, "classifier.bias", torch.empty(0))
        config["modules_to_save"] = [head.removesuffix(".bias")]
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # peft's template, full of blanks; the card is ours to write
    return folder
