"""Features of the images of a data set, extracted once and shared by every protocol."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import torch
from datasets import Dataset, Image
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import InputError
from ..progress import Progress
from .columns import check_columns, column_values
from .decoding import decode_image
from .encoder import ImageProcessor, VisionEncoder, inference, load_encoder
from .feature_cache import SHARD_ROWS, FeatureCache, Shard, feature_identity
from .image_transforms import ImageTransform

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "float16"]

# pixel values (B, 3, H, W), the rows that decoded, and (row, reason) of those that did not
_Batch = tuple[Tensor | None, list[int], list[tuple[int, str]]]


class ExtractionOptions(TypedDict, total=False):
    """Arguments of `extract_features` that its callers pass on."""

    image_column: str
    transform: ImageTransform | None
    cache_dir: str | Path | None
    batch_size: int
    device: str | torch.device | None
    precision: Precision
    num_workers: int | None
    max_bad_images: int
    progress: bool
    rank: int
    world_size: int


@dataclass(frozen=True)
class Features:
    """One vector an image, with the columns that belong to it.

    Attributes:
        features: (N, D) float32, as the encoder gives them: not normalised.
        rows: (N,) int64, the row of the data set that each came from.
        columns: for each column asked for, an array (N,), aligned with `features`; of lists, where the column holds
            lists.
        skipped: keys of the images that do not decode and have no features.
        embeds: (N, E) float32, from a dual encoder the images in the space that it shares with texts, not normalised.
    """

    features: NDArray[np.float32]
    rows: NDArray[np.int64]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    embeds: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.features)


def extract_features(
    encoder: str | Path | nn.Module | VisionEncoder,
    dataset: Dataset,
    *,
    image_processor: ImageProcessor | None = None,
    image_column: str = "image",
    columns: Sequence[str] = (),
    key_column: str | None = None,
    transform: ImageTransform | None = None,
    cache_dir: str | Path | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    num_workers: int | None = None,
    max_bad_images: int = 0,
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> Features:
    """Encode every image of `dataset`, in its order.

    A format or transform set on the data set is not applied. Images are converted to RGB, transparent parts on white,
    and prepared by the encoder's own processor. The model comes back in the mode and on the device it was in.

    With `cache_dir`, features are kept under a name made of the weights, the data and the preparation. An extraction
    that was killed goes on behind its last shard of 1,024 images, and one that is finished is only read.

    Several processes share the work through the cache: each encodes the shards with `shard % world_size == rank`, then
    those that are still missing, so that none waits for another and one that dies loses nothing. Each returns all
    features, the same for any number of processes.

    Args:
        encoder: anything `load_encoder` takes.
        dataset: a map-style data set with a column of images.
        image_processor: required when `encoder` is a bare model.
        image_column: the column of images.
        columns: other columns to return, aligned with the features.
        key_column: the column that names an image in messages; default its row number.
        transform: what is done to each picture before the processor has it; default nothing.
        cache_dir: folder of the caches of all encoders and data sets; default none.
        batch_size: images a forward pass.
        device: where to compute; default where the model is, or the accelerator for an encoder loaded by name.
        precision: "bfloat16" or "float16" for autocast to it, which is faster on a GPU and rounds the features.
        num_workers: processes that decode; 0 decodes in this one. Default: a core each, up to 8, beside a GPU, which
            they keep busy; else 0.
        max_bad_images: how many images may fail to decode; they are skipped, counted and named in the result.
        progress: show a bar on stderr.
        rank: of this process, from 0 on.
        world_size: processes that share the work; several need a `cache_dir` that all of them see.

    Raises:
        InputError: a column is missing or holds no images, the data set is empty, too many images do not decode, or
            the cache was made from something else or is needed; a batch of no image or fewer than no workers.
    """
    if batch_size < 1 or (num_workers is not None and num_workers < 0):
        raise InputError(
            f"batch_size={batch_size} and num_workers={num_workers} encode nothing; give at least 1 image a batch "
            "and 0 workers or more."
        )
    if precision not in get_args(Precision):
        raise InputError(f"precision={precision!r} is not known; choose one of {', '.join(get_args(Precision))}.")
    vision = load_encoder(encoder, image_processor, device=device)
    keys = dataset.with_format(None)[key_column] if key_column in dataset.column_names else None
    shards: list[Shard] = []
    skipped: list[str] = []
    encoded = encode_shards(
        vision,
        dataset,
        columns=[*columns, *([key_column] if key_column else [])],
        transform=transform,
        image_column=image_column,
        cache_dir=cache_dir,
        batch_size=batch_size,
        device=device,
        precision=precision,
        num_workers=num_workers,
        progress=progress,
        rank=rank,
        world_size=world_size,
    )
    with closing(encoded):  # also where it is left in the middle: gradients are off inside
        for shard in encoded:
            shards.append(shard)
            for row, reason in zip(shard.bad_rows, shard.reasons, strict=True):
                skipped.append(str(keys[int(row)]) if keys is not None else f"row {row}")
                check_bad_images(len(skipped), max_bad_images, skipped[-1], str(reason), image_column)
    if skipped:
        logger.warning("%d images could not be decoded and were left out: %s", len(skipped), ", ".join(skipped[:10]))
    index = np.concatenate([shard.rows for shard in shards])
    if not len(index):
        raise InputError(
            f"None of the {len(dataset)} images in column {image_column!r} can be decoded; check the files."
        )
    whole = [shard for shard in shards if len(shard.rows)]
    embeds = np.concatenate([shard.embeds for shard in whole])
    return Features(
        np.concatenate([shard.features for shard in whole]),
        index,
        {column: column_values(dataset.with_format(None), column)[index] for column in columns},
        tuple(skipped),
        embeds if embeds.shape[1] else None,
    )


def check_bad_images(count: int, most: int, last: str, reason: str, image_column: str) -> None:
    """Stop where more images cannot be decoded than are allowed.

    Raises:
        InputError: `count` is above `most`.
    """
    if count > most:
        raise InputError(
            f"{count} of the images in column {image_column!r} cannot be decoded, the last being {last} ({reason}), "
            f"and at most {most} may be skipped; repair or remove them, or raise max_bad_images."
        )


def encode_shards(
    vision: VisionEncoder,
    dataset: Dataset,
    *,
    columns: Sequence[str] = (),
    transform: ImageTransform | None = None,
    image_column: str = "image",
    cache_dir: str | Path | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    num_workers: int | None = None,
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[Shard, None, None]:
    """The shards of a data set in order, from the cache or from the encoder and then into the cache.

    One shard is held at a time. Arguments and errors as of `extract_features`; images that do not decode are in the
    shards, and none is too many.
    """
    check_columns(dataset, image_column, columns)
    if world_size > 1 and cache_dir is None:
        raise InputError(
            f"world_size={world_size} processes share features through files: give `cache_dir`, a folder that all see."
        )
    plain = dataset.with_format(None)
    images = plain.cast_column(image_column, Image(decode=False)).select_columns([image_column])
    cache = None
    if cache_dir is not None:
        cache = FeatureCache(cache_dir, feature_identity(vision, plain, image_column, transform, precision))
    prepare = _Prepare(images, image_column, vision.image_processor, transform)
    ranges = [range(start, min(start + SHARD_ROWS, len(images))) for start in range(0, len(images), SHARD_ROWS)]
    numbers = range(len(ranges))

    def is_kept(number: int) -> bool:
        return cache is not None and cache.load(number) is not None

    def encode(wanted: Sequence[int], workers: int, pinned: bool) -> Iterator[Shard]:
        """The shards of these numbers; one loader for all of them: workers start once and run ahead."""
        batches = [
            list(ranges[number][start : start + batch_size])
            for number in wanted
            for start in range(0, len(ranges[number]), batch_size)
        ]
        loader = iter(
            DataLoader(
                _Rows(len(images)),
                batch_sampler=batches,
                num_workers=workers,
                collate_fn=prepare,
                pin_memory=pinned,
            )
        )
        for number in wanted:
            shard = _encode(vision, itertools.islice(loader, -(-len(ranges[number]) // batch_size)))
            if cache is not None:
                cache.save(number, shard)
            yield shard

    with inference(vision.whole, device), autocast(vision, precision):
        on_cuda = device_of(vision).type == "cuda"
        if num_workers is None:
            num_workers = min(8, os.cpu_count() or 1) if on_cuda else 0
        if world_size > 1:
            label = f"features of {vision.name} ({rank} of {world_size})"
            with Progress(label, len(numbers[rank::world_size]), unit="shard", shown=progress) as bar:
                own = [number for number in numbers[rank::world_size] if not is_kept(number)]
                for _ in encode(own, num_workers, on_cuda):
                    bar.advance()
                for number in _shards_of_others(numbers, rank, world_size):
                    if not is_kept(number):
                        bar.advance(len(list(encode([number], num_workers, on_cuda))))
        kept = [is_kept(number) for number in numbers]
        encoded = encode([number for number in numbers if not kept[number]], num_workers, on_cuda)
        with Progress(f"features of {vision.name}", len(images), shown=progress and world_size == 1) as bar:
            for number, rows in enumerate(ranges):
                shard = cache.load(number) if cache is not None and kept[number] else None
                shard = next(encoded) if shard is None else shard
                bar.advance(len(rows))
                yield shard


def _shards_of_others(numbers: Sequence[int], rank: int, world_size: int) -> list[int]:
    """What other ranks encode, in the order in which this one helps: what they come to last first, each elsewhere."""
    others = [number for number in reversed(numbers) if number % world_size != rank]
    start = len(others) * rank // world_size
    return others[start:] + others[:start]


def device_of(vision: VisionEncoder) -> torch.device:
    """Where an encoder computes."""
    return next((parameter.device for parameter in vision.whole.parameters()), torch.device("cpu"))


def autocast(vision: VisionEncoder, precision: Precision) -> AbstractContextManager[Any]:
    """What a forward pass in this precision runs in."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device_of(vision).type, getattr(torch, precision))


