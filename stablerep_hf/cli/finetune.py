"""`stablerep finetune`: an encoder and labelled images to a classifier, or adapters, or an encoder for retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..runs.fine_tuning import ADAPTER as ADAPTER, RECORD as RECORD, FineTuneCommand as FineTuneCommand, run as run
from ..training.recipes import FineTuningRecipe
from .parsing import Command, Extended
from .train import TRAINER_FLAGS

if TYPE_CHECKING:
    from ..training import FineTuningArguments


def _arguments() -> type:
    from ..training import FineTuningArguments

    return FineTuningArguments


COMMAND = Command(
    "finetune",
    "Fine-tune an encoder on labelled images. The same command goes on after an interruption.",
    [FineTuneCommand, Extended(FineTuningRecipe, _arguments, "transformers.TrainingArguments", TRAINER_FLAGS)],
    {"ENCODER": "Folder or Hub id of an encoder, 'embedded' or 'embedded-stablerep'."},
    titles=("data, encoder and output", "training"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, run, print the score."""
    encoder, command, arguments = parse(argv)
    from ..evaluation import results_table

    results = run(encoder, command, arguments)
    if results:
        print(results_table(results, measures_as_rows=True), end="")
    print(
        f"The classifier stands in {command.output}: "
        f"transformers.AutoModelForImageClassification.from_pretrained({command.output!r})"
    )


def parse(argv: Sequence[str]) -> tuple[str, FineTuneCommand, FineTuningArguments]:
    """Flags to the encoder's name, the command and the arguments of its training.

    Raises:
        InputError: A flag is unknown or cannot work, or no encoder is named.
    """
    encoder, command, arguments = COMMAND.parse(argv)
    from .. import assets
    from ..runs.record import place_training
    from ..training.fine_tuning import LEARNING_RATES

    if arguments.learning_rate is None:
        arguments.learning_rate = LEARNING_RATES[command.mode]
    place_training(arguments, command.output)
    encoder = assets.find_encoder(encoder)  # adapters name a path that can be loaded
    return encoder, command, arguments
