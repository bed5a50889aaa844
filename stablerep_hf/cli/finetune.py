"""`stablerep finetune`: an encoder and labelled images to a classifier, or adapters, or an encoder for retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..runs.fine_tuning import ADAPTER as ADAPTER, RECORD as RECORD, FineTuneCommand as FineTuneCommand, run as run

if TYPE_CHECKING:
    from ..training import FineTuningArguments


def main(argv: Sequence[str]) -> None:
    """Parse, run, print the score."""
    from ..evaluation import results_table

    encoder, command, arguments = parse(argv)
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
    from .. import assets
    from ..runs.record import place_training
    from ..training import FineTuningArguments
    from ..training.fine_tuning import LEARNING_RATES
    from .parsing import one_name, parse_command

    encoder, flags = one_name(argv, "the encoder's folder or Hub id, 'embedded' or 'embedded-stablerep'")
    command, arguments = parse_command(
        [FineTuneCommand, FineTuningArguments],
        flags,
        name="finetune ENCODER",
        description="Fine-tune an encoder on labelled images. The same command goes on after an interruption.",
    )
    if arguments.learning_rate is None:
        arguments.learning_rate = LEARNING_RATES[command.mode]
    place_training(arguments, command.output)
    encoder = assets.find_encoder(encoder)  # adapters name a path that can be loaded
    return encoder, command, arguments
