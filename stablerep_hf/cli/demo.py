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


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    from .parsing import parse_command

    (command,) = parse_command(
        [DemoCommand],
        argv,
        name="demo",
        description="Draw images of captions, train on them, measure on real pictograms. Started again, it goes on.",
    )
    run(command)
