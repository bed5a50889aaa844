"""`stablerep embed`: the features of a data set in a Parquet file."""

from __future__ import annotations

import glob
from collections.abc import Sequence

from ..runs.embedding import EmbeddingSettings, embed_dataset
from .parsing import Command
from .wording import PART_DONE

COMMAND = Command(
    "embed",
    "Write the features of every image to a Parquet file, with ids, captions and other small columns. Started again, "
    "it goes on.",
    [EmbeddingSettings],
    {"ENCODER": "Folder or Hub id of an encoder, 'embedded' or 'embedded-stablerep'."},
)


def main(argv: Sequence[str]) -> None:
    """Parse, write the file, say what is in it."""
    encoder, settings = COMMAND.parse(argv)
    found = embed_dataset(encoder, settings)
    if found is None:
        print(PART_DONE)
        return
    skipped = f", {found.skipped:,} images that cannot be decoded left out" if found.skipped else ""
    print(f"{found.path}: {found.count:,} x {found.dimensions}{skipped}")
    print(f"datasets.load_dataset('parquet', data_files={glob.escape(str(found.path))!r}, split='train')")
