"""A command: its names, the dataclasses that are its flags and its YAML file, and its help."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from .. import progress
from ..errors import InputError, one_line
from ..setting import meant_by
from ..training.presets import read_config
from .flags import Switch, add_flags, flag_of, text, truth


@dataclass(frozen=True)
class Extended:
    """Settings that extend a library's.

    Attributes:
        own: Dataclass of this package's fields alone, in a module that imports no torch.
        load: Imports and returns the whole dataclass.
        library: What it extends, such as "transformers.TrainingArguments".
        shown: Names of the library's fields that are worth a line in the short help.
    """

    own: type
    load: Callable[[], type]
    library: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """One command of `stablerep`.

    Attributes:
        name: As typed, such as "adapt-generator".
        description: One or two sentences for its help.
        settings: Dataclasses whose fields are its flags; `Extended` where they extend a library's.
        names: What is given without a flag -> its help. "DIR..." takes one or more, "[DIR]" one or none.
        titles: Of the groups that the dataclasses make in the help, in order.
    """

    name: str
    description: str
    settings: Sequence[type | Extended]
    names: Mapping[str, str] = field(default_factory=dict)
    titles: Sequence[str] = ("options",)

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Fill the dataclasses from the flags and, below them, from the YAML file that `--config` names.

        Args:
            argv: What follows the command.

        Returns:
            The names in order (a list for "DIR..."), then the filled dataclasses.

        Raises:
            InputError: Unknown flag, key or preset, a value that is out of range or of the wrong type.
            SystemExit: Help was asked for.
        """
        argv = [_with_dashes(word) for word in argv]
        short = bool({"-h", "--help"} & set(argv)) and "--help-all" not in argv
        source, values = (None, {}) if short else _config(argv)
        parser = self.parser(whole=not short)
        given, unknown = self._given(parser, argv, values, source)
        if unknown:
            parser.refuse(unknown)
        return (
            *(getattr(given, name) for name in self._dests()),
            *(self._fill(kind, given) for kind in self._kinds()),
        )

    def check(self, argv: Sequence[str], kind: type) -> None:
        """Call `check` of a dataclass before the libraries of others are imported, which takes seconds.

        Raises:
            InputError: It raises it, or a flag cannot work.
        """
        argv = [_with_dashes(word) for word in argv]
        if {"-h", "--help", "--help-all"} & set(argv):
            return
        parser = self.parser(whole=False)
        source, values = _config(argv)
        known = {action.dest for action in parser._actions}
        own = {key: value for key, value in values.items() if key in known}
        given, others = self._given(parser, argv, own, source)
        try:
            self._fill(kind, given).check()
        except InputError:
            if others or own != values:
                self.parse(argv)  # a flag that there is not comes before data that are not there
            raise

    def parser(self, *, whole: bool) -> CommandParser:
        """The parser; without the flags of libraries, which take seconds to import, unless `whole`."""
        shown = "".join(f" {name}" for name in self.names)
        parser = CommandParser(self.name, usage=f"%(prog)s{shown} [options]", description=self.description)
        names = parser.add_argument_group("names") if self.names else parser
        for dest, (name, purpose) in zip(self._dests(), self.names.items(), strict=True):
            number = "+" if name.endswith("...") else "?" if name.startswith("[") else None
            names.add_argument(dest, metavar=name.strip("[].").upper(), nargs=number, type=text, help=purpose)
        general = parser.add_argument_group("general")
        general.add_argument("-h", "--help", action="help", help="Show this help.")
        libraries = [kind for kind in self.settings if isinstance(kind, Extended)]
        if libraries:
            of = " and ".join(kind.library for kind in libraries)
            general.add_argument("--help-all", action="help", help=f"Show every flag, those of {of} too.")
        general.add_argument("--config", metavar="FILE", type=text, help="YAML file with any of these flags.")
        general.add_argument("--quiet", action="store_true", help="Show no progress.")
        titles = [*self.titles, *["options"] * len(self.settings)]
        for kind, title in zip(self.settings, titles, strict=False):
            if not isinstance(kind, Extended):
                add_flags(parser, kind, title)
                continue
            add_flags(parser, kind.own, title)
            if whole:
                own = {entry.name for entry in fields(kind.own)}
                rest = [entry.name for entry in fields(kind.load()) if entry.name not in own]
                add_flags(parser, kind.load(), f"options of {kind.library}", rest)
            elif kind.shown:
                parser.epilog = f"Also every argument of {kind.library} (--help-all lists them), such as " + (
                    ", ".join(map(flag_of, kind.shown)) + "."
                )
        return parser

    def field_names(self) -> set[str]:
        """Names of the flags with underscores, those of a library only where it is imported already."""
        kinds = [
            kind.load() if isinstance(kind, Extended) and "torch" in sys.modules else getattr(kind, "own", kind)
            for kind in self.settings
        ]
        return {"config", "quiet"}.union(*({entry.name for entry in fields(kind) if entry.init} for kind in kinds))

    @staticmethod
    def _given(
        parser: CommandParser, argv: Sequence[str], values: Mapping[str, Any], source: str | None
    ) -> tuple[argparse.Namespace, list[str]]:
        """What the flags and, below them, the values of a YAML file say; and the words that are not flags."""
        given = argparse.Namespace()
        parser.read(values, str(source), given)
        given, unknown = parser.parse_known_args(argv, given)
        progress.hide(given.quiet)  # also shows it again to who calls `main` twice in a process
        return given, unknown

    def _dests(self) -> list[str]:
        return [re.sub(r"\W+", "_", name.strip("[].")).lower() + "_" for name in self.names]

    def _kinds(self) -> list[type]:
        return [kind.load() if isinstance(kind, Extended) else kind for kind in self.settings]

    def _fill(self, kind: type, given: argparse.Namespace) -> Any:
        names = [entry.name for entry in fields(kind) if entry.init and hasattr(given, entry.name)]
        try:
            return kind(**{name: getattr(given, name) for name in names})
        except InputError:
            raise
        except (ValueError, ImportError) as error:  # transformers' arguments check their values so
            raise InputError(f"{one_line(error)}; `stablerep {self.name} --help` lists the flags.") from error


