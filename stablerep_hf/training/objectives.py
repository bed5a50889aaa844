"""Which losses an objective adds up, and what they need from model and data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..losses import (
    ImageTextContrastiveLoss,
    MultiPositiveContrastiveLoss,
    feature_distillation_loss,
    similarity_distillation_loss,
)

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
    "stablerep": Objective(image=True, text=False),
    "stablerep+": Objective(image=True, text=True),
    "simclr": Objective(image=True, text=False, positives="image"),
    "supcon": Objective(image=True, text=False, positives="label"),
    "clip": Objective(image=False, text=True),
    "distill": Objective(image=False, text=False, positives="image"),
}
"""The published losses, by their names as `objective`, and how ours differ from where they were published.

- **stablerep** (Tian et al. 2023, equations 1 to 3): cross-entropy between the softmax over the other images and the
  uniform distribution over those of the same caption. The release numbers captions by their place in the batch; here
  a caption drawn twice, on two ranks even, gives positives. Products are in half precision there, in float32 here.
- **stablerep+** ("++" in the release): that, plus (image to text + text to image) / 2, both with weight 1; one view
  serves both, as in the release. The same differences; weights other than 1 are not offered.
- **simclr** (Chen et al. 2020, NT-Xent): the same loss with an id for each image, and two crops. More crops than two
  are averaged over, which SimCLR leaves open. The temperature is StableRep's 0.1 unless set.
- **supcon** (Khosla et al. 2020, equation 2, the mean outside the logarithm): the same loss with labels as ids. An
  image alone in its label contributes 0 and counts in the mean; there it has no term.
- **clip** (Radford et al. 2021): the image-text loss alone. With one image a caption it is CLIP's; with several the
  text-to-image target is uniform over them, as in the release. Equal captions are one; CLIP has them as negatives.
- **distill**: nothing but a teacher's features and similarities (see `stablerep_hf.losses`), which any of the others
  can have besides. Each image is on its own.
"""


class ObjectiveLoss(nn.Module):
    """The loss of an objective, with its parts by name.

    Args:
        name: A key of `OBJECTIVES`.
        temperature: Of the loss among images, > 0.
        distill_feature_weight: Of the loss between the teacher's features and the model's.
        distill_similarity_weight: Of the loss between their similarities.
    """

    def __init__(
        self,
        name: str,
        temperature: float,
        distill_feature_weight: float = 1.0,
        distill_similarity_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.distill_weights = {
            "distill_feature": distill_feature_weight,
            "distill_similarity": distill_similarity_weight,
        }
        self.objective = OBJECTIVES[name]
        self.image_loss = MultiPositiveContrastiveLoss(temperature)
        self.image_text_loss = ImageTextContrastiveLoss()

    def forward(
        self,
        outputs: StableRepOutput,
        caption_ids: Tensor,
        text_caption_ids: Tensor,
        teacher_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Add up the parts.

        Args:
            outputs: Of `StableRepModel`.
            caption_ids: int64 (N,), one a view.
            text_caption_ids: int64 (C,), one a text.
            teacher_features: (N, teacher_dim) of the same views; None: no teacher.

        Returns:
            "loss", and its parts as they apply: "image_loss", "image_text_loss", "distill_feature_loss",
            "distill_similarity_loss" (both before they are weighted), and "logit_scale"; all scalars.
        """
        parts: dict[str, Tensor] = {}
        if self.objective.image:
            parts["image_loss"] = self.image_loss(outputs.image_embeds, caption_ids)
        if self.objective.text:
            assert outputs.logit_scale is not None  # the trainer checked that there is a text tower
            parts["image_text_loss"] = self.image_text_loss(
                outputs.image_text_embeds, outputs.text_embeds, caption_ids, text_caption_ids, outputs.logit_scale
            )
        terms = list(parts.values())
        if teacher_features is not None:
            assert outputs.teacher_embeds is not None and outputs.pooler_output is not None  # the trainer checked
            parts["distill_feature_loss"] = feature_distillation_loss(outputs.teacher_embeds, teacher_features)
            parts["distill_similarity_loss"] = similarity_distillation_loss(outputs.pooler_output, teacher_features)
            terms += [weight * parts[f"{name}_loss"] for name, weight in self.distill_weights.items()]
        loss = torch.stack(terms).sum()
        if outputs.logit_scale is not None and self.objective.text:
            parts["logit_scale"] = outputs.logit_scale.detach().clone()  # the parameter moves on, or is freed (FSDP2)
        return {"loss": loss, **parts}


def freeze_unreached(model: StableRepModel, objective: Objective, *, teacher: bool = False) -> None:
    """Freeze what the objective gives no gradient, so that DistributedDataParallel need not search each step."""
    model.freeze_unused()
    if model.config.teacher_dim is not None and not teacher:
        model.teacher_projection.requires_grad_(False)
    if not objective.image:
        model.projection_head.requires_grad_(False)
    if not objective.text:
        for name, parameter in model.named_parameters():
            if name.startswith(("text_model.", "image_projection.", "text_projection.", "logit_scale")):
                parameter.requires_grad_(False)
