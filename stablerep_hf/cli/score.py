"""`stablerep score`: score columns of a data set that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..setting import setting
from ..synthesis.settings import ScoringSettings
from .parsing import Command

if TYPE_CHECKING:
    from ..runs.scoring import UnscoredImages


@dataclass
class ScoreFlags:
    """Flags of `stablerep score`, beside the folder and `ScoringSettings`."""

    device: str | None = setting(None, "cuda, mps, cpu; the fastest there is if not given.")


COMMAND = Command(
    "score",
    "Measure alignment, nsfw and diversity of every image of a data set.",
    [ScoreFlags, ScoringSettings],
    {"DIR": "Folder of a data set."},
    titles=("options", "models that score"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, score, print the means."""
    folder, flags, settings = COMMAND.parse(argv)
    from ..runs.scoring import score

    summary = score(folder, settings, device=flags.device)
    print(f"{summary.num_images:,} images scored, {summary.num_kept:,} had these scores.")
    if not summary.is_complete:
        print("This worker's part is scored; whoever scores the last shard writes the card.")
    for column, mean in summary.means.items():
        print(f"{column:<10} {mean:.4f} on average")


def print_missing_scores(folder: str, unscored: UnscoredImages) -> None:
    """Print how many images lack scores, if any do."""
    if unscored.number:
        print(
            f"{unscored.number:,} images lack scores that the folder has or had ({', '.join(unscored.columns)}): "
            f"`stablerep score {folder}` measures them."
        )
