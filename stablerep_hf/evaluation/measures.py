"""The protocols of labels: from scoring, which holds the features, to findings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from .few_shot import few_shot_accuracy
from .knn import nearest_neighbours, vote
from .linear_probe import c_values, logistic_regression_probe
from .metrics import MeanScore, statistic_of
from .scoring import Finding, Scoring, check_label_values
from .settings import DINO_NEIGHBOURS
from .sgd_probe import SGDProbeSettings, sgd_probe
from .zero_shot import zero_shot_scores, zero_shot_weights


def knn(scoring: Scoring) -> list[Finding]:
    """Weighted nearest neighbours, for each k."""
    train, test, settings = scoring.train, scoring.test, scoring.settings
    assert train is not None
    train_labels, test_labels = scoring.labels(train, test)
    neighbours = settings.knn_neighbours or [k for k in DINO_NEIGHBOURS if k <= len(train)] or [len(train)]
    similarities, indices = nearest_neighbours(test.features, train.features, max(neighbours), device=scoring.device)
    neighbour_labels = torch.from_numpy(train_labels)[indices]
    classes = np.arange(int(max(train_labels.max(), test_labels.max())) + 1)
    findings = []
    for k in neighbours:
        votes = vote(similarities[:, :k], neighbour_labels[:, :k], len(classes), settings.knn_temperature).numpy()
        own = {"k": k, "temperature": settings.knn_temperature}
        findings.append(_supervised(scoring, "knn", votes, classes, train_labels, test_labels, own))
    return findings


def linear_probe(scoring: Scoring) -> list[Finding]:
    """Logistic regression by L-BFGS, its regularisation chosen inside the training set."""
    train, test, validation, settings = scoring.train, scoring.test, scoring.validation, scoring.settings
    assert train is not None
    fitted = [train] if validation is None else [train, validation]
    read: Any = scoring.multi_labels if scoring.has_label_lists() else scoring.labels
    *fitted_labels, test_labels = read(*fitted, test)
    train_labels = np.concatenate(fitted_labels)
    groups = [scoring.groups(side) for side in fitted]
    held_out = np.repeat([False, True][: len(fitted)], [len(side) for side in fitted])
    probe = logistic_regression_probe(
        np.concatenate([side.features for side in fitted]),
        train_labels,
        test.features,
        test_labels,
        metric=settings.metric,
        train_groups=None if groups[0] is None else np.concatenate([group for group in groups if group is not None]),
        held_out=None if validation is None else held_out,
        c_values=c_values(settings.probe_c_values),
        validation_fraction=settings.probe_validation_fraction,
        seed=settings.seed,
        device=scoring.device,
    )
    own = {
        "c": probe.c,
        "c_values": [float(f"{c:.6g}") for c in sorted(probe.validation)],
        "c_at_edge": len(probe.validation) > 1 and probe.c in (min(probe.validation), max(probe.validation)),
        "validation": max(probe.validation.values()),
        "validation_fraction": settings.probe_validation_fraction if validation is None else None,
        "validation_images": len(train_labels) - probe.num_fit,
        "converged": probe.converged,
    }
    return [_supervised(scoring, "linear_probe", probe.scores, probe.classes, train_labels, test_labels, own)]


def linear_probe_sgd(scoring: Scoring) -> list[Finding]:
    """The release's heads, the learning rate chosen inside the training set."""
    return _sgd(scoring, "linear_probe_sgd")


def linear_probe_sgd_optimistic(scoring: Scoring) -> list[Finding]:
    """The release's heads and its choice: the maximum over heads and checkpoints on what is reported."""
    return _sgd(scoring, "linear_probe_sgd_optimistic")


