"""Fields of settings dataclasses, which the command line makes flags of."""

from copy import copy
from dataclasses import field
from typing import Any


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default, of which each instance has a copy of its own, and the help of its flag."""
    if isinstance(default, list):
        return field(default_factory=lambda: copy(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})
