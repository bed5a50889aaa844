"""`stablerep convert`: checkpoints of the release, of timm and of transformers into one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..runs.conversion import ConvertCommand as ConvertCommand, Format as Format, run as run


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    from .parsing import parse_command

    if len(argv) >= 2 and not argv[0].startswith("-") and not argv[1].startswith("-"):
        source, output, *argv = argv
    elif not {"-h", "--help"} & set(argv):
        raise InputError(
            "Name the checkpoint and the folder to write: stablerep convert CHECKPOINT DIR; the checkpoint is a .pth "
            "of the release, or a folder or Hub id of a transformers or timm Vision Transformer."
        )
    (command,) = parse_command(
        [ConvertCommand],
        argv,
        name="convert CHECKPOINT DIR",
        description="Convert a checkpoint of the release (.pth), of this project, of transformers or of timm.",
    )
    run(source, Path(output), command)
