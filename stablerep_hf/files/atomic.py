"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import TypeVar

from ..errors import InputError

T = TypeVar("T")
_SUFFIX = ".tmp"
# What an operating system says of a place where nothing can be written, whatever room there is.
_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP,
    errno.ENAMETOOLONG,
)  # fmt: skip
# safetensors and pyarrow pass on what the system says; torch.save to a path and NumPy say nothing more than this.
_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed writing|unexpected pos \d+|"
    r"\d+ requested and \d+ written"
)
_STALE_SECONDS = 3600.0  # A temporary file lives while one finished shard is written: seconds.


class SweptUpError(FileNotFoundError):
    """A temporary file was removed while it was written: another worker took it for a leftover of a killed one."""


@contextmanager
def readable_disk_errors(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Turn what a disk says about `path` into a sentence, whichever library passes it on.

    Args:
        path: What is written, a file or a folder.
        num_bytes: About how much room it takes, where that is known.

    Raises:
        InputError: The disk or the quota is full, or nothing can be written there.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise InputError(
                f"There is no room left for {path.name!r} in {str(path.parent)!r}, {_room(path, num_bytes)}: free "
                "some and run the same command again, what is finished is kept."
            ) from error
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            raise InputError(
                f"{path.name[:60]!r} cannot be written in {str(path.parent)!r} ({error.strerror}); name another "
                "folder."
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it followed, says that a disk or a quota is full, or a file as large as allowed.

    Libraries written in other languages raise errors of their own, which say it in their text.
    """
    found: BaseException | None = error
    while found is not None:
        if getattr(found, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _FULL.search(str(found)):
            return True
        found = found.__cause__ or found.__context__
    return False


def _room(path: Path, num_bytes: int | None) -> str:
    """How much is wanted and how much there is."""
    try:
        free = shutil.disk_usage(path if path.is_dir() else path.parent).free / 1e6
    except OSError:
        return "its disk is full"
    if num_bytes is None:
        return f"which takes more than the {free:,.1f} MB that are free"
    return f"which takes about {num_bytes / 1e6:,.1f} MB while {free:,.1f} MB are free"


def check_output_file(path: Path) -> None:
    """Refuse (`InputError`), before any work, a path at which `replacing` could write no file."""
    if path.is_dir():
        raise InputError(f"The output {str(path)!r} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise InputError(f"The output {str(path)!r} is in a folder that does not exist; make it, or name another.")


@contextmanager
def replacing(path: Path, num_bytes: int | None = None) -> Iterator[BufferedRandom]:
    """Open a file that takes the place of `path` when the block ends well and vanishes when it does not.

    It is written beside `path` under a hidden name of its own (`datasets` looks at no hidden file, and two writers do
    not meet), synced and renamed. After a power cut `path` is the old file or the new one.

    Args:
        path: In a folder that exists.
        num_bytes: About how large the file will be, where that is known.

    Yields:
        The open file, binary, readable too.

    Raises:
        InputError: As `readable_disk_errors`.
        SweptUpError: The file was removed meanwhile; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_SUFFIX}")
    with readable_disk_errors(path, num_bytes):
        file = temporary.open("w+b")
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException as error:
            # ESTALE: on a network's disk another machine removed it.
            is_gone = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESTALE)
            if is_gone and not temporary.exists():
                raise SweptUpError(errno.ENOENT, "swept up while it was written", str(path)) from error
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def clear(path: Path) -> None:
    """Remove a file, a link or an empty folder, so that a file can take its place; nothing if there is none.

    Raises:
        InputError: It is a folder with files in it, or may not be removed.
    """
    with readable_disk_errors(path):
        try:
            path.unlink(missing_ok=True)
        except (IsADirectoryError, PermissionError):
            if not path.is_dir():
                raise
            path.rmdir()


def write_at_once(path: Path, write: Callable[[BufferedRandom], T], num_bytes: int | None = None) -> T:
    """Write a file by `replacing`, and anew if another worker sweeps it up meanwhile: each does so once, at its end.

    `write` writes the content; it may be called again. What it returns is returned.
    """
    while True:
        try:
            with replacing(path, num_bytes) as file:
                return write(file)
        except SweptUpError:
            continue


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file by `write_at_once`; its folder is made if there is none."""
    path = Path(path)
    with readable_disk_errors(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_at_once(path, lambda file: file.write(content), len(content))


def remove_leftovers(folder: Path, *, even_fresh: bool) -> None:
    """Remove what killed writers left in a folder, which may not exist.

    Files of the last hour go only if `even_fresh`: they may be those of a worker that still writes, which then
    writes them again, see `write_at_once`.
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
        except OSError as error:
            # Some file systems, such as some of FUSE, cannot sync folders.
            if error.errno not in (errno.EBADF, errno.EINVAL):
                raise
        finally:
            os.close(descriptor)
