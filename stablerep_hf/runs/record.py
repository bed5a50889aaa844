"""The record that a training run keeps in its folder, so that it goes on and another run is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, refuse_other_settings

if TYPE_CHECKING:
    from ..training.arguments import ImageTrainingArguments

TRAINING = "training.json"
"""Record of a pre-training run."""
FINE_TUNING = "finetuning.json"
"""Record of a fine-tuning run."""

_NOT_LEARNED = ("license",)
_MEASURED_LAST = ("test_split", "slice_columns")  # settings that matter once training is over
SOURCES = {
    "data": "dataset",
    "probe_data": "dataset",
    **dict.fromkeys(("init_from", "tokenizer", "text_init_from", "teacher", "encoder"), "model"),
}
"""Settings that name what must not change during a run: a folder, or a repository on the Hub of this type."""


def settings_of(settings: Any, arguments: ImageTrainingArguments) -> dict[str, Any]:
    """What distinguishes a training run from others, and its licence: its settings and the recipe of its arguments."""
    from ..training.arguments import recipe_of

    return {name: value for name, value in asdict(settings).items() if name != "keep_concepts"} | recipe_of(arguments)


def contents_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The content of what each setting names, by the setting's name; left out where nothing is known but a name."""
    from .content import content_of

    named = {name: names_in(settings.get(name)) for name in SOURCES}
    contents = {name: [content_of(source, SOURCES[name]) for source in named[name]] for name in SOURCES}
    return {name: " + ".join(contents[name]) for name in SOURCES if contents[name] != named[name]}


def names_in(setting: str | list[str] | None) -> list[str]:
    """What a setting names that takes one name or several."""
    return [setting] if isinstance(setting, str) else setting or []


def identity_of(settings: Mapping[str, Any], contents: Mapping[str, str]) -> dict[str, Any]:
    """The settings as they are on any machine, without the licence."""
    return _without(_NOT_LEARNED, settings) | dict(contents)


def read_record(output: Path, name: str, settings: Mapping[str, Any], contents: Mapping[str, str]) -> dict[str, Any]:
    """Read the record of a training run; {} if there is none.

    Args:
        output: Folder of the run.
        name: File name of the record.
        settings: Of the run that is asked for. The licence may differ and, until the run has finished, what is
            measured at its end.
        contents: As `contents_of`, of these settings.

    Raises:
        InputError: The folder holds a run with other settings, or on other data, or other files without a record, or
            the file is no record.
    """
    from ..files.places import check_owned
    from .content import is_content

    check_owned(output, name, *names_in(settings["data"]))
    path = output / name
    if not path.exists():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        theirs, their_contents = dict(record["settings"]), dict(record.get("contents", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the record of a training run, so it does not say whose folder this is: give another "
            "`output`."
        ) from error
    free = _NOT_LEARNED if record.get("finished") else _NOT_LEARNED + _MEASURED_LAST
    refuse_other_settings(
        f"{output} holds a training run",
        _without(free, theirs),
        _without(free, settings),
        "give another `output`, or that run's settings to go on with it.",
    )
    for source, content in contents.items():
        parts = zip(their_contents.get(source, content).split(" + "), content.split(" + "), strict=True)
        if any(then != now for then, now in parts if is_content(then) and is_content(now)):
            raise InputError(
                f"{output} holds a training run whose {source}={settings[source]} has changed since it began "
                f"({their_contents[source]} then, {content} now): put back what was there, or give another `output`."
            )
    return record


def write_record(path: Path, record: Any) -> None:
    """Write it whole or not at all."""
    from ..files.atomic import replacing

    with replacing(path) as file:
        file.write(f"{json.dumps(record, indent=2)}\n".encode())


def _without(names: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
