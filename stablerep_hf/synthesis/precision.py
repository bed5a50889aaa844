"""The data type in which a pipeline is drawn: the one that its weights are meant for."""

from __future__ import annotations

import math
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .pipeline_folder import read_json

# Pipelines whose examples in diffusers' documentation (`__call__` of the class) all load them in bfloat16: their
# activations leave the range of float16, which gives black images, whatever type the weights were saved in.
_BFLOAT16 = (
    "Bria", "Chroma", "CogView", "Cosmos", "Flux", "GlmImage", "HiDream", "HunyuanImage", "Lumina", "LongCat",
    "OmniGen", "OvisImage", "QwenImage", "Sana", "StableCascade", "ZImage",
)  # fmt: skip
_DENOISERS = ("transformer", "unet", "prior")


def default_dtype(folder: Path, pipeline_class: str, device: str) -> str:
    """The data type for a pipeline on a device: float32 unless that is a CUDA GPU.

    There it is float16 for weights that were saved in it, and else bfloat16. A GPU without bfloat16 (before Ampere)
    gets float32 for what was made for bfloat16, and float16 for what was saved in float32.
    """
    if not device.startswith("cuda"):
        return "float32"
    import torch

    saved = saved_dtype(folder)
    needs_range = pipeline_class.startswith(_BFLOAT16) or saved == "BF16"
    if saved == "F16" and not needs_range:
        return "float16"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32" if needs_range else "float16"


def saved_dtype(folder: Path) -> str | None:
    """The safetensors type of most bytes of a pipeline's denoiser, such as "F16"; None if no file says it.

    Only headers are read; of weights in several files that of the first.
    """
    for part in _DENOISERS:
        files = sorted((folder / part).glob("*.safetensors"))
        if index := sorted((folder / part).glob("*.safetensors.index.json")):
            names = {str(name) for name in read_json(index[0]).get("weight_map", {}).values()}
            files = [path for path in files if path.name in names] or files
        if files:
            return _largest_dtype(files[0])
    return None


def _largest_dtype(path: Path) -> str | None:
    sizes: Counter[str] = Counter()
    with suppress(OSError, SafetensorError), safe_open(path, "numpy") as file:  # damaged: loading says so
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            bits = re.search(r"\d+", part.get_dtype())  # of "BF16", "F8_E4M3", "BOOL"
            sizes[part.get_dtype()] += math.prod(part.get_shape()) * int(bits[0] if bits else 8)
    return sizes.most_common(1)[0][0] if sizes else None
