"""`stablerep score`: score columns of a data set that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..synthesis import Scorer, ScoringSummary


@dataclass
class ScoringModels:
    """Flags that name what measures images: of `stablerep score`, and of `stablerep generate`."""

    alignment_model: str | None = field(
        default=None, metadata={"help": "CLIP-like model for the column alignment: Hub id or folder."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Tokenizer of the alignment model, where it has none itself."}
    )
    image_processor: str | None = field(
        default=None, metadata={"help": "Image processor of the alignment model, where it has none itself."}
    )
    nsfw_model: str | None = field(default=None, metadata={"help": "Image classifier for the column nsfw."})
    nsfw_labels: list[str] = field(
        default_factory=lambda: ["nsfw"], metadata={"help": "Labels of that classifier that mean unsafe."}
    )
    diversity_encoder: str | None = field(
        default=None, metadata={"help": "Vision encoder for the column diversity (Vendi score of siblings)."}
    )


@dataclass
class ScoreCommand:
    """Flags of `stablerep score`, beside the folder and `ScoringModels`."""

    device: str | None = field(default=None, metadata={"help": "cuda, mps, cpu; the fastest there is if not given."})


def run(folder: str, models: ScoringModels, command: ScoreCommand) -> ScoringSummary:
    """Load what measures, and score.

    Raises:
        InputError: Nothing is to be measured, a model cannot be loaded, or the folder is not whole.
    """
    from ..synthesis import open_store, score_store
    from . import cards

    if not (models.alignment_model or models.nsfw_model or models.diversity_encoder):
        raise InputError("Nothing is to be scored: give --alignment-model, --nsfw-model or --diversity-encoder.")
    open_store(folder)  # before models are loaded
    summary = score_store(folder, load_scorers(models, command.device))
    cards.renew_data_card(folder)
    return summary


def say_unscored(folder: str, columns: Sequence[str]) -> None:
    """Print how many images lack a score that a folder had, of these columns or of others that it has now."""
    from ..synthesis import read_provenance

    provenance = read_provenance(folder)
    wanted = sorted({*columns, *(column for record in provenance.shards for column in record.get("scores", {}))})
    if number := provenance.num_unscored(wanted):
        print(
            f"{number:,} images lack scores that the folder has or had ({', '.join(wanted)}): "
            f"`stablerep score {folder}` measures them."
        )


def load_scorers(models: ScoringModels, device: str | None) -> list[Scorer]:
    """Load what the flags name; nothing if they name nothing.

    Raises:
        InputError: A model cannot be loaded.
    """
    from ..synthesis import AlignmentScorer, DiversityScorer, UnsafeScorer

    scorers: list[Scorer] = []
    if models.alignment_model:
        scorers.append(
            AlignmentScorer(
                models.alignment_model,
                tokenizer=models.tokenizer,
                image_processor=models.image_processor,
                device=device,
            )
        )
    if models.nsfw_model:
        scorers.append(UnsafeScorer(models.nsfw_model, models.nsfw_labels, device=device))
    if models.diversity_encoder:
        scorers.append(DiversityScorer(models.diversity_encoder, device=device))
    return scorers
