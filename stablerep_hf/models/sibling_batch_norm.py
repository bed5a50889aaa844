"""Batch normalisation per sibling, over all ranks. Travels with saved models as remote code: imports torch only.

The release calls its projection head once for the first images of all captions, once for the second ones, and so on,
with synchronised batch normalisation inside. So statistics are those of the k-th images of all captions of all ranks,
and the running statistics take one step for each k. Here that happens in one call, for groups of any sizes, on any
backend (`torch.nn.SyncBatchNorm` refuses CPU tensors).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SiblingBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose batch statistics are taken apart for each sibling index. State-dict keys are the same.

    In training, with m sibling indices, it equals m calls of `nn.BatchNorm1d` in sequence, one a sibling index:
    outputs, gradients, running statistics and count of batches. Statistics are those of the rows of all ranks (float32
    inside, float64 for float64 rows), and so are the gradients through them: 1 rank and N ranks agree, whatever part
    of a group lies where. In training, therefore, every rank of the default process group must make the call, with at
    least 0 rows.

    Ours, where m calls would fail: a sibling index that one row alone bears has no variance, so such rows (the last
    image of the one caption that has most) share the statistics of sibling index 0. If that leaves one row in all, its
    output is the bias and the running statistics stay.

    In evaluation it is `nn.BatchNorm1d`: running statistics, no collective.
    """

    # Compiled by PyTorch 2.11 it loses the gradient of its input, without a word; 2.14 is right.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor, sibling_index: Tensor | None = None) -> Tensor:
        """Normalise rows.

        Args:
            input: (N, num_features) of any floating dtype; the output has it too.
            sibling_index: (N,) int64 >= 0, which image of its caption a row is. None: all rows form one group.

        Raises:
            ValueError: shapes that do not fit.
        """
        if not self.training and self.running_mean is not None:
            normal: Tensor = super().forward(input)
            return normal
        self._check_input_dim(input)
        if sibling_index is None:
            sibling_index = torch.zeros(input.shape[0], dtype=torch.int64, device=input.device)
        if sibling_index.shape != input.shape[:1]:
            raise ValueError(
                f"sibling_index has shape {tuple(sibling_index.shape)} for {input.shape[0]} rows, but each row needs "
                "one: give an int64 tensor of that length."
            )
        group, counts = _group(sibling_index)
        output: Tensor
        output, mean, var = _NormalizeGroups.apply(input, group, counts, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self._track(mean, var, counts, self.running_mean, self.running_var, self.num_batches_tracked)
        return output

    @torch.no_grad()
    def _track(
        self, mean: Tensor, var: Tensor, counts: Tensor, running_mean: Tensor, running_var: Tensor, num_batches: Tensor
    ) -> None:
        """One step of the running statistics for each group, in order; a group of fewer than two rows takes none."""
        steps = counts > 1
        if self.momentum is None:  # nn.BatchNorm1d: the plain average over all batches seen
            momentum = 1.0 / (num_batches + steps.cumsum(0)).clamp(min=1)
        else:
            momentum = torch.full_like(counts, self.momentum, dtype=mean.dtype)
        momentum = torch.where(steps, momentum, 0.0).to(running_mean.dtype)
        unbiased = var * (counts / (counts - 1).clamp(min=1)).unsqueeze(1)
        for k in range(counts.shape[0]):
            running_mean.lerp_(mean[k].to(running_mean.dtype), momentum[k])
            running_var.lerp_(unbiased[k].to(running_mean.dtype), momentum[k])
        num_batches += steps.sum()


def _group(sibling_index: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) the group of each row here and (groups,) the rows of each group on all ranks."""
    num_groups = torch.zeros((), dtype=torch.int64, device=sibling_index.device)
    if sibling_index.numel():
        num_groups = sibling_index.max() + 1
    _reduce(num_groups, dist.ReduceOp.MAX)  # ranks must agree on the shape of what they sum
    # not `bincount`, for which a GPU's host waits once more
    counts = sibling_index.new_zeros(max(int(num_groups), 1))
    counts.index_add_(0, sibling_index, torch.ones_like(sibling_index))
    _reduce(counts, dist.ReduceOp.SUM)
    alone = counts == 1
    group = torch.where(alone[sibling_index], 0, sibling_index)
    counts = torch.where(alone, 0, counts)
    counts[0] += alone.sum()
    return group, counts


def _reduce(tensor: Tensor, op: Any) -> None:
    """Reduce in place over the ranks of the default group, if there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor, op)


class _NormalizeGroups(torch.autograd.Function):
    """Rows minus mean of their group, over its standard deviation, times weight, plus bias; also mean and variance."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, group: Tensor, counts: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        precise = rows if rows.dtype == torch.float64 else rows.float()
        size = counts.clamp(min=1).to(precise.dtype).unsqueeze(1)
        mean = _group_sums(precise, group, counts.shape[0]) / size
        centred = precise - mean[group]
        # the mean first, then squares about it: E[x²] - E[x]² loses all digits when the mean is large
        var = _group_sums(centred.square(), group, counts.shape[0]) / size
        inverse_std = torch.rsqrt(var + eps)
        output = centred.mul_(inverse_std[group])
        if weight is not None:
            output.mul_(weight)
        if bias is not None:
            output.add_(bias)
        ctx.save_for_backward(rows, group, size, mean, inverse_std, weight)
        ctx.mark_non_differentiable(mean, var)
        return output.to(rows.dtype), mean, var

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _mean: Tensor, _var: Tensor) -> tuple[Tensor | None, ...]:
        rows, group, size, mean, inverse_std, weight = ctx.saved_tensors
        grad = grad.to(mean.dtype)
        normal = (rows.to(mean.dtype) - mean[group]).mul_(inverse_std[group])
        num_groups = mean.shape[0]
        sum_grad = _local_sums(grad, group, num_groups)
        sum_grad_normal = _local_sums(grad * normal, group, num_groups)
        # of weight and bias each rank keeps its own part: DistributedDataParallel takes the mean of them
        grad_weight = sum_grad_normal.sum(0) if ctx.needs_input_grad[3] else None
        grad_bias = sum_grad.sum(0) if ctx.needs_input_grad[4] else None
        both = torch.cat([sum_grad, sum_grad_normal])
        _reduce(both, dist.ReduceOp.SUM)
        mean_grad, mean_grad_normal = (both / torch.cat([size, size])).chunk(2)
        grad_rows = normal.mul_(mean_grad_normal[group]).neg_().add_(grad).sub_(mean_grad[group])
        grad_rows.mul_(inverse_std[group])
        if weight is not None:
            grad_rows.mul_(weight)
            grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
            grad_bias = None if grad_bias is None else grad_bias.to(weight.dtype)
        return grad_rows.to(rows.dtype), None, None, grad_weight, grad_bias, None


def _local_sums(rows: Tensor, group: Tensor, num_groups: int) -> Tensor:
    return rows.new_zeros(num_groups, rows.shape[1]).index_add_(0, group, rows)


def _group_sums(rows: Tensor, group: Tensor, num_groups: int) -> Tensor:
    sums = _local_sums(rows, group, num_groups)
    _reduce(sums, dist.ReduceOp.SUM)
    return sums
