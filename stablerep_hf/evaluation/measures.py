"""The protocols: from scoring, which holds the features, to results."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from .classification import classification
from .few_shot import few_shot_accuracy
from .image_transforms import Displacement
from .knn import nearest_neighbours, vote
from .linear_probe import logistic_regression_probe
from .metrics import MeanScore, statistic_of
from .results import EvaluationResult
from .retrieval import retrieval_recall
from .scoring import DINO_NEIGHBOURS, Finding, Scoring, check_label_values
from .sgd_probe import SGDProbeSettings, sgd_probe
from .sibling_retrieval import sibling_retrieval
from .text_retrieval import text_retrieval_recall
from .zero_shot import zero_shot_scores, zero_shot_weights


@dataclass(frozen=True)
class Measure:
    """A protocol.

    Attributes:
        run: what it makes of features.
        columns: fields of `Columns` that it cannot do without.
        trains: whether it needs a training set.
        texts: whether it needs a dual encoder.
        displaced: whether it needs the test images displaced.
    """

    run: Callable[[Scoring], list[EvaluationResult]]
    columns: tuple[str, ...]
    trains: bool = False
    texts: bool = False
    displaced: bool = False


def knn(scoring: Scoring) -> list[EvaluationResult]:
    """Weighted nearest neighbours, for each k."""
    train, test, settings = scoring.train, scoring.test, scoring.settings
    assert train is not None
    train_labels, test_labels = scoring.labels(train, test)
    neighbours = settings.knn_neighbours
    if neighbours is None:
        neighbours = tuple(k for k in DINO_NEIGHBOURS if k <= len(train)) or (len(train),)
    similarities, indices = nearest_neighbours(test.features, train.features, max(neighbours))
    neighbour_labels = torch.from_numpy(train_labels)[indices]
    classes = np.arange(int(max(train_labels.max(), test_labels.max())) + 1)
    results = []
    for k in neighbours:
        votes = vote(similarities[:, :k], neighbour_labels[:, :k], len(classes), settings.knn_temperature).numpy()
        own = {"k": k, "temperature": settings.knn_temperature}
        results += _supervised(scoring, "knn", votes, classes, train_labels, test_labels, own)
    return results


def linear_probe(scoring: Scoring) -> list[EvaluationResult]:
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
        c_values=settings.probe_c_values,
        validation_fraction=settings.probe_validation_fraction,
        seed=settings.seed,
    )
    own = {
        "c": probe.c,
        "c_values": [float(f"{c:.6g}") for c in settings.probe_c_values],
        "c_at_edge": len(probe.validation) > 1 and probe.c in (min(probe.validation), max(probe.validation)),
        "validation": max(probe.validation.values()),
        "validation_fraction": settings.probe_validation_fraction if validation is None else None,
        "validation_images": len(train_labels) - probe.num_fit,
        "converged": probe.converged,
    }
    return _supervised(scoring, "linear_probe", probe.scores, probe.classes, train_labels, test_labels, own)


def linear_probe_sgd(scoring: Scoring) -> list[EvaluationResult]:
    """The release's heads, the learning rate chosen inside the training set."""
    return _sgd(scoring, "linear_probe_sgd")


def linear_probe_sgd_optimistic(scoring: Scoring) -> list[EvaluationResult]:
    """The release's heads and its choice: the maximum over heads and checkpoints on what is reported."""
    return _sgd(scoring, "linear_probe_sgd_optimistic")


def _sgd(scoring: Scoring, protocol: str) -> list[EvaluationResult]:
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
    )
    results = []
    for head in found:
        own = {
            "learning_rate": head.learning_rate,
            "epochs": head.epochs,
            "selection": head.selection,
            "augmentation": scoring.augmented is not None,
            **({} if optimistic else {"validation_fraction": probe.validation_fraction}),
            **scoring.settings_of_training(len(np.unique(train_labels))),
        }
        finding = Finding(
            protocol=protocol,
            metric="accuracy",
            statistic=MeanScore((head.predictions == test_labels).astype(np.float64)),
            count=len(test),
            groups=scoring.groups(test),
            rows=np.arange(len(test)),
            chance=_majority(train_labels, test_labels),
            settings=own,
            variant="with BatchNorm" if head.batch_norm else "without BatchNorm",
        )
        results += scoring.results(finding)
    return results


