from __future__ import annotations

import math

import pytest
import torch
from slow_losses import slow_multi_positive
from torch.nn.functional import cross_entropy, normalize

from stablerep_hf.losses import MultiPositiveContrastiveLoss, multi_positive_loss, similarity_statistics

RAGGED = torch.tensor([7, 7, 3, 7, 2**62, 3, -1, 2**62, 5, 5, 5, 5, 9])  # groups of 3, 2, 2, 4 and two singletons
SYMMETRIC, SHIFTED = 0.1, 0.001  # temperatures on either side of what the symmetric formulation can represent


def embeds(count: int, width: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, width, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("tile", [1, 4, 5, 13, None])
@pytest.mark.parametrize("temperature", [SYMMETRIC, SHIFTED, 1.0])
def test_equals_the_double_loop(temperature, tile, generator):
    rows = embeds(13, 5, generator)
    expected = slow_multi_positive(rows, RAGGED, temperature)
    (expected_grad,) = torch.autograd.grad(expected, rows)
    loss = multi_positive_loss(rows, RAGGED, temperature, tile=tile)
    (grad,) = torch.autograd.grad(loss, rows)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)
    assert grad.abs().max() > 0.01


def test_module_equals_function(generator):
    rows = embeds(13, 5, generator)
    torch.testing.assert_close(
        MultiPositiveContrastiveLoss(0.2)(rows, RAGGED), multi_positive_loss(rows, RAGGED, 0.2), rtol=0, atol=0
    )
    assert MultiPositiveContrastiveLoss().temperature == 0.1


@pytest.mark.parametrize("temperature", [SYMMETRIC, 0.003])
def test_gradient_is_the_numerical_one(temperature, generator):
    rows = embeds(9, 3, generator)
    assert torch.autograd.gradcheck(lambda x: multi_positive_loss(x, RAGGED[:9], temperature, tile=4), rows)


def test_order_does_not_matter(generator):
    rows, order = embeds(13, 5, generator), torch.randperm(13, generator=generator)
    loss = multi_positive_loss(rows, RAGGED, 0.1, tile=4)
    shuffled = multi_positive_loss(rows[order], RAGGED[order], 0.1, tile=4)
    torch.testing.assert_close(shuffled, loss)
    torch.testing.assert_close(torch.autograd.grad(shuffled, rows), torch.autograd.grad(loss, rows))


def test_only_the_direction_of_an_embedding_matters(generator):
    rows = embeds(13, 5, generator)
    lengths = torch.logspace(-6, 6, 13, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(multi_positive_loss(rows * lengths, RAGGED), multi_positive_loss(rows, RAGGED))


@pytest.mark.parametrize("temperature", [SYMMETRIC, SHIFTED])
def test_equal_embeddings_give_log_of_the_others(temperature):
    rows = torch.ones(12, 4, dtype=torch.float64)
    loss = multi_positive_loss(rows, torch.arange(12) // 3, temperature)
    assert loss.item() == pytest.approx(math.log(11))


def test_perfect_embeddings_give_the_closed_form():
    rows = torch.eye(4, dtype=torch.float64).repeat_interleave(3, dim=0)  # 4 captions x 3 images, at right angles
    loss = multi_positive_loss(rows, torch.arange(12) // 3, 0.5)
    assert loss.item() == pytest.approx(math.log(2 * math.exp(2) + 9) - 2)


def test_two_crops_give_nt_xent(generator):
    rows = embeds(16, 6, generator)
    logits = (normalize(rows, dim=1) @ normalize(rows, dim=1).T / 0.2).fill_diagonal_(-torch.inf)
    simclr = cross_entropy(logits, torch.arange(16).roll(8))  # view i and view i + 8 are of one image
    torch.testing.assert_close(multi_positive_loss(rows, torch.arange(8).repeat(2), 0.2), simclr)


def test_images_without_positives_contribute_nothing_and_count(generator):
    rows = embeds(6, 4, generator)
    alone = multi_positive_loss(rows, torch.arange(6))
    alone.backward()
    assert alone.item() == 0.0
    assert torch.equal(rows.grad, torch.zeros_like(rows))
    # a singleton is still a negative of the others: the pair's loss is that of a batch of 3, its mean over 3
    pair, three = torch.tensor([0, 0]), torch.tensor([0, 0, 1])
    assert multi_positive_loss(rows[:2], pair).item() == pytest.approx(0.0, abs=1e-12)
    assert multi_positive_loss(rows[:3], three).item() > 0.01
    torch.testing.assert_close(multi_positive_loss(rows[:3], three), slow_multi_positive(rows[:3], three, 0.1))


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("temperature", [SYMMETRIC, SHIFTED])
def test_too_few_images_give_zero(count, temperature):
    rows = torch.ones(count, 4, requires_grad=True)
    loss = multi_positive_loss(rows, torch.zeros(count, dtype=torch.int64), temperature)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_a_caption_drawn_twice_gives_positives_not_negatives(generator):
    rows = embeds(8, 4, generator)
    drawn_twice = torch.tensor([1, 1, 2, 2, 1, 1, 3, 3])
    by_place = torch.arange(8) // 2
    torch.testing.assert_close(multi_positive_loss(rows, drawn_twice), slow_multi_positive(rows, drawn_twice, 0.1))
    assert not torch.allclose(multi_positive_loss(rows, drawn_twice), multi_positive_loss(rows, by_place))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.05, 0.01])
def test_half_precision_embeddings_are_compared_in_float32(dtype, temperature, generator):
    half = (300 * torch.randn(64, 32, generator=generator)).to(dtype).requires_grad_()  # squares overflow float16
    ids = torch.arange(64) // 4
    loss = multi_positive_loss(half, ids, temperature)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, multi_positive_loss(half.float(), ids, temperature), rtol=0, atol=0)
    assert half.grad.dtype == dtype
    assert half.grad.isfinite().all()
    assert half.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_reach_inside(dtype, generator):
    rows = torch.randn(64, 32, generator=generator, requires_grad=True)
    ids = torch.arange(64) // 4
    outside = multi_positive_loss(rows, ids)
    (outside_grad,) = torch.autograd.grad(outside, rows)
    with torch.autocast("cpu", dtype=dtype):
        inside = MultiPositiveContrastiveLoss()(rows, ids)
        (inside_grad,) = torch.autograd.grad(inside, rows)
    assert torch.equal(inside, outside)
    assert torch.equal(inside_grad, outside_grad)


