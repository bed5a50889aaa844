"""Measuring the encoder on labelled images while it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..evaluation import (
    Columns,
    EvaluationSettings,
    VisionEncoder,
    evaluate_encoder,
    extract_features,
    label_free_metrics,
    sibling_gap,
)
from ..models import StableRepModel
from ..models.export import encoder_image_processor
from .groups import caption_ids, check_labels, key_column

Probe = Callable[[Any], dict[str, float]]
"""Measures the model in training: name -> number, the higher the better. Attributes, if it has them: `metric`, the
name that `metric_for_best_model` takes by default, and `measures`, all names."""


@dataclass(frozen=True)
class KnnProbe:
    """Accuracy of the nearest neighbours on the class token; it trains nothing, so it is cheap to repeat.

    Do not choose a checkpoint by the images that you report on: give others.

    Attributes:
        train: Labelled images that vote.
        test: Labelled images that are classified.
        image_column: Column of the images in both.
        label_column: Column of the labels in both.
        k: Neighbours that vote; 20 as in DINO.

    Raises:
        InputError: A column is missing, labels are, or fewer than k images vote.
    """

    train: datasets.Dataset
    test: datasets.Dataset
    image_column: str = "image"
    label_column: str = "label"
    k: int = 20
    metric: ClassVar[str] = "knn_accuracy"

    def __post_init__(self) -> None:
        """Check the data before training begins."""
        for images in (self.train, self.test):
            for column in (self.image_column, self.label_column):
                if column not in images.column_names:
                    raise InputError(
                        f"The probe's data has the columns {images.column_names} but no {column!r}: give it images in "
                        "'image', and name its labels with `probe_label_column`."
                    )
            check_labels(images.with_format(None)[self.label_column][:], self.label_column)
        if len(self.train) < self.k:
            raise InputError(
                f"The probe has {len(self.train)} images to vote, fewer than the {self.k} neighbours that it asks: "
                "give a larger `probe_train_split`."
            )

    def __call__(self, model: StableRepModel) -> dict[str, float]:
        """{"knn_accuracy": share in [0, 1]} of the model as it is; its mode is left as it was.

        Raises:
            InputError: An image cannot be decoded.
        """
        processor = encoder_image_processor(model.config)
        (result,) = evaluate_encoder(
            VisionEncoder(model.vision_model, processor, "the encoder in training"),
            self.train,
            self.test,
            columns=Columns(label=self.label_column),
            protocols=("knn",),
            settings=EvaluationSettings(knn_neighbours=[self.k]),
            image_column=self.image_column,
            progress=False,
        )
        return {"knn_accuracy": result.value}


@dataclass(frozen=True)
class SiblingProbe:
    """What can be said of the features without labels, on captions that are not trained on.

    "sibling_gap", "rankme" and "lidar": see `stablerep_hf.evaluation.label_free`. The best checkpoint is chosen by
    LiDAR unless asked otherwise (ours, because siblings are its groups). No measure was best throughout: of 21
    adaptations RankMe ranked most alike to kNN (0.7), the others did by 0.6 (`scripts/adapt_without_forgetting.py`).

    Attributes:
        images: Columns `image` and `caption_id` or `caption`; captions with several images.

    Raises:
        InputError: A column is missing, or fewer than two captions have several images.
    """

    images: datasets.Dataset
    metric: ClassVar = "lidar"
    measures: ClassVar = ("sibling_gap", "rankme", "lidar")

    def __post_init__(self) -> None:
        """Check the data before training begins."""
        sibling_gap(np.ones((len(self.images), 1)), self._ids())

    def __call__(self, model: StableRepModel) -> dict[str, float]:
        """Measure the model as it is; its mode is left as it was.

        Raises:
            InputError: An image cannot be decoded, or a feature is not finite.
        """
        vision = VisionEncoder(model.vision_model, encoder_image_processor(model.config), "the encoder in training")
        return label_free_metrics(extract_features(vision, self.images, progress=False).features, self._ids())

    def _ids(self) -> NDArray[np.int64]:
        column = key_column(self.images.column_names, "caption", "")
        assert column is not None
        return caption_ids(self.images.with_format("arrow")[column][:], column)
