"""Score columns of a data set that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..files.locks import lock_folder
from ..synthesis.provenance import read_provenance
from ..synthesis.scorers import load_scorers
from ..synthesis.scoring import ScoringSummary, score_store
from ..synthesis.settings import ScoringSettings
from ..synthesis.verification import open_store
from ..synthesis.workers import find_device, rank_and_world_size
from .cards import renew_data_card


@dataclass(frozen=True)
class UnscoredImages:
    """Images of a folder that lack scores.

    Attributes:
        number: How many.
        columns: The scores that the folder has or had.
    """

    number: int
    columns: tuple[str, ...]


def score(
    folder: str, settings: ScoringSettings, *, device: str | None = None, progress: bool = True
) -> ScoringSummary:
    """Measure a drawn data set, and write its card again once all of it is measured.

    The processes of a launcher share the shards by rank.

    Args:
        folder: The data set.
        settings: What measures.
        device: cuda, mps or cpu; the fastest there is if not given.
        progress: Whether to show a bar.

    Raises:
        InputError: Nothing is to be measured, a model cannot be loaded, the folder is not whole, or another
            process writes to it.
    """
    if not (settings.alignment_model or settings.nsfw_model or settings.diversity_encoder):
        raise InputError("Nothing is to be scored: give `alignment_model`, `nsfw_model` or `diversity_encoder`.")
    open_store(folder)  # before models are loaded
    rank, world_size = rank_and_world_size()
    with lock_folder(folder, shared=world_size > 1):
        summary = score_store(
            folder, load_scorers(settings, find_device(device)), progress=progress, rank=rank, world_size=world_size
        )
        if summary.is_complete:
            renew_data_card(folder)
    return summary


def find_unscored(folder: str, columns: Sequence[str]) -> UnscoredImages:
    """Count the images that lack a score that a folder had, of these columns, or that other images of it have."""
    provenance = read_provenance(folder)
    wanted = sorted({*columns, *(column for record in provenance.shards for column in record.get("scores", {}))})
    return UnscoredImages(provenance.num_unscored(wanted), tuple(wanted))
