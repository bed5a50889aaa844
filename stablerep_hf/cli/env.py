"""`stablerep env`: what a bug report needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..runs.environment import environment
from .parsing import Command


@dataclass
class EnvironmentSettings:
    """`stablerep env` has no flags of its own."""


COMMAND = Command("env", "Print versions, devices and caches: what a bug report needs.", [EnvironmentSettings])


def main(argv: Sequence[str]) -> None:
    """Parse and print."""
    COMMAND.parse(argv)
    for name, value in environment().items():
        print(f"{name:<18} {value}")
