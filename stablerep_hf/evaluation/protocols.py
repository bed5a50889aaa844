"""One encoder, one data set, a named set of protocols: a list of results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import nn

from ..errors import InputError
from .catalogue import MEASURES, default_protocols
from .checks import check_protocols, check_sides
from .columns import class_names
from .encoder import ImageProcessor, VisionEncoder, load_encoder
from .features import ExtractionOptions, Features, extract_features
from .image_transforms import CropAndFlip
from .linear_probe import are_alike
from .results import EvaluationResult
from .scoring import Scoring
from .settings import Columns, EvaluationSettings, Subject
from .sgd_probe import AugmentedFeatures

logger = logging.getLogger(__name__)


def evaluate_encoder(
    encoder: str | Path | nn.Module | VisionEncoder,
    train_dataset: Dataset | None,
    test_dataset: Dataset,
    *,
    columns: Columns | Mapping[str, Any] | None = None,
    protocols: Sequence[str] | None = None,
    subject: Subject | None = None,
    validation_dataset: Dataset | None = None,
    hands: Mapping[str, str] | None = None,
    image_processor: ImageProcessor | None = None,
    train_split: str = "train",
    settings: EvaluationSettings | None = None,
    **extraction: Unpack[ExtractionOptions],
) -> list[EvaluationResult]:
    """Extract the features of the data sets once and score them by every protocol.

    A protocol that the data cannot give (few-shot where classes have too few images) is left out with a warning that
    says why, as long as another one can be computed.

    Args:
        encoder: a folder, a Hub id, a model (with `image_processor`), or what `load_encoder` gave.
        train_dataset: the bank of kNN and the training set of the probes; not needed by the others.
        test_dataset: what is scored.
        columns: which columns hold labels, groups, captions: `Columns`, or a mapping such as {"label": "species"}.
            Default: `label` or the only column of classes, `caption` or `text`, `caption_id`.
        protocols: some of `PROTOCOLS`; default those that the columns allow, see `default_protocols`.
        subject: what results are about; its encoder is the encoder's id, folder or class if empty.
        validation_dataset: chooses the logistic regression's C, in place of a part of the training set.
        hands: artist -> hand, for artists that share outlines and must count as one; each other artist is one hand.
        image_processor: required when `encoder` is a bare model.
        train_split: what results call `train_dataset`.
        settings: of the protocols.
        extraction: as the arguments of `extract_features` of these names. Similarities and probes are computed on
            its `device` too; default the encoder's.

    Returns:
        Results in the order of `protocols`; none where the `rank` of the extraction is above 0, which encodes only.

    Raises:
        InputError: an unknown protocol, a protocol without the columns, data or texts it needs, labels that are
            missing or all alike, or none of the protocols can be computed.
    """
    settings, subject = settings or EvaluationSettings(), subject or Subject()
    columns = Columns.of(columns, test_dataset.features)
    device = extraction.get("device")
    vision = load_encoder(encoder, image_processor, name=subject.encoder or None, device=device)
    subject = replace(subject, encoder=subject.encoder or vision.name)
    protocols = _chosen(protocols, columns, train_dataset is not None, vision, test_dataset)
    measures = [MEASURES[protocol] for protocol in protocols]
    used = {name for measure in measures for name in measure.columns} | {"group"}
    used |= {"image_id"} if "caption" in used else set()
    wanted = {entry.name: getattr(columns, entry.name) for entry in fields(columns) if entry.name in used}
    test_columns = list(dict.fromkeys([*(name for name in wanted.values() if name is not None), *columns.slices]))
    learned = [name for name in (wanted.get("label"), columns.group) if name is not None]
    sides = [(subject.split, test_dataset, test_columns)]
    if train_dataset is not None and any(measure.trains for measure in measures):
        sides.append((train_split, train_dataset, learned))
        if validation_dataset is not None:
            sides.append(("validation", validation_dataset, learned))
    check_sides(sides, wanted, extraction.get("image_column", "image"), protocols, settings)
    if any(measure.texts for measure in measures):
        vision.embed_texts(["a text"])  # so that an encoder without texts is refused before the images are encoded
    test, *learning = (extract_features(vision, dataset, columns=names, **extraction) for _, dataset, names in sides)
    if extraction.get("rank"):
        return []  # the first process measures
    augmented = None
    if settings.sgd_augmentation and learning and train_dataset is not None:
        augmented = _augmented(vision, train_dataset, learning[0].rows, settings.seed, extraction)
    return evaluate_features(
        learning[0] if learning else None,
        test,
        columns=columns,
        protocols=protocols,
        subject=subject,
        validation=learning[1] if len(learning) > 1 else None,
        augmented=augmented,
        class_names=class_names(test_dataset, columns.label),
        classes=vision.classes,
        embed_texts=vision.embed_texts,
        hands=hands or {},
        train_split=train_split,
        settings=settings,
        device=device if device is not None else next((part.device for part in vision.whole.parameters()), None),
    )


def evaluate_features(
    train: Features | None,
    test: Features,
    *,
    columns: Columns | Mapping[str, Any],
    protocols: Sequence[str] | None = None,
    **others: Any,
) -> list[EvaluationResult]:
    """Score features that were extracted before.

    Args:
        train: as `train_dataset` of `evaluate_encoder`, encoded.
        test: what is scored.
        columns: which columns of the features hold labels, groups, captions.
        protocols: some of `PROTOCOLS`; default those that the columns allow.
        others: further fields of `Scoring`, such as `subject`, `settings`, `validation` and `embed_texts`.

    Raises:
        InputError: as `evaluate_encoder`.
    """
    scoring = Scoring(train=train, test=test, columns=Columns.of(columns, {}), **others)
    columns, embed_texts, encoder = scoring.columns, scoring.embed_texts, scoring.subject.encoder
    if protocols is None:
        has_texts = embed_texts is not None and test.embeds is not None
        protocols = default_protocols(columns, has_train=train is not None, has_texts=has_texts)
    check_protocols(protocols, columns, train is not None)
    for protocol in protocols:
        if MEASURES[protocol].texts and embed_texts is None:
            raise InputError(
                f"The protocol {protocol!r} was given features without the texts of a dual encoder; give them too."
            )
    if len(test) > 1 and not scoring.classes and are_alike(test.features):
        logger.warning(
            "%s gives all %d test images the same features, so its scores are chance: it has collapsed, or its "
            "weights were not loaded.",
            encoder,
            len(test),
        )
    results: list[EvaluationResult] = []
    failed: dict[str, InputError] = {}
    for protocol in protocols:
        try:
            results += [result for found in MEASURES[protocol].run(scoring) for result in scoring.results(found)]
        except InputError as error:
            failed[protocol] = error
    if failed and not results:
        raise next(iter(failed.values()))
    for protocol, reason in failed.items():
        logger.warning("%s of %s is left out: %s", protocol, encoder, reason)
    return results


def _chosen(
    protocols: Sequence[str] | None, columns: Columns, has_train: bool, vision: VisionEncoder, dataset: Dataset
) -> Sequence[str]:
    """The protocols that were asked for, or else those that the columns allow; without texts those that need none."""
    has_texts = vision.dual is not None and vision.tokenizer is not None
    if protocols is None:
        if vision.classes:
            protocols = ("classification",)
        else:
            protocols = default_protocols(columns, has_train=has_train, has_texts=has_texts)
        if not protocols:
            raise InputError(
                f"The data set has the columns {', '.join(map(repr, dataset.column_names))}, and none of them holds "
                "labels, or captions that this encoder could be measured by; name the one that does with "
                "`label_column` (in Python, `columns`)."
            )
    check_protocols(protocols, columns, has_train)
    kept = [protocol for protocol in protocols if has_texts or not MEASURES[protocol].texts]
    if len(kept) < len(protocols) and kept:
        left = ", ".join(protocol for protocol in protocols if protocol not in kept)
        logger.warning("%s has no text tower, so %s is left out.", vision.name, left)
        return kept
    return protocols


def _augmented(
    vision: VisionEncoder, dataset: Dataset, rows: NDArray[np.int64], seed: int, extraction: ExtractionOptions
) -> AugmentedFeatures:
    """The training images that decode, cropped anew and encoded in each epoch."""
    decoded = dataset.select(rows)
    prepared = vision.image_processor(images=[PILImage.new("RGB", (64, 64))], return_tensors="pt")["pixel_values"]
    height, width = prepared.shape[-2:]

    def features_of(epoch: int) -> NDArray[np.float32]:
        crop = CropAndFlip(height, width, epoch=epoch, seed=seed)
        # an epoch's crops are never seen again
        options: ExtractionOptions = {**extraction, "cache_dir": None, "transform": crop, "rank": 0, "world_size": 1}
        return extract_features(vision, decoded, **options).features

    return features_of
