"""Measuring the encoder on labelled images while it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets

from ..errors import InputError
from ..evaluation import Columns, EvaluationSettings, VisionEncoder, evaluate_encoder
from ..models import StableRepModel
from ..models.export import encoder_image_processor
from .groups import check_labels

Probe = Callable[[Any], dict[str, float]]
"""Measures the model in training: name -> number, the higher the better. An attribute `metric`, if it has one, is the
name that `metric_for_best_model` takes by default."""


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
        """{"knn_accuracy": share in [0, 1]} of the model as it stands; its mode is left as it was.

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
