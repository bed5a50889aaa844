"""`stablerep export`: a finished data set as large parquet shards or WebDataset tars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..setting import setting
from .parsing import Command


@dataclass
class ExportFlags:
    """Flags of `stablerep export`, beside the folder."""

    format: Literal["parquet", "webdataset"] = setting("parquet", "Format to write.")
    shard_megabytes: int = setting(500, "About how large the files are to be.")
    output: str = setting("export", "A folder that is empty, does not exist, or holds a part of this export.")


COMMAND = Command(
    "export",
    "Write a finished data set as large parquet shards for the Hub, or as WebDataset tars.",
    [ExportFlags],
    {"DIR": "Folder of a data set."},
)


def main(argv: Sequence[str]) -> None:
    """Parse, write, say what was written."""
    folder, flags = COMMAND.parse(argv)
    from ..synthesis import export_parquet, export_webdataset

    write = export_parquet if flags.format == "parquet" else export_webdataset
    for path in write(folder, flags.output, shard_bytes=flags.shard_megabytes * 1_000_000):
        print(f"{path.stat().st_size:>14,}  {path}")
