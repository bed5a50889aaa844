"""The one exception that people, not programs, read."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """What the user gave cannot work.

    The message is one sentence: the value seen, why it cannot work, what to do. The command line prints it and exits
    with code 2; nothing was written and nothing lost.
    """


def refuse_other_settings(holder: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], remedy: str) -> None:
    """Go on only with what was begun with the same settings.

    Args:
        holder: What was begun, as a sentence begins: "runs/a holds a training".
        theirs: Its settings.
        ours: Those asked for now.
        remedy: What to do about a difference.

    Raises:
        InputError: A setting differs; the first is named.
    """
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise InputError(f"{holder} with {key}={theirs.get(key)}, not {ours.get(key)}: {remedy}")


@contextmanager
def refusing(
    what: str, remedy: str, kinds: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Iterator[None]:
    """Turn errors of these kinds into an `InputError`: what cannot work, in brackets what they say, what to do.

    All kinds where a damaged file makes libraries raise anything. An `InputError` stays as it is.
    """
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise InputError(f"{what} ({one_line(error)[:300] or type(error).__name__}): {remedy}.") from error


def one_line(error: BaseException) -> str:
    """An error's message on one line, without the full stop at its end."""
    return re.sub(r"\s+", " ", str(error)).strip().rstrip(".")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none, without the full stop at its end."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
