"""The library's errors name arguments; here they become flags."""

from __future__ import annotations

import re
from collections.abc import Collection

PART_DONE = "This process has encoded its part; the first one (rank 0) goes on from there and writes the output."


def in_flags(message: str, names: Collection[str]) -> str:
    """A message with the flags of a command in place of its arguments.

    Args:
        message: Of an `InputError`: `seed=-1` becomes `--seed -1`, a name in backticks its flag; other text in
            backticks is code and stays.
        names: The fields that are flags of the command.
    """
    parts = re.split(r"(`[^`]*`)", message)
    return "".join(_in_backticks(part, names) if part.startswith("`") else _plain(part, names) for part in parts)


def _in_backticks(part: str, names: Collection[str]) -> str:
    return f"`{_flag(part[1:-1])}`" if part[1:-1] in names else part


def _plain(part: str, names: Collection[str]) -> str:
    def flag(match: re.Match[str]) -> str:
        name = match[2].replace("-", "_")
        if name not in names:
            return match[0]
        if match[4]:  # a switch
            return _flag(name if match[4] == "True" else f"no_{name}")
        return _flag(name) + (" " if match[3] else "")

    pattern = r"(?<![\w.(\-])(--)?([a-z][a-z0-9_-]*)(=(?:(True|False)\b|(?=\S)))?"
    return re.sub(pattern, lambda match: flag(match) if match[1] or match[3] else match[0], part)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
