from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stablerep_hf.losses.streaming import largest_symmetric_logit, streamed_logsumexp, streamed_self_logsumexp

OWN = torch.tensor([6, 0, 3, 3, 1])


def dense(anchors, candidates, own, log_weights):
    logits = anchors @ candidates.T
    if log_weights is not None:
        logits = logits + log_weights
    if own is not None:
        logits = logits.scatter(1, own.unsqueeze(1), -torch.inf)
    return logits.logsumexp(dim=1)


@pytest.mark.parametrize("tile", [1, 2, 3, 7, None])
@pytest.mark.parametrize("own", [None, OWN], ids=["meets all", "leaves itself out"])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_dense_matrix(tile, own, weighted, generator):
    anchors = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    candidates = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    log_weights = torch.linspace(-2, 1, 7, dtype=torch.float64) if weighted else None
    expected = dense(anchors, candidates, own, log_weights)
    actual = streamed_logsumexp(anchors, candidates, own, log_weights, tile)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (anchors, candidates), cotangent),
        torch.autograd.grad(expected, (anchors, candidates), cotangent),
    )


@pytest.mark.parametrize("tile", [1, 3, 7, None])
def test_the_symmetric_half_equals_the_whole(tile, generator):
    rows = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = dense(rows, rows, torch.arange(7), None)
    actual = streamed_self_logsumexp(rows, tile)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.linspace(-1, 2, 7, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(actual, rows, cotangent), torch.autograd.grad(expected, rows, cotangent)
    )


@pytest.mark.parametrize("sign", [-1, 1])
def test_logits_of_any_size_are_finite(sign):
    anchors = torch.full((3, 1), 1e4 * sign, requires_grad=True)
    candidates = torch.tensor([[1.0], [2.0]], requires_grad=True)
    result = streamed_logsumexp(anchors, candidates, tile=1)
    result.sum().backward()
    assert result.tolist() == pytest.approx([2e4 if sign > 0 else -1e4] * 3)
    assert anchors.grad.flatten().tolist() == [2.0 if sign > 0 else 1.0] * 3


@pytest.mark.parametrize("cosine", [-1.0, 1.0])
def test_the_symmetric_half_is_exact_up_to_the_logit_it_names(cosine):
    logit = largest_symmetric_logit(torch.float32)
    rows = torch.tensor([[1.0, 0.0], [cosine, 0.0], [0.0, 1.0]]) * logit**0.5
    single = rows.clone().requires_grad_()
    double = rows.double().requires_grad_()
    result, expected = streamed_self_logsumexp(single), dense(double, double, torch.arange(3), None)
    torch.testing.assert_close(result, expected.float())
    result.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(single.grad, double.grad.float(), rtol=1e-5, atol=1e-5)


def test_without_a_candidate_there_is_nothing_to_sum():
    rows = torch.ones(1, 2, requires_grad=True)
    for result in (streamed_self_logsumexp(rows), streamed_logsumexp(rows, rows, torch.tensor([0]))):
        assert result.tolist() == [-torch.inf]
        (grad,) = torch.autograd.grad(result.sum(), rows)
        assert grad.tolist() == [[0.0, 0.0]]


def test_products_are_exact_where_the_process_allows_tf32():
    """As `torch.compile` and Trainer's `tf32` do; the flags can be read without a GPU."""
    matmul, seen = torch.backends.cuda.matmul, []
    new = hasattr(matmul, "fp32_precision")
    name, tf32, exact = ("fp32_precision", "tf32", "ieee") if new else ("allow_tf32", True, False)
    before = getattr(matmul, name)

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if op.overloadpacket.__name__ in ("mm", "addmm_"):
                seen.append(getattr(matmul, name))
            return op(*args, **(kwargs or {}))

    rows = torch.randn(6, 3, requires_grad=True)
    setattr(matmul, name, tf32)
    try:
        with Products(), torch.autograd.set_multithreading_enabled(False):
            (
                streamed_logsumexp(rows, rows, tile=4).sum() + streamed_self_logsumexp(rows / 10, tile=4).sum()
            ).backward()
        assert getattr(matmul, name) == tf32
    finally:
        setattr(matmul, name, before)
    assert len(seen) > 20 and set(seen) == {exact}
