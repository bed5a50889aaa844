"""Encoded images to pixels.

JPEG goes through simplejpeg (MIT, libjpeg-turbo) where it is installed, everything else through Pillow. The pixels are
the same, bit for bit, so what is installed changes the time and nothing that is learned. One kind of file is an
exception: a JPEG whose EXIF orientation is behind 4,096 bytes of other headers, where no camera puts it, is turned
by Pillow alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..evaluation.decoding import decode_image, read_content

try:
    import simplejpeg
except ImportError:  # the extra "fast"
    simplejpeg = None

_HEADER = 4096  # bytes in which cameras put the orientation


def decode_rgb(image: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Decode a cell of an image column.

    Args:
        image: `bytes`, or a `path` if they are None, as `datasets.Image(decode=False)` gives it.

    Returns:
        uint8 (H, W, 3), writable, turned as its EXIF orientation says; other modes are converted to RGB,
        transparent parts on white.

    Raises:
        Exception: As `evaluation.decoding.decode_image`.
    """
    encoded = read_content(image)
    if simplejpeg is not None and _is_plain_jpeg(encoded):
        try:
            pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded)
            return pixels
        except ValueError:
            pass  # Pillow decides what becomes of it
    return np.array(decode_image({"bytes": encoded}))


def _is_plain_jpeg(encoded: bytes) -> bool:
    """Whether it is a JPEG of ordinary colours and size that is stored upright."""
    if not encoded.startswith(b"\xff\xd8") or b"Exif\0" in encoded[:_HEADER]:
        return False
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return False
    return colors in ("YCbCr", "Gray") and height * width <= (Image.MAX_IMAGE_PIXELS or np.inf)
