"""The search page as a folder that runs by itself: the Space's files, the rooms they import, the data they show."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import RepoCard

from ..errors import InputError

# The package is on no index, so the Space carries what it runs on: these rooms, and no other.
ROOMS = ("assets", "evaluation", "files", "models", "retrieval", "space")
_PACKAGE = Path(__file__).resolve().parents[1]
_EMBEDDED = "embedded"
# Which embedded data a setting's value shows, as patterns below `assets`.
_SHOWN = {
    ("encoder", _EMBEDDED): ("dual_encoder/*",),
    ("encoder", "embedded-stablerep"): ("encoder/*",),
    ("synthetic_dataset", _EMBEDDED): ("drawings/**/*",),
    ("guidance_dataset", _EMBEDDED): ("drawings/**/*",),
}


def space_source() -> Path:
    """Folder of the Space's own files, in a clone of the repository.

    Raises:
        InputError: The package was installed without it.
    """
    folder = _PACKAGE.parent / "spaces" / "retrieval"
    if not (folder / "app.py").exists():
        raise InputError(
            "The Space's files lie in the repository and not in the installed package: clone it and install it with "
            "`pip install --editable .`."
        )
    return folder


def is_space_source(folder: str | Path) -> bool:
    """Whether a folder is the one that `space_source` names, which alone does not run."""
    return Path(folder).resolve() == (_PACKAGE.parent / "spaces" / "retrieval").resolve()


def assemble_space(output: str | Path, settings: Mapping[str, str]) -> Path:
    """Write a folder that is a whole Space.

    Args:
        output: The folder; it must not exist or be empty.
        settings: Of the page, by name in any case, such as {"ENCODER": "me/my-encoder"}: they are written into
            `config.yaml`, and what is an id into the card, where the Hub links it. Others are those of
            `spaces/retrieval/config.yaml`.

    Returns:
        The folder, for `plan_publication`.

    Raises:
        InputError: The folder is taken, a setting is unknown or of the wrong type, or names a path of this machine.
    """
    from ..space import read_settings

    folder, source = Path(output), space_source()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty, so a Space cannot be put there: name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("app.py", "requirements.txt"):
        shutil.copy(source / name, folder / name)
    config = yaml.safe_load((source / "config.yaml").read_text("utf-8"))
    config |= {name.lower(): value for name, value in settings.items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
    chosen = read_settings(folder / "config.yaml", {})
    # As they are read, so that a list is a list and an unknown name has been refused.
    config = {name: getattr(chosen, name) for name in config}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
    for name in ("encoder", "dataset", "synthetic_dataset", "guidance_dataset", "index"):
        _refuse_path(name, getattr(chosen, name))
    for name in chosen.compare:
        _refuse_path("compare", name)

    encoders = [chosen.encoder, *chosen.compare]
    card = RepoCard((source / "README.md").read_text("utf-8"))
    card.data["models"] = _ids(encoders)
    card.data["datasets"] = _ids([chosen.dataset, chosen.synthetic_dataset, chosen.guidance_dataset, chosen.index])
    (folder / "README.md").write_text(str(card), "utf-8")

    package = folder / _PACKAGE.name
    package.mkdir()
    for path in [*_PACKAGE.glob("*.py*"), *(path for room in ROOMS for path in _code(_PACKAGE / room))]:
        _copy(path, package / path.relative_to(_PACKAGE))
    values = [("encoder", name) for name in encoders]
    values += [(name, getattr(chosen, name)) for name in ("dataset", "synthetic_dataset", "guidance_dataset")]
    shown = {pattern for value in values for pattern in _SHOWN.get(value, ())}
    if chosen.dataset == _EMBEDDED:  # only the splits shown, and so without the card that lists all
        shown |= {f"pictograms/data/{split}-*" for split in str(chosen.split).split("+")}
    for pattern in sorted(shown):
        for path in (_PACKAGE / "assets").glob(pattern):
            if path.is_file():
                _copy(path, package / path.relative_to(_PACKAGE))
    for name in ("LICENSE", "NOTICE"):
        _copy(_PACKAGE.parent / name, folder / name)
    return folder


def _code(room: Path) -> list[Path]:
    if room.name == "assets":  # its folders are data, and copied where they are shown
        return [room / "__init__.py"]
    return [path for path in room.rglob("*") if path.suffix in (".py", ".pyi", ".css", ".html", ".js")]


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def _ids(names: list[Any]) -> list[str]:
    """Those of them that are repositories of the Hub."""
    return [name for name in dict.fromkeys(names) if name and name.count("/") == 1]


def _refuse_path(name: str, value: str | None) -> None:
    if value and (Path(value).exists() or value.startswith((".", "/", "~")) or value.count("/") > 1):
        raise InputError(
            f"{name} is {value!r}, a path of this machine, which a Space cannot read: publish it and give its id."
        )
