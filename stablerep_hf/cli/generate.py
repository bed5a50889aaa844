"""`stablerep generate`: captions to a caption-grouped data set."""

from __future__ import annotations

from collections.abc import Sequence

from ..assets import EMBEDDED
from ..runs.generation import (
    RELEASE_DEFAULTS as RELEASE_DEFAULTS,
    GenerateCommand as GenerateCommand,
    SigningFlags as SigningFlags,
    _rank_and_world_size as _rank_and_world_size,
    dry_run as dry_run,
    open_signer as open_signer,
    plan_and_generator as plan_and_generator,
    run as run,
)
from .parsing import Command
from .score import ScoringModels

COMMAND = Command(
    "generate",
    "Draw several images of each caption into a data set.",
    [GenerateCommand, ScoringModels, SigningFlags],
    titles=("captions, generator and output", "models that score", "signing"),
)


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    command, models, signing = COMMAND.parse(argv)
    if command.generator == EMBEDDED:
        print(
            "The embedded generator draws: small pictograms, to try the way out; --generator names any text-to-image "
            "pipeline of diffusers instead, such as stable-diffusion-v1-5/stable-diffusion-v1-5."
        )
    if command.dry_run:
        print(dry_run(command, signing))
        return
    summary = run(command, models, signing)
    if summary.num_truncated:
        print(f"{summary.num_truncated:,} prompts were longer than the text encoder reads: their ends were cut.")
    what = "The data set stands" if _rank_and_world_size()[1] == 1 else "This worker's part of the data set stands"
    print(f"{what} in {command.output}: datasets.load_dataset({command.output!r})")
