"""Places that flags name to be written to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import InputError


def check_place(flag: str, path: str | Path, *, is_file: bool = False) -> None:
    """Refuse a folder, or a file, that could not be written, before hours of work go into it. Nothing is made.

    Raises:
        InputError: It is of the other kind, lies below a file, or its folder takes no file.
    """
    place = Path(path)
    if is_file and place.is_dir():
        raise InputError(f"{flag} {path} is a folder, and one file is written: name a file.")
    nearest = place.parent if is_file else place
    while not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(
            f"{flag} {path} cannot be written, {nearest} takes no file ({error.strerror}): name another place."
        ) from error
