"""A command is a dataclass, which is also its flags, its YAML file and what its card records."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from transformers import HfArgumentParser
from transformers.utils.logging import disable_progress_bar

from .. import progress
from ..errors import InputError, one_line
from ..training.presets import read_config

_PACKAGE = __name__.split(".")[0]


class CommandParser(HfArgumentParser):
    """Flags of one or several dataclasses; whatever is wrong with them is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage of a hundred flags and leaving."""
        raise InputError(f"{message}; `{self.prog} --help` lists the flags.")


def parse_command(commands: Sequence[Any], argv: Sequence[str], *, name: str, description: str) -> tuple[Any, ...]:
    """Fill a command's dataclasses from its flags and, below them, from the YAML file that `--config` names.

    Args:
        commands: Dataclasses; a field's metadata may hold "help".
        argv: The flags.
        name: Of the command and of what stands before its flags, as in "convert CHECKPOINT DIR".
        description: One sentence for `--help`.

    Returns:
        The filled dataclasses, in order.

    Raises:
        InputError: Unknown flag, key or preset, or a value of the wrong type.
    """
    # Of loading weights; what takes time in a command shows a bar of its own.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    parser = CommandParser(list(commands), prog=f"stablerep {name}", description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these flags")
    parser.add_argument("--quiet", action="store_true", help="Show no progress")
    own = {"help", "config", "quiet"}.union(*(kind.__annotations__ for kind in _own_classes(commands)))
    for listed in (parser._actions, parser._optionals._group_actions):  # argparse lists inherited flags first
        listed.sort(key=lambda action: action.dest not in own)
    config = CommandParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    config.add_argument("--config")
    chosen, flags = config.parse_known_args(list(argv))
    if chosen.config is not None:
        known = {field.name for command in commands for field in fields(command) if field.init}
        flags = _as_flags(read_config(chosen.config), known, chosen.config) + flags
    try:
        filled = parser.parse_args_into_dataclasses(flags, return_remaining_strings=True, look_for_args_file=False)
    except InputError:
        raise
    except (ValueError, ImportError) as error:  # transformers' arguments check their values so
        parser.error(one_line(error))
    *values, namespace, unknown = filled
    progress.hide(namespace.quiet)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return tuple(values)


def _own_classes(commands: Sequence[Any]) -> list[type]:
    """The dataclasses and those of this package that they extend; transformers' are not ours."""
    return [kind for command in commands for kind in command.__mro__ if kind.__module__.split(".")[0] == _PACKAGE]


def leading_names(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off what stands before the first flag: the folder, file or repository that a command is about."""
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    return names, list(argv[len(names) :])


def one_name(argv: Sequence[str], what: str) -> tuple[str, list[str]]:
    """The one name before the first flag, and the flags.

    Raises:
        InputError: None or several stand there.
    """
    names, flags = leading_names(argv)
    if len(names) != 1 and not {"-h", "--help"} & set(flags):
        raise InputError(f"{len(names)} names stand before the options: one is needed, {what}.")
    return names[0] if names else "", flags


def _as_flags(values: dict[str, Any], known: set[str], source: str) -> list[str]:
    """YAML to flags, so that a value from a file is typed and checked as one from the command line."""
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"--config {source} has the unknown key {unknown[0]!r}: the keys are the command's flags.")
    flags = []
    for key, value in values.items():
        if value is None:  # what an extended preset sets can be unset so
            continue
        flags.append(f"--{key}")
        words = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        flags += map(str, words)
    return flags
