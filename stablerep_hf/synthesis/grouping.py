"""Siblings found again at load, from `caption_id` alone: no image is decoded and rows may be in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CaptionGroups:
    """Which rows belong to which caption, as a ragged array.

    Attributes:
        ids: int64 (C,), the distinct caption ids in the order of their first row.
        offsets: int64 (C + 1,), from 0 to N: group g has the rows `rows[offsets[g]:offsets[g + 1]]`.
        rows: int64 (N,), every row number once; ascending within a group.
    """

    ids: Int64Array
    offsets: Int64Array
    rows: Int64Array

    @property
    def sizes(self) -> Int64Array:
        """int64 (C,), how many images each caption has, at least 1."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, group: int) -> Int64Array:
        """The rows of one caption, int64 (size,), ascending. `group` counts from 0; negative ones from the end."""
        place = range(len(self))[group]
        return self.rows[self.offsets[place] : self.offsets[place + 1]]

    def __iter__(self) -> Iterator[Int64Array]:
        return (self[group] for group in range(len(self)))


def group_rows(caption_ids: npt.ArrayLike) -> CaptionGroups:
    """Group the rows of a data set by caption, in the order of their first row: O(N log N) time, four arrays of N.

    Args:
        caption_ids: int64 (N,), such as `dataset["caption_id"][:]`.

    Raises:
        ValueError: The ids are not one axis of integers.
    """
    ids = np.asarray(caption_ids)
    if ids.ndim != 1 or (len(ids) and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(
            f"Caption ids of shape {ids.shape} and type {ids.dtype} cannot be grouped; give one axis of integers."
        )
    ids = ids.astype(np.int64, copy=False)
    by_id = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(ids[by_id]) != 0]) if len(ids) else np.empty(0, np.int64)
    sizes = np.diff(np.r_[starts, len(ids)])
    by_first_row = np.argsort(by_id[starts], kind="stable")
    sizes = sizes[by_first_row]
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    # Where in by_id each output row comes from: its group's start there, plus its place within the group.
    source = np.repeat(starts[by_first_row] - offsets[:-1], sizes) + np.arange(len(ids))
    return CaptionGroups(ids=ids[by_id[starts[by_first_row]]], offsets=offsets, rows=by_id[source])