def few_shot(scoring: Scoring) -> list[EvaluationResult]:
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
    )
    own = {
        "queries": settings.few_shot_queries,
        "classes": found.num_classes,
        "classes_left_out": found.num_left_out,
        "images": len(scoring.test),
    }
    variant = f"{settings.few_shot_ways}-way {settings.few_shot_shots}-shot"
    return [scoring.episode_result("few_shot", found.accuracies, 1 / settings.few_shot_ways, own, variant)]


def zero_shot(scoring: Scoring) -> list[EvaluationResult]:
    """Classes by their sentences."""
    test, settings = scoring.test, scoring.settings
    assert scoring.columns.label is not None and scoring.embed_texts is not None and test.embeds is not None
    labels = test.columns[scoring.columns.label]
    check_label_values(scoring.columns.label, scoring.shared["split"], labels)
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
    scores = zero_shot_scores(test.embeds, weights).double().numpy()
    finding = Finding(
        protocol="zero_shot",
        metric=settings.metric,
        statistic=statistic_of(settings.metric, scores, np.arange(len(names)), codes),
        count=len(test),
        groups=scoring.groups(test),
        rows=np.arange(len(test)),
        chance=None if settings.metric == "11_point_map" else 1 / len(names),
        settings={
            "label": scoring.columns.label,
            "num_labels": len(names),
            "templates": list(settings.templates),
            **scoring.settings_of_data(),
        },
    )
    return scoring.results(finding)


def retrieval(scoring: Scoring) -> list[EvaluationResult]:
    """The same concept by another artist."""
    return _cross_artist(scoring, "retrieval", None, {})


def retrieval_displaced(scoring: Scoring) -> list[EvaluationResult]:
    """The same, asked with the image moved and scaled."""
    assert scoring.displaced is not None
    displacement = {"displaced_scale": list(Displacement().scale)}
    return _cross_artist(scoring, "retrieval_displaced", scoring.displaced.features, displacement)


def _cross_artist(
    scoring: Scoring, protocol: str, asking: NDArray[np.float32] | None, own: dict[str, Any]
) -> list[EvaluationResult]:
    columns, test = scoring.columns, scoring.test
    assert columns.group is not None and columns.artist is not None
    concepts = test.columns[columns.group]
    artists = np.asarray([scoring.hands.get(str(artist), str(artist)) for artist in test.columns[columns.artist]])
    found = retrieval_recall(test.features, concepts, artists, scoring.settings.recall_at, query_features=asking)
    results = []
    for k in scoring.settings.recall_at:
        finding = Finding(
            protocol=protocol,
            metric=f"recall@{k}",
            statistic=MeanScore(found.hits[k].astype(np.float64)),
            count=len(found.queries),
            groups=concepts[found.queries],
            rows=found.queries,
            chance=found.chance[k],
            settings={
                **own,
                "num_left_out": found.num_left_out,
                "hands": len(np.unique(artists)),
                **scoring.settings_of_data(),
            },
        )
        results += scoring.results(finding)
    return results


