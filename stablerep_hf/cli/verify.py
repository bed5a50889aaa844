"""`stablerep verify`: is a data set folder what its plan says?"""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.verification import VerifyCommand as VerifyCommand, run as run
from .generate import SigningFlags
from .parsing import Command

COMMAND = Command(
    "verify",
    "Check every file, row and image of a data set against its plan.",
    [VerifyCommand, SigningFlags],
    {"DIR": "Folder of a data set."},
    titles=("checks and repair", "signing of repaired images"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, verify, and repair if asked."""
    folder, command, signing = COMMAND.parse(argv)
    run(folder, command, signing)
