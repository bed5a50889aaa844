"""Flags from the fields of a dataclass: one flag a field, its text read and checked by the field's type."""

from __future__ import annotations

import argparse
import json
import math
import re
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .ranges import range_of

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def add_flags(parser: argparse.ArgumentParser, settings: type, title: str, names: Sequence[str] | None = None) -> None:
    """Add a flag for each field of a dataclass, in one group of the help or several.

    Args:
        parser: Gets the flags; a flag that is not given sets nothing, so that the dataclass's default holds.
        settings: A dataclass. A field's metadata may hold "help" and "group": the title under which this field and
            those after it are listed.
        title: Of the fields before the first "group".
        names: The fields to take; all if not given.
    """
    hints = get_type_hints(settings)
    group = parser.add_argument_group(title)
    for entry in fields(settings):
        if not entry.init or (names is not None and entry.name not in names):
            continue
        if "group" in entry.metadata:
            group = parser.add_argument_group(entry.metadata["group"])
        _add_flag(group, entry, hints[entry.name])


def flag_of(name: str) -> str:
    """The flag of a field: `--guidance-scale` of `guidance_scale`."""
    return "--" + name.replace("_", "-")


def _add_flag(group: argparse._ArgumentGroup, entry: Field[Any], hint: Any) -> None:
    flag = flag_of(entry.name)
    options: dict[str, Any] = {"dest": entry.name, "default": argparse.SUPPRESS, "help": _help_of(entry)}
    kinds = list(_alternatives(hint))
    lists = [kind for kind in kinds if get_origin(kind) is list]
    if lists:
        kinds = list(_alternatives(get_args(lists[0])[0]))
        options["nargs"] = "+"
        options["action"] = _Words if str in _alternatives(hint) else "store"
    choices = [choice for kind in kinds for choice in _choices_of(kind)]
    if choices:
        group.add_argument(flag, type=type(choices[0]), choices=choices, **options)
    elif bool in kinds and str not in kinds:
        negative = flag_of(f"no_{entry.name}")
        group.add_argument(flag, negative, action=Switch, nargs="?", type=truth, metavar="true|false", **options)
    elif int in kinds or float in kinds:
        number = Number(entry.name, float if float in kinds else int)
        group.add_argument(flag, type=number, metavar=number.metavar, **options)
    elif str in kinds or dict in map(_plain, kinds):
        group.add_argument(flag, type=text if str in kinds else mapping, metavar="TEXT", **options)
    # what cannot be written in a flag, such as an object of a library, keeps its default


def _alternatives(hint: Any) -> Iterator[Any]:
    """The types that a hint allows, without None."""
    for kind in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if kind is not types.NoneType:
            yield kind


def _plain(kind: Any) -> Any:
    return get_origin(kind) or kind


def _choices_of(kind: Any) -> list[Any]:
    if get_origin(kind) is Literal:
        return [choice for choice in get_args(kind) if choice is not False]
    return [choice.value for choice in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def _help_of(entry: Field[Any]) -> str:
    shown = str(entry.metadata.get("help", "")).replace("%", "%%")
    default = entry.default if entry.default_factory is MISSING else entry.default_factory()
    if default is MISSING or default is None or default is False or default in ([], "", {}):
        return shown
    if isinstance(default, list):
        default = " ".join(map(str, default))
    default = default.value if isinstance(default, Enum) else "on" if default is True else default
    return f"{shown} (default: {str(default).replace('%', '%%')})".strip()


def text(value: str) -> str:
    """A word as typed, with a home folder written out: `--output=~/x` is left alone by the shell."""
    return str(Path(value).expanduser()) if re.match(r"~[\w.-]*(/|$)", value) and value != "~" else value


def truth(value: str) -> bool:
    """True or false."""
    if value.lower() not in _WORDS:
        raise argparse.ArgumentTypeError(f"{value!r} is neither true nor false")
    return _WORDS[value.lower()]


def mapping(value: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        values = json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise argparse.ArgumentTypeError(f"{value!r} is not a JSON object")
    return values


class Number:
    """Reads a number in ASCII digits that lies in the range of its name.

    Args:
        name: Of the field.
        kind: int or float.
    """

    def __init__(self, name: str, kind: Callable[[str], float]) -> None:
        self.kind = kind
        self.range = range_of(name)
        self.metavar = "N" if kind is int else "X"

    def __call__(self, value: str) -> float:
        """The number.

        Raises:
            argparse.ArgumentTypeError: It is not a number, not finite, or outside the range.
        """
        whole = self.kind is int
        if not re.fullmatch(r"[+-]?[0-9]+" if whole else r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value):
            raise argparse.ArgumentTypeError(f"{value!r} is not a {'whole' if whole else 'finite'} number")
        number = self.kind(value)
        if not math.isfinite(number) or not self.range.low <= number <= self.range.high:
            raise argparse.ArgumentTypeError(f"{value} is out of range: give {self.range}")
        return number


class Switch(argparse.Action):
    """`--x`, `--x false` and `--no-x`."""

    def __call__(  # noqa: D102  # argparse's
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        negative = option is not None and option.startswith("--no-") and option != self.option_strings[0]
        if negative and values is not None:
            parser.error(f"argument {option}: it takes no value")
        setattr(namespace, self.dest, not negative if values is None else values)


class _Words(argparse.Action):
    """One word as typed, several as a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)
