"""`stablerep completion`: commands and flags, completed by a shell."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from .parsing import Command


@dataclass
class CompletionSettings:
    """`stablerep completion` has names alone."""


COMMAND = Command(
    "completion",
    "Print what makes a shell complete commands and flags: "
    "`stablerep completion bash > ~/.local/share/bash-completion/completions/stablerep`.",
    [CompletionSettings],
    {"SHELL": "bash, zsh, fish or tcsh."},
)


def main(argv: Sequence[str]) -> None:
    """Parse and print."""
    import argparse

    import shtab

    from ..errors import InputError
    from . import COMMANDS

    shell, _ = COMMAND.parse(argv)
    if shell not in shtab.SUPPORTED_SHELLS:
        raise InputError(f"There is no completion for {shell!r}: choose one of {', '.join(shtab.SUPPORTED_SHELLS)}.")
    parser = argparse.ArgumentParser("stablerep")
    commands = parser.add_subparsers()
    for name, purpose in COMMANDS.items():
        command = importlib.import_module(f".{name.replace('-', '_')}", __package__).COMMAND
        parent = command.parser(whole=False)
        commands.add_parser(name, parents=[parent], add_help=False, help=purpose, description=purpose)
    print(shtab.complete(parser, shell))
