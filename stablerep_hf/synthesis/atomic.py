"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from ..errors import InputError

_SUFFIX = ".tmp"
_STALE_SECONDS = 3600.0  # A temporary file lives while one finished shard is written: seconds.


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn what a disk says about `path` into a sentence.

    Raises:
        InputError: If the disk or the quota is full, or writing is not allowed there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"There is no room left for {path.name!r} in {str(path.parent)!r}; free some and run the same command "
                "again: what is finished is kept."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(
                f"{path.name!r} cannot be written in {str(path.parent)!r} ({error.strerror}); name another folder."
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """Open a file that takes the place of `path` when the block ends well and vanishes when it does not.

    It is written beside `path` under a hidden name of its own (`datasets` looks at no hidden file, and two writers do
    not meet), synced and renamed. After a power cut `path` is the old file or the new one.

    Args:
        path: In a folder that exists.

    Yields:
        The open file, binary, readable too.

    Raises:
        InputError: As `explaining`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_SUFFIX}")
    with explaining(path):
        try:
            with temporary.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            try:
                temporary.replace(path)
            except FileNotFoundError:
                # Another worker found every file in place, this one too, and swept up what looked like a leftover.
                if not path.exists():
                    raise
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def remove_leftovers(folder: Path, *, even_fresh: bool) -> None:
    """Remove what killed writers left in a folder.

    Args:
        folder: Where to look; it may not exist.
        even_fresh: Whether files of the last hour go too, which may be another worker's, at work now.
    """
    for leftover in leftovers(folder):
        try:
            if even_fresh or time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
        except FileNotFoundError:  # its writer or another worker was faster
            continue


def leftovers(folder: Path) -> list[Path]:
    """Temporary files in a folder: of killed writers, or of ones at work now."""
    return list(folder.glob(f".*{_SUFFIX}"))


def _sync_folder(folder: Path) -> None:
    """Make a rename last. Windows cannot open folders and needs no such thing."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
