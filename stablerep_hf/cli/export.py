"""`stablerep export`: a finished data set as large parquet shards or WebDataset tars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .parsing import Command


@dataclass
class ExportCommand:
    """Flags of `stablerep export`, beside the folder."""

    format: Literal["parquet", "webdataset"] = field(default="parquet", metadata={"help": "Format to write."})
    shard_megabytes: int = field(default=500, metadata={"help": "About how large the files are to be."})
    output: str = field(default="export", metadata={"help": "A folder that is empty or does not exist."})


COMMAND = Command(
    "export",
    "Write a finished data set as large parquet shards for the Hub, or as WebDataset tars.",
    [ExportCommand],
    {"DIR": "Folder of a data set."},
)


def main(argv: Sequence[str]) -> None:
    """Parse, write, say what was written."""
    folder, command = COMMAND.parse(argv)
    for path in run(folder, command):
        print(f"{path.stat().st_size:>14,}  {path}")


def run(folder: str, command: ExportCommand) -> list[Path]:
    """Write the files.

    Raises:
        InputError: The folder is not whole, or the output holds something.
    """
    from ..synthesis import export_parquet, export_webdataset

    write = export_parquet if command.format == "parquet" else export_webdataset
    return write(folder, command.output, shard_bytes=command.shard_megabytes * 1_000_000)
