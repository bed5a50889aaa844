"""A map-style data set seen as groups of siblings, and the batches drawn from it.

One item is one caption with `images_per_caption` of its images, each seen in `crops_per_image` views. The key of an
item is (epoch, group): which images are drawn, and every random number of every view, follow from it and the seed.
So a batch is the same whatever the number of processes and workers, and a resumed run goes on with the very batch
that the interrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np

from ..errors import InputError
from ..synthesis import group_rows
from .groups import Group, GroupDataset, Positives, caption_ids, check_images, key_column, label_ids, refuse_missing

GroupKey = tuple[int, int]
"""(epoch, group)"""


class GroupedImages(GroupDataset):
    """The groups of a map-style data set; an item's key is `GroupKey`.

    Args:
        dataset: With an image column and, for positives of a caption, `caption_id` or `caption`.
        positives: What makes a group.
        label_column: Holds the labels, integers or text.
        text: Whether the captions are learned from, so that none may be missing.
        settings: As for `GroupDataset`.

    Raises:
        InputError: A column is missing or of another type, an id, label or caption is, or no caption has
            `images_per_caption` images.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        positives: Positives = "caption",
        label_column: str = "label",
        text: bool = False,
        **settings: Any,
    ) -> None:
        columns = dataset.column_names
        column = key_column(columns, positives, label_column, text=text)
        values = dataset.with_format("arrow")  # NumPy's format would make floats of integers among which is a null
        if text:
            refuse_missing(values["caption"][:].null_count, len(dataset), "caption")
        check_images(dataset.features["image"])
        self._has_captions = "caption" in columns
        used = ["image", "caption"] if self._has_captions else ["image"]
        self._images = dataset.select_columns(used).cast_column("image", datasets.Image(decode=False))
        if positives == "caption":
            assert column is not None
            refuse_missing(values[column][:].null_count, len(dataset), column)
            groups = group_rows(caption_ids(values[column][:], column))
            ids, self._offsets, self._rows = groups.ids, groups.offsets, groups.rows
        else:
            self._rows = np.arange(len(dataset), dtype=np.int64)
            self._offsets = np.arange(len(dataset) + 1, dtype=np.int64)
            ids = self._rows if column is None else label_ids(dataset.with_format(None)[column][:], column)
        super().__init__(ids, np.diff(self._offsets), **settings)

    @property
    def num_captions(self) -> int:
        """Distinct captions, as far as the data tells."""
        return len(self._images.unique("caption")) if self._has_captions else len(self)

    def __getitem__(self, key: GroupKey) -> Group:
        epoch, group = key
        rng, chosen = self._draw(epoch, group)
        rows = self._rows[self._offsets[group] : self._offsets[group + 1]][chosen]
        return self._views(rng, group, {f"row {row}": self._images[int(row)] for row in rows})


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

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.num_groups // self.batch_size

    def __iter__(self) -> Iterator[list[Any]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_groups)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(self.epoch, int(group)) for group in order[start : start + self.batch_size]]
