"""`stablerep regenerate`: one image of a data set drawn again, to see that it comes out the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..setting import setting
from .parsing import Command
from .show import ImageFlags


@dataclass
class RegenerateFlags:
    """Flags of `stablerep regenerate` beside those that name the image."""

    generator: str | None = setting(
        None, "Where the pipeline is that drew the folder, if not on the Hub, or the service."
    )
    lora: str | None = setting(None, "Where its LoRA is, if not on the Hub.")
    device: str | None = setting(None, "cuda, mps, cpu; the fastest there is if not given.")
    output: str | None = setting(None, "File for the image; none is written if not given.")


COMMAND = Command(
    "regenerate",
    "Draw the image of a data set that --caption and --image-index name again, and compare.",
    [ImageFlags, RegenerateFlags],
    {"DIR": "Folder of a data set."},
    titles=("the image", "drawing"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, draw, say whether it is the same, and write the image if asked."""
    folder, which, flags = COMMAND.parse(argv)
    from ..files.atomic import check_output_file, replacing
    from ..synthesis import find_row, generator_of, open_store, redraw_image
    from ..synthesis.inspection import find_caption

    if flags.output is not None:
        check_output_file(Path(flags.output))
    caption_id = find_caption(folder, which.caption, which.caption_id)
    find_row(folder, caption_id, which.image_index)  # before a pipeline is loaded
    generator = generator_of(open_store(folder).plan, flags.generator, flags.lora, device=flags.device)
    redrawn = redraw_image(folder, caption_id, which.image_index, generator)
    if flags.output is not None:
        with replacing(Path(flags.output), len(redrawn.encoded)) as file:
            file.write(redrawn.encoded)
    if redrawn.is_same_file:
        print("The same: byte by byte.")
    elif redrawn.max_difference == 0:
        signed = " (the stored file is signed, and no two signatures are alike)" if redrawn.is_signed else ""
        print(f"The same: pixel by pixel{signed}.")
    elif redrawn.max_difference <= 2:
        print(f"The same up to rounding: pixels differ by at most {redrawn.max_difference} of 255.")
    else:
        print(f"Not the same: pixels differ by up to {redrawn.max_difference} of 255.")
