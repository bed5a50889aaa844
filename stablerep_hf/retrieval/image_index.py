"""The images of a data set in the vectors of an encoder: extracted once, indexed, and opened again by whoever asks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..evaluation import VisionEncoder, extract_features
from ..evaluation.encoder import inference
from ..evaluation.feature_cache import weights_digest
from ..evaluation.images import to_rgb
from ..evaluation.results import write_atomically
from .vector_index import EXACT_BELOW, VectorIndex, build_index, open_index

_IDENTITY, _ROWS = "images.json", "rows.npy"
_FEATURES, _EMBEDS = "features", "embeds"


@dataclass(frozen=True)
class ImageIndex:
    """Where the images of a data set lie for an encoder.

    Attributes:
        rows: (N,) int64, the row of the data set behind each vector; images that did not decode have none.
        features: the encoder's features, in which images are compared with images.
        embeds: of a dual encoder, the space that images share with texts.
    """

    rows: NDArray[np.int64]
    features: VectorIndex
    embeds: VectorIndex | None

    def __len__(self) -> int:
        return len(self.rows)


def index_images(
    vision: VisionEncoder,
    dataset: Dataset,
    folder: str | Path | None = None,
    *,
    image_column: str = "image",
    names: dict[str, str] | None = None,
    exact_below: int = EXACT_BELOW,
    **extraction: Any,
) -> ImageIndex:
    """Encode every image and index the vectors.

    Args:
        vision: From `load_encoder`.
        dataset: With a column of images.
        folder: Where the index is kept; one that stands there is opened, one that was begun is finished. None: in
            memory.
        image_column: The images.
        names: What the folder says of its origin beside what tells it from others, such as "encoder" and "dataset".
        exact_below: See `build_index`.
        extraction: For `extract_features`: `cache_dir`, `batch_size`, `num_workers`, `device`, `max_bad_images`,
            `progress`.

    Raises:
        InputError: The folder holds an index of something else, or as `extract_features` and `build_index`.
    """
    identity = {"weights": weights_digest(vision.whole), "images": len(dataset), "image_column": image_column}
    place = None if folder is None else Path(folder)
    if place is not None and (place / _IDENTITY).exists():
        try:
            return open_image_index(place, vision, dataset)
        except _UnfinishedError:
            pass
    found = extract_features(vision, dataset, image_column=image_column, **extraction)
    if place is not None:
        write_atomically(place / _IDENTITY, json.dumps({**(names or {}), **identity}, indent=2).encode())
    progress = bool(extraction.get("progress", True))
    parts = {
        name: _finished(place, name, vectors.shape)
        or build_index(vectors, None if place is None else place / name, exact_below=exact_below, progress=progress)
        for name, vectors in ((_FEATURES, found.features), (_EMBEDS, found.embeds))
        if vectors is not None
    }
    if place is not None:  # last, so that where it stands all of it stands
        with (place / f".{_ROWS}").open("wb") as file:
            np.save(file, found.rows)
        (place / f".{_ROWS}").replace(place / _ROWS)
    return ImageIndex(found.rows, parts[_FEATURES], parts.get(_EMBEDS))


def _finished(place: Path | None, name: str, shape: tuple[int, ...]) -> VectorIndex | None:
    """The part that an interrupted build had finished."""
    try:
        index = open_index(place / name) if place is not None else None
    except InputError:
        return None
    return index if index is not None and (len(index), index.facts.dimensions) == shape else None


def open_image_index(folder: str | Path, vision: VisionEncoder, dataset: Dataset) -> ImageIndex:
    """Open what `index_images` put into a folder.

    Args:
        folder: The folder.
        vision: The encoder that made it; its weights are compared.
        dataset: The data set behind it; its length is compared.

    Raises:
        InputError: No index, an unfinished one, or one of other weights or another data set.
    """
    place = Path(folder)
    record = read_names(place)
    digest = weights_digest(vision.whole)
    if record.get("weights") != digest:
        raise InputError(
            f"The index in {str(folder)!r} was made by the weights {record.get('weights')} "
            f"({record.get('encoder', 'an encoder')}), and {vision.name} has {digest}; name that encoder, or another "
            "folder."
        )
    if record.get("images") != len(dataset):
        raise InputError(
            f"The index in {str(folder)!r} is of {record.get('images')} images "
            f"({record.get('dataset', 'a data set')}), and the data set has {len(dataset)}; name that data set and "
            "split, or another folder."
        )
    if not (place / _ROWS).exists():
        raise _UnfinishedError(f"The index in {str(folder)!r} is not finished; run `stablerep index` again.")
    embeds = open_index(place / _EMBEDS) if (place / _EMBEDS).is_dir() else None
    return ImageIndex(np.load(place / _ROWS), open_index(place / _FEATURES), embeds)


def read_names(folder: str | Path) -> dict[str, Any]:
    """What a folder says of its origin: `names` of `index_images`, the weights' digest and the number of images.

    Raises:
        InputError: It is no folder of `index_images`.
    """
    try:
        names: dict[str, Any] = json.loads((Path(folder) / _IDENTITY).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(folder)!r} holds no index of images ({_IDENTITY} is missing or damaged); make one with "
            "`stablerep index DATASET ENCODER`."
        ) from error
    return names


def embed_image(vision: VisionEncoder, image: Image.Image) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """One picture as `extract_features` would have it.

    Returns:
        Features (1, D), and from a dual encoder (1, E) in the space shared with texts; neither is normalised.
    """
    pixels = vision.image_processor(images=[to_rgb(image)], return_tensors="pt")["pixel_values"]
    with inference(vision.whole):
        features, embeds = vision.encode(pixels)
    return features.cpu().numpy(), None if embeds is None else embeds.cpu().numpy()


class _UnfinishedError(InputError):
    """A build was interrupted: it can go on."""
