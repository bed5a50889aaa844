"""A streamed data set seen as groups of siblings, and the batches drawn from it.

Before training one pass over the column that names the siblings counts the groups of each shard; no image is decoded.
With the counts, the order of an epoch is a pure function of the seed and the epoch, as of a map-style data set: the
shards are shuffled, their groups laid out in a few lanes, each lane is shuffled within a buffer, and a batch takes as
many groups from one lane as from another. A process reads the shards of its lanes in order; its workers decode. So

- a global batch does not depend on the number of workers or processes, and a view is that of the map-style data set;
- processes read different shards, if they are 2, 4, ... 32, there are as many shards, and they divide the batch;
  otherwise some read a shard that another reads too, and take other groups of it;
- a resumed run starts reading at the shards that its next batches need: what the buffer holds follows from the order.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object

from ..errors import InputError
from .grouped_images import GroupedBatchSampler
from .groups import (
    Group,
    GroupDataset,
    Int64Array,
    Positives,
    caption_ids,
    check_images,
    key_column,
    label_ids,
    refuse_missing,
)

_LOGGER = logging.getLogger(__name__)
_LANES = (1, 2, 4, 8, 16, 32)  # powers of two, as numbers of processes mostly are; each has a file open
_READ_AHEAD = 2  # batches
_ROWS = 1000  # read at a time where only keys are wanted


class StreamedGroup(NamedTuple):
    """The key of an item: a group as it was read.

    Attributes:
        epoch: It is drawn for.
        group: Its number in the stream.
        records: The rows that the epoch sees, undecoded, by the name to call each if its image is bad.
    """

    epoch: int
    group: int
    records: dict[str, dict[str, Any]]


class StreamedImages(GroupDataset):
    """The groups of a stream.

    Siblings must stand one after another, as the shards of this package have them. Those that do not, or that the end
    of a shard separates, are groups of their own with one id: still positives of each other if they meet in a batch,
    but visited apart. How many there are is told as a warning.

    Args:
        dataset: With an image column and, for positives of a caption, `caption_id` or `caption`. It must give the same
            rows in the same order each time.
        keys: The same rows in the same shards, with the column that names the siblings alone (and `caption`, with
            `text`), such as `load_dataset(..., streaming=True, columns=["caption_id"])`: what is read before training.
            Without it `dataset` itself is, images included.
        positives: What makes a group.
        label_column: Holds the labels, integers or text.
        text: Whether the captions are learned from, so that none may be missing.
        settings: As for `GroupDataset`.

    Raises:
        InputError: A column is missing or of another type, an id, label or caption is, or no caption has
            `images_per_caption` images in a row.
    """

    _counted = " that stand one after another in the stream"

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        keys: datasets.IterableDataset | None = None,
        *,
        positives: Positives = "caption",
        label_column: str = "label",
        text: bool = False,
        **settings: Any,
    ) -> None:
        columns = dataset.column_names
        if columns is None:
            raise InputError(
                "The stream does not tell its columns: open it with `datasets.load_dataset`, or give its `features`."
            )
        key = key_column(columns, positives, label_column, text=text)
        if dataset.features is not None:
            check_images(dataset.features["image"])
        self._id_column = key if positives == "caption" else None
        used = [name for name in columns if name in ("image", "caption", self._id_column)]
        self._images = dataset.select_columns(used).cast_column("image", datasets.Image(decode=False))
        ids, sizes, self._shards = _count_groups(dataset if keys is None else keys, key, positives, text)
        if not len(ids):
            raise InputError("The stream gives no row: check its split, or loosen the condition on its rows.")
        self._starts = np.r_[0, np.cumsum(sizes, dtype=np.int64)]  # the row that each group begins at
        super().__init__(ids, sizes, **settings)
        parted = len(ids) - len(np.unique(ids)) if positives == "caption" else 0
        if parted and PartialState().is_main_process:
            _LOGGER.warning(
                "%d of %d groups in the stream are of a caption that was there before: siblings that do not stand "
                "together are drawn apart.", parted, len(ids),
            )  # fmt: skip

    @property
    def num_shards(self) -> int:
        """Shards of the stream."""
        return len(self._shards) - 1

    def __getitem__(self, key: StreamedGroup) -> Group:
        rng, _ = self._draw(key.epoch, key.group)
        return self._views(rng, key.group, key.records)

    def sequence(self, rng: np.random.Generator) -> Int64Array:
        """All groups, shards in random order, from a random one on: int64 (C,)."""
        order = rng.permutation(self.num_shards)
        groups = np.concatenate([np.arange(self._shards[shard], self._shards[shard + 1]) for shard in order])
        return np.roll(groups, rng.integers(len(groups)))

    def read(self, epoch: int, groups: Int64Array, place: Int64Array) -> Iterator[StreamedGroup]:
        """Read groups in the order given.

        Args:
            epoch: That they are drawn for.
            groups: int64 (K,), distinct.
            place: int64 (C,), where each group of the stream comes in the order of reading. Memory holds what comes
                earlier there than in `groups`.

        Raises:
            InputError: The stream has other rows than it had.
        """
        arriving = self._arrivals(epoch, groups[np.argsort(place[groups])])
        waiting: dict[int, StreamedGroup] = {}
        for group in groups.tolist():
            while group not in waiting:
                arrived = next(arriving)
                waiting[arrived.group] = arrived
            yield waiting.pop(group)

    def _arrivals(self, epoch: int, groups: Int64Array) -> Iterator[StreamedGroup]:
        shards = np.searchsorted(self._shards, groups, side="right") - 1
        for run in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(shards) | (np.diff(groups) < 0)) + 1):
            if len(run):
                yield from self._read_shard(epoch, int(shards[run[0]]), groups[run])

    def _read_shard(self, epoch: int, shard: int, groups: Int64Array) -> Iterator[StreamedGroup]:
        """Read ascending groups of one shard; the rows before the first are passed over in whole tables."""
        row = int(self._starts[groups[0]])
        rows = iter(self._images.shard(self.num_shards, shard).skip(row - int(self._starts[self._shards[shard]])))
        for group in groups.tolist():
            start, stop = int(self._starts[group]), int(self._starts[group + 1])
            records = list(islice(rows, start - row, stop - row))
            row = stop
            if len(records) < stop - start or not self._is_of(records[0], group):
                raise InputError(
                    f"Shard {shard} of the stream has other rows than when they were counted: give a stream that is "
                    "the same each time it is read, not shuffled and not changed at random."
                )
            _, chosen = self._draw(epoch, group)
            yield StreamedGroup(epoch, group, {f"row {start + i} of the stream": records[i] for i in chosen})

    def _is_of(self, record: dict[str, Any], group: int) -> bool:
        column = self._id_column
        return column is None or bool(caption_ids(pa.array([record[column]]), column)[0] == self.group_ids[group])


class StreamedBatchSampler(GroupedBatchSampler):
    """Global batches of a stream's groups: each epoch visits every group at most once, in an order of its own.

    Args:
        groups: Of the stream.
        captions_per_batch: n, over all processes.
        seed: Of the order.
        shuffle_buffer: Groups, over all lanes, within which the order is random. A process holds about half of its
            share of them in memory, encoded, and the rest passes through.
        process_index: Of this process, which reads its slice of each batch; the others' places hold None.
        num_processes: Accelerate's `split_batches` gives each its slice.

    Raises:
        InputError: Fewer groups than one batch needs, or a buffer that holds none.
    """

    def __init__(
        self,
        groups: StreamedImages,
        captions_per_batch: int,
        seed: int,
        *,
        shuffle_buffer: int,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        super().__init__(len(groups), captions_per_batch, seed)
        if shuffle_buffer < 1:
            raise InputError(f"shuffle_buffer={shuffle_buffer} has no room for a caption: give at least 1.")
        self.groups = groups
        self.shuffle_buffer = shuffle_buffer
        share = captions_per_batch // num_processes
        self._own = range(process_index * share, (process_index + 1) * share)
        # Follows from batch and shards alone, so the order is the same on any number of processes.
        self.num_lanes = max(n for n in _LANES if captions_per_batch % n == 0 and n <= max(1, groups.num_shards))

    def plan(self) -> tuple[Int64Array, Int64Array]:
        """The epoch's batches, int64 (T, n) of groups, and the place of each group in the order of reading, (C,)."""
        rng = np.random.default_rng((self.seed, self.epoch))
        sequence = self.groups.sequence(rng)
        place = np.empty_like(sequence)
        place[sequence] = np.arange(len(sequence))
        lanes = sequence[: len(self) * self.batch_size].reshape(self.num_lanes, -1)
        # Each group may be passed by those that come up to a buffer's length later.
        turn = np.arange(lanes.shape[1]) + rng.uniform(0, self.shuffle_buffer / self.num_lanes, lanes.shape)
        lanes = np.take_along_axis(lanes, np.argsort(turn, axis=1, kind="stable"), axis=1)
        return lanes.reshape(self.num_lanes, len(self), -1).swapaxes(0, 1).reshape(len(self), -1), place

    def __iter__(self) -> Iterator[list[Any]]:
        batches, place = self.plan()
        lanes = np.array_split(np.arange(self.batch_size), self.num_lanes)
        mine = [lane[np.isin(lane, self._own)] for lane in lanes]
        readers = [
            (self.groups.read(self.epoch, batches[self.skipped :, columns].ravel(), place), len(columns))
            for columns in mine
            if len(columns)
        ]
        before, after = self._own.start, self.batch_size - self._own.stop

        def read() -> list[Any]:
            own = [key for reader, width in readers for key in islice(reader, width)]
            return [None] * before + own + [None] * after

        for _ in range(self.skipped):
            yield [None] * self.batch_size
        left = len(self) - self.skipped
        with ThreadPoolExecutor(1) as reading:  # ahead of the training, which a slow connection then delays less
            ahead = deque(reading.submit(read) for _ in range(min(_READ_AHEAD, left)))
            for step in range(left):
                batch = ahead.popleft().result()
                if step + _READ_AHEAD < left:
                    ahead.append(reading.submit(read))
                yield batch


def _count_groups(
    keys: datasets.IterableDataset, column: str | None, positives: Positives, text: bool
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Pass once over the keys; each process over its share of the shards.

    Returns:
        Id of each group, its size in rows, both int64 (C,), and the first group of each shard, with C at the end.
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
    return label_ids([label for entry in counted for label in entry[1]], column), sizes, bounds


def _runs(ids: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Equal neighbours as one: (values, lengths)."""
    starts = np.flatnonzero(np.r_[True, np.diff(ids) != 0]) if len(ids) else np.empty(0, np.int64)
    return ids[starts], np.diff(np.r_[starts, len(ids)])
