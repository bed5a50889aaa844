"""Features of the images of a data set, extracted once and shared by every protocol."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..errors import InputError
from .encoder import ImageProcessor, VisionEncoder, inference, load_encoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """One vector an image, with the columns that belong to it.

    Attributes:
        features: (N, D) float32, as the encoder gives them: not normalised.
        rows: (N,) int64, the row of the data set that each came from.
        columns: for each column asked for, an array (N,), aligned with `features`.
        skipped: keys of the images that do not decode and have no features.
    """

    features: NDArray[np.float32]
    rows: NDArray[np.int64]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

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
    batch_size: int = 128,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    max_bad_images: int = 0,
    progress: bool = True,
) -> Features:
    """Encode every image of `dataset`, in its order, without augmentation.

    A format or transform set on the data set is not applied. Images are converted to RGB and prepared by the encoder's
    own processor. The model comes back in the mode and on the device it was in.

    Args:
        encoder: anything `load_encoder` takes.
        dataset: a map-style data set with a column of images.
        image_processor: required when `encoder` is a bare model.
        image_column: the column of images.
        columns: other columns to return, aligned with the features.
        key_column: the column that names an image in messages; default its row number.
        batch_size: images a forward pass.
        device: where to compute; default where the model is, or the accelerator for an encoder loaded by name.
        num_workers: processes that decode; 0 decodes in this one.
        max_bad_images: how many images may fail to decode; they are skipped, counted and named in the result.
        progress: show a bar on stderr.

    Raises:
        InputError: a column is missing or holds no images, the data set is empty, or too many images do not decode.
    """
    vision = load_encoder(encoder, image_processor, device=device)
    check_columns(dataset, image_column, [*columns, *([key_column] if key_column else [])])
    plain = dataset.with_format(None)
    images = plain.cast_column(image_column, Image(decode=False)).select_columns([image_column])
    loader = DataLoader(
        _Rows(len(images)),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_Prepare(images, image_column, vision.image_processor),
    )
    keys = plain[key_column] if key_column else None
    chunks: list[NDArray[np.float32]] = []
    rows: list[int] = []
    skipped: list[str] = []
    with inference(vision.model, device), tqdm(total=len(images), unit="image", disable=not progress) as bar:
        bar.set_description(f"features of {vision.name}")
        for pixel_values, good, bad in loader:
            for row, reason in bad:
                skipped.append(str(keys[row]) if keys is not None else f"row {row}")
                if len(skipped) > max_bad_images:
                    raise InputError(
                        f"{len(skipped)} of the images in column {image_column!r} cannot be decoded, the last being "
                        f"{skipped[-1]} ({reason}), and at most {max_bad_images} may be skipped; repair or remove "
                        "them, or raise max_bad_images."
                    )
            if good:
                chunks.append(vision.encode(pixel_values).cpu().numpy())
                rows.extend(good)
            bar.update(len(good) + len(bad))
    if skipped:
        logger.warning("%d images could not be decoded and were left out: %s", len(skipped), ", ".join(skipped[:10]))
    if not rows:
        raise InputError(
            f"None of the {len(images)} images in column {image_column!r} can be decoded; check the files."
        )
    index = np.asarray(rows, dtype=np.int64)
    return Features(
        np.concatenate(chunks),
        index,
        {column: np.asarray(plain[column][:])[index] for column in columns},
        tuple(skipped),
    )


def check_columns(dataset: Dataset, image_column: str, others: Sequence[str]) -> None:
    """Refuse a data set without rows, without images in `image_column`, or without one of the other columns."""
    if len(dataset) == 0:
        raise InputError("The data set has 0 rows, so there is nothing to measure; give a split with images.")
    for column in [image_column, *others]:
        if column not in dataset.column_names:
            raise InputError(
                f"The data set has no column {column!r}, it has {', '.join(map(repr, dataset.column_names))}; "
                "name one of those."
            )
    if not isinstance(dataset.features[image_column], Image):
        kind = type(dataset.features[image_column]).__name__
        raise InputError(
            f"The column {image_column!r} holds {kind} and no images; name the image column or cast it to "
            "datasets.Image()."
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
    """Row numbers -> pixel values (B, 3, H, W), the rows that decoded, and (row, reason) of those that did not."""

    def __init__(self, images: Dataset, column: str, image_processor: ImageProcessor) -> None:
        self.images = images
        self.column = column
        self.image_processor = image_processor
        self.decoder = Image()

    def __call__(self, rows: list[int]) -> tuple[Tensor | None, list[int], list[tuple[int, str]]]:
        pictures: list[PILImage.Image] = []
        good: list[int] = []
        bad: list[tuple[int, str]] = []
        for row, stored in zip(rows, self.images[rows][self.column], strict=True):
            if stored is None:
                bad.append((row, "the row has no image"))
                continue
            try:
                pictures.append(self.decoder.decode_example(stored).convert("RGB"))
                good.append(row)
            except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as error:
                bad.append((row, f"{type(error).__name__}: {error}"))
        pixel_values = self.image_processor(images=pictures, return_tensors="pt")["pixel_values"] if pictures else None
        return pixel_values, good, bad