def _sgd(scoring: Scoring, protocol: str) -> list[Finding]:
    train, test, settings = scoring.train, scoring.test, scoring.settings
    assert train is not None
    train_labels, test_labels = scoring.labels(train, test)
    optimistic = protocol.endswith("optimistic")
    probe = SGDProbeSettings(
        epochs=settings.sgd_epochs, validation_fraction=settings.probe_validation_fraction, seed=settings.seed
    )
    found = sgd_probe(
        train.features,
        train_labels,
        test.features,
        test_labels,
        selection="test" if optimistic else "validation",
        train_groups=scoring.groups(train),
        augmented=scoring.augmented,
        settings=probe,
        device=scoring.device,
    )
    findings = []
    for head in found:
        own = {
            "learning_rate": head.learning_rate,
            "epochs": head.epochs,
            "selection": head.selection,
            "augmentation": scoring.augmented is not None,
            **({} if optimistic else {"validation_fraction": probe.validation_fraction}),
            **scoring.settings_of_training(len(np.unique(train_labels))),
        }
        finding = scoring.finding_of_images(
            protocol,
            "accuracy",
            MeanScore((head.predictions == test_labels).astype(np.float64)),
            chance=_majority(train_labels, test_labels),
            settings=own,
            variant="with BatchNorm" if head.batch_norm else "without BatchNorm",
        )
        findings.append(finding)
    return findings


def few_shot(scoring: Scoring) -> list[Finding]:
    """Episodes drawn from the test images."""
    settings = scoring.settings
    (labels,) = scoring.labels(scoring.test)
    found = few_shot_accuracy(
        scoring.test.features,
        labels,
        groups=scoring.groups(scoring.test),
        ways=settings.few_shot_ways,
        shots=settings.few_shot_shots,
        queries=settings.few_shot_queries,
        episodes=settings.few_shot_episodes,
        seed=settings.seed,
        device=scoring.device,
    )
    return [
        Finding(
            protocol="few_shot",
            metric="accuracy",
            statistic=MeanScore(found.accuracies),
            count=len(found.accuracies),
            chance=1 / found.ways,
            settings={
                "label": scoring.columns.label,
                "queries": settings.few_shot_queries,
                "classes": found.num_classes,
                "classes_left_out": found.num_left_out,
                "images": len(scoring.test),
                **scoring.settings_of_data(),
            },
            variant=f"{found.ways}-way {settings.few_shot_shots}-shot",
            episodes=True,
        )
    ]


def zero_shot(scoring: Scoring) -> list[Finding]:
    """Classes by their sentences."""
    test, settings = scoring.test, scoring.settings
    assert scoring.columns.label is not None and scoring.embed_texts is not None and test.embeds is not None
    labels = test.columns[scoring.columns.label]
    check_label_values(scoring.columns.label, scoring.subject.split, labels)
    if labels.dtype.kind in "iub":
        names, codes = list(scoring.class_names), labels.astype(np.int64)
        if not names:
            raise InputError(
                f"The labels in {scoring.columns.label!r} are numbers without names, so there is nothing to say of "
                "them; cast the column to a ClassLabel with names, or to strings."
            )
    else:
        unique, codes = np.unique(labels.astype(str), return_inverse=True)
        names = [str(name) for name in unique]
    if len(names) < 2:
        raise InputError(f"The only class is {names[0]!r}, so there is nothing to tell apart; give two classes.")
    weights = zero_shot_weights(scoring.embed_texts, names, settings.templates)
    scores = zero_shot_scores(test.embeds, weights).double().cpu().numpy()
    finding = scoring.finding_of_images(
        "zero_shot",
        settings.metric,
        statistic_of(settings.metric, scores, np.arange(len(names)), codes),
        chance=None if settings.metric == "11_point_map" else 1 / len(names),
        settings={
            "label": scoring.columns.label,
            "num_labels": len(names),
            "templates": list(settings.templates),
            **scoring.settings_of_data(),
        },
    )
    return [finding]


def _supervised(
    scoring: Scoring,
    protocol: str,
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    train_labels: NDArray[Any],
    test_labels: NDArray[Any],
    own: dict[str, Any],
) -> Finding:
    metric = scoring.settings.metric
    num_labels = train_labels.shape[1] if train_labels.ndim == 2 else len(np.unique(train_labels))
    chance = {
        "accuracy": lambda: _majority(train_labels, test_labels),
        "mean_per_class": lambda: 1 / len(np.unique(test_labels)),
    }
    return scoring.finding_of_images(
        protocol,
        metric,
        statistic_of(metric, scores, classes, test_labels),
        chance=chance[metric]() if metric in chance else None,
        settings={**own, **scoring.settings_of_training(num_labels)},
    )


def _majority(train_labels: NDArray[np.int64], test_labels: NDArray[np.int64]) -> float:
    """How often the commonest training label is right."""
    return float((test_labels == np.bincount(train_labels).argmax()).mean())
