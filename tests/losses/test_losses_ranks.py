"""One rank and several: the same loss, and the same gradient of the parameters under DistributedDataParallel."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stablerep_hf.losses import ImageTextContrastiveLoss, MultiPositiveContrastiveLoss, similarity_statistics
from stablerep_hf.losses.gather import count_rows, gather_rows, own_rows, sum_over_ranks

pytestmark = pytest.mark.distributed

# caption 5 lies on both ranks however the rows are cut; 1, 4 and 9 are singletons, all at one end
IMAGE_IDS = torch.tensor([5, 2, 2, 2, 7, 7, 3, 3, 5, 5, 9, 1, 4])
TEXT_IDS = torch.tensor([2, 5, 7, 3, 9, 1, 4, 77])
# Where the images are cut into ranks: nearly even, uneven, one on the last rank, none there; then the same for four.
CUTS = [(7,), (3,), (12,), (13,), (3, 6, 10), (1, 1, 11)]


class TwoTowers(nn.Module):
    """The least that has everything a rank can disagree on: image and text weights and a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image, self.text = nn.Linear(6, 5).double(), nn.Linear(4, 5).double()
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, pixels, tokens):
        return self.image(pixels), self.text(tokens), self.scale


def data():
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(13, 6, generator=generator, dtype=torch.float64),
        torch.randn(8, 4, generator=generator, dtype=torch.float64),
    )


def loss_and_gradients(images, texts, temperature):
    """Of the rows given here, all of them or this rank's; in one process and under DDP."""
    pixels, tokens = data()
    towers = TwoTowers()
    model = DistributedDataParallel(towers) if dist.is_initialized() else towers
    image_embeds, text_embeds, scale = model(pixels[images], tokens[texts])
    image_loss = MultiPositiveContrastiveLoss(temperature)(image_embeds, IMAGE_IDS[images])
    text_loss = ImageTextContrastiveLoss()(image_embeds, text_embeds, IMAGE_IDS[images], TEXT_IDS[texts], scale)
    (image_loss + text_loss).backward()
    statistics = similarity_statistics(image_embeds, IMAGE_IDS[images])
    return (
        torch.stack([image_loss, text_loss]).detach(),
        {name: parameter.grad for name, parameter in towers.named_parameters()},
        statistics,
    )


def on_rank(cuts, temperature):
    """Ranks take the images in turn; each encodes the captions of its own (5 more than once, that is)."""
    images = slice(*[0, *cuts, None][dist.get_rank() :][:2])
    texts = torch.isin(TEXT_IDS, IMAGE_IDS[images])
    if dist.get_rank() == 0:
        texts[-1] = True  # the caption without an image
    return loss_and_gradients(images, texts, temperature)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("temperature", [0.1, 0.001])
def test_several_ranks_equal_one(run_on_gloo, cuts, temperature):
    losses, gradients, statistics = loss_and_gradients(slice(None), slice(None), temperature)
    results = run_on_gloo(on_rank, cuts, temperature, world_size=len(cuts) + 1)
    for rank_losses, rank_gradients, rank_statistics in results:
        torch.testing.assert_close(rank_losses, losses)
        torch.testing.assert_close(rank_gradients, gradients)
        assert rank_statistics == pytest.approx(statistics)
    assert all(gradient.abs().max() > 1e-4 for gradient in gradients.values())


def gather_on_rank():
    rank = dist.get_rank()
    rows = (torch.arange(2.0 * (rank + 1)).reshape(-1, 2) + 10 * rank).requires_grad_()  # 1 row on rank 0, 2 on rank 1
    counts = count_rows(rows)
    gathered = gather_rows(rows, counts)
    ids = gather_rows(torch.full((rank + 1,), 2**62 + rank), counts)
    total = sum_over_ranks(rows.sum())
    ((rank + 1) * gathered.square().sum()).backward()  # incoming gradients differ: 1 and 2 times 2 x
    return counts, own_rows(counts), gathered.detach(), ids, total.detach(), rows.grad, rows.detach()


def test_rows_of_all_ranks_are_gathered_with_the_gradient_of_all_ranks(run_on_gloo):
    everything = torch.tensor([[0.0, 1.0], [10.0, 11.0], [12.0, 13.0]])
    for rank, result in enumerate(run_on_gloo(gather_on_rank)):
        counts, own, gathered, ids, total, grad, rows = result
        assert counts == [1, 2]
        assert torch.equal(gathered, everything)
        assert torch.equal(gathered[own], rows)
        assert ids.tolist() == [2**62, 2**62 + 1, 2**62 + 1], f"rank {rank}"
        assert total.item() == everything.sum().item()
        torch.testing.assert_close(grad, 6 * rows)


def test_without_a_process_group_nothing_is_gathered():
    rows = torch.randn(3, 2)
    assert count_rows(rows) == [3]
    assert own_rows([3]) == slice(0, 3)
    assert gather_rows(rows, [3]) is rows
    assert sum_over_ranks(rows) is rows
