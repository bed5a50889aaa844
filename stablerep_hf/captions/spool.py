"""Arrow batches that are kept in a temporary file once there are many, and read from it when they are needed."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa

from ..errors import InputError

_IN_MEMORY = 64 * 2**20  # bytes. A million captions of CC12M's length take some more.


class Spool:
    """Collects batches into one table of any size, in little memory.

    The file has no name, so it is removed with the table or when the process ends, even if it is killed.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._num_bytes = 0
        self._file: IO[bytes] | None = None
        self._writer: Any = None

    def append(self, batch: pa.RecordBatch) -> None:
        """Add a batch of the schema.

        Raises:
            InputError: If the temporary folder is full.
        """
        self._num_bytes += batch.nbytes
        if self._writer is None and self._num_bytes <= _IN_MEMORY:
            self._batches.append(batch)
            return
        with self._readable_errors():
            if self._writer is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed in `close`
                self._writer = pa.ipc.new_file(self._file, self._schema)
                for earlier in self._batches:
                    self._writer.write_batch(earlier)
                self._batches.clear()
            self._writer.write_batch(batch)

    def close(self) -> tuple[pa.Table, mmap.mmap | None]:
        """Return all batches as a table and, if they are in a file, the memory mapping of it.

        Raises:
            InputError: The temporary folder is full: what was written last may reach the disk only now.
        """
        if self._file is None:
            return pa.Table.from_batches(self._batches, self._schema), None
        with self._readable_errors():
            self._writer.close()
            self._file.flush()
            mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file.close()  # the mapping holds a descriptor of its own
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapping))).read_all(), mapping

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"Captions of more than {self._num_bytes / 1e6:,.0f} MB do not fit into the temporary folder "
                f"{tempfile.gettempdir()!r} ({error.strerror or error}); free some, or name another in TMPDIR."
            ) from error


def release(mapping: mmap.mmap | None) -> None:
    """Drop the pages of a mapping from memory; they are read again from the file when they are needed.

    The system would drop them itself when memory is short, but until then tools count them as the process's memory.
    """
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapping.madvise(mmap.MADV_DONTNEED)
