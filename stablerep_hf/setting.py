"""Fields of settings dataclasses, which the command line makes flags of."""

import difflib
from collections.abc import Iterable
from copy import copy
from dataclasses import field
from typing import Any

from .errors import InputError

# What hands type out of habit -> the settings that may be meant.
_HABITS = {
    "lr": ("learning_rate",),
    "epochs": ("num_train_epochs", "sgd_epochs"),
    "batch_size": ("captions_per_batch", "images_per_batch"),
    "steps": ("max_steps", "num_inference_steps"),
    "dataset": ("data",),
    "model": ("generator", "size", "language_model"),
    "model_size": ("size",),
    "out": ("output",),
    "output_dir": ("output",),
    "cfg": ("guidance_scale",),
    "workers": ("num_workers", "dataloader_num_workers"),
    "prompt": ("captions", "prompt_templates"),
    "prompts": ("captions",),
}


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default, of which each instance has a copy of its own, and the help of its flag."""
    if isinstance(default, list):
        return field(default_factory=lambda: copy(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def meant_by(name: str, known: Iterable[str]) -> list[str]:
    """Settings that may be meant by a name that none has: by habit (two at most), or by spelling (one)."""
    known = list(known)
    by_habit = [meant for meant in _HABITS.get(name, ()) if meant in known][:2]
    return by_habit or difflib.get_close_matches(name, known, 1, 0.7)


def refuse_unknown(names: Iterable[str], known: Iterable[str], of: str) -> None:
    """Refuse names of settings that there are not.

    Args:
        names: As they were given.
        known: Names of all settings.
        of: What they are settings of: "a training run".

    Raises:
        InputError: One is not known; it says what may be meant.
    """
    known = list(known)
    for name in names:
        if name not in known:
            meant = " or ".join(f"`{one}`" for one in meant_by(name, known))
            raise InputError(
                f"`{name}` is not a setting of {of}: " + (f"did you mean {meant}?" if meant else "check its spelling.")
            )
