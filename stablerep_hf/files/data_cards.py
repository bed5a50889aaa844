"""The card of a data set: what it says to machines, and whether it stays within the data set."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download, metadata_load

from ..errors import InputError, refusing

CARD = "README.md"
_SETTINGS = ".huggingface.yaml"
_MOST_VALUES = 1e6
# An absolute path, of Windows too, an address, or a way up.
_OUTSIDE = re.compile(r"^[/\\~]|^\w:|://|::|(^|[/\\])\.\.([/\\]|$)")


def read_card(source: str | Path) -> dict[str, Any]:
    """What the card of a data set (a folder or a Hub id) says to machines; nothing if it has none.

    `datasets` would read any file of this machine, and fetch any address, that a card names as data.

    Raises:
        InputError: It is damaged, or names data outside of the data set.
    """
    files = [Path(source) / name for name in (CARD, _SETTINGS)]
    if not Path(source).exists():
        files = []
        for name in (CARD, _SETTINGS):
            with suppress(OSError, ValueError):  # no such file or data set, no connection: said where data are loaded
                files.append(Path(hf_hub_download(str(source), name, repo_type="dataset")))
    said: dict[str, Any] = {}
    with refusing(
        f"The card in {str(source)!r} does not begin with YAML that can be read",
        "repair it",
        (yaml.YAMLError, ValueError, TypeError, RecursionError),
    ):
        for file in files:
            if file.is_file():
                read = metadata_load(file) if file.suffix == ".md" else yaml.safe_load(file.read_text("utf-8"))
                said |= read or {}
        if _size(said, {}) > _MOST_VALUES:  # `datasets` would write all of them out
            raise ValueError("its aliases stand for more values than a card can have")
    configs = said.get("configs")
    configs = [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []
    waiting = [config.get(name) for config in configs for name in ("data_files", "data_dir")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and _OUTSIDE.search(value):
            raise InputError(
                f"The card of {str(source)!r} names data outside of it ({value[:100]!r}), which is not read: name its "
                "own files there."
            )
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value
    return said


def _size(value: Any, known: dict[int, float]) -> float:
    """How many values YAML holds once each alias is written out; infinite where one holds itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]
