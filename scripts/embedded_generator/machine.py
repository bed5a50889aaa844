"""Where a generator is trained: the device, the number format of its activations, compiled or not."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(precision: Literal["auto", "fp32", "bf16"]) -> torch.autocast:
    """The number format of activations; weights and their averages stay in float32."""
    where = device().type
    half = precision == "bf16" or (precision == "auto" and where == "cuda")
    return torch.autocast(where, dtype=torch.bfloat16, enabled=half)


def compile_on_gpu(*modules: nn.Module) -> None:
    """Compile modules in place on a GPU; on a CPU compiling takes minutes and gains a few percent."""
    if device().type == "cuda":
        for module in modules:
            module.compile()