def text_retrieval(scoring: Scoring) -> list[EvaluationResult]:
    """Images to their captions and captions to their images."""
    columns, test = scoring.columns, scoring.test
    assert columns.caption is not None and scoring.embed_texts is not None and test.embeds is not None
    ids = test.columns[columns.image_id] if columns.image_id is not None else np.arange(len(test))
    images = np.unique(ids, return_inverse=True)[1]
    texts: dict[str, int] = {}  # the same text anywhere is one candidate
    pairs = []
    for image, captions in zip(images, test.columns[columns.caption], strict=True):
        for caption in [captions] if isinstance(captions, str) else (captions if captions is not None else []):
            text = " ".join(unicodedata.normalize("NFC", caption or "").split())
            if text:
                pairs.append((image, texts.setdefault(text, len(texts))))
    if not pairs:
        raise InputError(
            f"The column {columns.caption!r} holds no caption, so there is nothing to find; name another."
        )
    captioned = np.unique([image for image, _ in pairs])  # an image without captions neither asks nor answers
    first = np.unique(images, return_index=True)[1][captioned]
    paired = np.asarray(pairs)
    paired[:, 0] = np.searchsorted(captioned, paired[:, 0])
    embedded = scoring.embed_texts(list(texts))
    both = text_retrieval_recall(test.embeds[first], embedded, paired, scoring.settings.text_recall_at)
    own = {
        "images": len(first),
        "texts": len(texts),
        "images_without_text": int(images.max()) + 1 - len(first),
        **scoring.settings_of_data(),
    }
    groups = scoring.groups(test)
    groups = np.arange(len(first)) if groups is None else groups[first]
    # the captions of an image are right or wrong together: each is drawn with the first image that it stands beside
    of_text = groups[paired[np.unique(paired[:, 1], return_index=True)[1], 0]]
    results = []
    for direction, found in zip(("image to text", "text to image"), both, strict=True):
        of_images = direction == "image to text"
        for k in scoring.settings.text_recall_at:
            finding = Finding(
                protocol="text_retrieval",
                metric=f"recall@{k}",
                statistic=MeanScore(found.hits[k].astype(np.float64)),
                count=len(found.hits[k]),
                groups=of_text if not of_images else groups if scoring.columns.group is not None else None,
                rows=first if of_images else None,
                chance=found.chance[k],
                settings=own,
                variant=direction,
            )
            results += scoring.results(finding)
    return results


def siblings(scoring: Scoring) -> list[EvaluationResult]:
    """The other images of an image's caption."""
    assert scoring.columns.caption_id is not None
    ids = scoring.test.columns[scoring.columns.caption_id]
    found = sibling_retrieval(scoring.test.features, ids)
    finding = Finding(
        protocol="sibling_retrieval",
        metric="mAP",
        statistic=MeanScore(found.average_precision),
        count=len(found.queries),
        groups=ids[found.queries],  # siblings ask the same, so they are drawn together
        rows=found.queries,
        chance=found.chance,
        settings={"num_left_out": len(scoring.test) - len(found.queries), **scoring.settings_of_data()},
    )
    return scoring.results(finding)


def _supervised(
    scoring: Scoring,
    protocol: str,
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    train_labels: NDArray[Any],
    test_labels: NDArray[Any],
    own: dict[str, Any],
) -> list[EvaluationResult]:
    metric = scoring.settings.metric
    num_labels = train_labels.shape[1] if train_labels.ndim == 2 else len(np.unique(train_labels))
    chance = {
        "accuracy": lambda: _majority(train_labels, test_labels),
        "mean_per_class": lambda: 1 / len(np.unique(test_labels)),
    }
    finding = Finding(
        protocol=protocol,
        metric=metric,
        statistic=statistic_of(metric, scores, classes, test_labels),
        count=len(scoring.test),
        groups=scoring.groups(scoring.test),
        rows=np.arange(len(scoring.test)),
        chance=chance[metric]() if metric in chance else None,
        settings={**own, **scoring.settings_of_training(num_labels)},
    )
    return scoring.results(finding)


def _majority(train_labels: NDArray[np.int64], test_labels: NDArray[np.int64]) -> float:
    """How often the commonest training label is right."""
    return float((test_labels == np.bincount(train_labels).argmax()).mean())


MEASURES = {
    "knn": Measure(knn, ("label",), trains=True),
    "linear_probe": Measure(linear_probe, ("label",), trains=True),
    "linear_probe_sgd": Measure(linear_probe_sgd, ("label",), trains=True),
    "linear_probe_sgd_optimistic": Measure(linear_probe_sgd_optimistic, ("label",), trains=True),
    "few_shot": Measure(few_shot, ("label",)),
    "zero_shot": Measure(zero_shot, ("label",), texts=True),
    "retrieval": Measure(retrieval, ("group", "artist")),
    "retrieval_displaced": Measure(retrieval_displaced, ("group", "artist"), displaced=True),
    "text_retrieval": Measure(text_retrieval, ("caption",), texts=True),
    "sibling_retrieval": Measure(siblings, ("caption_id",)),
    "classification": Measure(classification, ("label",)),
}
