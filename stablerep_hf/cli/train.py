"""`stablerep train`: a caption-grouped data set to an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..runs.training import (
    PRETRAINING as PRETRAINING,
    RECORD as RECORD,
    TrainCommand as TrainCommand,
    build_model as build_model,
    run as run,
)

if TYPE_CHECKING:
    from ..training import StableRepTrainingArguments


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    command, arguments = parse(argv)
    run(command, arguments)
    print(f"The encoder stands in {command.output}: transformers.AutoModel.from_pretrained({command.output!r})")


def parse(argv: Sequence[str]) -> tuple[TrainCommand, StableRepTrainingArguments]:
    """Flags to the command and the arguments of its training.

    Raises:
        InputError: A flag is unknown or cannot work.
    """
    from ..runs.record import place_training
    from ..training import StableRepTrainingArguments
    from ..training.presets import presets
    from .parsing import parse_command

    command, arguments = parse_command(
        [TrainCommand, StableRepTrainingArguments],
        argv,
        name="train",
        description="Train an encoder on caption-grouped images. The same command goes on after an interruption. "
        f"--config takes the name of a preset, too: {', '.join(presets())}.",
    )
    place_training(arguments, command.output)
    return command, arguments
