"""What a service answered, kept from the moment that it came until its shard is written: it was paid for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ..errors import InputError
from ..files.atomic import readable_disk_errors, replacing
from ..files.locks import lock_folder
from ..files.shards import PROVENANCE
from .protocol import KeepingGenerator

ANSWERS = "answers"
_REQUESTS = "requests.log"
_REFUSED = "refused.log"
_LINE = 33  # bytes: 32 characters and the end of the line, so that a size is a number of requests


@contextmanager
def keeping(generator: KeepingGenerator, folder: Path, shard: int) -> Iterator[None]:
    """Let a generator keep what it is answered while the block draws and writes a shard, and forget it at a good end.

    Raises:
        InputError: Another process is drawing the shard: both would be billed.
    """
    place = folder / PROVENANCE / ANSWERS / f"shard-{shard:05d}"
    with lock_folder(place):
        generator.keep_in(place)
        yield
    forget(folder, shard)


def forget(folder: Path, shard: int) -> None:
    """Remove what was answered for a finished shard."""
    shutil.rmtree(folder / PROVENANCE / ANSWERS / f"shard-{shard:05d}", ignore_errors=True)


class AnswerFolder:
    """The answers for one shard: a file each, and beside the folders a list of all requests that may be billed."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder that exists; its parent serves all shards of the data set."""
        self._folder = folder
        self._requests = folder.parent / _REQUESTS
        self._refused = folder.parent / _REFUSED

    def find(self, key: str) -> bytes | None:
        """What was answered; None if nothing was."""
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def keep(self, key: str, content: bytes) -> None:
        """Write an answer; it outlasts a kill and a power cut from here on. `InputError` if the disk is full."""
        with replacing(self._folder / key, len(content)) as file:
            file.write(content)

    def count(self, key: str, most: int | None) -> None:
        """Add a request (32 characters name it) to the list before it is sent, whichever process sends it.

        A request is on the list if it may have been billed: those of a process that was killed too.
        Raises `BudgetSpent` if there are `most` already.
        """
        with self._locked():
            sent = (_size(self._requests) - _size(self._refused)) // _LINE
            if most is not None and sent >= most:
                raise BudgetSpent(
                    f"`max_images` or `max_dollars` is reached after {sent} images, so drawing stops: what was "
                    "answered is kept, so raise the limit and run the same command again for the rest."
                )
            _append(self._requests, key)

    def take_back(self, key: str) -> None:
        """List a counted request as refused: the service did nothing for it, so it is not billed."""
        with self._locked():
            _append(self._refused, key)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with readable_disk_errors(self._requests), FileLock(self._requests.with_name(".requests.lock")):
            yield


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(path: Path, key: str) -> None:
    with path.open("ab") as file:
        file.write(f"{key}\n".encode())


class BudgetSpent(InputError):
    """No more may be asked for."""
