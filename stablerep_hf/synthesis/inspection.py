"""What there is in a store, and how one image of it came to be."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..captions import caption_id as id_of
from ..errors import InputError
from .labelling import read_label
from .redrawing import find_row
from .signing import read_signature
from .verification import open_store

_SEARCHED = 20_000  # captions among which a mistyped one is looked for


@dataclass(frozen=True)
class ListedCaption:
    """One caption of a store: its id, how many images it is to have, its text."""

    caption_id: int
    num_images: int
    caption: str


def list_captions(folder: str | Path, number: int | None = None) -> list[ListedCaption]:
    """The first `number` captions of a store in its order, or all; `InputError` if the folder is no store."""
    plan = open_store(folder).plan
    captions = plan.captions if number is None else plan.captions.head(number)
    numbers = plan.num_images_of(captions).tolist()
    return [ListedCaption(*row) for row in zip(captions.caption_ids.tolist(), numbers, captions.captions, strict=True)]


def find_caption(folder: str | Path, caption: str | None = None, caption_id: int | None = None) -> int:
    """The id of a caption that is named by its text or by that id.

    Raises:
        InputError: The folder has no such caption, or not exactly one of the two is given.
    """
    if (caption is None) == (caption_id is None):
        raise InputError(
            f"{str(folder)!r} holds many images: name one by `caption` or `caption_id` and by `image_index`; "
            f"`stablerep show {folder}` lists the captions."
        )
    if caption is None:
        return int(caption_id or 0)
    captions = open_store(folder).plan.captions
    found = id_of(caption)
    if found not in captions.caption_ids:
        near = difflib.get_close_matches(caption, captions.head(_SEARCHED).captions, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"`stablerep show {folder}` lists them."
        raise InputError(f"{str(folder)!r} has no caption {caption!r} among its {len(captions):,}: {hint}")
    return found


def describe_file(path: str | Path) -> dict[str, Any]:
    """What the XMP and the signature of an image file say; `InputError` if it is no image, or says nothing."""
    return {**read_label(Path(path)), **_signature(Path(path))}


def describe_image(folder: str | Path, caption_id: int, image_index: int) -> dict[str, Any]:
    """What row, plan and signature say of one image of a store; `InputError` if there is no such image."""
    row = find_row(folder, caption_id, image_index)
    plan = open_store(folder).plan
    content = row["image"]["bytes"]
    return {
        **{key: value for key, value in row.items() if key != "image"},
        "file": f"{row['image']['path']}, {len(content):,} bytes",
        "DigitalSourceType": read_label(content).get("DigitalSourceType"),
        **{f"generator.{key}": value for key, value in plan.generator.items() if key not in row},
        "plan": plan.hash,
        **_signature(content),
    }


def _signature(image: bytes | Path) -> dict[str, str]:
    try:
        signature = read_signature(image)
    except InputError as error:  # without the package that reads it, everything else can still be shown
        return {"C2PA": str(error)}
    if signature is None:
        return {"C2PA": "not signed"}
    return {f"C2PA.{key}": value for key, value in signature.items()}
