"""`stablerep compare`: speed, alignment and diversity of several data sets in one table and one plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..setting import setting
from .parsing import Command


@dataclass
class CompareFlags:
    """Flags of `stablerep compare`, beside the folders."""

    output: str | None = setting(None, "PNG of the plot; the table is written beside it as .md.")


COMMAND = Command(
    "compare",
    "Compare data sets: what a setting gains in speed and costs in diversity.",
    [CompareFlags],
    {"DIR...": "Folders of two data sets or more."},
)


def main(argv: Sequence[str]) -> None:
    """Parse, compare, print the table."""
    folders, flags = COMMAND.parse(argv)
    from ..synthesis.comparison import write_comparison

    print(write_comparison(folders, flags.output), end="")
