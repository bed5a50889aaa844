"""Multi-positive contrastive loss between images of the same caption (StableRep, eq. 1-3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .gather import count_rows, gather_rows, own_rows, sum_over_ranks
from .streaming import largest_symmetric_logit, streamed_logsumexp, streamed_self_logsumexp


def multi_positive_loss(
    image_embeds: Tensor, caption_ids: Tensor, temperature: float = 0.1, *, tile: int | None = None
) -> Tensor:
    """The loss of the images given and of no others: pure, whatever processes there are.

    Mean over anchors i of ``log(sum over j != i of exp(z_i.z_j / T)) - mean over positives p of i of z_i.z_p / T``:
    the cross-entropy between the softmax over the other images and the uniform distribution over those of the same
    caption.

    Args:
        image_embeds: (N, D) of any floating dtype, not normalised (done here, in float32 at least).
        caption_ids: (N,) int64, any values; equal ids are positives of one another.
        temperature: softmax divides by it; > 0.
        tile: see `streamed_logsumexp`.

    Returns:
        Scalar float32 (float64 for float64 embeddings), >= 0. An anchor contributes at least the logarithm of its
        number of positives; one whose caption has no other image contributes 0 and counts in the mean.

    Raises:
        ValueError: shapes or dtypes that do not fit, a temperature that is not above 0.
    """
    _check(image_embeds, caption_ids, temperature)
    with torch.autocast(image_embeds.device.type, enabled=False):
        losses = _anchor_losses(unit_rows(image_embeds), caption_ids, temperature, slice(None), tile)
        return losses.sum() / max(losses.shape[0], 1)


class MultiPositiveContrastiveLoss(nn.Module):
    """Contrastive loss in which all images of one caption are positives of one another.

    The mean over all images of all ranks of `multi_positive_loss`. Every rank returns this same number; see
    `stablerep_hf.losses.gather` for why its gradient is the one of a single process under DistributedDataParallel.

    Ids choose what is learnt: caption ids give StableRep, one id per image with two crops SimCLR (NT-Xent), class
    labels SupCon (its "out" form).

    Differences from the release (StableRep/losses.py): identity is the caption, not the place in the batch, so a
    caption drawn twice, on two ranks even, gives positives and not false negatives; float32 throughout; ranks may
    bring different numbers of images; no mask is kept between calls; no N x N tensor is made. Kept from it: an image
    without a positive contributes 0 and counts in the mean.

    Args:
        temperature: softmax divides by it; > 0. Default 0.1: the release's `--ssl-temp`, the paper's tau.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        _check_temperature(temperature)
        self.temperature = temperature

    def forward(self, image_embeds: Tensor, caption_ids: Tensor) -> Tensor:
        """The loss of the whole batch, a scalar, the same on every rank.

        Args:
            image_embeds: (n, D) of any floating dtype: this rank's images, projected, not normalised. n may differ
                from rank to rank and be 0; D may not.
            caption_ids: (n,) int64.

        Raises:
            ValueError: shapes or dtypes that do not fit.
        """
        _check(image_embeds, caption_ids, self.temperature)
        with torch.autocast(image_embeds.device.type, enabled=False):
            counts = count_rows(image_embeds)
            unit = gather_rows(unit_rows(image_embeds), counts)
            caption_ids = gather_rows(caption_ids, counts)
            losses = _anchor_losses(unit, caption_ids, self.temperature, own_rows(counts), None)
            return sum_over_ranks(losses.sum()) / max(sum(counts), 1)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"temperature={self.temperature}"


@torch.no_grad()
def similarity_statistics(image_embeds: Tensor, caption_ids: Tensor) -> dict[str, float]:
    """What a batch offered and how well its captions are separated, for logs; a collective over ranks, O(N D).

    Args:
        image_embeds: (n, D), this rank's, not normalised.
        caption_ids: (n,) int64.

    Returns:
        ``mean_positive_similarity`` and ``mean_negative_similarity``: mean cosine over all ordered pairs of different
        images of the same and of different captions (nan if there are none); ``effective_positives``: positives an
        image has on average (m - 1 for m images a caption, more with duplicates, less with captions that lost images).
    """
    counts = count_rows(image_embeds)
    unit, caption_ids = gather_rows(unit_rows(image_embeds), counts), gather_rows(caption_ids, counts)
    sums, _, sizes = _group_sums(unit.double(), caption_ids)
    total = unit.shape[0]
    positive_pairs = (sizes * (sizes - 1)).sum()
    negative_pairs = total * total - (sizes * sizes).sum()
    within = sums.square().sum()
    across = sums.sum(dim=0).square().sum() - within
    return {
        "mean_positive_similarity": ((within - unit.double().square().sum()) / positive_pairs).item(),
        "mean_negative_similarity": (across / negative_pairs).item(),
        "effective_positives": (positive_pairs / total).item(),
    }


def unit_rows(embeds: Tensor) -> Tensor:
    """(n, D) of unit length, float32 at least: what comes out of autocast is not precise enough for a softmax."""
    return normalize(embeds if embeds.dtype == torch.float64 else embeds.float(), dim=-1)


def _group_sums(unit: Tensor, caption_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(G, D) sum of the rows of each caption, (N,) which caption a row is of, (G,) rows of each caption."""
    _, inverse, sizes = torch.unique(caption_ids, return_inverse=True, return_counts=True)
    sums = unit.new_zeros(sizes.shape[0], unit.shape[1]).index_add(0, inverse, unit)
    return sums, inverse, sizes


def _anchor_losses(unit: Tensor, caption_ids: Tensor, temperature: float, anchors: slice, tile: int | None) -> Tensor:
    """(number of anchors,) the loss of each row in `anchors` against all rows."""
    sums, inverse, sizes = _group_sums(unit, caption_ids)
    scaled, group = unit[anchors] / temperature, inverse[anchors]
    num_positives = sizes[group] - 1
    # the sum over positives is the sum over the caption less the anchor itself: O(N D), no mask
    positive = (scaled * (sums[group] - unit[anchors])).sum(dim=-1) / num_positives.clamp(min=1)
    if scaled.shape[0] == unit.shape[0] and 1.0 / temperature <= largest_symmetric_logit(unit.dtype):
        lse = streamed_self_logsumexp(unit / temperature**0.5, tile)
    else:
        own = torch.arange(unit.shape[0], device=unit.device)[anchors]
        lse = streamed_logsumexp(scaled, unit, own, tile=tile)
    return torch.where(num_positives > 0, lse - positive, 0.0)


def _check_temperature(temperature: float) -> None:
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, but similarities are divided by it: give a number above 0.")


def _check(image_embeds: Tensor, caption_ids: Tensor, temperature: float) -> None:
    _check_temperature(temperature)
    if image_embeds.ndim != 2 or not image_embeds.is_floating_point():
        raise ValueError(
            f"image_embeds is {image_embeds.dtype} of shape {tuple(image_embeds.shape)}, but the loss compares rows "
            "of features: give a floating (N, D) tensor."
        )
    if caption_ids.shape != image_embeds.shape[:1] or caption_ids.dtype != torch.int64:
        raise ValueError(
            f"caption_ids is {caption_ids.dtype} of shape {tuple(caption_ids.shape)} for {image_embeds.shape[0]} "
            "images, but each image needs one id: give an int64 tensor of that length."
        )
