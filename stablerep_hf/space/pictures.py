"""What people send: looked at as bytes, measured by the header, and decoded only then."""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..errors import InputError
from ..evaluation.decoding import to_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_SHOWN_SIDE = 256  # pixels; what is shown of a picture is never larger


def read_picture(
    path: Any, uploads: str | Path, *, most_bytes: int = 5_000_000, most_pixels: int = 25_000_000
) -> Image.Image:
    """Decode one uploaded picture: RGB, transparent parts on white.

    In this order, each before anything is done that the next one bounds: the path is one that an upload was put at,
    and no link; the file is small enough; its bytes begin as one of `FORMATS`; its header says few enough pixels; it
    decodes. Of an animation the first frame counts, and the camera's orientation is applied.

    Args:
        path: Where the server put the upload. It comes back from the visitor, so it is checked.
        uploads: The folder of uploads.
        most_bytes: Of the file.
        most_pixels: Width x height.

    Raises:
        InputError: Whatever is wrong with it.
    """
    folder = Path(uploads).resolve()
    if not isinstance(path, str) or "\0" in path:
        raise InputError("That is no upload: drop a picture.")
    place = Path(path)
    if not place.resolve().is_relative_to(folder) or ".." in place.parts:
        raise InputError("That file was not uploaded here: drop the picture itself.")
    try:
        descriptor = os.open(place.resolve(), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        raise InputError("The upload is gone: drop the picture again.") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError("That is no file: drop a picture.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    return decode_picture(content, most_bytes=most_bytes, most_pixels=most_pixels)


def decode_picture(
    content: bytes,
    *,
    most_bytes: int = 5_000_000,
    most_pixels: int = 25_000_000,
    formats: tuple[str, ...] | None = FORMATS,
) -> Image.Image:
    """Decode the bytes of a picture; see `read_picture`. `formats` None is for data that is trusted: all of Pillow."""
    if not content:
        raise InputError("The file is empty: drop a picture.")
    if len(content) > most_bytes:
        raise InputError(f"The file has more than {most_bytes / 1e6:g} MB, the most that is taken: make it smaller.")
    named = ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            picture = Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError:
        raise InputError(_too_many(most_pixels)) from None
    except Exception:  # Pillow raises whatever a damaged file leads it to
        raise InputError(f"The file is no {named} picture: save it as one.") from None
    if picture.width * picture.height > most_pixels:
        raise InputError(_too_many(most_pixels))
    try:
        picture.draft("RGB", (1024, 1024))  # of a large JPEG only what is needed is decoded
        picture.load()
        return to_rgb(ImageOps.exif_transpose(picture))
    except Exception:  # Pillow raises whatever a damaged file leads it to
        raise InputError("The picture is cut off or damaged, so it cannot be decoded: save it again.") from None


def shown_picture(content: bytes) -> tuple[bytes, str]:
    """A picture of a data set as it is shown: its own bytes if it is small, else a smaller WebP; and its type."""
    picture = Image.open(io.BytesIO(content))
    if max(picture.size) <= _SHOWN_SIDE and picture.format in ("PNG", "JPEG", "WEBP"):
        return content, Image.MIME[picture.format]
    picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    stream = io.BytesIO()
    to_rgb(ImageOps.exif_transpose(picture)).save(stream, "WEBP", quality=85)
    return stream.getvalue(), "image/webp"


def _too_many(most_pixels: int) -> str:
    return f"The picture has more than {most_pixels / 1e6:g} million pixels, the most that is taken: make it smaller."
