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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import datasets
import numpy as np
from accelerate import PartialState

from ..errors import InputError
from .grouped_images import GroupedBatchSampler
from .groups import Group, GroupDataset, Int64Array, Positives, label_ids
from .sources import check_shared, of_source
from .streams import Rows, Stream

_LOGGER = logging.getLogger(__name__)
_LANES = (1, 2, 4, 8, 16, 32)  # powers of two, as numbers of processes mostly are; each has a file open
_READ_AHEAD = 2  # batches
_DISORDER = 0.01  # of captions that come before the one that they follow elsewhere


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
    """The groups of a stream, or of several that are joined by caption.

    Siblings must follow one another, as the shards of this package have them. Those that do not, or that the end
    of a shard separates, are groups of their own with one id: still positives of each other if they meet in a batch,
    but visited apart. How many there are is said in a warning.

    Several streams are read side by side: the first sets the order, and each of the others gives its rows of the same
    captions. That is quick where all have their captions in one order, as data sets drawn for one caption file do.

    Args:
        dataset: With an image column and, for positives of a caption, `caption_id` or `caption`. It must give the same
            rows in the same order each time. Several by name.
        keys: The same rows in the same shards, with the column that names the siblings alone (and `caption`, with
            `text`), such as `load_dataset(..., streaming=True, columns=["caption_id"])`: what is read before training.
            Without it `dataset` itself is, images included. By name, like `dataset`; those that lack may be left out.
        positives: What makes a group.
        label_column: Holds the labels, integers or text.
        text: Whether the captions are learned from, so that none may be missing.
        settings: As for `GroupDataset`.

    Raises:
        InputError: A column is missing or of another type, an id, label or caption is, no caption has
            `images_per_caption` images in a row, or a stream shares no caption with another.
    """

    _counted = " that follow one another in the stream"

    def __init__(
        self,
        dataset: datasets.IterableDataset | Mapping[str, datasets.IterableDataset],
        keys: datasets.IterableDataset | Mapping[str, datasets.IterableDataset] | None = None,
        *,
        positives: Positives = "caption",
        label_column: str = "label",
        text: bool = False,
        **settings: Any,
    ) -> None:
        named = dataset if isinstance(dataset, Mapping) else {"": dataset}
        keys = keys if isinstance(keys, Mapping) else {"": keys}
        self.names = list(named)
        self.streams = [
            of_source(name, Stream, stream, keys.get(name), positives, label_column, text)
            for name, stream in named.items()
        ]
        ids, self._parts, self._shards = _join(self.streams, apart=positives != "caption")
        if positives == "caption":
            check_shared({name: stream.ids for name, stream in zip(named, self.streams, strict=True)})
        elif positives == "label":
            ids = label_ids([label for stream in self.streams for label in stream.ids], label_column)
        sizes = np.stack([np.r_[s.sizes, 0][part] for s, part in zip(self.streams, self._parts.T, strict=True)], 1)
        super().__init__(ids, sizes, **settings)
        if PartialState().is_main_process:
            self._warn(positives)

    def _warn(self, positives: Positives) -> None:
        parted = len(self) - len(np.unique(self.group_ids)) if positives == "caption" else 0
        if parted:
            _LOGGER.warning(
                "%d of %d groups in the stream are of a caption that was there before: siblings that do not come "
                "together are drawn apart.", parted, len(self),
            )  # fmt: skip
        for name, part in zip(self.names[1:], self._parts.T[1:], strict=True):
            there = part[part >= 0]
            if (np.diff(there) < 0).mean() > _DISORDER:
                _LOGGER.warning(
                    "The captions of %s are in another order than those of %s, so reading them side by side is "
                    "slow: leave out `streaming`, or write them in one order.", name, self.names[0],
                )  # fmt: skip

    @property
    def num_shards(self) -> int:
        """Shards of the streams that groups begin in."""
        return int(np.count_nonzero(np.diff(self._shards)))

    def __getitem__(self, key: StreamedGroup) -> Group:
        rng, _ = self._draw(key.epoch, key.group)
        return self._views(rng, key.group, key.records)

    def sequence(self, rng: np.random.Generator) -> Int64Array:
        """All groups, shards in random order, from a random one on: int64 (C,)."""
        order = rng.permutation(len(self._shards) - 1)
        groups = np.concatenate([np.arange(self._shards[shard], self._shards[shard + 1]) for shard in order])
        return np.roll(groups, rng.integers(len(groups)))

    def read(self, epoch: int, groups: Int64Array, place: Int64Array) -> Iterator[StreamedGroup]:
        """Read groups in the order given.

        Args:
            epoch: That they are drawn for.
            groups: int64 (K,), distinct.
            place: int64 (C,), where each group comes in the order of reading. Memory holds what comes earlier there
                than in `groups`.

        Raises:
            InputError: A stream has other rows than it had.
        """
        arrival = groups[np.argsort(place[groups])]
        readers = [self._read_source(source, epoch, groups, arrival) for source in range(len(self.streams))]
        for group in groups.tolist():
            _, chosen = self._draw(epoch, group)
            found: dict[int, tuple[str, dict[str, Any]]] = {}
            before = 0
            for source, reader in enumerate(readers):
                part = self._parts[group, source]
                if part < 0:
                    continue
                start = int(self.streams[source].starts[part])
                where = f"the stream {self.names[source]}".rstrip()
                for row, record in next(reader).items():
                    found[before + row] = f"row {start + row} of {where}", record
                before += int(self.source_sizes[group, source])
            yield StreamedGroup(epoch, group, dict(found[row] for row in chosen.tolist()))

    def _read_source(self, source: int, epoch: int, groups: Int64Array, arrival: Int64Array) -> Iterator[Rows]:
        """The chosen rows of the groups that a stream has a part of."""
        mine = self._parts[:, source]
        owners = {int(mine[group]): group for group in groups.tolist() if mine[group] >= 0}

        def choose(part: int) -> list[int]:
            group = owners[part]
            rows = self._draw(epoch, group)[1] - int(self.source_sizes[group, :source].sum())
            return [row for row in rows.tolist() if 0 <= row < self.source_sizes[group, source]]

        own, first = mine[groups], mine[arrival]
        return self.streams[source].read(own[own >= 0], first[first >= 0], choose)


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
        left = len(range(len(self))[self.skipped : self.stop])
        with ThreadPoolExecutor(1) as thread:  # ahead of the training, which a slow connection then delays less
            ahead = deque(thread.submit(read) for _ in range(min(_READ_AHEAD, left)))
            for step in range(left):
                batch = ahead.popleft().result()
                if step + _READ_AHEAD < left:
                    ahead.append(thread.submit(read))
                yield batch


