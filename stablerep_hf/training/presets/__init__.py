"""Training recipes that ship, one YAML file each, and reading of such files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from ...errors import InputError, refusing
from ...files.yaml_mapping import read_mapping


def presets() -> list[str]:
    """Names of the presets that ship."""
    folder = resources.files(__name__)
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def read_config(name: str) -> dict[str, Any]:
    """Read a preset by name, or a YAML file by path; `extends: PRESET` in it stands for that preset's lines.

    Raises:
        InputError: Neither exists, or the file is not a mapping.
    """
    if name in presets():
        text = (resources.files(__name__) / f"{name}.yaml").read_text("utf-8")
    elif Path(name).is_file():
        with refusing(f"config={name} is no text in UTF-8", "name a YAML file", UnicodeDecodeError):
            text = Path(name).read_text("utf-8")
    else:
        raise InputError(f"config={name} is neither a file nor a preset: the presets are {', '.join(presets())}.")
    values = read_mapping(text, f"config={name}")
    base = values.pop("extends", None)
    if base is None:
        return values
    if base not in presets():
        raise InputError(f"config={name} extends {base!r}, which is no preset: choose of {', '.join(presets())}.")
    return {**read_config(base), **values}
