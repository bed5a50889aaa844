"""`stablerep demo`: the whole road on what ships in the package, in minutes on a laptop."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.demo import (
    PIXELS as PIXELS,
    PRESETS as PRESETS,
    UNTRAINED as UNTRAINED,
    DemoCommand as DemoCommand,
    run as run,
)
from .parsing import Command

COMMAND = Command(
    "demo",
    "Draw images of captions, train on them, measure on real pictograms. Started again, it goes on.",
    [DemoCommand],
)


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    (command,) = COMMAND.parse(argv)
    run(command)
