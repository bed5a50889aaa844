"""Log-sum-exp of similarities without the matrix of similarities.

Both losses need, for N anchors, the log of a sum over M candidates of exp(anchor . candidate). Written plainly that is
an (N, M) matrix, several times over (logits, masks, softmax, gradient). Here tiles of it are made, used and dropped;
the backward makes them again. Memory O((N + M) D + tile²), time that of three (forward and backward) bare matrix
products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TILE = 1024  # rows and columns of a tile: 4 MiB in float32, inside a core's share of cache, enough work for a GPU


def streamed_logsumexp(
    anchors: Tensor, candidates: Tensor, own: Tensor | None = None, log_weights: Tensor | None = None, tile: int = TILE
) -> Tensor:
    """``log(sum over j of weight_j * exp(anchors_i . candidates_j))`` for each i, j = own_i left out.

    Args:
        anchors: (N, D) float32 or float64, already divided by the temperature.
        candidates: (M, D) of the same dtype.
        own: (N,) int64 in 0..M-1: the candidate each anchor must not meet, itself. None: meet all.
        log_weights: (M,) logarithms of non-negative weights, without gradient. None: all weights 1.
        tile: rows and columns handled at once; changes memory and speed, not the result (beyond rounding).

    Returns:
        (N,) of the same dtype; -inf for an anchor without a candidate. Differentiable once, in anchors and candidates.
    """
    result: Tensor = _StreamedLogSumExp.apply(anchors, candidates, own, log_weights, tile)
    return result


def _logits(
    anchors: Tensor, candidates: Tensor, own: Tensor | None, log_weights: Tensor | None, rows: slice, columns: slice
) -> Tensor:
    tile = anchors[rows] @ candidates[columns].T
    if log_weights is not None:
        tile += log_weights[columns]
    if own is not None:
        column = own[rows] - columns.start
        inside = (column >= 0) & (column < tile.shape[1])
        # scatter by a clamped index and write back what was there where the own candidate is in another tile:
        # no boolean indexing, so no wait for the device
        column = column.clamp(0, tile.shape[1] - 1).unsqueeze(1)
        tile.scatter_(1, column, tile.gather(1, column).masked_fill(inside.unsqueeze(1), -torch.inf))
    return tile


def _slices(length: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, length)) for start in range(0, length, tile)]


class _StreamedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, own: Tensor | None, log_weights: Tensor | None, tile: int
    ) -> Tensor:
        lse = anchors.new_full((anchors.shape[0],), -torch.inf)
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
        finite_lse = lse.masked_fill(lse == -torch.inf, torch.inf)  # no candidate: all weights 0, not 0/0
        for rows in _slices(anchors.shape[0], ctx.tile):
            for columns in _slices(candidates.shape[0], ctx.tile):
                logits = _logits(anchors, candidates, own, log_weights, rows, columns)
                weights = logits.sub_(finite_lse[rows, None]).exp_().mul_(grad[rows, None])
                grad_anchors[rows].addmm_(weights, candidates[columns])
                grad_candidates[columns].addmm_(weights.T, anchors[rows])
        return grad_anchors, grad_candidates, None, None, None
