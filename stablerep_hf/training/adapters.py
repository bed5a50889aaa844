"""Low-rank adapters (PEFT) on the encoder: which projections, and folders that load without this package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import nn

from ..errors import InputError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

# Names of the projections, as a regular expression over module names, for each family of encoders: this package's and
# transformers' stock ViT call them alike in memory, timm packs query, key and value into one. A text tower, whose MLP
# is named like the encoder's, is left as it is.
_TARGETS = {
    "attention": r"(?!text_model\.)(?:.*\.)?(?:layers\.\d+\.attention\.(?:q_proj|v_proj)|blocks\.\d+\.attn\.qkv)",
    "all": r"(?!text_model\.)(?:.*\.)?(?:layers\.\d+\.(?:attention\.(?:q_proj|k_proj|v_proj|o_proj)|mlp\.(?:fc1|fc2))"
    r"|blocks\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.(?:fc1|fc2)))",
}
_HEADS = ("classifier", "projection_head", "head")  # trained whole beside the adapters, and saved with them


def lora_config(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
    targets: Literal["attention", "all"] = "attention",
    dora: bool = False,
) -> LoraConfig:
    """Low-rank adapters for the encoder of a model of ours, a stock ViT or a timm ViT.

    The heads of the model are trained whole and saved with the adapters; its text tower, if any, stays as it is.

    Args:
        model: What the adapters go on.
        rank: r, >= 1.
        alpha: The update is scaled by alpha / rank; 2 x rank if not given (ours, because it is the common choice).
        dropout: On the adapters' input, in [0, 1).
        targets: "attention": queries and values, as in the LoRA paper (Hu et al. 2021, section 4.2; timm's packed
            projection whole). "all": every linear layer of the blocks.
        dora: Weight-decomposed adapters (Liu et al. 2024).

    Raises:
        InputError: The model has none of these layers, or a value cannot work.
    """
    from peft import LoraConfig

    if rank < 1 or not 0 <= dropout < 1:
        raise InputError(f"rank={rank} and dropout={dropout} make no adapter: give a rank from 1 and a share below 1.")
    if targets not in _TARGETS:
        raise InputError(f"targets={targets!r} names no layers: choose one of {', '.join(_TARGETS)}.")
    kind = getattr(getattr(getattr(model, "config", None), "vision_config", None), "model_type", "vit")
    if kind != "vit":  # `save_adapter` names the layers of a stock ViT
        raise InputError(f"The encoder is of type {kind!r}, and adapters are trained on a ViT alone: train it whole.")
    pattern = _TARGETS[targets]
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not any(re.fullmatch(pattern, name) for name in names):
        raise InputError(
            f"{type(model).__name__} has no layer for adapters: they go on the query, key, value and MLP projections "
            f"of a ViT of transformers or timm, and this model's linear layers are {', '.join(names[:3]) or 'none'}."
        )
    heads = [head for head in _HEADS if isinstance(getattr(model, head, None), nn.Module)]
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=pattern,
        modules_to_save=heads or None,
        use_dora=dora,
    )


def save_adapter(model: PeftModel, folder: str | Path, base_model: str) -> Path:
    """Write trained adapters so that peft loads them onto the *stock* classifier of the encoder they were trained on.

        base = AutoModelForImageClassification.from_pretrained(base_model, num_labels=...)
        model = PeftModel.from_pretrained(base, folder)

    peft's own `save_pretrained` would name the class they were trained on, which `AutoPeftModel` refuses to import
    (it is not of transformers), and the path of the encoder on this machine.

    Args:
        model: Adapters on a `StableRepForImageClassification`.
        folder: To write to; made if missing.
        base_model: Hub id or folder of the encoder, as users of the adapters are to load it.
    """
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import load_file, save_file

    folder = Path(folder)
    model.save_pretrained(str(folder))
    weights = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    stock = {name.replace(".vision_model.", ".vit.", 1): tensor for name, tensor in weights.items()}
    save_file(stock, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    config |= {"base_model_name_or_path": base_model, "auto_mapping": None}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # peft's template, full of blanks; the card is ours to write
    return folder
