from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from stablerep_hf.models import SiblingBatchNorm1d

# 5 first images, 4 second, 3 third ones, in no order
SIBLINGS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 0, 1, 2, 0, 1])


def make(kind: type[nn.BatchNorm1d], **options) -> nn.BatchNorm1d:
    norm = kind(6, dtype=torch.float64, **options)
    with torch.no_grad():
        for tensor, start in (
            (norm.weight, 1.0),
            (norm.bias, -2.0),
            (norm.running_mean, 3.0),
            (norm.running_var, 4.0),
        ):
            tensor.copy_(torch.linspace(start, start + 2, 6))
    return norm


def rows_of(count: int = 12) -> torch.Tensor:
    return 3 + 2 * torch.randn(count, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def run(norm, rows, *siblings):
    """Output, gradients of input and parameters under an uneven loss, and what the module keeps."""
    rows = rows.clone().requires_grad_()
    output = norm(rows, *siblings)
    (
        output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    ).square().sum().backward()
    return output.detach(), rows.grad, norm.weight.grad, norm.bias.grad, dict(norm.state_dict())


def run_in_sequence(norm, rows, siblings):
    """The definition: nn.BatchNorm1d is called on the first images, then on the second ones, and so on."""

    def call(rows):
        output = torch.zeros_like(rows)
        for k in range(int(siblings.max()) + 1):
            output = output.index_put((torch.where(siblings == k)[0],), norm(rows[siblings == k]))
        return output

    call.weight, call.bias, call.state_dict = norm.weight, norm.bias, norm.state_dict
    return run(call, rows)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_equals_batch_norm_called_once_a_sibling(momentum):
    expected = run_in_sequence(make(nn.BatchNorm1d, momentum=momentum), rows_of(), SIBLINGS)
    actual = run(make(SiblingBatchNorm1d, momentum=momentum), rows_of(), SIBLINGS)
    torch.testing.assert_close(actual, expected)
    assert actual[-1]["num_batches_tracked"] == 3
    assert not torch.allclose(actual[0], run(make(SiblingBatchNorm1d), rows_of())[0])  # siblings do make a difference


def test_without_siblings_it_is_batch_norm():
    torch.testing.assert_close(run(make(SiblingBatchNorm1d), rows_of()), run(make(nn.BatchNorm1d), rows_of()))
    for options in ({"affine": False}, {"track_running_stats": False}):
        ours, theirs = SiblingBatchNorm1d(6, **options).double(), nn.BatchNorm1d(6, **options).double()
        for _ in range(2):
            torch.testing.assert_close(ours(rows_of()), theirs(rows_of()))
            ours.eval(), theirs.eval()


def test_in_evaluation_siblings_do_not_matter():
    ours, theirs = make(SiblingBatchNorm1d).eval(), make(nn.BatchNorm1d).eval()
    theirs.load_state_dict(ours.state_dict())  # the same keys
    assert torch.equal(ours(rows_of(), SIBLINGS), theirs(rows_of()))
    assert torch.equal(ours(rows_of(1)), theirs(rows_of(1)))


def test_gradient_is_the_numerical_one():
    norm = make(SiblingBatchNorm1d)
    inputs = (rows_of().requires_grad_(), norm.weight, norm.bias)

    def call(rows, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (rows, SIBLINGS))

    assert torch.autograd.gradcheck(call, inputs)


def test_a_sibling_no_other_image_has_joins_the_first_ones():
    siblings = torch.tensor([0, 1, 0, 1, 0, 2])  # one caption of three images, two of one or two
    joined = torch.tensor([0, 1, 0, 1, 0, 0])
    alone, together = make(SiblingBatchNorm1d), make(SiblingBatchNorm1d)
    torch.testing.assert_close(run(alone, rows_of(6), siblings), run(together, rows_of(6), joined))
    assert alone.num_batches_tracked == 2


@pytest.mark.parametrize("siblings", [torch.tensor([0]), torch.tensor([3])])
def test_one_image_in_all_gives_the_bias_and_teaches_nothing(siblings):
    norm = make(SiblingBatchNorm1d)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    output, grad, *_ = run(norm, rows_of(1), siblings)
    torch.testing.assert_close(output, norm.bias.detach().unsqueeze(0))
    assert torch.equal(grad, torch.zeros_like(grad))
    torch.testing.assert_close(norm.state_dict(), before)


def test_a_large_mean_costs_no_digits():
    rows = (1e4 + rows_of(64)).float()
    norm = SiblingBatchNorm1d(6)
    reference = nn.BatchNorm1d(6).double()(rows.double()).float()
    torch.testing.assert_close(norm(rows), reference, rtol=0, atol=2e-3)


def test_half_precision_rows_meet_float32_statistics():
    rows, norm = rows_of().to(torch.bfloat16).requires_grad_(), SiblingBatchNorm1d(6)
    exact = SiblingBatchNorm1d(6)(rows.detach().float(), SIBLINGS)
    output = norm(rows, SIBLINGS)
    output.float().square().sum().backward()
    assert output.dtype == rows.grad.dtype == torch.bfloat16
    assert norm.running_mean.dtype == norm.weight.grad.dtype == torch.float32
    assert torch.equal(output, exact.to(torch.bfloat16))
    whole = SiblingBatchNorm1d(6).to(torch.bfloat16)  # a model cast as a whole still runs
    assert whole(rows, SIBLINGS).isfinite().all()
    assert whole.eval()(rows).dtype == torch.bfloat16


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"sibling_index has shape \(3,\) for 12 rows"):
        make(SiblingBatchNorm1d)(rows_of(), torch.zeros(3, dtype=torch.int64))


