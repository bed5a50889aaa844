"""A trained classifier by its own logits: nothing is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .metrics import statistic_of
from .scoring import Finding, Scoring, check_label_values


def classification(scoring: Scoring) -> list[Finding]:
    """What share of the test images the classifier gets right, or the metric that the settings name."""
    test, metric = scoring.test, scoring.settings.metric
    if not scoring.classes:
        raise InputError(
            "The protocol 'classification' scores a classifier, and this encoder names no classes; give a fine-tuned "
            "one, or measure features by knn and linear_probe."
        )
    assert scoring.columns.label is not None
    column = test.columns[scoring.columns.label]
    expected = class_indices(column, scoring.class_names, scoring.classes, scoring.columns.label)
    if (expected.ndim == 2) != (metric == "11_point_map"):
        raise InputError(
            f"The metric {metric!r} does not go with {'several labels' if expected.ndim == 2 else 'one label'} an "
            "image: use 11_point_map where an image has several, and accuracy or mean_per_class where it has one."
        )
    classes = np.arange(len(scoring.classes))
    finding = scoring.finding_of_images(
        "classification",
        metric,
        statistic_of(metric, test.features.astype(np.float64), classes, expected),
        chance={"accuracy": _commonest(expected), "mean_per_class": 1 / len(classes)}.get(metric),
        settings={"label": scoring.columns.label, "num_labels": len(classes), **scoring.settings_of_data()},
    )
    return [finding]


def class_indices(
    labels: NDArray[Any], names: Sequence[str], classes: Sequence[str], column: str
) -> NDArray[np.int64] | NDArray[np.bool_]:
    """Labels of a data set as places among a classifier's classes.

    Args:
        labels: (N,) integers or strings, or lists of these.
        names: of integer labels; empty where labels are called what they are.
        classes: (K,) names.
        column: the column of the labels, for messages.

    Returns:
        (N,) int64, or (N, K) bool for lists.

    Raises:
        InputError: a label that is none of the classes, or one that is missing.
    """
    place = {name: index for index, name in enumerate(classes)}
    several = any(isinstance(value, list) for value in labels)
    if not several:
        check_label_values(column, "test", labels)
    lists = labels if several else [[label] for label in labels]
    rows = [[str(names[label]) if len(names) else str(label) for label in entry] for entry in lists]
    if unknown := sorted({name for row in rows for name in row} - place.keys()):
        raise InputError(
            f"The column {column!r} holds {unknown[0]!r}, which is not among the classifier's classes "
            f"({', '.join(list(classes)[:5])}{', ...' if len(classes) > 5 else ''}): give data of its classes, or "
            "fine-tune on these."
        )
    if not several:
        return np.array([place[row[0]] for row in rows], dtype=np.int64)
    shown = np.zeros((len(rows), len(classes)), dtype=bool)
    for index, row in enumerate(rows):
        shown[index, [place[name] for name in row]] = True
    return shown


def _commonest(expected: NDArray[Any]) -> float | None:
    """Accuracy of always naming the commonest class of the test images."""
    return None if expected.ndim == 2 else float(np.bincount(expected).max() / len(expected))
