"""One process at a time writes to a folder, or several that share it by design."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout

from ..errors import InputError
from .atomic import readable_disk_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".stablerep.lock"
_HOLDER = f"{LOCK}.holder"


@contextmanager
def lock_folder(folder: str | Path, *, shared: bool = False) -> Iterator[None]:
    """Keep every other process from writing to a folder while the block runs.

    The lock is the operating system's (`flock`), on shared file systems too, so it ends with the process that holds
    it, however that ends. Where a file system has no such lock, the holder's host and process number are in the
    file, and the lock of a process that died on the same machine is taken over.

    Of the processes of one job, only one takes the lock, except workers that share a folder by design: each takes a
    shared one, which keeps out those that want the folder for themselves.

    Args:
        folder: The folder. It is made if it does not exist, and removed again if nothing was written to it.
        shared: Whether other holders of shared locks may write at the same time.

    Raises:
        InputError: Another process holds the folder, or nothing can be written there.
    """
    place = Path(folder)
    with readable_disk_errors(place):
        made = [path for path in (place, *place.parents) if not path.exists()]
        place.mkdir(parents=True, exist_ok=True)
        try:
            lock = _flock(place / LOCK, shared) if fcntl is not None else None
            soft = None if lock is not None or shared else SoftFileLock(place / _HOLDER, timeout=0)
            if soft is not None:
                soft.acquire()
        except (BlockingIOError, Timeout) as error:
            raise InputError(
                f"Another process is writing to {str(folder)!r}: let it finish, stop it, or name another folder."
            ) from error
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # others share it: the last one removes the file, while nobody else can lock it
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (place / LOCK).unlink()
            os.close(lock)
        elif soft is not None:
            soft.release()
            (place / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # of a folder that holds something
            for path in made:
                path.rmdir()


def _flock(path: Path, shared: bool) -> int | None:
    """The descriptor of a file that is locked; None where the file system has no such locks.

    Raises:
        BlockingIOError: Another process holds it.
    """
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # who made the folder removed it again
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # Who held it may have removed the file since it was opened here. Opening it, unlike asking for its state,
            # makes a client of a network's file system ask the server.
            with suppress(FileNotFoundError), path.open("rb") as there:
                if os.path.samestat(os.fstat(lock), os.fstat(there.fileno())):
                    return lock
        except OSError as error:
            os.close(lock)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError from error
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                return None
            raise
        os.close(lock)
