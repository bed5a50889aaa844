"""Training recipes that ship, one YAML file each, and reading of such files."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError, one_line


def presets() -> list[str]:
    """Names of the presets that ship."""
    folder = resources.files(__name__)
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


class _Loader(yaml.SafeLoader):
    """Takes `true` and `false` alone for booleans, as YAML 1.2 does: `no` is a language, and a strategy of saving."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def read_config(name: str) -> dict[str, Any]:
    """Read a preset by name, or a YAML file by path; `extends: PRESET` in it stands for that preset's lines.

    Raises:
        InputError: Neither exists, or the file is not a mapping.
    """
    if name in presets():
        text = (resources.files(__name__) / f"{name}.yaml").read_text("utf-8")
    elif Path(name).is_file():
        try:
            text = Path(name).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"config={name} is no text in UTF-8 ({error}): name a YAML file.") from error
    else:
        raise InputError(f"config={name} is neither a file nor a preset: the presets are {', '.join(presets())}.")
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"config={name} is not YAML ({one_line(error)}): correct it.") from error
    if not isinstance(values, dict):
        raise InputError(f"config={name} holds no 'key: value' lines: write one a flag, without the dashes.")
    base = values.pop("extends", None)
    if base is None:
        return values
    if base not in presets():
        raise InputError(f"config={name} extends {base!r}, which is no preset: choose of {', '.join(presets())}.")
    return {**read_config(base), **values}
