"""Features and their columns on the way to results, protocol by protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from .features import Features
from .intervals import bootstrap_interval
from .knn import nearest_neighbours, vote
from .linear_probe import DEFAULT_C_VALUES, logistic_regression_probe
from .results import BOOTSTRAP, CLUSTER_BOOTSTRAP, EvaluationResult
from .retrieval import retrieval_recall


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of the protocols; the defaults are those of the functions they go to.

    Attributes:
        knn_neighbours: the values of k, each of which gives a result.
        knn_temperature: of the votes.
        probe_c_values: inverse regularisations to choose from.
        probe_validation_fraction: share of the training set that chooses.
        recall_at: the ranks of retrieval.
        num_resamples: bootstrap samples of each interval.
        seed: of the probe's split and of the bootstrap; it changes no feature.
    """

    knn_neighbours: tuple[int, ...] = (20,)
    knn_temperature: float = 0.07
    probe_c_values: tuple[float, ...] = DEFAULT_C_VALUES
    probe_validation_fraction: float = 0.2
    recall_at: tuple[int, ...] = (1, 5)
    num_resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Scoring:
    """One encoder's features of a training and a test set, and a method for each protocol.

    Attributes:
        train: bank of kNN and training set of the probe; None if neither is wanted.
        test: what is scored.
        label_column: what kNN and the probe predict.
        group_column: the concept of an image.
        artist_column: who drew it.
        hands: artist -> hand.
        train_split: what results call the training set.
        shared: the fields that all results have in common.
        settings: of the protocols.
    """

    train: Features | None
    test: Features
    label_column: str | None
    group_column: str | None
    artist_column: str | None
    hands: Mapping[str, str]
    train_split: str
    shared: dict[str, Any]
    settings: EvaluationSettings

    def knn(self) -> list[EvaluationResult]:
        """Accuracy for each k."""
        train, train_labels, test_labels = self._labels()
        largest = max(self.settings.knn_neighbours)
        similarities, indices = nearest_neighbours(self.test.features, train.features, largest)
        neighbour_labels = torch.from_numpy(train_labels)[indices]
        num_labels = int(max(train_labels.max(), test_labels.max())) + 1
        results = []
        for k in self.settings.knn_neighbours:
            votes = vote(similarities[:, :k], neighbour_labels[:, :k], num_labels, self.settings.knn_temperature)
            own = {"k": k, "temperature": self.settings.knn_temperature}
            correct = votes.argmax(1).numpy() == test_labels
            results.append(self._accuracy("knn", correct, train_labels, test_labels, own))
        return results

    def linear_probe(self) -> list[EvaluationResult]:
        """Accuracy of the probe."""
        train, train_labels, test_labels = self._labels()
        probe = logistic_regression_probe(
            train.features,
            train_labels,
            self.test.features,
            test_labels,
            train_groups=self._groups(train),
            c_values=self.settings.probe_c_values,
            validation_fraction=self.settings.probe_validation_fraction,
            seed=self.settings.seed,
        )
        own = {
            "c": probe.c,
            "c_values": list(self.settings.probe_c_values),
            "c_at_edge": len(probe.validation_accuracy) > 1
            and probe.c in (min(probe.validation_accuracy), max(probe.validation_accuracy)),
            "validation_accuracy": max(probe.validation_accuracy.values()),
            "validation_fraction": self.settings.probe_validation_fraction,
            "converged": probe.converged,
        }
        return [self._accuracy("linear_probe", probe.predictions == test_labels, train_labels, test_labels, own)]

    def retrieval(self) -> list[EvaluationResult]:
        """Recall at each rank."""
        assert self.group_column is not None and self.artist_column is not None
        concepts = self.test.columns[self.group_column]
        artists = np.asarray([self.hands.get(str(artist), str(artist)) for artist in self._artists()])
        found = retrieval_recall(self.test.features, concepts, artists, self.settings.recall_at)
        groups = concepts[found.queries]
        return [
            self._result(
                "retrieval",
                f"recall@{k}",
                found.hits[k],
                groups,
                found.chance[k],
                {"num_left_out": found.num_left_out, "hands": len(np.unique(artists)), **self._settings_of_data()},
            )
            for k in self.settings.recall_at
        ]

    def _artists(self) -> NDArray[Any]:
        assert self.artist_column is not None
        return self.test.columns[self.artist_column]

    def _groups(self, features: Features) -> NDArray[Any] | None:
        return None if self.group_column is None else features.columns[self.group_column]

    def _labels(self) -> tuple[Features, NDArray[np.int64], NDArray[np.int64]]:
        """The training features and the labels of both sides as one numbering (a test label may be new)."""
        assert self.train is not None and self.label_column is not None
        train, test = self.train.columns[self.label_column], self.test.columns[self.label_column]
        for name, values in ((self.train_split, train), (self.shared["split"], test)):
            check_label_values(self.label_column, name, values)
        if train.dtype.kind != test.dtype.kind:
            raise InputError(
                f"The label column {self.label_column!r} holds {train.dtype} in one data set and {test.dtype} in the "
                "other, so labels cannot be compared; cast them to one type."
            )
        codes = np.unique(np.concatenate([train, test]), return_inverse=True)[1].astype(np.int64)
        return self.train, codes[: len(train)], codes[len(train) :]

    def _accuracy(
        self,
        protocol: str,
        correct: NDArray[np.bool_],
        train_labels: NDArray[np.int64],
        test_labels: NDArray[np.int64],
        own: dict[str, Any],
    ) -> EvaluationResult:
        assert self.train is not None
        majority = np.bincount(train_labels).argmax()
        own = {
            **own,
            "label": self.label_column,
            "num_labels": len(np.unique(train_labels)),
            **self._settings_of_data(),
        }
        own |= {"train_split": self.train_split, "train_images": len(self.train)}
        if self.group_column is not None:
            both = np.intersect1d(self.train.columns[self.group_column], self.test.columns[self.group_column])
            own["groups_in_both"] = len(both)  # 0 says that no concept that is scored was trained on
        chance = float((test_labels == majority).mean())
        return self._result(protocol, "accuracy", correct, self._groups(self.test), chance, own)

    def _settings_of_data(self) -> dict[str, Any]:
        own: dict[str, Any] = {"seed": self.settings.seed, "num_resamples": self.settings.num_resamples}
        skipped = len(self.test.skipped) + (len(self.train.skipped) if self.train else 0)
        return own | ({"group": self.group_column} if self.group_column else {}) | {"bad_images": skipped}

    def _result(
        self,
        protocol: str,
        metric: str,
        correct: NDArray[np.bool_],
        groups: NDArray[Any] | None,
        chance: float,
        own: dict[str, Any],
    ) -> EvaluationResult:
        low, high = bootstrap_interval(
            correct, groups, num_resamples=self.settings.num_resamples, seed=self.settings.seed
        )
        return EvaluationResult(
            protocol=protocol,
            metric=metric,
            value=float(correct.mean()),
            low=low,
            high=high,
            interval=BOOTSTRAP if groups is None else CLUSTER_BOOTSTRAP,
            n=len(correct),
            chance=chance,
            settings=own,
            **self.shared,
        )


def check_label_values(column: str, split: str, labels: NDArray[Any]) -> None:
    """Refuse labels (N,) that are no integers or strings, or of which some are missing."""
    if labels.ndim != 1 or labels.dtype.kind not in "iubUO":
        raise InputError(
            f"The label column {column!r} of split {split!r} holds {labels.dtype} of shape {labels.shape}; name a "
            "column with one integer or string for each image."
        )
    # an object array comes from a column with nulls; -1 is how the Hub marks the hidden labels of a test split
    missing = (
        sum(label is None for label in labels)
        if labels.dtype.kind == "O"
        else int((labels == -1).sum())
        if labels.dtype.kind in "iu"
        else 0
    )
    if missing:
        raise InputError(
            f"{missing} of {len(labels)} labels in column {column!r} of split {split!r} are missing (null or -1); "
            "filter those rows out or name a labelled split."
        )
