"""One encoder, one data set, a named set of protocols: a list of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Image
from torch import nn

from ..errors import InputError
from .encoder import ImageProcessor, VisionEncoder, load_encoder
from .features import Features, check_columns, extract_features
from .results import EvaluationResult
from .scoring import EvaluationSettings, Scoring, check_label_values

PROTOCOLS = ("knn", "linear_probe", "retrieval")


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
    if all(protocol == "retrieval" for protocol in protocols):
        train_dataset = label_column = None
    artist = artist_column if "retrieval" in protocols else None
    sides = [(split, test_dataset, [label_column, group_column, artist])]
    if train_dataset is not None:
        sides.insert(0, (train_split, train_dataset, [label_column, group_column]))
    # all that can be wrong with the data is found before the first image is encoded
    for name, dataset, columns in sides:
        check_columns(dataset, image_column, [column for column in columns if column is not None])
        if label_column is not None:
            _check_labels(dataset, label_column, name)
    if train_dataset is not None and label_column is not None:
        _check_class_names(train_dataset, test_dataset, label_column)
    vision = load_encoder(encoder, image_processor, name=encoder_name, device=device)
    features = [
        extract_features(
            vision,
            dataset,
            image_column=image_column,
            columns=[column for column in columns if column is not None],
            batch_size=batch_size,
            device=device,
            num_workers=num_workers,
            max_bad_images=max_bad_images,
            progress=progress,
        )
        for _, dataset, columns in sides
    ]
    return evaluate_features(
        features[0] if train_dataset is not None else None,
        features[-1],
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
    scoring = Scoring(
        train, test, label_column, group_column, artist_column, hands or {}, train_split, shared, settings
    )
    measures = {"knn": scoring.knn, "linear_probe": scoring.linear_probe, "retrieval": scoring.retrieval}
    return [result for protocol in protocols for result in measures[protocol]()]


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


def _check_labels(dataset: Dataset, column: str, split: str) -> None:
    if isinstance(dataset.features[column], Image):
        raise InputError(f"The label column {column!r} of split {split!r} holds images; name the column of labels.")
    check_label_values(column, split, np.asarray(dataset.with_format(None)[column][:]))


def _check_class_names(train: Dataset, test: Dataset, column: str) -> None:
    """Two ClassLabel columns with other names, or another order of names, mean other things by the same number."""
    kinds = [dataset.features[column] for dataset in (train, test)]
    if all(isinstance(kind, ClassLabel) for kind in kinds) and kinds[0].names != kinds[1].names:
        raise InputError(
            f"The classes of {column!r} are {kinds[0].names} in training and {kinds[1].names} in test, so a number "
            "means another class; cast both to one ClassLabel."
        )
