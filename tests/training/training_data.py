"""Pictures of coloured squares, grouped by caption."""

import io
from collections.abc import Iterable

import datasets
import numpy as np
from PIL import Image

from stablerep_hf.captions import caption_id


def picture(caption: int, image: int) -> bytes:
    """A coloured square of its own place and shade, as PNG."""
    pixels = np.full((24, 24, 3), 255, np.uint8)
    rng = np.random.default_rng((caption, image))
    left, top = rng.integers(0, 12, 2)
    hue = np.random.default_rng(caption).integers(0, 200, 3)
    pixels[top : top + 12, left : left + 12] = hue + rng.integers(0, 40, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make_dataset(sizes: list[int]) -> datasets.Dataset:
    """One caption for each size, with so many images."""
    rows = [(f"thing {c}", picture(c, k)) for c, size in enumerate(sizes) for k in range(size)]
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": image, "path": None} for _, image in rows],
            "caption": [caption for caption, _ in rows],
            "caption_id": [caption_id(caption) for caption, _ in rows],
        }
    ).cast_column("image", datasets.Image())


def spoiled(dataset: datasets.Dataset, rows: Iterable[int]) -> datasets.Dataset:
    """The same, but some images are none."""
    columns = dataset.cast_column("image", datasets.Image(decode=False)).to_dict()
    for row in rows:
        columns["image"][row] = {"bytes": b"no picture", "path": None}
    return datasets.Dataset.from_dict(columns, features=dataset.features)
