"""Packages that only some commands need, and the extras of this package that bring them."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import InputError


def require(what: str, extra: str, *packages: str) -> None:
    """Refuse at once what could not be done for want of a package.

    Args:
        what: What needs them, as a sentence begins.
        extra: Of this package, that installs them.
        packages: By the names they are imported by.

    Raises:
        InputError: One is not installed.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise InputError(f"{what} needs {missing[0]}, which is not installed: pip install 'stablerep_hf[{extra}]'.")
