"""A classifier on the encoder. Travels as remote code: imports torch, transformers and sibling files only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration_stablerep import StableRepConfig
from .modeling_stablerep import StableRepPreTrainedModel, StableRepVisionModel


class StableRepForImageClassification(StableRepPreTrainedModel):  # type: ignore[no-untyped-call]
    """The encoder of a StableRep model with a linear classifier on its class token.

    `from_pretrained` of a pre-training model takes its encoder and starts the classifier anew; `export_classifier`
    writes the result as a stock `ViTForImageClassification`, which computes the same.

    Args:
        config: `num_labels`, `id2label` and `problem_type` as everywhere in transformers. "multi_label_classification"
            lets an image have several labels; otherwise it has one.
    """

    # what the checkpoint of a pre-training model has besides
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^projection_head\.", r"^text_model\.", r"^(image|text)_projection\.", r"^logit_scale$",
    ]  # fmt: skip
    input_modalities = ["image"]  # noqa: RUF012

    def __init__(self, config: StableRepConfig) -> None:
        super().__init__(config)
        vision: Any = config.vision_config
        self.vision_model = StableRepVisionModel(vision)
        self.classifier = nn.Linear(vision.hidden_size, int(config.num_labels or 0))
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: (N, channels, height, width), normalised as the encoder's image processor does.
            labels: (N,) int64 classes, or (N, K) of which each row says how much of each class is there: 0 or 1 for
                "multi_label_classification", a distribution (as mixup makes it) otherwise. None: no loss.
            kwargs: For the vision encoder: `interpolate_pos_encoding`, `output_hidden_states`, `output_attentions`.

        Returns:
            `logits` (N, K) and, with labels, `loss`: the mean over images of the cross-entropy; for
            "multi_label_classification" the mean over images and classes of the binary cross-entropy.
        """
        outputs = self.vision_model(pixel_values, return_dict=True, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None and self.config.problem_type == "multi_label_classification":
            loss = binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        elif labels is not None:
            loss = cross_entropy(logits, labels)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    @classmethod
    def from_encoder(
        cls, encoder: StableRepVisionModel, labels: list[str], *, multi_label: bool = False
    ) -> StableRepForImageClassification:
        """Put a new classifier on an encoder, whose weights are taken as they are.

        Args:
            encoder: As `load_vision_encoder` reads it.
            labels: Names of the classes, in the order of the logits.
            multi_label: Whether an image may have several.
        """
        config = StableRepConfig(
            vision_config=encoder.config,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type="multi_label_classification" if multi_label else "single_label_classification",
        )
        model = cls(config)
        model.vision_model.load_state_dict(encoder.state_dict())
        with torch.no_grad():
            # no class is preferred, and the encoder not moved, before the classifier has learned anything
            model.classifier.weight.zero_()
            model.classifier.bias.zero_()
        return model
