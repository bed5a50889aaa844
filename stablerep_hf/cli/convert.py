"""`stablerep convert`: checkpoints of the release, of timm and of transformers into one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..runs.conversion import ConvertCommand as ConvertCommand, Format as Format, run as run
from .parsing import Command

COMMAND = Command(
    "convert",
    "Convert a checkpoint of the release (.pth), of this project, of transformers or of timm.",
    [ConvertCommand],
    {
        "CHECKPOINT": "A .pth of the release, or a folder or Hub id of a transformers or timm Vision Transformer.",
        "DIR": "Folder to write.",
    },
)


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    source, output, command = COMMAND.parse(argv)
    run(source, Path(output), command)
