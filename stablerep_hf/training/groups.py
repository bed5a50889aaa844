"""Groups of siblings: what an item of a data set becomes, wherever its images come from, and a batch of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..captions import caption_id
from ..errors import InputError
from .augmentation import AugmentationRecipe, crop_and_flip, draw_view
from .decoding import decode_rgb

Int64Array = npt.NDArray[np.int64]
Positives = Literal["caption", "image", "label"]
"""What makes views positives of one another. "caption": a group is a caption. "image" (SimCLR): a group is one image.
"label" (SupCon): a group is one image, and its id is its label."""


@dataclass(frozen=True)
class Group:
    """Views of one caption's images, as a worker hands them over.

    Attributes:
        pixels: uint8 (V, 3, S, S); the views of one image are adjacent. V is smaller than asked for where the
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


class GroupDataset(Dataset[Group]):
    """Groups whose images come from somewhere.

    Args:
        group_ids: int64 (C,), by group.
        sizes: int64 (C, S), images that each group has of each source; its images are in the order of the sources.
        images_per_caption: m, drawn without replacement in each epoch; a caption with fewer gives all it has. None for
            as many as at least half of the captions have, at most the 6 of the paper.
        crops_per_image: Views of each image.
        image_size: Edge of a view in pixels.
        recipe: Distribution of the views.
        seed: Of every draw.
        source_weights: How the m images are shared among the sources; None draws from all images alike.

    Raises:
        InputError: No group has `images_per_caption` images, or there are not as many weights as sources.
    """

    def __init__(
        self,
        group_ids: Int64Array,
        sizes: Int64Array,
        *,
        images_per_caption: int | None,
        crops_per_image: int,
        image_size: int,
        recipe: AugmentationRecipe,
        seed: int,
        source_weights: Sequence[float] | None = None,
    ) -> None:
        if source_weights is not None and len(source_weights) != sizes.shape[1]:
            raise InputError(
                f"source_weights={list(source_weights)} weighs {len(source_weights)} sources, and the data has "
                f"{sizes.shape[1]}: give a number for each data set, in the order of `data`."
            )
        self.source_sizes = sizes
        sizes = sizes.sum(1)
        largest = int(sizes.max(initial=0))
        if images_per_caption is None:
            usual = int(np.sort(sizes)[len(sizes) // 2]) if len(sizes) else 1
            images_per_caption = min(6, max(usual, min(2, largest)))
        if images_per_caption > largest:
            raise InputError(
                f"images_per_caption={images_per_caption} is more than any caption has ({largest}{self._counted}): "
                "lower it, or generate more images per caption."
            )
        self.group_ids, self.sizes = group_ids, sizes
        self.images_per_caption = images_per_caption
        self.crops_per_image = crops_per_image
        self.image_size = image_size
        self.recipe = recipe
        self.seed = seed
        self.source_weights = None if source_weights is None else np.asarray(source_weights, np.float64)

    _counted = ""  # how images of a caption are counted, where that can surprise

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
        return len(np.unique(self.group_ids))

    @property
    def num_images(self) -> int:
        """Images of all groups."""
        return int(self.sizes.sum())

    def _draw(self, epoch: int, group: int) -> tuple[np.random.Generator, Int64Array]:
        """Start a group's random numbers and choose which of its images an epoch sees."""
        rng = np.random.default_rng((self.seed, epoch, group))
        size = int(self.sizes[group])
        if size <= self.images_per_caption:
            return rng, np.arange(size)
        if self.source_weights is None:
            return rng, rng.choice(size, self.images_per_caption, replace=False)
        available = self.source_sizes[group]
        counts = share_out(rng, self.images_per_caption, self.source_weights, available)
        starts = np.cumsum(available) - available
        parts = zip(starts, available, counts, strict=True)
        return rng, rng.permutation(
            np.concatenate([start + rng.choice(size, count, replace=False) for start, size, count in parts])
        )

    def _views(self, rng: np.random.Generator, group: int, records: Mapping[str, Mapping[str, Any]]) -> Group:
        """Draw the views of the chosen rows, each under the name to call it by if its image is bad."""
        pixels, color, bad = [], [], []
        for name, record in records.items():
            caption = record.get("caption", "")
            try:
                image = decode_rgb(record["image"])
            except Exception:  # see decode_rgb
                bad.append(f"{name} ({_describe(record)})")
                continue
            height, width = image.shape[:2]
            for _ in range(self.crops_per_image):
                view = draw_view(rng, width, height, self.recipe, self.image_size)
                pixels.append(crop_and_flip(image, view, self.image_size))
                color.append(torch.from_numpy(view.color))
        empty = torch.empty(0, self.image_size, self.image_size, 3, dtype=torch.uint8)
        return Group(
            pixels=(torch.stack(pixels) if pixels else empty).permute(0, 3, 1, 2),
            color=torch.stack(color) if color else torch.empty(0, 10),
            group_id=int(self.group_ids[group]),
            caption=str(caption),
            bad_images=tuple(bad),
        )


def share_out(rng: np.random.Generator, number: int, weights: npt.NDArray[Any], available: Int64Array) -> Int64Array:
    """Share a number of images among sources: each gets the part of its weight, rounded up or down at random.

    The mean over many draws is the exact part. Where a source has fewer images, the others give the rest.

    Args:
        rng: Rounds.
        number: Of images, at most those that there are.
        weights: (S,), above 0.
        available: int64 (S,), images that each source has.

    Returns:
        int64 (S,), adding up to `number`.
    """
    counts = np.zeros_like(available)
    while left := int(number - counts.sum()):
        parts = np.cumsum(np.where(available > counts, weights, 0.0))
        ends = np.floor(parts / parts[-1] * left + rng.random())  # one offset for all: systematic sampling
        counts = np.minimum(available, counts + np.diff(ends, prepend=0).astype(np.int64))
    return counts


def check_dataset(dataset: Any) -> None:
    """Raise `InputError` if something is not a data set of `datasets`."""
    if not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        kind = "not given" if dataset is None else f"a {type(dataset).__name__}"
        raise InputError(
            f"train_dataset is {kind}: pass a split of a data set, such as datasets.load_dataset(folder, "
            "split='train')."
        )


def key_column(columns: Sequence[str], positives: Positives, label_column: str, *, text: bool = False) -> str | None:
    """Return the column that says which views are positives of one another; None if each image is on its own.

    Raises:
        InputError: That column, the images or, with `text`, the captions are missing.
    """
    if "image" not in columns:
        raise InputError(f"The data has the columns {columns} but no 'image': rename its image column to 'image'.")
    if text and "caption" not in columns:
        raise InputError(
            f"The data has the columns {columns} but no 'caption' to learn from: rename the column of its texts to "
            "'caption', or choose `objective` stablerep."
        )
    if positives == "image":
        return None
    if positives == "label":
        if label_column not in columns:
            raise InputError(
                f"The data has the columns {columns} but no {label_column!r}, so nothing says which images are of "
                "one label: name the column with `label_column`."
            )
        return label_column
    for column in ("caption_id", "caption"):
        if column in columns:
            return column
    raise InputError(
        f"The data has the columns {columns} but neither 'caption_id' nor 'caption', so nothing says which images are "
        "siblings: rename the column that does, or choose `objective` simclr."
    )


def caption_ids(values: pa.Array | pa.ChunkedArray, column: str) -> Int64Array:
    """Ids of the captions in a column without nulls: the values of `caption_id`, or from the texts of `caption`.

    Raises:
        InputError: The column holds no integers, or no texts.
    """
    if column == "caption_id":
        if not pa.types.is_integer(values.type):
            raise InputError(
                f"The column 'caption_id' holds values of type {values.type}: give integers, or leave it out, and the "
                "ids follow from 'caption'."
            )
        return np.asarray(values.to_numpy()).astype(np.int64)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise InputError(f"The column {column!r} holds values of type {values.type}: give the captions as text.")
    return np.fromiter((caption_id(text) for text in values.to_pylist()), dtype=np.int64, count=len(values))


def label_ids(labels: Sequence[Any], column: str) -> Int64Array:
    """Number labels, integers or text, in their order.

    Raises:
        InputError: See `check_labels`; or an image has several.
    """
    if any(isinstance(label, list) for label in labels):
        raise InputError(f"The column {column!r} holds several labels an image: name one with a single label.")
    check_labels(labels, column)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def check_labels(labels: Sequence[Any], column: str) -> None:
    """Refuse labels, or lists of them, that do not say what an image is.

    Raises:
        InputError: One is missing (null, NaN, or -1, as the Hub has it in test splits), or neither integer nor text.
    """
    entries = [label if isinstance(label, list) else [label] for label in labels]
    refuse_missing(sum(any(map(_is_missing, entry)) for entry in entries), len(labels), column)
    wrong = next((label for entry in entries for label in entry if not isinstance(label, (int, str))), None)
    if wrong is not None:
        raise InputError(f"The column {column!r} holds {wrong!r}: give labels that are integers or text.")


def _is_missing(label: Any) -> bool:
    return label is None or label != label or label == -1


def refuse_missing(missing: int, total: int, column: str) -> None:
    """Raise `InputError` if some of the rows have nothing in a column."""
    if missing:
        raise InputError(f"{missing} of {total} images have no {column!r}: fill it in, or leave them out.")


def check_images(kind: Any) -> None:
    """Raise `InputError` if a column of this type (of `datasets`) cannot hold encoded images.

    Texts could be paths, of any file of this machine: whoever trusts them casts the column.
    """
    is_struct = isinstance(kind, dict) and kind.keys() == {"bytes", "path"}
    if not (isinstance(kind, datasets.Image) or is_struct or getattr(kind, "dtype", "") in ("binary", "large_binary")):
        raise InputError(
            f"The column 'image' holds {kind} and no images: rename the column of images to 'image', or cast one of "
            "paths that you trust to `datasets.Image()`."
        )


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
            `pixels` uint8 (N, 3, S, S), `color` float32 (N, 10) in NumPy, which stays on the CPU, `caption_ids` int64
            (N,), `sibling_index` int64 (N,) (place of a view in its group), `text_caption_ids` int64 (C,),
            `bad_images` list of keys and, with a tokenizer, `input_ids` and `attention_mask` int64 (C, L).
        """
        sizes = torch.tensor([len(group.pixels) for group in groups])
        ids = torch.tensor([group.group_id for group in groups])
        batch: dict[str, Any] = {
            "pixels": torch.cat([group.pixels for group in groups]),
            "color": torch.cat([group.color for group in groups]).numpy(),
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


def _describe(record: Mapping[str, Any]) -> str:
    """What tells a person which image a row is: its caption, or its file, without the folders of this machine."""
    if "caption" in record:
        return f"caption {record['caption']!r}"
    path = (record["image"] or {}).get("path")
    return f"file {'/'.join(Path(path).parts[-2:])!r}" if path else "no caption"
