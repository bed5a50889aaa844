"""`stablerep compare`: speed, alignment and diversity of several data sets in one table and one plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .parsing import Command


@dataclass
class CompareCommand:
    """Flags of `stablerep compare`, beside the folders."""

    output: str | None = field(default=None, metadata={"help": "PNG of the plot; the table stands beside it as .md."})


COMMAND = Command(
    "compare",
    "Compare data sets: what a setting gains in speed and costs in diversity.",
    [CompareCommand],
    {"DIR...": "Folders of two data sets or more."},
)


def main(argv: Sequence[str]) -> None:
    """Parse, compare, print the table."""
    folders, command = COMMAND.parse(argv)
    print(run(folders, command), end="")


def run(folders: Sequence[str], command: CompareCommand) -> str:
    """Compare, and write table and plot if asked.

    Returns:
        The table, Markdown.

    Raises:
        InputError: Fewer than two folders, one that is not drawn (or, for the plot, not scored) or is damaged, or an
            output that cannot be written.
    """
    from ..files.atomic import check_output_file, replacing
    from ..synthesis.comparison import compare_folders, comparison_table, plot_comparison

    if len(folders) < 2:
        raise InputError(f"{len(folders)} folders were named: give two or more to compare.")
    plot = None if command.output is None else Path(command.output)
    if plot is not None:
        if plot.suffix.lower() == ".md":
            raise InputError(
                f"The output {command.output!r} is where the table goes; name the plot, such as plot.png."
            )
        for path in (plot, plot.with_suffix(".md")):
            check_output_file(path)
    measures = compare_folders(folders)
    table = comparison_table(measures)
    if plot is not None:
        with replacing(plot) as file:
            plot_comparison(measures, file)
        with replacing(plot.with_suffix(".md")) as file:
            file.write(table.encode())
    return table
