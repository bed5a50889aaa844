"""One encoder, one data set, a named set of protocols: a list of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray
from torch import nn

from ..errors import InputError
from .encoder import ImageProcessor, VisionEncoder, load_encoder
from .features import Features, extract_features
from .intervals import bootstrap_interval
from .knn import nearest_neighbours, vote
from .linear_probe import DEFAULT_C_VALUES, logistic_regression_probe
from .results import BOOTSTRAP, CLUSTER_BOOTSTRAP, EvaluationResult
from .retrieval import retrieval_recall

PROTOCOLS = ("knn", "linear_probe", "retrieval")


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


def evaluate_encoder(
    encoder: str | Path | nn.Module | VisionEncoder,
    train_dataset: Dataset | None,
    test_dataset: Dataset,
    *,
    label_column: str | None = None,
    group_column: str | None = None,
    artist_column: str | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    hands: Mapping[str, str] | None = None,
    image_processor: ImageProcessor | None = None,
    image_column: str = "image",
    encoder_name: str | None = None,
    dataset_name: str = "",
    dataset_revision: str = "",
    train_split: str = "train",
    split: str = "test",
    seeds: Sequence[int] = (),
    settings: EvaluationSettings | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    max_bad_images: int = 0,
    progress: bool = True,
) -> list[EvaluationResult]:
    """Extract the features of both data sets once and score them by every protocol.

    Args:
        encoder: a folder, a Hub id, a model (with `image_processor`), or what `load_encoder` gave.
        train_dataset: the bank of kNN and the training set of the probe; not needed for retrieval alone.
        test_dataset: what is scored.
        label_column: what kNN and the probe predict; integers, strings or a ClassLabel.
        group_column: the concept of an image: what retrieval looks for, what the probe's split and the bootstrap
            keep together. Without it every image stands for itself and there is no retrieval.
        artist_column: who drew an image; needed for retrieval.
        protocols: some of `PROTOCOLS`.
        hands: artist -> hand, for artists that share outlines and must count as one; others stand for themselves.
        image_processor: required when `encoder` is a bare model.
        image_column: the column of images in both data sets.
        encoder_name: what results call the encoder; default its id, folder or class.
        dataset_name: what results call the data.
        dataset_revision: its commit or digest.
        train_split: what results call `train_dataset`.
        split: what results call `test_dataset`.
        seeds: seeds of the training run behind the encoder.
        settings: of the protocols.
        batch_size: images a forward pass.
        device: where to compute features; default where the model is, or the accelerator for one loaded by name.
        num_workers: processes that decode images.
        max_bad_images: how many images of a data set may fail to decode before the run stops.
        progress: show bars on stderr.

    Returns:
        Results in the order of `protocols`.

    Raises:
        InputError: an unknown protocol, a protocol without the columns or data it needs, labels that are missing.
    """
    _check_request(protocols, train_dataset, label_column, group_column, artist_column)
    vision = load_encoder(encoder, image_processor, name=encoder_name, device=device)
    supervised = any(protocol in protocols for protocol in ("knn", "linear_probe"))
    test_columns = [
        column
        for column, wanted in [
            (label_column, supervised),
            (group_column, True),
            (artist_column, "retrieval" in protocols),
        ]
        if column is not None and wanted
    ]
    extracted: list[Features | None] = []
    for dataset in (train_dataset if supervised else None, test_dataset):
        extracted.append(
            None
            if dataset is None
            else extract_features(
                vision,
                dataset,
                image_column=image_column,
                columns=[column for column in test_columns if dataset is test_dataset or column != artist_column],
                batch_size=batch_size,
                device=device,
                num_workers=num_workers,
                max_bad_images=max_bad_images,
                progress=progress,
            )
        )
    train, test = extracted
    assert test is not None
    if supervised and train_dataset is not None and label_column is not None:
        _check_class_names(train_dataset, test_dataset, label_column)
    return evaluate_features(
        train,
        test,
        label_column=label_column,
        group_column=group_column,
        artist_column=artist_column,
        protocols=protocols,
        hands=hands,
        encoder_name=encoder_name or vision.name,
        dataset_name=dataset_name,
        dataset_revision=dataset_revision,
        train_split=train_split,
        split=split,
        seeds=seeds,
        settings=settings,
    )


def evaluate_features(
    train: Features | None,
    test: Features,
    *,
    label_column: str | None = None,
    group_column: str | None = None,
    artist_column: str | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    hands: Mapping[str, str] | None = None,
    encoder_name: str,
    dataset_name: str = "",
    dataset_revision: str = "",
    train_split: str = "train",
    split: str = "test",
    seeds: Sequence[int] = (),
    settings: EvaluationSettings | None = None,
) -> list[EvaluationResult]:
    """Score features that were extracted before, with the columns named here. Arguments as `evaluate_encoder`."""
    _check_request(protocols, train, label_column, group_column, artist_column)
    settings = settings or EvaluationSettings()
    shared: dict[str, Any] = {
        "encoder": encoder_name,
        "dataset": dataset_name,
        "revision": dataset_revision,
        "split": split,
        "seeds": tuple(seeds),
    }
    run = _Run(train, test, label_column, group_column, artist_column, hands or {}, train_split, shared, settings)
    measures = {"knn": run.knn, "linear_probe": run.linear_probe, "retrieval": run.retrieval}
    return [result for protocol in protocols for result in measures[protocol]()]


@dataclass(frozen=True)
class _Run:
    """The features of one encoder on their way to results."""

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
            _check_label_values(self.label_column, name, values)
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


def _check_request(
    protocols: Sequence[str],
    train: object | None,
    label_column: str | None,
    group_column: str | None,
    artist_column: str | None,
) -> None:
    if not protocols or isinstance(protocols, str):
        known = ", ".join(PROTOCOLS)
        raise InputError(f"The protocols {protocols!r} are no list of names; give a list of some of {known}.")
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise InputError(f"There is no protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}.")
        if protocol == "retrieval":
            if group_column is None or artist_column is None:
                raise InputError(
                    f"Retrieval was given the group column {group_column!r} and the artist column {artist_column!r}, "
                    "and it needs both to know what to find and by whom; name them or leave retrieval out."
                )
        elif train is None or label_column is None:
            raise InputError(
                f"{protocol} was given {'no' if train is None else 'a'} training data set and the label column "
                f"{label_column!r}, and it learns labels from a training set; give both or leave {protocol} out."
            )


def _check_class_names(train: Dataset, test: Dataset, column: str) -> None:
    """Two ClassLabel columns with other names, or another order of names, mean other things by the same number."""
    kinds = [dataset.features[column] for dataset in (train, test)]
    if all(isinstance(kind, ClassLabel) for kind in kinds) and kinds[0].names != kinds[1].names:
        raise InputError(
            f"The classes of {column!r} are {kinds[0].names} in training and {kinds[1].names} in test, so a number "
            "means another class; cast both to one ClassLabel."
        )


def _check_label_values(column: str, split: str, labels: NDArray[Any]) -> None:
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
