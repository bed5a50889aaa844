"""A data set seen as groups of siblings, and the batches drawn from it.

One item is one caption with `images_per_caption` of its images, each seen in `crops_per_image` views. The key of an
item is (epoch, group): which images are drawn, and every random number of every view, follow from it and the seed.
So a batch is the same whatever the number of processes and workers, and a resumed run goes on with the very batch
that the interrupted one would have seen.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..captions import caption_id
from ..errors import InputError
from ..synthesis import group_rows
from .augmentation import AugmentationRecipe, crop_and_flip, draw_view

# What Pillow raises at bytes that are no image, a torn one, or a bomb.
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, zlib.error, struct.error, Image.DecompressionBombError)

GroupKey = tuple[int, int]
"""(epoch, group)"""


@dataclass(frozen=True)
class Group:
    """Views of one caption's images, as a worker hands them over.

    Attributes:
        pixels: uint8 (V, 3, S, S); the views of one image stand together. V is smaller than asked for where the
            caption has fewer images or one of them could not be decoded.
        color: float32 (V, 10), see `augmentation.View`.
        group_id: The id that makes its views positives of one another.
        caption: The text, or "" where the data set has none.
        bad_images: Keys of images that could not be decoded.
    """

    pixels: Tensor
    color: Tensor
    group_id: int
    caption: str
    bad_images: tuple[str, ...]


class GroupedImages(Dataset[Group]):
    """The groups of an image data set.

    Args:
        dataset: Map-style, with an image column and, unless `one_group_per_image`, `caption_id` or `caption`.
        images_per_caption: m, drawn without replacement in each epoch; a caption with fewer gives all it has.
        crops_per_image: Views of each image.
        image_size: Edge of a view in pixels.
        recipe: Distribution of the views.
        seed: Of every draw.
        positives: What makes views positives of one another. "caption": an item is a caption. "image" (SimCLR): an
            item is one image. "label" (SupCon): an item is one image and its group id is its label.
        label_column: Holds the labels, integers or text.

    Raises:
        InputError: A column is missing, a label is, or no caption has `images_per_caption` images.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        images_per_caption: int,
        crops_per_image: int,
        image_size: int,
        recipe: AugmentationRecipe,
        seed: int,
        positives: Literal["caption", "image", "label"] = "caption",
        label_column: str = "label",
    ) -> None:
        columns = dataset.column_names
        if "image" not in columns:
            raise InputError(f"The data has the columns {columns} but no 'image': rename its image column to 'image'.")
        self._has_captions = "caption" in columns
        used = ["image", "caption"] if self._has_captions else ["image"]
        self._images = dataset.select_columns(used).cast_column("image", datasets.Image(decode=False))
        if positives == "caption":
            groups = group_rows(_caption_ids(dataset))
            self.group_ids, self._offsets, self._rows = groups.ids, groups.offsets, groups.rows
        else:
            self._rows = np.arange(len(dataset), dtype=np.int64)
            self._offsets = np.arange(len(dataset) + 1, dtype=np.int64)
            self.group_ids = self._rows if positives == "image" else _label_ids(dataset, label_column)
        largest = int(np.diff(self._offsets).max(initial=0))
        if images_per_caption > largest:
            raise InputError(
                f"images_per_caption={images_per_caption} is more than any caption has ({largest}): lower it, "
                "or generate more images per caption."
            )
        self.images_per_caption = images_per_caption
        self.crops_per_image = crops_per_image
        self.image_size = image_size
        self.recipe = recipe
        self.seed = seed

    @property
    def views_per_group(self) -> int:
        """Views of a group that has all its images."""
        return self.images_per_caption * self.crops_per_image

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.group_ids)

    @property
    def num_captions(self) -> int:
        """Distinct captions, as far as the data tells."""
        return len(self._images.unique("caption")) if self._has_captions else len(self)

    @property
    def num_images(self) -> int:
        """Images of all groups."""
        return len(self._rows)

    def __getitem__(self, key: GroupKey) -> Group:
        epoch, group = key
        rng = np.random.default_rng((self.seed, epoch, group))
        rows = self._rows[self._offsets[group] : self._offsets[group + 1]]
        if len(rows) > self.images_per_caption:
            rows = rng.choice(rows, self.images_per_caption, replace=False)
        pixels, color, bad = [], [], []
        records = [self._images[int(row)] for row in rows]
        decoder = datasets.Image()
        for row, record in zip(rows, records, strict=True):
            try:
                image = decoder.decode_example(record["image"])
            except _UNREADABLE:
                bad.append(f"row {row} (caption {record.get('caption', '')!r})")
                continue
            for _ in range(self.crops_per_image):
                width, height = image.size
                view = draw_view(rng, width, height, self.recipe, self.image_size)
                pixels.append(crop_and_flip(image, view, self.image_size))
                color.append(torch.from_numpy(view.color))
        return Group(
            pixels=torch.stack(pixels) if pixels else torch.empty(0, 3, self.image_size, self.image_size).byte(),
            color=torch.stack(color) if color else torch.empty(0, 10),
            group_id=int(self.group_ids[group]),
            caption=str(records[0]["caption"]) if self._has_captions else "",
            bad_images=tuple(bad),
        )


