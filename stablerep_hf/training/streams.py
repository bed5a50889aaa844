"""One stream of images: its groups, counted before training, and their rows, read in whatever order an epoch has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object

from ..errors import InputError
from .groups import Int64Array, Positives, caption_ids, check_images, key_column, refuse_missing

_ROWS = 1000  # read at a time where only keys are wanted

Rows = dict[int, dict[str, Any]]
"""Rows of a group, undecoded, by their place in it."""


class Stream:
    """The groups of one stream.

    Args:
        dataset: See `StreamedImages`.
        keys: See `StreamedImages`.
        positives: What makes a group.
        label_column: Holds the labels.
        text: Whether no caption may be missing.

    Attributes:
        ids: Id of each group, int64 (C,); labels as they are, if those make a group.
        sizes: Rows of each group, int64 (C,).
        starts: The row that each group begins at, int64 (C + 1,).
        shards: The first group of each shard, with C at the end.

    Raises:
        InputError: See `StreamedImages`.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        keys: datasets.IterableDataset | None,
        positives: Positives,
        label_column: str,
        text: bool,
    ) -> None:
        columns = dataset.column_names
        if columns is None:
            raise InputError(
                "The stream does not tell its columns: open it with `datasets.load_dataset`, or give its `features`."
            )
        self.key = key_column(columns, positives, label_column, text=text)
        if dataset.features is not None:
            check_images(dataset.features["image"])
        self._id_column = self.key if positives == "caption" else None
        used = [name for name in columns if name in ("image", "caption", self._id_column)]
        self._images = dataset.select_columns(used).cast_column("image", datasets.Image(decode=False))
        self.ids, self.sizes, self.shards = _count_groups(dataset if keys is None else keys, self.key, positives, text)
        if not len(self.ids):
            raise InputError("The stream gives no row: check its split, or loosen the condition on its rows.")
        self.starts = np.r_[0, np.cumsum(self.sizes, dtype=np.int64)]

    def read(self, groups: Int64Array, arrival: Int64Array, choose: Callable[[int], list[int]]) -> Iterator[Rows]:
        """Read groups in the order given.

        Args:
            groups: int64 (K,), distinct.
            arrival: The same groups in the order of reading. Memory holds what comes earlier there than in `groups`.
            choose: Which of a group's rows are wanted.

        Raises:
            InputError: The stream has other rows than it had.
        """
        arriving = self._arrivals(arrival, choose)
        waiting: dict[int, Rows] = {}
        for group in groups.tolist():
            while group not in waiting:
                arrived, rows = next(arriving)
                waiting[arrived] = rows
            yield waiting.pop(group)

    def _arrivals(self, groups: Int64Array, choose: Callable[[int], list[int]]) -> Iterator[tuple[int, Rows]]:
        shards = np.searchsorted(self.shards, groups, side="right") - 1
        for run in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(shards) | (np.diff(groups) < 0)) + 1):
            if len(run):
                yield from self.read_shard(int(shards[run[0]]), groups[run], choose)

    def read_shard(
        self, shard: int, groups: Int64Array, choose: Callable[[int], list[int]]
    ) -> Iterator[tuple[int, Rows]]:
        """Read ascending groups of one shard; the rows before the first are passed over in whole tables."""
        row = int(self.starts[groups[0]])
        shards = len(self.shards) - 1
        rows = iter(self._images.shard(shards, shard).skip(row - int(self.starts[self.shards[shard]])))
        for group in groups.tolist():
            start, stop = int(self.starts[group]), int(self.starts[group + 1])
            records = list(islice(rows, start - row, stop - row))
            row = stop
            if len(records) < stop - start or not self._is_of(records[0], group):
                raise InputError(
                    f"Shard {shard} of the stream has other rows than when they were counted: give a stream that is "
                    "the same each time it is read, not shuffled and not changed at random."
                )
            yield group, {place: records[place] for place in choose(group)}

    def _is_of(self, record: dict[str, Any], group: int) -> bool:
        column = self._id_column
        return column is None or bool(caption_ids(pa.array([record[column]]), column)[0] == self.ids[group])


def _count_groups(
    keys: datasets.IterableDataset, column: str | None, positives: Positives, text: bool
) -> tuple[Any, Int64Array, Int64Array]:
    """Pass once over the keys; each process over its share of the shards.

    Returns:
        Id of each group, its size in rows, both (C,), and the first group of each shard, with C at the end.
    """
    state, shards = PartialState(), keys.num_shards
    full = [name for name in dict.fromkeys((column, "caption" if text else None)) if name is not None]
    read = full or keys.column_names[:1]
    counted = []
    for shard in range(state.process_index, shards, state.num_processes):
        ids: list[Any] = []
        rows, missing = 0, dict.fromkeys(full, 0)
        for table in keys.shard(shards, shard).select_columns(read).with_format("arrow").iter(_ROWS):
            rows += len(table)
            for name in full:
                missing[name] += table[name].null_count
            if column is None:
                continue
            if positives == "label":
                ids.extend(table[column].to_pylist())
            elif not missing[column]:
                ids.extend(caption_ids(table[column], column).tolist())
        runs = _runs(np.asarray(ids, np.int64)) if positives == "caption" else (ids, np.ones(rows, np.int64))
        counted.append((shard, *runs, missing, rows))
    counted = sorted(gather_object(counted), key=lambda entry: entry[0])
    for name in full:
        refuse_missing(sum(entry[3][name] for entry in counted), sum(entry[4] for entry in counted), name)
    sizes = np.concatenate([entry[2] for entry in counted])
    bounds = np.r_[0, np.cumsum([len(entry[2]) for entry in counted])].astype(np.int64)
    if positives == "caption":
        return np.concatenate([entry[1] for entry in counted]), sizes, bounds
    if column is None:
        return np.arange(len(sizes)), sizes, bounds
    return [label for entry in counted for label in entry[1]], sizes, bounds


def _runs(ids: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Equal neighbours as one: (values, lengths)."""
    starts = np.flatnonzero(np.r_[True, np.diff(ids) != 0]) if len(ids) else np.empty(0, np.int64)
    return ids[starts], np.diff(np.r_[starts, len(ids)])