class CommandParser(argparse.ArgumentParser):
    """Reads the flags of one command; whatever is wrong with them is one sentence."""

    def __init__(self, command: str, **options: Any) -> None:
        options = {"add_help": False, "allow_abbrev": False, "formatter_class": _Help, **options}
        super().__init__(prog=f"stablerep {command}", **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage of a hundred flags and leaving."""
        message = re.sub(r"^argument (--[\w-]+)(?:/--[\w-]+)?: (?=invalid choice|expected|it takes)", r"\1: ", message)
        message = re.sub(r"^argument (\S+?)(?:/--[\w-]+)?: ", r"\1 ", message)
        raise InputError(f"{message}; `{self.prog} --help` lists the flags.")

    def read(self, values: Mapping[str, Any], source: str, given: argparse.Namespace) -> None:
        """Put the values of a YAML file into a namespace, each read and checked as that of a flag.

        Raises:
            InputError: A key is not a flag, or a value does not fit it.
        """
        actions = {action.dest: action for action in self._actions if action.option_strings}
        for key, value in values.items():
            if key not in actions or key in ("config", "help", "help_all"):
                meant = meant_by(key, actions)
                hint = (
                    f"did you mean {' or '.join(map(repr, meant))}?" if meant else "the keys are the command's flags."
                )
                raise InputError(f"--config {source} has the unknown key {key!r}: {hint}")
            if value is None:  # what an extended preset sets can be unset so
                continue
            action = actions[key]
            if action.nargs == "+":
                items = value if isinstance(value, list) else [value]
                read: Any = [self._read(action, item, source) for item in items]
                action(self, given, read)
            elif isinstance(value, list):
                raise InputError(f"--config {source} has a list for {key!r}, which takes one value: give one.")
            else:
                setattr(given, key, self._read(action, value, source))

    def _read(self, action: argparse.Action, value: Any, source: str) -> Any:
        words = json.dumps(value) if isinstance(value, dict) else str(value)
        reader: Any = action.type or truth  # --quiet has none
        flag = action.option_strings[0]
        try:
            read = reader(words)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise InputError(f"--config {source}: {flag} {one_line(error)}.") from error
        if action.choices is not None and read not in action.choices:
            choices = ", ".join(map(str, action.choices))
            raise InputError(f"--config {source}: {flag} {words}: choose one of {choices}.")
        return read

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Say what may have been meant.

        Raises:
            InputError: Always.
        """
        first = next((word for word in unknown if word.startswith("-")), unknown[0])
        if not first.startswith("-"):
            self.error(f"{first!r} is one name too many")
        flag = first.partition("=")[0]
        known = [_name(option) for action in self._actions for option in action.option_strings]
        meant = meant_by(_name(flag), known)
        names = [str(action.metavar) for action in self._actions if not action.option_strings]
        hint = f", did you mean {' or '.join(map(flag_of, meant))}?" if meant else ""
        by_habit = not meant and _name(flag) in ("data", "dataset", "encoder", "model", "folder", "input")
        if names and (by_habit or _name(flag).upper() in names):
            hint = f", names come without flags: `{self.prog} {' '.join(names)}`"
        self.error(f"there is no flag {flag}{hint}".rstrip("?"))


def _name(flag: str) -> str:
    """The field of a flag: `guidance_scale` of `--guidance-scale`."""
    return flag.lstrip("-").replace("-", "_")


class _Help(argparse.HelpFormatter):
    """One column of flags, as wide as it needs to be."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, Switch):  # takes true and false, too, which YAML needs and nobody types
            return ", ".join(action.option_strings)
        return super()._format_action_invocation(action)


def _config(argv: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """The file or preset that `--config` names, and what is in it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=text)
    try:
        source = parser.parse_known_args(argv)[0].config
    except argparse.ArgumentError:  # the command's parser says it better
        source = None
    return source, {} if source is None else read_config(source)


def _with_dashes(word: str) -> str:
    """`--guidance_scale=2` as `--guidance-scale=2`."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value
