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
from ..training.presets import presets
from ..training.recipes import PretrainingRecipe
from .parsing import Command, Extended

if TYPE_CHECKING:
    from ..training import StableRepTrainingArguments


def _arguments() -> type:
    from ..training import StableRepTrainingArguments

    return StableRepTrainingArguments


TRAINER_FLAGS = ("num_train_epochs", "max_steps", "warmup_steps", "seed", "bf16", "save_steps", "push_to_hub")
COMMAND = Command(
    "train",
    "Train an encoder on caption-grouped images. The same command goes on after an interruption. --config takes the "
    f"name of a preset, too: {', '.join(presets())}.",
    [TrainCommand, Extended(PretrainingRecipe, _arguments, "transformers.TrainingArguments", TRAINER_FLAGS)],
    titles=("data, encoder and output", "training"),
)


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
    command, arguments = COMMAND.parse(argv)
    from ..runs.record import place_training

    place_training(arguments, command.output)
    return command, arguments