def _encode(vision: VisionEncoder, batches: Iterable[_Batch]) -> Shard:
    rows: list[int] = []
    bad: list[tuple[int, str]] = []
    features, embeds = [np.empty((0, 0), np.float32)], [np.empty((0, 0), np.float32)]
    for pixel_values, good, undecoded in batches:
        rows += good
        bad += undecoded
        if pixel_values is not None:
            vectors, shared = vision.encode(pixel_values)
            features.append(vectors.float().cpu().numpy())
            shared_space = np.empty((len(vectors), 0), np.float32) if shared is None else shared.float().cpu().numpy()
            embeds.append(shared_space)
    return Shard(
        np.asarray(rows, dtype=np.int64),
        np.concatenate(features[1:] or features),
        np.concatenate(embeds[1:] or embeds),
        np.asarray([row for row, _ in bad], dtype=np.int64),
        np.asarray([reason for _, reason in bad], dtype=np.str_),
    )


class _Rows(torch.utils.data.Dataset[int]):
    """The row numbers; `_Prepare` fetches a whole batch of them at once, which Arrow does faster than row by row."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> int:
        return row


class _Prepare:
    """Row numbers -> a batch."""

    def __init__(
        self, images: Dataset, column: str, image_processor: ImageProcessor, transform: ImageTransform | None
    ) -> None:
        self.images = images
        self.column = column
        self.image_processor = image_processor
        self.transform = transform

    def __call__(self, rows: list[int]) -> _Batch:
        pictures: list[PILImage.Image] = []
        good: list[int] = []
        bad: list[tuple[int, str]] = []
        for row, stored in zip(rows, self.images[rows][self.column], strict=True):
            if stored is None:
                bad.append((row, "the row has no image"))
                continue
            try:
                picture = decode_image(stored)
            except Exception as error:  # Pillow's decoders and its reading of EXIF raise whatever they stumble over
                bad.append((row, f"{type(error).__name__}: {error}"))
                continue
            pictures.append(picture if self.transform is None else self.transform(picture, row))
            good.append(row)
        if not pictures:
            return None, good, bad
        options = self.transform.processor_options if self.transform is not None else {}
        return self.image_processor(images=pictures, return_tensors="pt", **options)["pixel_values"], good, bad
