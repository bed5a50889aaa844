"""The adapters give what the functions give, with no Hub (which tests never have)."""

from __future__ import annotations

import subprocess
import sys

import evaluate
import numpy as np
import pytest

from stablerep_hf.evaluation import (
    eleven_point_map,
    evaluate_metrics,
    knn_accuracy,
    mean_per_class_accuracy,
    retrieval_recall,
)


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 60)
    return generator.normal(size=(60, 4)).astype(np.float32) + np.eye(4, dtype=np.float32)[labels], labels


def test_adapters_give_what_the_functions_give(problem):
    features, labels = problem
    found = features.argmax(1)
    assert evaluate_metrics.MeanPerClassAccuracy().compute(predictions=found, references=labels) == {
        "mean_per_class_accuracy": mean_per_class_accuracy(found, labels)
    }
    relevant = np.eye(4, dtype=bool)[labels]
    average = evaluate_metrics.ElevenPointMAP().compute(predictions=features, references=relevant)
    assert average["11_point_map"] == pytest.approx(eleven_point_map(features, relevant), abs=1e-6)
    bank = {"train_features": features[:40], "train_labels": labels[:40], "k": 5}
    accuracy = evaluate_metrics.KnnAccuracy().compute(predictions=features[40:], references=labels[40:], **bank)
    assert accuracy == {"knn_accuracy": knn_accuracy(features[:40], labels[:40], features[40:], labels[40:], k=5)}
    concepts, artists = [f"c{place // 3}" for place in range(60)], [f"a{place % 3}" for place in range(60)]
    recall = evaluate_metrics.CrossArtistRecall().compute(
        predictions=features, references=concepts, artists=artists, ks=(1, 5)
    )
    expected = retrieval_recall(features, concepts, artists).recall
    assert recall == pytest.approx({f"recall@{k}": value for k, value in expected.items()})


def test_batches_add_up(problem):
    features, labels = problem
    metric = evaluate_metrics.MeanPerClassAccuracy()
    for rows in (slice(0, 25), slice(25, 60)):
        metric.add_batch(predictions=features[rows].argmax(1), references=labels[rows])
    assert metric.compute()["mean_per_class_accuracy"] == mean_per_class_accuracy(features.argmax(1), labels)


def test_they_combine_with_metrics_of_others(problem):
    """As users of the library put them together: one call, one dictionary."""
    found, labels = problem[0].argmax(1), problem[1]

    class Accuracy(evaluate.Metric):
        def _info(self):
            return evaluate_metrics.MeanPerClassAccuracy()._info()

        def _compute(self, predictions, references):
            return {"accuracy": float(np.mean(np.equal(predictions, references)))}

    together = evaluate.combine([evaluate_metrics.MeanPerClassAccuracy(), Accuracy()])
    assert together.compute(predictions=found, references=labels) == {
        "mean_per_class_accuracy": mean_per_class_accuracy(found, labels),
        "accuracy": pytest.approx((found == labels).mean()),
    }


def test_the_package_does_not_import_evaluate():
    code = (
        "import sys, stablerep_hf.evaluation as room; [getattr(room, name) for name in room.__all__]; "
        "print('evaluate' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
