"""Weights that FSDP2 has cut among processes: a part of one, the whole of it, and modules that hold the whole.

All take plain tensors and models too and give them back as they are. `whole` and `gathered` are collectives where
weights are cut: every process must call them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part, sharing its memory."""
    part: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """All parts."""
    everything: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return everything


@torch.no_grad()
def copy_whole(target: Tensor, source: Tensor) -> None:
    """Fill a tensor, or this process's part of it, from all of its values."""
    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    target.copy_(source)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within, each module holds its whole weights, so that parts of the model can be called by themselves."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
