"""Places where arguments say to write, and the default one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import constants

from ..errors import InputError


def default_cache_dir() -> Path:
    """Default folder for the features of all encoders and data sets: below HF_HOME."""
    return Path(constants.HF_HOME) / "stablerep" / "features"


def free_bytes(place: str | Path) -> int:
    """What is free on the disk where a folder is or will be."""
    path = Path(place).resolve()
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def check_place(argument: str, path: str | Path, *, is_file: bool = False) -> None:
    """Refuse a folder, or a file, that could not be written, before hours of work go into it. Nothing is made.

    Args:
        argument: The name of the argument that says where.
        path: The folder or file.
        is_file: Whether it is a file.

    Raises:
        InputError: It is of the other kind, lies below a file, or its folder takes no file.
    """
    place = Path(path)
    if is_file and place.is_dir():
        raise InputError(f"{argument}={path} is a folder, and one file is written: name a file.")
    nearest = place.parent if is_file else place
    while not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(
            f"{argument}={path} cannot be written, {nearest} takes no file ({error.strerror}): name another place."
        ) from error


def check_owned(output: str | Path, record: str, data: str | None = None) -> None:
    """Refuse a folder that a command did not begin, before it puts its files over those of others.

    Hidden files count for nothing, nor does an empty folder `checkpoints`: a training run makes it before its record.

    Args:
        output: The folder; it may not exist.
        record: The file or folder in it that tells that the command began it.
        data: The data set that is read, which may not be the same folder.

    Raises:
        InputError: It is the data's, holds something and no such record, or cannot be made.
    """
    place = Path(output)
    if data is not None and place.exists() and Path(data).exists() and place.samefile(data):
        raise InputError(f"output={output} is the folder of `data`, whose files would be lost: name another folder.")
    if not place.is_dir():
        check_place("output", output)
        return
    names = sorted(path.name for path in place.iterdir() if not path.name.startswith("."))
    if record not in names and (
        others := [name for name in names if name != "checkpoints" or any((place / name).iterdir())]
    ):
        raise InputError(
            f"output={output} holds {others[0]!r} and no {record!r}, so it was not begun by this command, which "
            "could overwrite it: name an empty folder or a new one."
        )
