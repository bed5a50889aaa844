"""`stablerep show`: how an image came to be, from its file or its row; or the captions that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..setting import setting
from .parsing import Command

_LISTED = 20


@dataclass
class ImageFlags:
    """Which image of a data set: of `stablerep show` and `stablerep regenerate`."""

    caption: str | None = setting(None, "Text of the image's caption.")
    caption_id: int | None = setting(None, "Or the caption's id.")
    image_index: int = setting(0, "Which of the caption's images, from 0.")


COMMAND = Command(
    "show",
    "Say how an image came to be: an image file, or the one of a data set that --caption and --image-index name. "
    "Without them, list the captions of a data set.",
    [ImageFlags],
    {"IMAGE|DIR": "Image file, or folder of a data set."},
)


def main(argv: Sequence[str]) -> None:
    """Parse and print."""
    name, flags = COMMAND.parse(argv)
    from ..synthesis.inspection import describe_file, describe_image, find_caption, list_captions

    if Path(name).is_dir() and flags.caption is None and flags.caption_id is None:
        captions = list_captions(name)
        for row in captions[:_LISTED]:
            print(f"{row.caption_id:>19}  {row.num_images:>3} images  {_printable(row.caption[:80])}")
        more = f", {_LISTED} of them above" if len(captions) > _LISTED else ""
        print(f"{len(captions):,} captions{more}: --caption TEXT --image-index K shows an image.")
        return
    if Path(name).is_dir():
        facts = describe_image(name, find_caption(name, flags.caption, flags.caption_id), flags.image_index)
    else:
        facts = describe_file(name)
    for key, value in facts.items():
        print(f"{key:<22} {_printable(str(value))}")


def _printable(text: str) -> str:
    """Text of a data set, with no character left that could steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
