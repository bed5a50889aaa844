"""The metrics for those who measure with the library `evaluate`; they work offline.

Needs `pip install stablerep_hf[evaluate]`, and is imported by its own name, because importing `evaluate` takes
seconds: `from stablerep_hf.evaluation.evaluate_metrics import MeanPerClassAccuracy`.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from .knn import knn_accuracy
from .metrics import eleven_point_map, mean_per_class_accuracy
from .retrieval import retrieval_recall

_LABEL = datasets.Value("int64")
_VECTOR = datasets.List(datasets.Value("float32"))


def _info(description: str, predictions: Any, references: Any, **others: Any) -> evaluate.MetricInfo:
    features = datasets.Features({"predictions": predictions, "references": references, **others})
    return evaluate.MetricInfo(description=description, citation="", features=features)


class MeanPerClassAccuracy(evaluate.Metric):  # type: ignore[misc]
    """`compute(predictions=labels, references=labels)` -> {"mean_per_class_accuracy": ...}."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Mean over classes of the share of each that is predicted right.", _LABEL, _LABEL)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"mean_per_class_accuracy": mean_per_class_accuracy(predictions, references)}


class ElevenPointMAP(evaluate.Metric):  # type: ignore[misc]
    """`compute(predictions=scores (N, K), references=relevant (N, K))` -> {"11_point_map": ...}."""

    def _info(self) -> evaluate.MetricInfo:
        relevant = datasets.List(datasets.Value("bool"))
        return _info("Mean over classes of the 11-point interpolated average precision.", _VECTOR, relevant)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"11_point_map": eleven_point_map(predictions, references)}


class KnnAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Features (N, D) as predictions and labels as references; the bank is given to `compute`.

    `compute(predictions=..., references=..., train_features=..., train_labels=..., k=20)` -> {"knn_accuracy": ...}.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Accuracy of weighted nearest neighbours (DINO), k and temperature to choose.", _VECTOR, _LABEL)

    def _compute(
        self,
        predictions: Any,
        references: Any,
        train_features: Any,
        train_labels: Any,
        k: int = 20,
        temperature: float = 0.07,
    ) -> dict[str, float]:
        accuracy = knn_accuracy(
            train_features, train_labels, np.asarray(predictions), references, k=k, temperature=temperature
        )
        return {"knn_accuracy": accuracy}


class CrossArtistRecall(evaluate.Metric):  # type: ignore[misc]
    """Features (N, D) as predictions, concepts as references, and `artists`.

    `compute(predictions=..., references=..., artists=..., ks=(1, 5))` -> {"recall@1": ..., "recall@5": ...}.
    """

    def _info(self) -> evaluate.MetricInfo:
        name = datasets.Value("string")
        return _info("Recall of the same concept by another artist.", _VECTOR, name, artists=name)

    def _compute(
        self, predictions: Any, references: Any, artists: Any, ks: tuple[int, ...] = (1, 5)
    ) -> dict[str, float]:
        found = retrieval_recall(np.asarray(predictions), references, artists, ks)
        return {f"recall@{k}": value for k, value in found.recall.items()}
