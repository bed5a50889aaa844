"""`stablerep reproduce`: the paper's claims, tested in a world: the one that ships, or a YAML file."""

from __future__ import annotations

from collections.abc import Sequence

from ..reproduction.study import StudySettings, run_study
from .parsing import Command

COMMAND = Command(
    "reproduce",
    "Train and measure what the paper's claims compare, at equal steps of batches of equal size, and judge them. "
    "Interrupt it whenever you like: the same command goes on.",
    [StudySettings],
)


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    (settings,) = COMMAND.parse(argv)
    report = run_study(settings)
    if not settings.dry_run:
        print(f"The report is in {report}")
