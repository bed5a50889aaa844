"""`stablerep score`: score columns of a data set that is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.scoring import (
    ScoreCommand as ScoreCommand,
    ScoringModels as ScoringModels,
    load_scorers as load_scorers,
    run as run,
    say_unscored as say_unscored,
)
from .parsing import Command

COMMAND = Command(
    "score",
    "Measure alignment, nsfw and diversity of every image of a data set.",
    [ScoreCommand, ScoringModels],
    {"DIR": "Folder of a data set."},
    titles=("options", "models that score"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, score, print the means."""
    folder, command, models = COMMAND.parse(argv)
    summary = run(folder, models, command)
    print(f"{summary.num_images:,} images scored, {summary.num_kept:,} had these scores.")
    for column, mean in summary.means.items():
        print(f"{column:<10} {mean:.4f} on average")
