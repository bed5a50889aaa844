"""How good the encoder is while it trains, told by labelled images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets

from ..evaluation import Columns, EvaluationSettings, VisionEncoder, evaluate_encoder
from ..models import StableRepModel
from ..models.export import encoder_image_processor

Probe = Callable[[Any], dict[str, float]]
"""Measures the model in training: name -> number, the higher the better."""


@dataclass(frozen=True)
class KnnProbe:
    """Accuracy of the nearest neighbours on the class token; needs no training of its own, so it is cheap to repeat.

    What chooses a checkpoint by it must not be what is reported: take images that no table is made of.

    Attributes:
        train: Labelled images that vote.
        test: Labelled images that are classified.
        image_column: Of both.
        label_column: Of both.
        k: Neighbours that vote; 20 is DINO's.
    """

    train: datasets.Dataset
    test: datasets.Dataset
    image_column: str = "image"
    label_column: str = "label"
    k: int = 20

    def __call__(self, model: StableRepModel) -> dict[str, float]:
        """{"knn_accuracy": share in [0, 1]} of the model as it stands; its mode is left as it was.

        Raises:
            InputError: Columns are missing, an image cannot be decoded, or fewer than k images vote.
        """
        processor = encoder_image_processor(model.config.vision_config)
        (result,) = evaluate_encoder(
            VisionEncoder(model.vision_model, processor, "the encoder in training"),
            self.train,
            self.test,
            columns=Columns(label=self.label_column),
            protocols=("knn",),
            settings=EvaluationSettings(knn_neighbours=(self.k,)),
            image_column=self.image_column,
            progress=False,
        )
        return {"knn_accuracy": result.value}
