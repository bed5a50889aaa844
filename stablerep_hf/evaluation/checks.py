"""What can be wrong with data sets and protocols, found before the first image is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from datasets import ClassLabel, Dataset, Image

from ..errors import InputError
from .catalogue import MEASURES, PROTOCOLS
from .columns import check_columns, column_values
from .knn import check_neighbours
from .scoring import check_label_lists, check_label_values
from .settings import Columns, EvaluationSettings


def check_protocols(protocols: Sequence[str], columns: Columns, has_train: bool) -> None:
    """Refuse unknown protocols, and protocols without the columns or the training set that they need.

    Raises:
        InputError: a protocol is unknown, named twice or lacks what it needs, or none is named.
    """
    if isinstance(protocols, str) or not protocols:
        known = ", ".join(PROTOCOLS)
        raise InputError(f"protocols={protocols!r} is not a list of names; give a list of some of {known}.")
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


def check_sides(
    sides: Sequence[tuple[str, Dataset, Sequence[str]]],
    meanings: Mapping[str, str | None],
    image_column: str,
    protocols: Sequence[str],
    settings: EvaluationSettings,
) -> None:
    """Refuse data sets that the protocols cannot use.

    Args:
        sides: name of the split, data set and needed columns; the test side first, then training.
        meanings: field of `Columns` -> column, for the fields in use.
        image_column: of all sides.
        protocols: that will run.
        settings: of them.

    Raises:
        InputError: a column is missing or does not fit its meaning, or labels are missing or all alike.
    """
    for name, dataset, needed in sides:
        check_columns(dataset, image_column, needed)
        for meaning, column in meanings.items():
            if column in needed:
                check_values(dataset, meaning, str(column), name)
    if label := meanings.get("label"):
        check_labels_of([(name, dataset) for name, dataset, _ in sides], label)
        check_class_names([dataset for _, dataset, _ in sides], label)
    if "knn" in protocols and len(sides) > 1:
        check_neighbours(max(settings.knn_neighbours or (1,)), len(sides[1][1]))


def check_values(dataset: Dataset, meaning: str, column: str, split: str) -> None:
    """Refuse a column that does not fit its meaning."""
    what = f"The {meaning.replace('_', ' ')} column {column!r} of split {split!r}"
    if meaning == "caption":
        values = column_values(dataset.with_format(None), column).tolist()
        texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
        if strange := [text for text in texts if not isinstance(text, str | None)]:
            raise InputError(
                f"{what} holds {strange[0]!r}, which is not a text; name a column of texts or lists of them."
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


def check_labels_of(sides: Sequence[tuple[str, Dataset]], column: str) -> None:
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


def check_class_names(datasets: Sequence[Dataset], column: str) -> None:
    """Two ClassLabel columns with other names, or another order of names, mean other things by the same number."""
    test, *others = [dataset.features[column] for dataset in datasets]
    for train in others:
        if isinstance(test, ClassLabel) and isinstance(train, ClassLabel) and train.names != test.names:
            raise InputError(
                f"The classes of {column!r} are {train.names} in training and {test.names} in test, so a number "
                "means another class; cast both to one ClassLabel."
            )
