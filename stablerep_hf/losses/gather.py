"""Rows of all ranks, with gradient: the only file of this room that knows of processes.

Rule that the losses keep, and why 1 and N ranks give the same gradient: every rank ends with the *same* loss, the one
of the whole batch, and the backward of a collective is the sum over ranks of what each of them sent. So each rank
differentiates (number of ranks) x loss with respect to what it put in, and DistributedDataParallel's mean over ranks
gives back the gradient of the loss. It holds for ranks that bring different numbers of rows, or none.

All functions are the identity in one process without a process group. They are collectives otherwise: every rank must
call them, in the same order. Only public collectives that every backend has are used (gloo on a CPU included).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes of the default group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process in the default group; 0 without one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def count_rows(rows: Tensor) -> list[int]:
    """How many rows each rank holds, rank 0 first. ``rows``: (n, ...), n may differ from rank to rank and be 0."""
    if world_size() == 1:
        return [rows.shape[0]]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = rows.shape[0]
    dist.all_reduce(counts)
    return [int(count) for count in counts.tolist()]


def own_rows(counts: list[int]) -> slice:
    """Where this rank's rows are among the gathered ones."""
    start = sum(counts[: rank()])
    return slice(start, start + counts[rank()])


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of all ranks, rank 0 first.

    Args:
        rows: (n, ...) of any dtype; the shape after n and the dtype are the same on all ranks.
        counts: what `count_rows` says.

    Returns:
        (sum of counts, ...). Its gradient flows back to the rank the row came from, summed over ranks.
    """
    if len(counts) == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, counts)
    return gathered


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over ranks, with gradient (the sum over ranks of the incoming gradients)."""
    if world_size() == 1:
        return value
    total: Tensor = _SumOverRanks.apply(value)
    return total


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.own = own_rows(counts)
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))  # gloo gathers equal shapes only
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own], None


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return (total,)
