"""How fast kNN and the probes are beside the plain scikit-learn way, on the same features in the same run.

    python scripts/bench_evaluation.py --train 5000 --test 2000 --dimensions 384 --classes 50

Features are random with a spectrum as steep as an encoder's. Both ways run in turn on the same threads; printed
are seconds, their ratio, and how far the answers agree. A number means something only beside the other in its row.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from stablerep_hf.evaluation.hold_out import validation_rows
from stablerep_hf.evaluation.knn import knn_predict
from stablerep_hf.evaluation.linear_probe import logistic_regression_probe
from stablerep_hf.evaluation.sgd_probe import RELEASE_LEARNING_RATES, SGDProbeSettings, sgd_probe

NEIGHBOURS = 20


def make_features(num: int, dimensions: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (num, dimensions) float32 of overlapping classes, and labels (num,)."""
    shape = np.random.default_rng(0)
    mix = shape.normal(size=(dimensions, dimensions)) * np.exp(-4 * np.arange(dimensions) / dimensions)
    means = shape.normal(size=(classes, dimensions)) * 0.5
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, num)
    values = (generator.normal(size=(num, dimensions)) + means[labels]) @ mix / np.sqrt(dimensions)
    return values.astype(np.float32), labels


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and the result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def sklearn_knn(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Weighted neighbours by scikit-learn's brute force."""
    classifier = KNeighborsClassifier(
        NEIGHBOURS, weights=lambda distances: np.exp((1 - distances**2 / 2) / 0.07), algorithm="brute"
    )
    found: np.ndarray = classifier.fit(normalize(train), labels).predict(normalize(test))
    return found


def sklearn_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, c_values: np.ndarray) -> np.ndarray:
    """The same choice of C by a loop over scikit-learn's regression, each fit from the last one's solution."""
    held_out = validation_rows(labels, None, 0.2, 0)
    scaler = StandardScaler().fit(train[~held_out])
    model = LogisticRegression(max_iter=1000, warm_start=True)
    scores = []
    for c in c_values:
        model.set_params(C=c).fit(scaler.transform(train[~held_out]), labels[~held_out])
        scores.append(model.score(scaler.transform(train[held_out]), labels[held_out]))
    scaler = StandardScaler().fit(train)
    final = LogisticRegression(C=c_values[int(np.argmax(scores))], max_iter=1000).fit(scaler.transform(train), labels)
    found: np.ndarray = final.predict(scaler.transform(test))
    return found


def heads_one_by_one(train: np.ndarray, labels: np.ndarray, test: np.ndarray, epochs: int) -> np.ndarray:
    """The release's probe with each learning rate in a run of its own."""
    predictions = [
        sgd_probe(
            train, labels, test, labels[: len(test)], settings=SGDProbeSettings(learning_rates=(rate,), epochs=epochs)
        )
        for rate in RELEASE_LEARNING_RATES
    ]
    best = max((result[0] for result in predictions), key=lambda head: max(head.validation.values()))
    return best.predictions


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--c-values", type=int, default=45)
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    train, labels = make_features(arguments.train, arguments.dimensions, arguments.classes, 1)
    test, expected = make_features(arguments.test, arguments.dimensions, arguments.classes, 2)
    grid = np.logspace(-5, 6, arguments.c_values)
    rows: list[tuple[str, Callable[[], np.ndarray], Callable[[], np.ndarray]]] = [
        (
            f"kNN, k = {NEIGHBOURS}",
            lambda: knn_predict(train, labels, test, k=NEIGHBOURS),
            lambda: sklearn_knn(train, labels, test),
        ),
        (
            f"logistic regression, {len(grid)} values of C",
            lambda: logistic_regression_probe(train, labels, test, expected, c_values=grid).predictions,
            lambda: sklearn_probe(train, labels, test, grid),
        ),
        (
            f"SGD probe, 20 heads, {arguments.epochs} epochs (beside: one learning rate at a time)",
            lambda: (
                sgd_probe(train, labels, test, expected, settings=SGDProbeSettings(epochs=arguments.epochs))[
                    0
                ].predictions
            ),
            lambda: heads_one_by_one(train, labels, test, arguments.epochs),
        ),
    ]
    print(
        f"{arguments.train} + {arguments.test} features of {arguments.dimensions}, {arguments.classes} classes, "
        f"{torch.get_num_threads()} threads"
    )
    logistic_regression_probe(train[:200], labels[:200], test, expected, c_values=[1.0])  # loads torch's optimisers
    print("| what | ours, s | plain, s | ratio | same answer |\n| :--- | ---: | ---: | ---: | ---: |")
    for name, ours, plain in rows:
        own, found = timed(ours)
        other, reference = timed(plain)
        agreement = 100 * (found == reference).mean()
        print(f"| {name} | {own:.2f} | {other:.2f} | {other / own:.1f} | {agreement:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
