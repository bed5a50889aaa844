"""One frame: is there a picture in it, what does it look like, and which bytes is it stored as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .settings import ImageFormat

SUFFIXES: dict[ImageFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
# Chroma is not subsampled: at the 32 pixels of the embedded generator it would be left with 16.
_OPTIONS: dict[ImageFormat, dict[str, Any]] = {
    "jpeg": {"quality": 95, "subsampling": 0},
    "png": {"compress_level": 6},
    "webp": {"quality": 90, "method": 4},
}
_FLAT = 8  # levels of 256 by which the pixels of one flat colour may differ, after a codec
PNG_XMP = "XML:com.adobe.xmp"  # the key that the XMP specification gives PNG


@dataclass(frozen=True)
class StoredFrame:
    """What is kept of a frame.

    Attributes:
        encoded: The image file.
        is_blank: See `is_blank`.
        perceptual_hash: See `perceptual_hash`.
    """

    encoded: bytes
    is_blank: bool
    perceptual_hash: int


def store_frame(
    image: Image.Image,
    image_format: ImageFormat,
    stored_size: int | None,
    xmp: bytes,
    sign: Callable[[bytes], bytes] | None = None,
) -> StoredFrame:
    """Scale a frame down, measure it, encode it and sign the file if it is to be; see the functions below."""
    image = shrink(image.convert("RGB"), stored_size)
    encoded = encode_image(image, image_format, xmp)
    return StoredFrame(encoded if sign is None else sign(encoded), is_blank(image), perceptual_hash(image))


def is_black(image: Image.Image) -> bool:
    """Say whether every pixel is exactly black.

    A safety checker blacks out what it withholds, and numbers that overflowed in the decoder become black too: such a
    frame carries no picture. A frame of any other single colour may be meant (a caption can say 'white') and is kept.
    """
    return image.convert("RGB").getbbox() is None


def is_blank(image: Image.Image) -> bool:
    """Say whether an image is one flat colour: no channel spans more than 8 of its 256 levels."""
    return all(high - low <= _FLAT for low, high in image.convert("RGB").getextrema())  # type: ignore[misc]


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that resemble each other where pictures do: compare them by their Hamming distance.

    Signs of the 8 x 8 lowest frequencies of the 32 x 32 grey image about their median (Zauner 2010, the DCT hash).

    Returns:
        The bits, row by row, as a signed 64-bit integer.
    """
    from scipy.fft import dctn

    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    low = dctn(grey, norm="ortho")[:8, :8]
    bits = low > np.median(low.ravel()[1:])  # without the mean brightness
    return int(np.packbits(bits.ravel()).view(">i8")[0])


def shrink(image: Image.Image, stored_size: int | None) -> Image.Image:
    """Scale an image down so that its shorter side has `stored_size` pixels (antialiased bicubic, as the release)."""
    shorter = min(image.size)
    if stored_size is None or shorter <= stored_size:
        return image
    width, height = (max(1, round(side * stored_size / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def encode_image(image: Image.Image, image_format: ImageFormat, xmp: bytes = b"") -> bytes:
    """Encode an image in RGB; the same pixels give the same bytes under one version of Pillow.

    Args:
        image: Any image.
        image_format: See `SynthesisPlan.image_format`.
        xmp: An XMP packet to put into the file.
    """
    options = dict(_OPTIONS[image_format])
    if xmp and image_format == "png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(PNG_XMP, xmp.decode())
    elif xmp:
        options["xmp"] = xmp
    buffer = BytesIO()
    image.convert("RGB").save(buffer, image_format, **options)
    return buffer.getvalue()
