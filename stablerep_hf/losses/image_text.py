"""Contrastive loss between images and the captions they were drawn from (StableRep+, after CLIP)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .gather import count_rows, gather_rows, own_rows, sum_over_ranks
from .multi_positive import unit_rows
from .streaming import streamed_logsumexp


def image_text_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    image_caption_ids: Tensor,
    text_caption_ids: Tensor,
    logit_scale: Tensor,
    *,
    tile: int | None = None,
) -> Tensor:
    """The loss of the images and captions given and of no others: pure, whatever processes there are.

    ``(image to text + text to image) / 2``. Image to text: mean over images of the cross-entropy between the softmax
    over captions of ``exp(logit_scale) * cosine`` and the image's own caption. Text to image: mean over captions of
    the cross-entropy between the softmax over images and the uniform distribution over the caption's images.

    A caption counts once, however many rows of `text_embeds` bear its id (a row of k weighs 1/k as a candidate and as
    an anchor). So a caption whose images lie on several ranks may be encoded on each of them and nothing changes.

    Args:
        image_embeds: (N, D) of any floating dtype, not normalised (done here, in float32 at least).
        text_embeds: (C, D), likewise.
        image_caption_ids: (N,) int64, the caption of each image.
        text_caption_ids: (C,) int64, the caption each text row encodes.
        logit_scale: scalar, the logarithm of 1 / temperature.
        tile: see `streamed_logsumexp`.

    Returns:
        Scalar float32 (float64 for float64 embeddings). An image without its caption, or a caption without an image,
        contributes 0 as an anchor, counts in its mean, and is a negative for the others.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    _check(image_embeds, text_embeds, image_caption_ids, text_caption_ids, logit_scale)
    with torch.autocast(image_embeds.device.type, enabled=False):
        images, texts = unit_rows(image_embeds), unit_rows(text_embeds)
        return _both_directions(
            images, texts, image_caption_ids, text_caption_ids, logit_scale, slice(None), slice(None), tile
        )


class ImageTextContrastiveLoss(nn.Module):
    """Contrastive loss between images and captions, several images a caption.

    `image_text_loss` of all images and captions of all ranks. Every rank returns this same number; see
    `stablerep_hf.losses.gather` for why its gradient, the one of `logit_scale` included, is the one of a single
    process under DistributedDataParallel. With one image a caption and distinct captions it is CLIP's loss. StableRep+
    is `MultiPositiveContrastiveLoss` plus this one, both with weight 1.

    Differences from the release (StableRep/losses.py, `CLIPLoss` part): identity is the caption, so one drawn twice
    is not its own negative; float32 throughout (the release multiplies and takes the softmax in float16).
    `logit_scale` is not clamped here: the release clamps the parameter after each step, which is the trainer's work.
    """

    def forward(
        self,
        image_embeds: Tensor,
        text_embeds: Tensor,
        image_caption_ids: Tensor,
        text_caption_ids: Tensor,
        logit_scale: Tensor,
    ) -> Tensor:
        """The loss of the whole batch, a scalar, the same on every rank.

        Args:
            image_embeds: (n, D) of any floating dtype: this rank's images, projected, not normalised.
            text_embeds: (c, D): this rank's captions, likewise. n and c may differ from rank to rank and be 0.
            image_caption_ids: (n,) int64.
            text_caption_ids: (c,) int64.
            logit_scale: scalar, the logarithm of 1 / temperature, equal on all ranks.

        Raises:
            ValueError: shapes or dtypes that do not fit.
        """
        _check(image_embeds, text_embeds, image_caption_ids, text_caption_ids, logit_scale)
        with torch.autocast(image_embeds.device.type, enabled=False):
            image_counts, text_counts = count_rows(image_embeds), count_rows(text_embeds)
            loss = _both_directions(
                gather_rows(unit_rows(image_embeds), image_counts),
                gather_rows(unit_rows(text_embeds), text_counts),
                gather_rows(image_caption_ids, image_counts),
                gather_rows(text_caption_ids, text_counts),
                logit_scale,
                own_rows(image_counts),
                own_rows(text_counts),
                None,
            )
            return sum_over_ranks(loss)


def _both_directions(
    images: Tensor,
    texts: Tensor,
    image_caption_ids: Tensor,
    text_caption_ids: Tensor,
    logit_scale: Tensor,
    own_images: slice,
    own_texts: slice,
    tile: int | None,
) -> Tensor:
    """What the own images and the own texts contribute to the loss of all of them."""
    scale = logit_scale.to(images.dtype).exp()
    ids, inverse = torch.unique(torch.cat([image_caption_ids, text_caption_ids]), return_inverse=True)
    image_caption, text_caption = inverse[: images.shape[0]], inverse[images.shape[0] :]
    mean_image, num_images = _caption_means(images, image_caption, ids.shape[0])
    mean_text, num_texts = _caption_means(texts, text_caption, ids.shape[0])
    weights = 1.0 / num_texts[text_caption]  # (C,)

    anchors, caption = images[own_images] * scale, image_caption[own_images]
    to_text = streamed_logsumexp(anchors, texts, log_weights=weights.log(), tile=tile)
    to_text = torch.where(num_texts[caption] > 0, to_text - (anchors * mean_text[caption]).sum(dim=-1), 0.0)

    anchors, caption = texts[own_texts] * scale, text_caption[own_texts]
    to_image = streamed_logsumexp(anchors, images, tile=tile)
    to_image = torch.where(num_images[caption] > 0, to_image - (anchors * mean_image[caption]).sum(dim=-1), 0.0)

    num_captions = (num_texts > 0).sum().clamp(min=1)
    return to_text.sum() / (2 * max(images.shape[0], 1)) + (to_image * weights[own_texts]).sum() / (2 * num_captions)


def _caption_means(rows: Tensor, caption: Tensor, num_captions: int) -> tuple[Tensor, Tensor]:
    """(G, D) mean of the rows of each caption, 0 where it has none; (G,) number of them, in their dtype."""
    counts = rows.new_zeros(num_captions).index_add(0, caption, rows.new_ones(caption.shape))  # `bincount` would wait
    sums = rows.new_zeros(num_captions, rows.shape[1]).index_add(0, caption, rows)
    return sums / counts.clamp(min=1).unsqueeze(1), counts


def _check(
    image_embeds: Tensor,
    text_embeds: Tensor,
    image_caption_ids: Tensor,
    text_caption_ids: Tensor,
    logit_scale: Tensor,
) -> None:
    named = (("image", image_embeds, image_caption_ids), ("text", text_embeds, text_caption_ids))
    for name, embeds, ids in named:
        if embeds.ndim != 2 or not embeds.is_floating_point() or embeds.shape[1] != image_embeds.shape[1]:
            raise ValueError(
                f"{name}_embeds is {embeds.dtype} of shape {tuple(embeds.shape)}, but images and texts are compared "
                "row by row: give floating (N, D) and (C, D) tensors of the same D."
            )
        if ids.shape != embeds.shape[:1] or ids.dtype != torch.int64:
            raise ValueError(
                f"{name}_caption_ids is {ids.dtype} of shape {tuple(ids.shape)} for {embeds.shape[0]} rows, but each "
                "row needs one id: give an int64 tensor of that length."
            )
    if logit_scale.numel() != 1:
        raise ValueError(
            f"logit_scale has shape {tuple(logit_scale.shape)}, but one number scales all similarities: give a scalar."
        )
