from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returns, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.fixture
def largest_tensor() -> Callable[[Callable[[], Tensor]], int]:
    """Elements of the largest tensor made while a function runs and its result is differentiated."""

    def measure(loss: Callable[[], Tensor]) -> int:
        with _LargestTensor() as largest:
            loss().backward()
        return largest.elements

    return measure


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
