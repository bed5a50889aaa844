"""One frame: is there a picture in it, and which bytes is it stored as."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL import Image

from .plan import ImageFormat

SUFFIXES: dict[ImageFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
# Chroma is not subsampled: at the 32 pixels of the embedded generator it would be left with 16.
_OPTIONS: dict[ImageFormat, dict[str, Any]] = {
    "jpeg": {"quality": 95, "subsampling": 0},
    "png": {"compress_level": 6},
    "webp": {"quality": 90, "method": 4},
}


def is_black(image: Image.Image) -> bool:
    """Say whether every pixel is exactly black.

    A safety checker blacks out what it withholds, and numbers that overflowed in the decoder become black too: such a
    frame carries no picture. A frame of any other single colour may be meant (a caption can say 'white') and is kept.
    """
    return image.convert("RGB").getbbox() is None


def encode_image(image: Image.Image, image_format: ImageFormat) -> bytes:
    """Encode an image in RGB; the same pixels give the same bytes under one version of Pillow."""
    buffer = BytesIO()
    image.convert("RGB").save(buffer, image_format, **_OPTIONS[image_format])
    return buffer.getvalue()
