"""`stablerep show`: how an image came to be, from its file or its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from .parsing import Command


@dataclass
class ShowCommand:
    """Flags of `stablerep show`, beside the image file or the folder of a data set."""

    caption_id: int | None = field(default=None, metadata={"help": "In a folder: id of the caption."})
    image_index: int = field(default=0, metadata={"help": "In a folder: which of the caption's images, from 0."})


COMMAND = Command(
    "show",
    "Say how an image came to be: an image file, or the one in a data set that --caption-id and --image-index name.",
    [ShowCommand],
    {"IMAGE|DIR": "Image file, or folder of a data set."},
)


def main(argv: Sequence[str]) -> None:
    """Parse and print."""
    name, command = COMMAND.parse(argv)
    for key, value in run(name, command).items():
        print(f"{key:<22} {value}")


def run(name: str, command: ShowCommand) -> dict[str, Any]:
    """What the file's XMP, or the row and the plan, say.

    Raises:
        InputError: There is no such image, or it says nothing.
    """
    from ..synthesis import find_row, open_store, read_label

    if not Path(name).is_dir():
        return {**read_label(Path(name)), **_signature(Path(name))}
    if command.caption_id is None:
        raise InputError(f"{name} is a folder with many images: say which one with --caption-id and --image-index.")
    row = find_row(name, command.caption_id, command.image_index)
    plan = open_store(name).plan
    label = read_label(row["image"]["bytes"])
    return {
        **{key: value for key, value in row.items() if key != "image"},
        "file": f"{row['image']['path']}, {len(row['image']['bytes']):,} bytes",
        "DigitalSourceType": label.get("DigitalSourceType"),
        **{f"generator.{key}": value for key, value in plan.generator.items() if key not in row},
        "plan": plan.hash,
        **_signature(row["image"]["bytes"]),
    }


def _signature(image: bytes | Path) -> dict[str, str]:
    from ..synthesis import read_signature

    try:
        signature = read_signature(image)
    except InputError as error:  # without the package that reads it, all else can still be shown
        return {"C2PA": str(error)}
    if signature is None:
        return {"C2PA": "not signed"}
    return {f"C2PA.{key}": value for key, value in signature.items()}
