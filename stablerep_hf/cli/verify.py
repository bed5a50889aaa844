"""`stablerep verify`: is a data set folder what its plan says?"""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.verification import VerifyCommand as VerifyCommand, run as run
from .generate import SigningFlags


def main(argv: Sequence[str]) -> None:
    """Parse, verify, and repair if asked."""
    from .parsing import one_name, parse_command

    folder, flags = one_name(argv, "the folder of a data set")
    command, signing = parse_command(
        [VerifyCommand, SigningFlags],
        flags,
        name="verify DIR",
        description="Check every file, row and image of a data set against its plan.",
    )
    run(folder, command, signing)
