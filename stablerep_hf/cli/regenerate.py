"""`stablerep regenerate`: one image of a data set drawn again, to see that it comes out the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .parsing import Command

if TYPE_CHECKING:
    from ..synthesis import RedrawnImage


@dataclass
class RegenerateCommand:
    """Flags of `stablerep regenerate`, beside the folder."""

    caption_id: int | None = field(default=None, metadata={"help": "Id of the caption whose image to draw."})
    image_index: int = field(default=0, metadata={"help": "Which of the caption's images, from 0."})
    generator: str | None = field(
        default=None, metadata={"help": "Where the pipeline is that drew the folder, if not on the Hub."}
    )
    lora: str | None = field(default=None, metadata={"help": "Where its LoRA is, if not on the Hub."})
    device: str | None = field(default=None, metadata={"help": "cuda, mps, cpu; the fastest there is if not given."})
    output: str | None = field(default=None, metadata={"help": "File for the image; none is written if not given."})


COMMAND = Command(
    "regenerate",
    "Draw the image of a data set that --caption-id and --image-index name again, and compare.",
    [RegenerateCommand],
    {"DIR": "Folder of a data set."},
)


def main(argv: Sequence[str]) -> None:
    """Parse, draw, say whether it is the same."""
    folder, command = COMMAND.parse(argv)
    redrawn = run(folder, command)
    if redrawn.is_same_file:
        print("The same: byte by byte.")
    elif redrawn.max_difference == 0:
        signed = " (the stored file is signed, and no two signatures are alike)" if redrawn.is_signed else ""
        print(f"The same: pixel by pixel{signed}.")
    elif redrawn.max_difference <= 2:
        print(f"The same up to rounding: pixels differ by at most {redrawn.max_difference} of 255.")
    else:
        print(f"Not the same: pixels differ by up to {redrawn.max_difference} of 255.")


def run(folder: str, command: RegenerateCommand) -> RedrawnImage:
    """Draw the image again, and write it if asked.

    Raises:
        InputError: There is no such row, the generator is not the one that drew it, or the output cannot be written.
    """
    from ..files.atomic import check_output_file, replacing
    from ..synthesis import find_row, generator_of, open_store, redraw_image

    if command.caption_id is None:
        raise InputError(f"{folder} has many images: say which one with --caption-id and --image-index.")
    if command.output is not None:
        check_output_file(Path(command.output))
    find_row(folder, command.caption_id, command.image_index)  # before a pipeline is loaded
    generator = generator_of(open_store(folder).plan, command.generator, command.lora, device=command.device)
    redrawn = redraw_image(folder, command.caption_id, command.image_index, generator)
    if command.output is not None:
        with replacing(Path(command.output)) as file:
            file.write(redrawn.encoded)
    return redrawn
