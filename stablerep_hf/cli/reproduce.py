"""`stablerep reproduce`: the paper's claims, tested in small on what ships in the package."""

from __future__ import annotations

from collections.abc import Sequence

from ..reproduction.study import (
    RECORDS as RECORDS,
    ReproduceCommand as ReproduceCommand,
    run as run,
    scale_of as scale_of,
    tasks as tasks,
)
from .parsing import Command

COMMAND = Command(
    "reproduce",
    "Train and measure what the paper's claims compare, at equal steps of batches of equal size, and judge them. "
    "Interrupt it whenever you like: the same command goes on.",
    [ReproduceCommand],
)


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    (command,) = COMMAND.parse(argv)
    report = run(command)
    print(f"The report stands in {report}")
