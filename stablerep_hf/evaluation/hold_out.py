"""A part of a data set that is kept from training, where it came without one."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from ..errors import InputError
from .features import column_values
from .linear_probe import validation_rows


def hold_out(
    dataset: Dataset, label: str | None = None, group: str | None = None, *, fraction: float = 0.2, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Split a data set at random into what may be trained on and what is scored, class by class.

    Args:
        dataset: with all columns that are named.
        label: column of classes, each of which is split by `fraction`; of several labels an image counts the first.
        group: column of groups that are on one side each.
        fraction: share that is held out.
        seed: of the draw; the same seed gives the same rows.

    Returns:
        The rest, and the part that is held out.

    Raises:
        InputError: every class has one image (or group), so that nothing can be held out.
    """
    plain = dataset.with_format(None)
    values = [0] * len(dataset) if label is None else list(column_values(plain, label))
    first = [(value[0] if value else None) if isinstance(value, list) else value for value in values]
    codes = np.unique([str(value) for value in first], return_inverse=True)[1]
    groups = None if group is None else column_values(plain, group)
    try:
        chosen = validation_rows(codes, groups, fraction, seed)
    except InputError as error:
        raise InputError(
            f"The data set has no split to score, and its {len(np.unique(codes))} classes of {len(dataset)} images "
            "are too small to hold a part out; give more images a class, or a split of its own."
        ) from error
    return dataset.select(np.flatnonzero(~chosen)), dataset.select(np.flatnonzero(chosen))
