"""One cell of an image column: its bytes, and the one way from bytes to pixels."""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Mapping
from enum import IntEnum
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import InputError

logger = logging.getLogger(__name__)
_ON_HUB = re.compile(r"hf://datasets/[^:]+")
IN_ARCHIVE = r"^zip://[^:]*::"  # how `datasets` names a file in a zip archive: before the path of the archive


class TiffTags(IntEnum):
    """Tags of a TIFF file that say what its numbers mean."""

    BITS = 258
    SMIN = 340
    SMAX = 341


def read_content(stored: Mapping[str, Any]) -> bytes:
    """Read the file behind one cell of an image column.

    Args:
        stored: As `datasets.Image(decode=False)` gives it: `bytes`, or if they are None the `path` of a file of this
            machine or of a zip archive on it, or of a data set on the Hub, as streams of image folders name theirs.

    Raises:
        ValueError: Neither is there, or the path is another address; nothing else is fetched.
        OSError: The file cannot be read; zipfile.BadZipFile and KeyError of an archive.
    """
    if stored["bytes"] is not None:
        return bytes(stored["bytes"])
    if stored["path"] is None:
        raise ValueError("neither the bytes of an image nor a file of its data set")
    path = str(stored["path"])
    place = re.sub(IN_ARCHIVE, "", path)
    if place == path and _ON_HUB.fullmatch(path):
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return bytes(file.read())
    if "://" in place or "::" in place:
        raise ValueError(f"{path[:100]!r} is an address and no file; images are not fetched one by one")
    if place == path:
        return Path(path).read_bytes()
    with ZipFile(place) as archive:
        return archive.read(path.removeprefix("zip://").removesuffix(f"::{place}"))


def decode_image(stored: Mapping[str, Any]) -> Image.Image:
    """Decode one cell of an image column: the one way from bytes to pixels.

    Args:
        stored: As for `read_content`.

    Returns:
        RGB, turned as its EXIF orientation says, converted by `to_rgb`.

    Raises:
        Exception: As `read_content` and `to_rgb`, or whatever Pillow raises for bytes that are no image.
    """
    know_heif()
    with Image.open(BytesIO(read_content(stored))) as picture:
        picture.load()
        rgb = to_rgb(picture)
        if orientation := picture.getexif().get(ExifTags.Base.Orientation):
            rgb.getexif()[ExifTags.Base.Orientation] = orientation
            rgb = ImageOps.exif_transpose(rgb)
    return rgb


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB, transparent parts on white.

    Where an icon is transparent its colours are whatever its maker left there, mostly black under black lines. Numbers
    of more than 8 bits are scaled by the range that their mode or file has, which Pillow's `convert` cuts off instead.
    White is 65,535 in a PNG of 16 bits, also where all its values are below 256: the PNG specification says so, and
    a range of its own for each picture would make a night as bright as a day. Such a picture comes out nearly black,
    which is warned of once a process.

    Raises:
        InputError: nothing says what is white in it, as in most pictures of floats.
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        picture = _in_eight_bits(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")


@functools.cache
def know_heif() -> None:
    """Let Pillow open HEIC where `pillow_heif` is installed."""
    if find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    low, high = _range(picture)
    values = np.asarray(picture).astype(np.float64)
    if low == 0 and high > 255 and 0 < values.max() <= 255:
        _warn_of_low_bits(int(high))
    grey = np.rint(255 * ((values - low) / (high - low)).clip(0, 1))
    transparent = picture.info.get("transparency")  # of a PNG: one value that shows the ground
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))


@functools.cache
def _warn_of_low_bits(white: int) -> None:
    logger.warning(
        "A picture of more than 8 bits a channel uses only the values up to 255, while white is %d, so it is read as "
        "nearly black: if 255 is meant as white, save it with 8 bits. Others like it are not reported.",
        white,
    )


def _range(picture: Image.Image) -> tuple[float, float]:
    """The numbers that are black and white."""
    tags = getattr(picture, "tag_v2", {})  # of TIFF
    if TiffTags.SMIN in tags and TiffTags.SMAX in tags:
        low, high = (float(np.min(tags[tag])) for tag in (TiffTags.SMIN, TiffTags.SMAX))
        if low < high:
            return low, high
    bits = int(np.max(tags.get(TiffTags.BITS, 16)))
    if picture.mode.startswith("I;16"):
        return 0, 2**bits - 1
    if picture.mode == "I" and (picture.format in ("PNG", "PPM") or (tags and bits == 16)):
        # Pillow opens 16 bits so, where it knows no narrower mode: signed ones from TIFF
        return (-(2**15), 2**15 - 1) if tags else (0, 2**16 - 1)
    raise InputError(
        f"A picture of mode {picture.mode!r} has no range that says what is white: save it with 8 or 16 bits a "
        "channel."
    )
