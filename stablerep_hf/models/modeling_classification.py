"""A classifier on the encoder. Travels as remote code: imports torch, transformers and sibling files only."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .backbones import backbone_of, encode_images, feature_size, freeze_unused, make_vision_tower
from .configuration_stablerep import StableRepConfig
from .modeling_stablerep import StableRepPreTrainedModel

# Types without a stock classifier, or with one that reads another feature: the mean of the patches of CLIP and SigLIP.
_UNCLASSIFIED = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model", "dinov3_vit", "dinov3_convnext")


class StableRepForImageClassification(StableRepPreTrainedModel):  # type: ignore[no-untyped-call]
    """The encoder of a StableRep model with a linear classifier on its feature.

    `from_pretrained` of a pre-training model takes its encoder and starts the classifier anew; `export_classifier`
    writes the result in the stock class of its backbone, which computes the same.

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
        self.vision_model = make_vision_tower(cast(PreTrainedConfig, config.vision_config))
        self.classifier = nn.Linear(feature_size(self.vision_model), int(config.num_labels or 0))
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
        outputs = encode_images(self.vision_model, pixel_values, **kwargs)
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
        cls, encoder: PreTrainedModel, labels: list[str], *, multi_label: bool = False, **fields: Any
    ) -> StableRepForImageClassification:
        """Put a new classifier on an encoder, whose weights are taken as they are.

        Args:
            encoder: As `load_backbone` reads it.
            labels: Names of the classes, in the order of the logits.
            multi_label: Whether an image may have several.
            fields: Of `StableRepConfig`, such as `image_mean` and `image_std` of the encoder's image processor.

        Raises:
            ValueError: No stock classifier could hold the result: see `check_classifier`.
        """
        check_classifier(encoder.config)
        config = StableRepConfig(
            vision_config=encoder.config,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type="multi_label_classification" if multi_label else "single_label_classification",
            **fields,
        )
        model = cls(config)
        model.vision_model.load_state_dict(encoder.state_dict())
        freeze_unused(model.vision_model)
        with torch.no_grad():
            # no class is preferred, and the encoder not moved, before the classifier has learned anything
            model.classifier.weight.zero_()
            model.classifier.bias.zero_()
        return model


def check_classifier(config: Any) -> None:
    """Refuse a backbone of which no stock classifier can be made.

    Args:
        config: The vision configuration.

    Raises:
        ValueError: The stock classifier of its type reads another feature, or there is none.
    """
    feature = backbone_of(config).description
    if config.model_type in _UNCLASSIFIED:
        raise ValueError(
            f"transformers has no classifier for the type {config.model_type!r} that reads its feature ({feature}): "
            "fine-tune an encoder of another type, such as vit, dinov2 or convnextv2, or train a linear probe on it."
        )