def _caption_ids(dataset: datasets.Dataset) -> np.ndarray:
    if "caption_id" in dataset.column_names:
        return np.asarray(dataset.with_format("numpy")["caption_id"][:], dtype=np.int64)
    if "caption" in dataset.column_names:
        return np.fromiter((caption_id(text) for text in dataset["caption"]), dtype=np.int64, count=len(dataset))
    raise InputError(
        f"The data has the columns {dataset.column_names} but neither 'caption_id' nor 'caption', so nothing says "
        "which images are siblings: rename the column that does, or train with --objective simclr."
    )


def _label_ids(dataset: datasets.Dataset, column: str) -> np.ndarray:
    if column not in dataset.column_names:
        raise InputError(
            f"The data has the columns {dataset.column_names} but no {column!r}, so nothing says which images are of "
            "one label: name the column with --label_column."
        )
    labels = dataset[column][:]
    missing = sum(label is None for label in labels)
    if missing:
        raise InputError(f"{missing} of {len(labels)} images have no {column!r}: label them or leave them out.")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


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

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.num_groups // self.batch_size

    def __iter__(self) -> Iterator[list[GroupKey]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_groups)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(self.epoch, int(group)) for group in order[start : start + self.batch_size]]


class GroupCollator:
    """Groups to one batch.

    Args:
        tokenizer: Needed by objectives with a text side; called on the captions with padding and truncation.
        max_length: Tokens that the text tower can take; longer captions are cut.
    """

    def __init__(self, tokenizer: Any | None = None, max_length: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Concatenate, group by group.

        Returns:
            `pixels` uint8 (N, 3, S, S), `color` float32 (N, 10), `caption_ids` int64 (N,), `sibling_index` int64 (N,)
            (place of a view in its group), `text_caption_ids` int64 (C,), `bad_images` list of keys and, with a
            tokenizer, `input_ids` and `attention_mask` int64 (C, L).
        """
        sizes = torch.tensor([len(group.pixels) for group in groups])
        ids = torch.tensor([group.group_id for group in groups])
        batch: dict[str, Any] = {
            "pixels": torch.cat([group.pixels for group in groups]),
            "color": torch.cat([group.color for group in groups]),
            "caption_ids": ids.repeat_interleave(sizes),
            "sibling_index": torch.cat([torch.arange(int(size)) for size in sizes]),
            "text_caption_ids": ids,
            "bad_images": [key for group in groups for key in group.bad_images],
        }
        if self.tokenizer is not None:
            text = self.tokenizer(
                [group.caption for group in groups],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            batch["input_ids"], batch["attention_mask"] = text["input_ids"], text["attention_mask"]
        return batch
