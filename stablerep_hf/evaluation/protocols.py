"""One encoder, one data set, a named set of protocols: a list of results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Image
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import nn

from ..errors import InputError
from .encoder import ImageProcessor, VisionEncoder, load_encoder
from .features import Features, check_columns, column_values, extract_features
from .image_transforms import CropAndFlip, Displacement
from .knn import check_neighbours
from .linear_probe import are_alike
from .measures import MEASURES
from .results import EvaluationResult
from .scoring import Columns, EvaluationSettings, Scoring, check_label_lists, check_label_values
from .sgd_probe import AugmentedFeatures
from .zero_shot import EmbedTexts

logger = logging.getLogger(__name__)

PROTOCOLS = tuple(MEASURES)
# what a name of images and labels is scored by, if nobody says
DEFAULT_PROTOCOLS = ("knn", "linear_probe", "retrieval")


def evaluate_encoder(
    encoder: str | Path | nn.Module | VisionEncoder,
    train_dataset: Dataset | None,
    test_dataset: Dataset,
    *,
    columns: Columns,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    validation_dataset: Dataset | None = None,
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
    cache_dir: str | Path | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    max_bad_images: int = 0,
    progress: bool = True,
) -> list[EvaluationResult]:
    """Extract the features of the data sets once and score them by every protocol.

    Args:
        encoder: a folder, a Hub id, a model (with `image_processor`), or what `load_encoder` gave.
        train_dataset: the bank of kNN and the training set of the probes; not needed by the others.
        test_dataset: what is scored.
        columns: which columns hold labels, groups, captions.
        protocols: some of `PROTOCOLS`.
        validation_dataset: chooses the logistic regression's C, in place of a part of the training set.
        hands: artist -> hand, for artists that share outlines and must count as one; others stand for themselves.
        image_processor: required when `encoder` is a bare model.
        image_column: the column of images in all data sets.
        encoder_name: what results call the encoder; default its id, folder or class.
        dataset_name: what results call the data.
        dataset_revision: its commit or digest.
        train_split: what results call `train_dataset`.
        split: what results call `test_dataset`.
        seeds: seeds of the training run behind the encoder.
        settings: of the protocols.
        cache_dir: keeps features, so that an extraction that is killed goes on and a finished one is read.
        batch_size: images a forward pass.
        device: where to compute features; default where the model is, or the accelerator for one loaded by name.
        num_workers: processes that decode images.
        max_bad_images: how many images of a data set may fail to decode before the run stops.
        progress: show bars on stderr.

    Returns:
        Results in the order of `protocols`.

    Raises:
        InputError: an unknown protocol, a protocol without the columns, data or texts it needs, labels that are
            missing or all alike.
    """
    settings = settings or EvaluationSettings()
    _check_request(protocols, columns, train_dataset is not None)
    measures = [MEASURES[protocol] for protocol in protocols]
    trains = any(measure.trains for measure in measures)
    used = {name for measure in measures for name in measure.columns} | {"group"}
    used |= {"image_id"} if "caption" in used else set()
    wanted = {entry.name: getattr(columns, entry.name) for entry in fields(columns) if entry.name in used}
    test_columns = list(dict.fromkeys([*(name for name in wanted.values() if name is not None), *columns.slices]))
    learned = [name for name in (wanted.get("label"), columns.group) if name is not None]
    sides = [(split, test_dataset, test_columns)]
    if trains and train_dataset is not None:
        sides.append((train_split, train_dataset, learned))
        if validation_dataset is not None:
            sides.append(("validation", validation_dataset, learned))
    # all that can be wrong with the data is found before the first image is encoded
    for name, dataset, names in sides:
        check_columns(dataset, image_column, names)
        for meaning, column in wanted.items():
            if column in names:
                _check_values(dataset, meaning, str(column), name)
    if "label" in used:
        _check_labels([(name, dataset) for name, dataset, _ in sides], str(columns.label))
        _check_class_names([dataset for _, dataset, _ in sides], str(columns.label))
    if "knn" in protocols and train_dataset is not None:
        check_neighbours(max(settings.knn_neighbours or (1,)), len(train_dataset))
    vision = load_encoder(encoder, image_processor, name=encoder_name, device=device)
    embed_texts: EmbedTexts | None = None
    if any(measure.texts for measure in measures):
        vision.embed_texts(["a text"])  # so that an encoder without texts is refused before the images are encoded
        embed_texts = vision.embed_texts
    options: dict[str, Any] = {
        "image_column": image_column,
        "batch_size": batch_size,
        "device": device,
        "num_workers": num_workers,
        "max_bad_images": max_bad_images,
        "progress": progress,
    }
    test, *learning = (
        extract_features(vision, dataset, columns=names, cache_dir=cache_dir, **options) for _, dataset, names in sides
    )
    displaced = augmented = None
    if any(measure.displaced for measure in measures):
        moved = Displacement(seed=settings.seed)
        displaced = extract_features(vision, test_dataset, transform=moved, cache_dir=cache_dir, **options)
    if settings.sgd_augmentation and trains and train_dataset is not None:
        augmented = _augmented(vision, train_dataset, learning[0].rows, settings.seed, options)
    return evaluate_features(
        learning[0] if learning else None,
        test,
        columns=columns,
        protocols=protocols,
        validation=learning[1] if len(learning) > 1 else None,
        displaced=displaced,
        augmented=augmented,
        class_names=_class_names(test_dataset, columns.label),
        classes=vision.classes,
        embed_texts=embed_texts,
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
    columns: Columns,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    validation: Features | None = None,
    displaced: Features | None = None,
    augmented: AugmentedFeatures | None = None,
    class_names: Sequence[str] = (),
    classes: Sequence[str] = (),
    embed_texts: EmbedTexts | None = None,
    hands: Mapping[str, str] | None = None,
    encoder_name: str,
    dataset_name: str = "",
    dataset_revision: str = "",
    train_split: str = "train",
    split: str = "test",
    seeds: Sequence[int] = (),
    settings: EvaluationSettings | None = None,
) -> list[EvaluationResult]:
    """Score features that were extracted before, with the columns named here.

    Args:
        train: as `train_dataset` of `evaluate_encoder`, encoded.
        test: what is scored.
        columns: which columns of the features hold labels, groups, captions.
        protocols: some of `PROTOCOLS`.
        validation: as `validation_dataset`, encoded.
        displaced: the test images after `Displacement`, for `retrieval_displaced`.
        augmented: the training features of each epoch, for the release's probe.
        class_names: of integer labels, for zero-shot and classification.
        classes: the class of each feature, for classification.
        embed_texts: texts to the space of `test.embeds`, for the protocols with texts.
        hands: artist -> hand.
        encoder_name: what results call the encoder.
        dataset_name: what results call the data.
        dataset_revision: its commit or digest.
        train_split: what results call `train`.
        split: what results call `test`.
        seeds: seeds of the training run behind the encoder.
        settings: of the protocols.

    Raises:
        InputError: as `evaluate_encoder`.
    """
    _check_request(protocols, columns, train is not None)
    for protocol in protocols:
        lacks = [
            name
            for name, needed, given in (
                ("the displaced test images", MEASURES[protocol].displaced, displaced is not None),
                ("the texts of a dual encoder", MEASURES[protocol].texts, embed_texts is not None),
            )
            if needed and not given
        ]
        if lacks:
            raise InputError(f"The protocol {protocol!r} was given features without {lacks[0]}; give them too.")
    if len(test) > 1 and are_alike(test.features):
        logger.warning(
            "%s gives all %d test images the same features, so its scores are chance: it has collapsed, or its "
            "weights were not loaded.",
            encoder_name,
            len(test),
        )
    scoring = Scoring(
        train=train,
        test=test,
        validation=validation,
        displaced=displaced,
        augmented=augmented,
        columns=columns,
        class_names=class_names,
        classes=classes,
        embed_texts=embed_texts,
        hands=hands or {},
        train_split=train_split,
        settings=settings or EvaluationSettings(),
        shared={
            "encoder": encoder_name,
            "dataset": dataset_name,
            "revision": dataset_revision,
            "split": split,
            "seeds": tuple(seeds),
        },
    )
    return [result for protocol in protocols for result in MEASURES[protocol].run(scoring)]


def _check_request(protocols: Sequence[str], columns: Columns, has_train: bool) -> None:
    if not protocols or isinstance(protocols, str):
        known = ", ".join(PROTOCOLS)
        raise InputError(f"The protocols {protocols!r} are no list of names; give a list of some of {known}.")
    if twice := [protocol for protocol in PROTOCOLS if list(protocols).count(protocol) > 1]:
        raise InputError(
            f"The protocol {twice[0]!r} was asked for twice, and gives the same both times; name it once."
        )
    for protocol in protocols:
        if protocol not in MEASURES:
            raise InputError(f"There is no protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}.")
        missing = [name for name in MEASURES[protocol].columns if getattr(columns, name) is None]
        if missing:
            raise InputError(
                f"The protocol {protocol!r} was given no {missing[0].replace('_', ' ')} column, and it needs the "
                f"columns of {' and '.join(MEASURES[protocol].columns)}; name them or leave {protocol} out."
            )
        if MEASURES[protocol].trains and not has_train:
            raise InputError(
                f"The protocol {protocol!r} was given no training data set, and it learns labels from one; give one "
                f"or leave {protocol} out."
            )


def _check_values(dataset: Dataset, meaning: str, column: str, split: str) -> None:
    """Refuse a column that cannot mean what it is said to."""
    what = f"The {meaning.replace('_', ' ')} column {column!r} of split {split!r}"
    if meaning == "caption":
        values = column_values(dataset.with_format(None), column).tolist()
        texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
        if strange := [text for text in texts if not isinstance(text, str | None)]:
            raise InputError(
                f"{what} holds {strange[0]!r}, which is no text; name a column of texts or lists of them."
            )
    elif meaning in ("group", "artist", "caption_id", "image_id"):
        values = column_values(dataset.with_format(None), column).tolist()
        if any(isinstance(value, list | dict) for value in values):
            raise InputError(f"{what} holds more than one value an image; name a column of numbers or texts.")
        if missing := sum(value is None for value in values):
            raise InputError(
                f"{what} lacks {missing} of {len(values)} values, so nothing says what these images belong to; filter "
                "those rows out or name another column."
            )


def _check_labels(sides: Sequence[tuple[str, Dataset]], column: str) -> None:
    """Refuse labels that cannot be learned or scored; the second side, if there is one, is the training set."""
    for split, dataset in sides:
        if isinstance(dataset.features[column], Image):
            raise InputError(
                f"The label column {column!r} of split {split!r} holds images; name the column of labels."
            )
    labels = [column_values(dataset.with_format(None), column) for _, dataset in sides]
    # several labels an image: whether a protocol knows what to do with them is seen there
    several = any(isinstance(label, list) for values in labels for label in values)
    for place, ((split, _), values) in enumerate(zip(sides, labels, strict=True)):
        if several:
            check_label_lists(column, split, values)
            continue
        check_label_values(column, split, values)
        if place == 1 and len(np.unique(values)) < 2:
            raise InputError(
                f"Every label in column {column!r} of split {split!r} is {values[0]!s}, so there is nothing to tell "
                "apart; give two classes."
            )


def _check_class_names(datasets: Sequence[Dataset], column: str) -> None:
    """Two ClassLabel columns with other names, or another order of names, mean other things by the same number."""
    test, *others = [dataset.features[column] for dataset in datasets]
    for train in others:
        if isinstance(test, ClassLabel) and isinstance(train, ClassLabel) and train.names != test.names:
            raise InputError(
                f"The classes of {column!r} are {train.names} in training and {test.names} in test, so a number "
                "means another class; cast both to one ClassLabel."
            )


def _class_names(dataset: Dataset, column: str | None) -> Sequence[str]:
    kind = dataset.features.get(column)
    kind = getattr(kind, "feature", kind)  # of lists of labels
    return kind.names if isinstance(kind, ClassLabel) else ()


def _augmented(
    vision: VisionEncoder, dataset: Dataset, rows: NDArray[np.int64], seed: int, options: Mapping[str, Any]
) -> AugmentedFeatures:
    """The training images that decode, cropped anew and encoded in each epoch."""
    decoded = dataset.select(rows)
    prepared = vision.image_processor(images=[PILImage.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    height, width = prepared.shape[-2:]

    def features_of(epoch: int) -> NDArray[np.float32]:
        crop = CropAndFlip(height, width, epoch=epoch, seed=seed)
        return extract_features(vision, decoded, transform=crop, **options).features

    return features_of