def on_rank(cut, siblings):
    own = [slice(0, cut), slice(cut, None)][dist.get_rank()]
    rows = rows_of()[own].requires_grad_()
    norm = make(SiblingBatchNorm1d)
    output = norm(rows, None if siblings is None else siblings[own])
    factor = torch.linspace(-1, 1, 72, dtype=torch.float64).reshape(12, 6)[own]
    (output * factor).square().sum().backward()
    return output.detach(), rows.grad, norm.weight.grad, norm.bias.grad, dict(norm.state_dict())


@pytest.mark.distributed
@pytest.mark.parametrize("cut", [6, 4, 11, 12])  # rank 1 lacks no sibling, has one image of sibling 1, has none at all
@pytest.mark.parametrize("siblings", [SIBLINGS, SIBLINGS.sort().values, None], ids=["mixed", "sorted", "none"])
def test_two_ranks_equal_one(run_on_gloo, cut, siblings):
    output, grad, weight_grad, bias_grad, state = run(make(SiblingBatchNorm1d), rows_of(), siblings)
    first, second = run_on_gloo(on_rank, cut, siblings)
    torch.testing.assert_close(torch.cat([first[0], second[0]]), output)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), grad)
    torch.testing.assert_close(first[2] + second[2], weight_grad)  # DistributedDataParallel adds them up
    torch.testing.assert_close(first[3] + second[3], bias_grad)
    torch.testing.assert_close(first[4], state)
    torch.testing.assert_close(second[4], state)


@pytest.mark.slow
def test_compiled_it_gives_its_input_the_same_gradient():
    """Some compilers lose it, and the model travels to whatever PyTorch there is."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 6), SiblingBatchNorm1d(6), torch.nn.ReLU())
    rows, weights = torch.randn(8, 4), torch.randn(8, 6)
    gradients = []
    for module in (network, torch.compile(network, backend="aot_eager")):
        network.zero_grad()
        (module(rows) * weights).sum().backward()
        gradients.append(network[0].weight.grad.clone())
    assert gradients[0].abs().max() > 0.1
    torch.testing.assert_close(*gradients)
