"""The images of a data set in the vectors of an encoder: extracted once, indexed, and opened again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from datasets import Dataset, Image as ImageColumn
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..evaluation import VisionEncoder, extract_features
from ..evaluation.columns import check_columns
from ..evaluation.decoding import read_content, to_rgb
from ..evaluation.encoder import inference
from ..evaluation.feature_cache import feature_identity
from ..files.atomic import write_at_once, write_file
from .vector_index import EXACT_BELOW, RECORD, VectorIndex, build_index, open_index

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
        folder: Where the index is kept; one that is there is opened, one that was begun is finished. None: in
            memory.
        image_column: The images.
        names: What the folder says of its origin beside its identity, such as "encoder" and "dataset".
        exact_below: See `build_index`.
        extraction: For `extract_features`: `cache_dir`, `batch_size`, `num_workers`, `device`, `max_bad_images`,
            `progress`.

    Raises:
        InputError: The folder holds an index of something else, or as `extract_features` and `build_index`.
    """
    place = None if folder is None else Path(folder)
    identity = {} if place is None else index_identity(vision, dataset, image_column)
    begun = place is not None and (place / _IDENTITY).exists()
    if place is not None and begun:
        try:
            return _open(place, vision.name, identity)
        except _UnfinishedError:
            pass
    found = extract_features(vision, dataset, image_column=image_column, **extraction)
    if place is not None:
        if not begun:  # parts of an unknown index
            for path in (place / _ROWS, place / _FEATURES / RECORD, place / _EMBEDS / RECORD):
                path.unlink(missing_ok=True)
        write_file(place / _IDENTITY, json.dumps({**(names or {}), **identity}, indent=2).encode())
    progress = bool(extraction.get("progress", True))
    parts = {
        name: (_finished(place / name, vectors.shape) if place is not None else None)
        or build_index(vectors, None if place is None else place / name, exact_below=exact_below, progress=progress)
        for name, vectors in ((_FEATURES, found.features), (_EMBEDS, found.embeds))
        if vectors is not None
    }
    if place is not None:  # last, so that where it is, all of it is
        write_at_once(place / _ROWS, lambda file: np.save(file, found.rows))
    return ImageIndex(found.rows, parts[_FEATURES], parts.get(_EMBEDS))


def _finished(part: Path, shape: tuple[int, ...]) -> VectorIndex | None:
    """The part that an interrupted build had finished."""
    try:
        index = open_index(part)
    except InputError:
        return None
    return index if (len(index), index.facts.dimensions) == shape else None


def index_identity(vision: VisionEncoder, dataset: Dataset, image_column: str = "image") -> dict[str, Any]:
    """What distinguishes an index, JSON values: weights, preparation of images, and the images themselves.

    Every image is read and none decoded. The images are identified by their content, because the fingerprint of
    `datasets`, by which features are kept, is another one on another machine.

    Raises:
        InputError: No such column of images, or the image processor cannot say what it does.
    """
    check_columns(dataset, image_column, [])
    known = feature_identity(vision, dataset, image_column, None)
    digest = hashlib.sha256()  # which processors have built in: gigabytes go through it
    images = dataset.with_format(None).cast_column(image_column, ImageColumn(decode=False))
    for batch in images.select_columns([image_column]).iter(1024):
        for stored in batch[image_column]:
            content = _content(stored)
            digest.update(f"{len(content)} ".encode())
            digest.update(content)
    return {
        "weights": known["weights"],
        "image_processor": known["image processor"],
        "images": len(dataset),
        "images_digest": digest.hexdigest(),
        "image_column": image_column,
    }


def _content(stored: dict[str, Any] | None) -> bytes:
    """The file of an image; empty where it is missing or cannot be read."""
    try:
        return b"" if stored is None else read_content(stored)
    except (OSError, ValueError, KeyError, BadZipFile):
        return b""


def open_image_index(
    folder: str | Path, vision: VisionEncoder, dataset: Dataset, image_column: str = "image"
) -> ImageIndex:
    """Open what `index_images` put into a folder, for the same encoder and data set.

    Raises:
        InputError: No index, an unfinished one, or one of other weights, another preparation or other images.
    """
    return _open(Path(folder), vision.name, index_identity(vision, dataset, image_column))


def _open(place: Path, encoder: str, identity: dict[str, Any]) -> ImageIndex:
    record = read_names(place)
    origin = record.get("dataset", "a data set")
    if record.get("weights") != identity["weights"]:
        raise InputError(
            f"The index in {str(place)!r} was made by the weights {record.get('weights')} "
            f"({record.get('encoder', 'an encoder')}), and {encoder} has {identity['weights']}; name that encoder, or "
            "another folder."
        )
    if record.get("image_processor") != identity["image_processor"]:
        raise InputError(
            f"The index in {str(place)!r} was made with another image processor than {encoder} has now, so its "
            "vectors are not those of the same pictures today; bring that processor back, or name another folder."
        )
    if record.get("images") != identity["images"]:
        raise InputError(
            f"The index in {str(place)!r} is of {record.get('images')} images ({origin}), and the data set has "
            f"{identity['images']}; name that data set and split, or another folder."
        )
    if record.get("images_digest") != identity["images_digest"]:
        raise InputError(
            f"The index in {str(place)!r} is of other images (the column {record.get('image_column')!r} of {origin}) "
            f"than those in the column {identity['image_column']!r} of the data set; name that data set, split and "
            "column, or another folder."
        )
    if not (place / _ROWS).exists():
        raise _UnfinishedError(f"The index in {str(place)!r} is not finished; run `stablerep index` again.")
    embeds = open_index(place / _EMBEDS) if (place / _EMBEDS).is_dir() else None
    return ImageIndex(np.load(place / _ROWS), open_index(place / _FEATURES), embeds)


def read_names(folder: str | Path) -> dict[str, Any]:
    """What a folder says of its origin: `names` of `index_images`, and `index_identity`.

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
    """One picture's features (1, D), and from a dual encoder (1, E), as of `extract_features`; neither normalised."""
    pixels = vision.image_processor(images=[to_rgb(image)], return_tensors="pt")["pixel_values"]
    with inference(vision.whole):
        features, embeds = vision.encode(pixels)
    return features.cpu().numpy(), None if embeds is None else embeds.cpu().numpy()


class _UnfinishedError(InputError):
    """A build was interrupted: it can go on."""