def _join(streams: Sequence[Stream], *, apart: bool = False) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Put the groups of one caption together; the n-th run of a caption in one stream with the n-th in another.

    Args:
        streams: S of them.
        apart: Put nothing together.

    Returns:
        Id of each joined group, int64 (C,), in the order of their first row; which group of each stream it has, int64
        (C, S), -1 for none; and the first joined group of each shard, with C at the end.
    """
    lengths = [len(stream.sizes) for stream in streams]
    offsets = np.r_[0, np.cumsum(lengths)]
    numbers = np.arange(offsets[-1])
    if apart or len(streams) == 1:
        first, joined = numbers, numbers
    else:
        codes = np.unique(np.concatenate([stream.ids for stream in streams]), return_inverse=True)[1]
        runs = np.concatenate([_occurrences(part) for part in np.split(codes, offsets[1:-1])])
        _, first, joined = np.unique(codes * (runs.max() + 1) + runs, return_index=True, return_inverse=True)
        order = np.argsort(first)
        first, joined = first[order], np.argsort(order)[joined]
    parts = np.full((len(first), len(streams)), -1, np.int64)
    for source, (start, length) in enumerate(zip(offsets, lengths, strict=False)):
        parts[joined[start : start + length], source] = np.arange(length)
    begins = np.concatenate([start + stream.shards[:-1] for start, stream in zip(offsets, streams, strict=False)])
    bounds = np.r_[np.searchsorted(first, begins), len(first)]
    ids = first if apart else np.concatenate([np.asarray(stream.ids) for stream in streams])[first]
    return ids, parts, bounds


def _occurrences(codes: Int64Array) -> Int64Array:
    """How often each value came before, int64 (N,)."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0])
    counts = np.empty_like(codes)
    counts[order] = np.arange(len(codes)) - np.repeat(starts, np.diff(np.r_[starts, len(codes)]))
    return counts
