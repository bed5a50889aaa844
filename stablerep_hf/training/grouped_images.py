"""A map-style data set seen as groups of siblings, and the batches drawn from it.

One item is one caption with `images_per_caption` of its images, each seen in `crops_per_image` views. The key of an
item is (epoch, group): which images are drawn, and every random number of every view, follow from it and the seed.
So a batch is the same whatever the number of processes and workers, and a resumed run goes on with the very batch
that the interrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import numpy as np

from ..errors import InputError
from ..synthesis import group_rows
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
from .sources import check_shared, of_source

GroupKey = tuple[int, int]
"""(epoch, group)"""


class GroupedImages(GroupDataset):
    """The groups of a map-style data set, or of several that are joined by caption; an item's key is `GroupKey`.

    Args:
        dataset: With an image column and, for positives of a caption, `caption_id` or `caption`. Several by name.
        positives: What makes a group.
        label_column: Holds the labels, integers or text.
        text: Whether the captions are learned from, so that none may be missing.
        settings: As for `GroupDataset`.

    Raises:
        InputError: A column is missing or of another type, an id, label or caption is, no caption has
            `images_per_caption` images, or a data set shares no caption with another.
    """

    def __init__(
        self,
        dataset: datasets.Dataset | Mapping[str, datasets.Dataset],
        *,
        positives: Positives = "caption",
        label_column: str = "label",
        text: bool = False,
        **settings: Any,
    ) -> None:
        named = dataset if isinstance(dataset, Mapping) else {"": dataset}
        keys = [of_source(name, _keys, part, positives, label_column, text) for name, part in named.items()]
        lengths = [len(part) for part in named.values()]
        self._names, self._firsts = list(named), np.cumsum([0, *lengths])  # rows are counted over all data sets
        self._images = [_undecoded(part) for part in named.values()]
        if positives == "caption":
            check_shared(dict(zip(named, keys, strict=True)))
            groups = group_rows(np.concatenate(keys))
            ids, self._offsets, self._rows = groups.ids, groups.offsets, groups.rows
        else:
            self._rows = np.arange(self._firsts[-1])
            self._offsets = np.arange(self._firsts[-1] + 1)
            labels = [label for part in keys for label in part]
            ids = label_ids(labels, label_column) if positives == "label" else self._rows
        cells = np.repeat(np.arange(len(ids)) * len(named), np.diff(self._offsets)) + self._source_of(self._rows)
        sizes = np.bincount(cells, minlength=len(ids) * len(named)).reshape(len(ids), len(named))
        super().__init__(ids, sizes, **settings)

    def _source_of(self, rows: Int64Array) -> Int64Array:
        return np.searchsorted(self._firsts, rows, side="right") - 1

    @property
    def num_captions(self) -> int:
        """Distinct captions, as far as the data tells."""
        if all("caption" in part.column_names for part in self._images):
            return len(set().union(*(part.unique("caption") for part in self._images)))
        return len(self)

    def __getitem__(self, key: GroupKey) -> Group:
        epoch, group = key
        rng, chosen = self._draw(epoch, group)
        rows = self._rows[self._offsets[group] : self._offsets[group + 1]][chosen]
        records = {}
        for source, row in zip(self._source_of(rows).tolist(), rows.tolist(), strict=True):
            row -= int(self._firsts[source])
            name = f"row {row} of {self._names[source]}" if self._names[source] else f"row {row}"
            records[name] = self._images[source][row]
        return self._views(rng, group, records)


def _keys(dataset: datasets.Dataset, positives: Positives, label_column: str, text: bool) -> Any:
    """What tells the siblings, (N,): ids of captions, labels, or nothing for images on their own.

    Raises:
        InputError: See `GroupedImages`.
    """
    column = key_column(dataset.column_names, positives, label_column, text=text)
    values = dataset.with_format("arrow")  # NumPy's format would make floats of integers among which is a null
    if text:
        refuse_missing(values["caption"][:].null_count, len(dataset), "caption")
    check_images(dataset.features["image"])
    if column is None:
        return []
    if positives == "label":
        return dataset.with_format(None)[column][:]
    refuse_missing(values[column][:].null_count, len(dataset), column)
    return caption_ids(values[column][:], column)


def _undecoded(dataset: datasets.Dataset) -> datasets.Dataset:
    used = [name for name in ("image", "caption") if name in dataset.column_names]
    return dataset.select_columns(used).cast_column("image", datasets.Image(decode=False))


class GroupedBatchSampler:
    """Global batches of group keys: each epoch visits every group at most once, in an order of its own.

    The last, incomplete batch of an epoch is dropped: topping it up (as Accelerate would) repeats a caption's images
    in one batch, and the loss would call an image its own positive.

    Args:
        num_groups: Of the data set.
        captions_per_batch: n, over all processes; Accelerate's `split_batches` gives each process its slice.
        seed: Of the order.

    Raises:
        InputError: Fewer groups than one batch needs.
    """

    drop_last = True  # read by Accelerate

    def __init__(self, num_groups: int, captions_per_batch: int, seed: int) -> None:
        if captions_per_batch < 1 or num_groups < captions_per_batch:
            raise InputError(
                f"captions_per_batch={captions_per_batch} cannot be filled from {num_groups} captions: choose one "
                f"from 1 to {num_groups}."
            )
        self.num_groups = num_groups
        self.batch_size = captions_per_batch
        self.seed = seed
        self.epoch = 0
        self.skipped = 0  # batches at the start of the epoch that a resumed run drops: they need not be read
        self.stop: int | None = None  # batch of the epoch before which the last epoch ends

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.num_groups // self.batch_size

    def __iter__(self) -> Iterator[list[Any]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_groups)
        for start in range(0, len(order) - self.batch_size + 1, self.batch_size)[: self.stop]:
            yield [(self.epoch, int(group)) for group in order[start : start + self.batch_size]]
