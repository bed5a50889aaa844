"""Places where arguments say to write, and the default one."""

from __future__ import annotations

import os
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
    path = Path(os.path.realpath(place))
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


def check_apart(path: str | Path, *data: str | Path) -> None:
    """Refuse to write into a data set that is read: its content would change under a run that goes on.

    Args:
        path: The folder or file to write.
        data: Names of data sets; those that are no folders are passed over.

    Raises:
        InputError: The path is one of these folders, or lies in it.
    """
    place = Path(os.path.realpath(path))
    for name in data:
        # no Path.is_dir, which raises for a name that is too long
        if os.path.isdir(name) and Path(os.path.realpath(name)) in (place, *place.parents):  # noqa: PTH112
            raise InputError(
                f"output={path} lies in the folder of the data, {name}, whose content it would change: name "
                "another place."
            )


def check_owned(output: str | Path, record: str, *data: str) -> None:
    """Refuse a folder that a command did not begin, before it puts its files over those of others.

    Hidden files count for nothing, nor does an empty folder `checkpoints`: a training run makes it before its record.

    Args:
        output: The folder; it may not exist.
        record: The file or folder in it that tells that the command began it.
        data: Data sets that are read, which it may not lie in.

    Raises:
        InputError: It lies in the data's, holds something and no such record, or cannot be made.
    """
    check_apart(output, *data)
    place = Path(output)
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
