"""`stablerep adapt-generator`: a text-to-image pipeline and a few captioned images to a LoRA of their domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError
from .generate import EMBEDDED

if TYPE_CHECKING:
    from ..synthesis.adaptation import AdaptationSettings


@dataclass
class AdaptCommand:
    """Flags of `stablerep adapt-generator`, beside those of `AdaptationSettings`."""

    data: str = field(default="captioned-images", metadata={"help": "Captioned images: a folder or a Hub id."})
    split: str = field(default="train", metadata={"help": "Of the data set."})
    image_column: str = field(default="image", metadata={"help": "The pictures."})
    caption_column: str = field(default="caption", metadata={"help": "One text an image."})
    prompt_template: str = field(
        default="{caption}",
        metadata={"help": "What is asked for an image, such as '{caption}, my style'; ask so afterwards."},
    )
    generator: str = field(
        default=EMBEDDED, metadata={"help": "Hub id or folder of a Stable Diffusion pipeline (1, 2, XL, 3)."}
    )
    revision: str | None = field(default=None, metadata={"help": "Of a generator on the Hub."})
    size: int | None = field(default=None, metadata={"help": "Edge of the images in pixels; the pipeline's own."})
    mixed_precision: Literal["no", "fp16", "bf16"] = field(
        default="no", metadata={"help": "Of the frozen weights and the forward pass; bf16 for a GPU."}
    )
    output: str = field(default="lora", metadata={"help": "Folder of the LoRA; the same command goes on with it."})
    license: str = field(default="unknown", metadata={"help": "Of the LoRA, for the card: a Hub licence id."})


def main(argv: Sequence[str]) -> None:
    """Parse, run, say how to draw with it."""
    from ..synthesis.adaptation import AdaptationSettings
    from .parsing import parse_command

    command, settings = parse_command(
        [AdaptCommand, AdaptationSettings],
        argv,
        name="adapt-generator",
        description="Adapt a text-to-image pipeline to captioned images of yours by a LoRA. The same command goes on "
        "after an interruption.",
    )
    run(command, settings)
    print(
        f"The LoRA stands in {command.output}: stablerep generate --generator {command.generator} "
        f"--lora {command.output} --prompt_template {command.prompt_template!r}"
    )


def run(command: AdaptCommand, settings: AdaptationSettings) -> list[float]:
    """Train the adapters and write their card.

    Returns:
        The loss of each step.

    Raises:
        InputError: Data, pipeline or settings cannot serve.
    """
    from PIL import Image

    from ..synthesis.adaptation import adapt_generator
    from ..synthesis.atomic import explaining
    from .extras import require
    from .facts import check_license, write_lora_card
    from .loading import load_images

    require("A LoRA", "lora", "peft")
    check_license(command.license)
    if "{caption}" not in command.prompt_template:
        raise InputError(
            f"--prompt_template {command.prompt_template!r} leaves the caption out: write {{caption}} where it goes."
        )
    dataset = load_images(command.data, command.split)
    for column in (command.image_column, command.caption_column):
        if column not in dataset.column_names:
            raise InputError(
                f"--data {command.data} has the columns {dataset.column_names} but no {column!r}: name them with "
                "--image_column and --caption_column."
            )
    images, captions = dataset[command.image_column][:], dataset[command.caption_column][:]
    for column, flag, values, kind, what in (
        (command.image_column, "--image_column", images, Image.Image, "picture"),
        (command.caption_column, "--caption_column", captions, str, "caption"),
    ):
        if missing := sum(value is None or value == "" for value in values):
            raise InputError(f"{missing} of {len(values)} rows have no {what}: complete them or leave them out.")
        if values and not isinstance(values[0], kind):
            raise InputError(
                f"The column {column!r} of --data {command.data} holds {values[0]!r:.40}, no {what}: name another by "
                f"{flag}."
            )
    with explaining(Path(command.output)):
        losses = adapt_generator(
            command.generator,
            images,
            [command.prompt_template.replace("{caption}", caption) for caption in captions],
            command.output,
            settings,
            revision=command.revision,
            size=command.size,
            mixed_precision=command.mixed_precision,
        )
        if losses or not (Path(command.output) / "README.md").exists():
            write_lora_card(command, settings, dataset)
    return losses
