"""`stablerep score`: score columns of a data set that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..synthesis import ScoringSummary
    from ..synthesis.scoring import Scorer


@dataclass
class ScoreCommand:
    """Flags of `stablerep score`, beside the folder."""

    alignment_model: str | None = field(
        default=None, metadata={"help": "CLIP-like model for the column alignment: Hub id or folder."}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Of the alignment model, where it has none itself."})
    image_processor: str | None = field(default=None, metadata={"help": "Likewise."})
    nsfw_model: str | None = field(default=None, metadata={"help": "Image classifier for the column nsfw."})
    nsfw_labels: list[str] = field(default_factory=lambda: ["nsfw"], metadata={"help": "Its labels that mean unsafe."})
    diversity_encoder: str | None = field(
        default=None, metadata={"help": "Vision encoder for the column diversity (Vendi score of siblings)."}
    )
    device: str | None = field(default=None, metadata={"help": "The fastest there is if not given."})


def main(argv: Sequence[str]) -> None:
    """Parse, score, print the means."""
    from .parsing import one_name, parse_command

    folder, flags = one_name(argv, "the folder of a data set")
    (command,) = parse_command(
        [ScoreCommand],
        flags,
        name="score",
        description="stablerep score DIR [options]: measure alignment, nsfw and diversity of every image.",
    )
    summary = run(folder, command)
    print(f"{summary.num_images:,} images scored, {summary.num_kept:,} had these scores.")
    for column, mean in summary.means.items():
        print(f"{column:<10} {mean:.4f} on average")


def run(folder: str, command: ScoreCommand) -> ScoringSummary:
    """Load what measures, and score.

    Raises:
        InputError: Nothing is to be measured, a model cannot be loaded, or the folder is not whole.
    """
    from ..synthesis import AlignmentScorer, DiversityScorer, UnsafeScorer, open_store, score_store
    from . import facts

    if not (command.alignment_model or command.nsfw_model or command.diversity_encoder):
        raise InputError("Nothing is to be scored: give --alignment-model, --nsfw-model or --diversity-encoder.")
    open_store(folder)  # before models are loaded
    scorers: list[Scorer] = []
    if command.alignment_model:
        scorers.append(
            AlignmentScorer(
                command.alignment_model,
                tokenizer=command.tokenizer,
                image_processor=command.image_processor,
                device=command.device,
            )
        )
    if command.nsfw_model:
        scorers.append(UnsafeScorer(command.nsfw_model, command.nsfw_labels, device=command.device))
    if command.diversity_encoder:
        scorers.append(DiversityScorer(command.diversity_encoder, device=command.device))
    summary = score_store(folder, scorers)
    facts.mark_content(folder)
    return summary
