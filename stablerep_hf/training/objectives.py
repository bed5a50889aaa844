"""Which losses a training adds up, and what they need from model and data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..losses import ImageTextContrastiveLoss, MultiPositiveContrastiveLoss

if TYPE_CHECKING:
    from ..models import StableRepModel
    from ..models.modeling_stablerep import StableRepOutput

MAX_LOGIT_SCALE = math.log(100)
"""The learned logit scale is kept in [0, ln 100], as the release and CLIP do."""


@dataclass(frozen=True)
class Objective:
    """What an objective is made of.

    Attributes:
        image: The multi-positive loss among images.
        text: The image-text loss; needs a text tower, a tokenizer and captions.
        positives: What views that are positives of one another have in common: the caption they were drawn from, the
            image they are crops of, or its label. Under "image" and "label" a batch is made of single images.
    """

    image: bool
    text: bool
    positives: Literal["caption", "image", "label"] = "caption"


OBJECTIVES = {
    # StableRep, equation 3 of the paper: siblings are positives.
    "stablerep": Objective(image=True, text=False),
    # StableRep+ ("++" in the code release): image loss + (image-to-text + text-to-image) / 2, weights 1 and 1.
    "stablerep+": Objective(image=True, text=True),
    # SimCLR's NT-Xent: the same loss with an id per image and two crops.
    "simclr": Objective(image=True, text=False, positives="image"),
    # SupCon (Khosla et al. 2020), the form with the mean outside the logarithm: the same loss with labels as ids.
    "supcon": Objective(image=True, text=False, positives="label"),
    # CLIP; with several images a caption its text-to-image target is uniform over them, as in the release.
    "clip": Objective(image=False, text=True),
}


class ObjectiveLoss(nn.Module):
    """The loss of an objective, with its parts by name.

    Args:
        name: A key of `OBJECTIVES`.
        temperature: Of the loss among images, > 0.
    """

    def __init__(self, name: str, temperature: float) -> None:
        super().__init__()
        self.objective = OBJECTIVES[name]
        self.image_loss = MultiPositiveContrastiveLoss(temperature)
        self.image_text_loss = ImageTextContrastiveLoss()

    def forward(self, outputs: StableRepOutput, caption_ids: Tensor, text_caption_ids: Tensor) -> dict[str, Tensor]:
        """Add up the parts.

        Args:
            outputs: Of `StableRepModel`.
            caption_ids: int64 (N,), one a view.
            text_caption_ids: int64 (C,), one a text.

        Returns:
            "loss", and the parts "image_loss", "image_text_loss", "logit_scale" as they apply; all scalars.
        """
        parts: dict[str, Tensor] = {}
        if self.objective.image:
            parts["image_loss"] = self.image_loss(outputs.image_embeds, caption_ids)
        if self.objective.text:
            assert outputs.logit_scale is not None  # the trainer checked that there is a text tower
            parts["image_text_loss"] = self.image_text_loss(
                outputs.image_text_embeds, outputs.text_embeds, caption_ids, text_caption_ids, outputs.logit_scale
            )
        loss = torch.stack(list(parts.values())).sum()
        if outputs.logit_scale is not None and self.objective.text:
            parts["logit_scale"] = outputs.logit_scale.detach().clone()  # the parameter moves on, or is freed (FSDP2)
        return {"loss": loss, **parts}


def freeze_unreached(model: StableRepModel, objective: Objective) -> None:
    """Freeze what the objective gives no gradient, so that DistributedDataParallel need not search each step."""
    if not objective.image:
        model.projection_head.requires_grad_(False)
    if not objective.text:
        for name, parameter in model.named_parameters():
            if name.startswith(("text_model.", "image_projection.", "text_projection.", "logit_scale")):
                parameter.requires_grad_(False)
