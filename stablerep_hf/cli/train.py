"""`stablerep train`: a caption-grouped data set to an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..runs.training import TrainingRun, TrainingSettings
from ..setting import setting
from ..training.presets import presets
from ..training.recipes import PretrainingRecipe
from .parsing import Command, Extended

if TYPE_CHECKING:
    from ..runs.image_run import ImageTrainingRun


@dataclass
class TrainFlags:
    """Flags of `stablerep train` beside the settings and arguments of its run."""

    output: str = setting("encoder", "Folder of the encoder; checkpoints are saved below it.")
    dry_run: bool = setting(False, "Check everything, say what would be done and written, and train nothing.")


def _arguments() -> type:
    from ..training import StableRepTrainingArguments

    return StableRepTrainingArguments


TRAINER_FLAGS = ("num_train_epochs", "max_steps", "warmup_steps", "seed", "bf16", "save_steps", "push_to_hub")
COMMAND = Command(
    "train",
    "Train an encoder on caption-grouped images. The same command goes on after an interruption. --config takes the "
    f"name of a preset, too: {', '.join(presets())}.",
    [
        TrainFlags,
        TrainingSettings,
        Extended(PretrainingRecipe, _arguments, "transformers.TrainingArguments", TRAINER_FLAGS),
    ],
    titles=("output", "model and data", "training"),
)


def main(argv: Sequence[str]) -> None:
    """Check the data, parse and run."""
    COMMAND.check(argv, TrainingSettings)
    flags, run = parse(argv)
    if flags.dry_run:
        print(plan_of(run))
        return
    run.run()
    print(f"The encoder is in {flags.output}: transformers.AutoModel.from_pretrained({flags.output!r})")


def parse(argv: Sequence[str]) -> tuple[TrainFlags, TrainingRun]:
    """Flags to a run.

    Raises:
        InputError: A flag is unknown or cannot work, or the output folder holds something else.
    """
    flags, settings, arguments = COMMAND.parse(argv)
    return flags, TrainingRun(flags.output, settings, arguments)


def plan_of(run: ImageTrainingRun) -> str:
    """What a run would do and write, in lines."""
    from ..runs.room import num_steps, size
    from ..training.memory import device_memory, ways

    if run.record.get("finished"):
        return f"The run in {run.output} has finished: there is nothing left to do."
    run.prepare()
    trainer, room = run.trainer, run.room
    steps, views = num_steps(trainer), trainer.views_per_batch
    lines = [
        f"data        {trainer.train_dataset.num_images:,} images in {len(trainer.train_dataset):,} groups",
        f"training    {steps:,} steps of {views:,} images, {steps * views:,} in all",
        f"learning    {trainer.args.learning_rate:.4g} at the peak",
        f"checkpoints {room.checkpoints:,} of {size(room.checkpoint)} at once",
        f"disk        {size(room.wanted)} to write, {size(room.free)} free",
    ]
    capacity = device_memory(trainer.args.device)
    for argument, memory in ways(trainer).items():
        parts = ", ".join(f"{size(getattr(memory, part))} {part}" for part in ("weights", "optimizer", "step"))
        beginning = f"{'':11} with --{argument.replace('=', ' ').lower()}," if argument else f"{'memory':11}"
        fits = "" if capacity is None else f": {'fits' if memory.peak <= capacity else 'more than'} {size(capacity)}"
        lines.append(f"{beginning} {size(memory.peak)} at the peak ({parts}){fits}")
    return "\n".join(lines)
