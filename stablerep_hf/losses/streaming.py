"""Log-sum-exp of similarities without the matrix of similarities.

Both losses need, for N anchors, the log of a sum over M candidates of exp(anchor . candidate). Written plainly that is
an (N, M) matrix, several times over (logits, masks, softmax, gradient). Here tiles of it are made, used and dropped;
the backward makes them again. Memory O((N + M) D + tile²); time hardly more than the matrix products themselves, of
which there are 4 N M D multiplications (1 forward, 1 recomputed, 2 backward), half as many where anchors are the
candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def streamed_logsumexp(
    anchors: Tensor,
    candidates: Tensor,
    own: Tensor | None = None,
    log_weights: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """``log(sum over j of weight_j * exp(anchors_i . candidates_j))`` for each i, j = own_i left out.

    Args:
        anchors: (N, D) float32 or float64, already divided by the temperature.
        candidates: (M, D) of the same dtype.
        own: (N,) int64 in 0..M-1: the candidate each anchor must not meet, itself. None: meet all.
        log_weights: (M,) logarithms of positive weights, without gradient. None: all weights 1.
        tile: rows and columns handled at once; changes memory and speed, not the result (beyond rounding).

    Returns:
        (N,) of the same dtype; -inf for an anchor without a candidate. Differentiable once, in anchors and candidates.
        No overflow for logits of any size: each tile is shifted by its own maximum.
    """
    tile = tile or _default_tile(anchors.device)
    result: Tensor = _StreamedLogSumExp.apply(anchors, candidates, own, log_weights, tile)
    return result


def streamed_self_logsumexp(rows: Tensor, tile: int | None = None) -> Tensor:
    """``log(sum over j != i of exp(rows_i . rows_j))`` for each i; half of the products, for the logits are symmetric.

    Args:
        rows: (N, D) float32 or float64, unit vectors over the root of the temperature. Logits must be within
            `largest_symmetric_logit` of 0: the exponentials are not shifted, so that rows and columns can share them.
        tile: as in `streamed_logsumexp`.

    Returns:
        (N,) of the same dtype; -inf for N = 1. Differentiable once.
    """
    result: Tensor = _StreamedSelfLogSumExp.apply(rows, tile or _default_tile(rows.device))
    return result


def largest_symmetric_logit(dtype: torch.dtype) -> float:
    """How far from 0 logits may be in `streamed_self_logsumexp`: 39.9 in float32 (temperature 0.0251), 319 in float64.

    exp of twice as much is finite and its inverse a normal number, so sums and quotients of them lose no digit.
    """
    return 0.45 * math.log(torch.finfo(dtype).max)


def _default_tile(device: torch.device) -> int:
    # 512 x 512 float32 is 1 MiB: it stays in the second-level cache of a core. Accelerators want larger products; 4096
    # is 64 MiB, and not measured.
    return 512 if device.type == "cpu" else 4096


@contextmanager
def _in_full_precision() -> Iterator[None]:
    """Multiply float32 as it is, whatever the process allows elsewhere.

    TF32, which `torch.compile` and Trainer's `tf32` turn on for the whole process, keeps 10 bits of each factor and
    moves this gradient by up to 0.5 %.
    """
    matmul = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def _slices(length: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, length)) for start in range(0, length, tile)]


def _logits(
    anchors: Tensor, candidates: Tensor, own: Tensor | None, log_weights: Tensor | None, rows: slice, columns: slice
) -> Tensor:
    tile = anchors[rows] @ candidates[columns].T
    if log_weights is not None:
        tile += log_weights[columns]
    if own is not None:
        column = own[rows] - columns.start
        inside = (column >= 0) & (column < tile.shape[1])
        # where the own candidate is in another tile, write back what a clamped index reads: no boolean indexing, which
        # would make the host wait for the device
        column = column.clamp(0, tile.shape[1] - 1).unsqueeze(1)
        tile.scatter_(1, column, tile.gather(1, column).masked_fill(inside.unsqueeze(1), -torch.inf))
    return tile


class _StreamedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, own: Tensor | None, log_weights: Tensor | None, tile: int
    ) -> Tensor:
        lse = anchors.new_full((anchors.shape[0],), -torch.inf)
        with _in_full_precision():
            for rows in _slices(anchors.shape[0], tile):
                for columns in _slices(candidates.shape[0], tile):
                    logits = _logits(anchors, candidates, own, log_weights, rows, columns)
                    lse[rows] = torch.logaddexp(lse[rows], torch.logsumexp(logits, dim=1))
        ctx.save_for_backward(anchors, candidates, own, log_weights, lse)
        ctx.tile = tile
        return lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        anchors, candidates, own, log_weights, lse = ctx.saved_tensors
        grad_anchors, grad_candidates = torch.zeros_like(anchors), torch.zeros_like(candidates)
        finite_lse = lse.masked_fill(lse == -torch.inf, torch.inf)  # no candidate: softmax weights 0, not 0 / 0
        # a backward may be called under autocast
        with _in_full_precision(), torch.autocast(anchors.device.type, enabled=False):
            for rows in _slices(anchors.shape[0], ctx.tile):
                for columns in _slices(candidates.shape[0], ctx.tile):
                    logits = _logits(anchors, candidates, own, log_weights, rows, columns)
                    weights = logits.sub_(finite_lse[rows, None]).exp_().mul_(grad[rows, None])
                    grad_anchors[rows].addmm_(weights, candidates[columns])
                    grad_candidates[columns].addmm_(weights.T, anchors[rows])
        return grad_anchors, grad_candidates, None, None, None


class _StreamedSelfLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, tile: int) -> Tensor:
        sums = rows.new_zeros(rows.shape[0])
        slices = _slices(rows.shape[0], tile)
        with _in_full_precision():
            for index, upper in enumerate(slices):
                for lower in slices[index:]:
                    exps = _exps(rows, upper, lower)
                    sums[upper] += exps.sum(dim=1)
                    if lower is not upper:
                        sums[lower] += exps.sum(dim=0)
        ctx.save_for_backward(rows, sums)
        ctx.tile = tile
        return sums.log()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows, sums = ctx.saved_tensors
        # rows_i is in lse_i and in every lse_j: the sum over j of exps_ij (grad_i / sums_i + grad_j / sums_j) rows_j
        share = (grad / sums).masked_fill(sums == 0, 0.0)
        grad_rows = torch.zeros_like(rows)
        slices = _slices(rows.shape[0], ctx.tile)
        with _in_full_precision(), torch.autocast(rows.device.type, enabled=False):
            for index, upper in enumerate(slices):
                for lower in slices[index:]:
                    weights = _exps(rows, upper, lower).mul_(share[upper, None] + share[lower])
                    grad_rows[upper].addmm_(weights, rows[lower])
                    if lower is not upper:
                        grad_rows[lower].addmm_(weights.T, rows[upper])
        return grad_rows, None


def _exps(rows: Tensor, upper: slice, lower: slice) -> Tensor:
    exps = (rows[upper] @ rows[lower].T).exp_()
    return exps.fill_diagonal_(0.0) if upper is lower else exps
