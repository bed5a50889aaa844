"""`stablerep finetune`: an encoder and labelled images to a classifier, or to adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..runs.fine_tuning import FineTuningRun, FineTuningSettings
from ..setting import setting
from ..training.recipes import FineTuningRecipe
from .parsing import Command, Extended
from .train import TRAINER_FLAGS, plan_of


@dataclass
class FineTuneFlags:
    """Flags of `stablerep finetune` beside the settings and arguments of its run."""

    output: str = setting("classifier", "Folder of the classifier; checkpoints are saved below it.")
    dry_run: bool = setting(False, "Check everything, say what would be done and written, and train nothing.")


def _arguments() -> type:
    from ..training import FineTuningArguments

    return FineTuningArguments


COMMAND = Command(
    "finetune",
    "Fine-tune an encoder on labelled images. The same command goes on after an interruption.",
    [
        FineTuneFlags,
        FineTuningSettings,
        Extended(FineTuningRecipe, _arguments, "transformers.TrainingArguments", TRAINER_FLAGS),
    ],
    {"ENCODER": "Folder or Hub id of an encoder, 'embedded' or 'embedded-stablerep'."},
    titles=("output", "data and what is trained", "training"),
)


def main(argv: Sequence[str]) -> None:
    """Check the data, parse, run, print the score."""
    COMMAND.check(argv, FineTuningSettings)
    flags, run = parse(argv)
    if flags.dry_run:
        print(plan_of(run))
        return
    run.run()
    if run.results:
        from ..evaluation import results_table

        print(results_table(run.results, measures_as_rows=True), end="")
    print(
        f"The classifier is in {flags.output}: "
        f"transformers.AutoModelForImageClassification.from_pretrained({flags.output!r})"
    )


def parse(argv: Sequence[str]) -> tuple[FineTuneFlags, FineTuningRun]:
    """Flags to a run.

    Raises:
        InputError: A flag is unknown or cannot work, no encoder is named, or the output folder holds something else.
    """
    encoder, flags, settings, arguments = COMMAND.parse(argv)
    return flags, FineTuningRun(encoder, flags.output, settings, arguments)
