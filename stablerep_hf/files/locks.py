"""One process at a time writes to a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError
from .atomic import explaining

LOCK = ".stablerep.lock"


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Keep every other process from writing to a folder while the block runs.

    The lock is the operating system's (`flock`), on shared file systems too, so it ends with the process that holds
    it, however that ends. Where a file system has no such lock, filelock writes the holder's process number into the
    file and takes over the lock of a dead process.

    Of the processes of one job, only one takes the lock. Workers that share a folder by design (`synthesize`) take
    none.

    Args:
        folder: The folder. It is made if it does not exist, and removed again if nothing was written to it.

    Raises:
        InputError: Another process holds the folder, or nothing can be written there.
    """
    place = Path(folder)
    with explaining(place):
        made = [path for path in (place, *place.parents) if not path.exists()]
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(
                f"Another process is writing to {str(folder)!r}: let it finish, stop it, or name another folder."
            ) from error
    try:
        yield
    finally:
        (place / LOCK).unlink(missing_ok=True)  # still held: who opened it meanwhile sees that it is gone
        lock.release()
        with suppress(OSError):  # of a folder that holds something
            for path in made:
                path.rmdir()
