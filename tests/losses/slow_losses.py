"""The losses written as their definitions: loops over pairs, no tricks. What the tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def slow_multi_positive(image_embeds: Tensor, caption_ids: Tensor, temperature: float) -> Tensor:
    unit, ids = normalize(image_embeds, dim=1), caption_ids.tolist()
    losses = []
    for i in range(len(ids)):
        logits = {j: unit[i] @ unit[j] / temperature for j in range(len(ids)) if j != i}
        positives = [j for j in logits if ids[j] == ids[i]]
        if positives:
            log_sum = torch.stack(list(logits.values())).logsumexp(0)
            losses.append(sum(log_sum - logits[j] for j in positives) / len(positives))
        else:
            losses.append(unit[i].sum() * 0.0)
    return torch.stack(losses).mean()


def slow_image_text(
    image_embeds: Tensor, text_embeds: Tensor, image_ids: Tensor, text_ids: Tensor, logit_scale: Tensor
) -> Tensor:
    """For texts with distinct ids."""
    images, texts = normalize(image_embeds, dim=1), normalize(text_embeds, dim=1)

    def one_way(anchors: Tensor, anchor_ids: list[int], others: Tensor, other_ids: list[int]) -> Tensor:
        losses = []
        for anchor, identity in zip(anchors, anchor_ids, strict=True):
            logits = [logit_scale.exp() * (anchor @ other) for other in others]
            positives = [logit for logit, other in zip(logits, other_ids, strict=True) if other == identity]
            log_sum = torch.stack(logits).logsumexp(0)
            loss = sum(log_sum - logit for logit in positives) / len(positives) if positives else anchor.sum() * 0.0
            losses.append(loss)
        return torch.stack(losses).mean()

    image_names, text_names = image_ids.tolist(), text_ids.tolist()
    return (one_way(images, image_names, texts, text_names) + one_way(texts, text_names, images, image_names)) / 2
