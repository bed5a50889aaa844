"""The columns of a data set: their values, and whether they are there. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Image
from numpy.typing import NDArray

from ..errors import InputError

_WIDEST = 2_000  # characters; NumPy gives all rows the width of the longest, four bytes a character


def column_values(dataset: Dataset, column: str) -> NDArray[Any]:
    """The values (N,) of a column; lists stay lists, because they may differ in length.

    Text of more than 2,000 characters is cut there, with a digest of the whole behind it: other texts stay others.
    """
    values = [_bounded(value) for value in dataset[column][:]]
    if not any(isinstance(value, list) for value in values):
        return np.asarray(values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _bounded(value: Any) -> Any:
    if not isinstance(value, str) or len(value) <= _WIDEST:
        return value
    return value[:_WIDEST] + hashlib.blake2b(value.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def class_names(dataset: Dataset, column: str | None) -> list[str]:
    """Names of the classes of a column of a `ClassLabel`, or of lists of it; none of any other column."""
    kind = dataset.features.get(column)
    kind = getattr(kind, "feature", kind)
    return list(kind.names) if isinstance(kind, ClassLabel) else []


def check_columns(dataset: Dataset, image_column: str, others: Sequence[str]) -> None:
    """Refuse a data set without rows, without images in `image_column`, or without one of the other columns."""
    if len(dataset) == 0:
        raise InputError("The data set has 0 rows, so there is nothing to measure; give a split with images.")
    for column in [image_column, *others]:
        if column not in dataset.column_names:
            raise InputError(
                f"The data set has no column {column!r}, it has {', '.join(map(repr, dataset.column_names))}; "
                "name one of those."
            )
    if not isinstance(dataset.features[image_column], Image):
        kind = type(dataset.features[image_column]).__name__
        raise InputError(
            f"The column {image_column!r} holds {kind} and no images; name the image column or cast it to "
            "datasets.Image()."
        )