@pytest.mark.parametrize("temperature", [SYMMETRIC, SHIFTED])
def test_no_matrix_of_all_pairs_is_made(temperature, generator, largest_tensor):
    rows = torch.randn(1000, 8, generator=generator, requires_grad=True)
    ids = torch.arange(1000) // 5
    assert largest_tensor(lambda: multi_positive_loss(rows, ids, temperature, tile=64)) <= 1000 * 8
    assert largest_tensor(lambda: multi_positive_loss(rows, ids, temperature, tile=1000)) == 1000 * 1000  # it does see


def test_float32_keeps_its_digits_at_the_paper_s_shape(generator):
    rows, ids = torch.randn(1536, 64, generator=generator), torch.arange(1536) // 6
    single, double = rows.clone().requires_grad_(), rows.double().requires_grad_()
    loss, reference = multi_positive_loss(single, ids), multi_positive_loss(double, ids, tile=200)
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    assert (single.grad - double.grad).norm() / double.grad.norm() < 1e-5


@pytest.mark.parametrize(
    ("rows", "ids", "temperature", "sentence"),
    [
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), 0.0, "temperature is 0.0"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), -1.0, "temperature is -1.0"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), float("nan"), "temperature is nan"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), 0.1, r"shape \(4,\)"),
        (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), 0.1, "torch.int64 of shape"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), 0.1, "for 4 images"),
        (torch.zeros(4, 2), torch.zeros(4), 0.1, "caption_ids is torch.float32"),
    ],
)
def test_what_cannot_work_is_refused(rows, ids, temperature, sentence):
    with pytest.raises(ValueError, match=sentence):
        multi_positive_loss(rows, ids, temperature)
    with pytest.raises(ValueError, match=sentence):
        MultiPositiveContrastiveLoss(temperature)(rows, ids)


def test_statistics_equal_the_loop_over_pairs(generator):
    rows = embeds(13, 5, generator)
    similarity, same = normalize(rows, dim=1) @ normalize(rows, dim=1).T, RAGGED[:, None] == RAGGED
    positive = same & ~torch.eye(13, dtype=torch.bool)
    assert similarity_statistics(rows, RAGGED) == pytest.approx(
        {
            "mean_positive_similarity": similarity[positive].mean().item(),
            "mean_negative_similarity": similarity[~same].mean().item(),
            "effective_positives": positive.sum(1).double().mean().item(),
        }
    )


def test_statistics_say_nan_where_there_is_no_pair():
    statistics = similarity_statistics(torch.eye(3), torch.arange(3))
    assert math.isnan(statistics["mean_positive_similarity"])
    assert statistics["mean_negative_similarity"] == pytest.approx(0.0, abs=1e-9)
    assert statistics["effective_positives"] == 0.0
