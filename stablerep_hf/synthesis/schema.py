"""The columns of a row, and the parquet file they are in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, Value

_ROW_GROUP_BYTES = 64 * 2**20  # the Hub's viewer reads a row group at a time and gives up at 300 MB


def image_features() -> Features:
    """The columns of the data set: one row an image, the images of a caption one after another."""
    return Features(
        {
            "image": Image(),
            "caption": Value("string"),  # names the group; normalised
            "caption_id": Value("int64"),
            "image_index": Value("int32"),  # with caption_id the key of the row
            "seed": Value("int64"),
            "prompt": Value("string"),  # what the generator was given
            "generator": Value("string"),
            "generator_revision": Value("string"),
            "scheduler": Value("string"),
            "guidance_scale": Value("float32"),
            "num_inference_steps": Value("int32"),
            "generator_license": Value("string"),
            "redrawable": Value("bool"),  # whether prompt and seed give the same image again
            "library_versions": Value("string"),  # of what may change a pixel, when the row was drawn
            "is_blank": Value("bool"),  # one flat colour
            "perceptual_hash": Value("int64"),  # 64 bits; near duplicates differ in few
            # Null until `stablerep score` measures them.
            "alignment": Value("float32"),
            "nsfw": Value("float32"),
            "diversity": Value("float32"),
        }
    )


def write_rows(file: IO[bytes], rows: Sequence[dict[str, Any]]) -> None:
    """Write rows, whose keys are the columns, as parquet that `datasets` reads back with `image_features`.

    The bytes depend on the rows alone. Content-defined chunks let the Hub store what changed between two uploads, and
    the page index lets its viewer read part of a file; `datasets` writes both too.
    """
    mean_bytes = sum(len(row["image"]["bytes"]) for row in rows) / max(1, len(rows))
    group = max(1, int(_ROW_GROUP_BYTES / max(1.0, mean_bytes)))
    with parquet_writer(file) as writer:
        for start in range(0, len(rows), group):
            writer.write_table(pa.Table.from_pylist(list(rows[start : start + group]), schema=writer.schema))


@contextmanager
def parquet_writer(file: IO[bytes]) -> Iterator[pq.ParquetWriter]:
    """A writer of tables with the columns of `image_features`, which raises the file's `OSError`.

    pyarrow ends the whole process if a write fails while it cuts chunks by content, as on a full disk. So
    its sink reports success, and the file's error is raised afterwards.
    """
    sink = _Sink(file)
    try:
        with pq.ParquetWriter(
            sink, image_features().arrow_schema, use_content_defined_chunking=True, write_page_index=True
        ) as writer:
            yield writer
    finally:
        if sink.error is not None:
            raise sink.error


class _Sink:
    """A file that keeps the first error of a write to itself."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._position = file, file.tell()
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        if self.error is None:
            try:
                self._file.write(content)
            except OSError as error:
                self.error = error
        self._position += size
        return size

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """`replacing` does that."""
