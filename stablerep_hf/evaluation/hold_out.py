"""A part of a data set that is kept from training, where it came without one. Imports no torch."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .columns import column_values


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


def validation_rows(
    codes: NDArray[np.int64], groups: ArrayLike | None, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which of N training rows validate: about `fraction` of each class's groups, drawn at random.

    Args:
        codes: (N,) class of each row.
        groups: (N,) ids that stay together, or None for each row by itself. A group is filed under its first row's
            class.
        fraction: between 0 and 1.
        seed: of the draw.

    Returns:
        (N,) bool. A class keeps at least one group to fit on.
    """
    if not 0 < fraction < 1:
        raise InputError(f"The validation fraction is {fraction} and must lie between 0 and 1, such as 0.2.")
    if groups is None:
        first, members = np.arange(len(codes)), np.arange(len(codes))
    else:
        ids = np.asarray(groups)
        if ids.shape != codes.shape:
            raise InputError(
                f"There are {len(codes)} labels and groups of shape {ids.shape}; give one group an image."
            )
        _, first, members = np.unique(ids, return_index=True, return_inverse=True)
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(first), dtype=bool)
    for label in np.unique(codes):
        own = np.flatnonzero(codes[first] == label)
        chosen[generator.permutation(own)[: min(len(own) - 1, round(len(own) * fraction))] if len(own) else own] = True
    if not chosen.any():
        raise InputError(
            f"{len(first)} groups in {len(np.unique(codes))} classes leave none to choose C on; give more groups a "
            "class or a larger validation fraction."
        )
    return chosen[members]
