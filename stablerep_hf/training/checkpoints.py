"""Finding the checkpoint that an interrupted training goes on from."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, refuse_other_settings
from .arguments import ImageTrainingArguments, recipe_of

if TYPE_CHECKING:
    from .hub_push import HubPushTrainer

IN_PROGRESS = "Training in progress, step"
"""How the title of a commit begins by which a training that is not finished pushes its model."""

RECIPE = "recipe.json"
"""File of a checkpoint with the recipe of its training, by which another is told from it."""


def checkpoint_to_resume(trainer: HubPushTrainer) -> str | None:
    """Return what a training goes on from: its newest checkpoint here, or else the one it left on the Hub.

    Raises:
        InputError: See `pushed_checkpoint`.
    """
    with trainer.args.main_process_first(desc="looking for a checkpoint"):
        return latest_checkpoint(str(trainer.args.output_dir)) or pushed_checkpoint(trainer.hub_model_id, trainer.args)


def latest_checkpoint(folder: str | Path, *, finite: bool = False) -> str | None:
    """Return the newest complete checkpoint in a folder, or None.

    Args:
        folder: Holds `checkpoint-<step>` folders.
        finite: Pass over checkpoints with a weight that is not a number.

    Trainer writes `trainer_state.json` last, so a checkpoint without a readable one was cut off while being saved;
    `transformers.trainer_utils.get_last_checkpoint` would choose it, and the resume would fail.
    """
    named = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(folder).glob("checkpoint-*"))
    steps = sorted((int(match[1]), path) for match, path in named if match)
    for _, path in reversed(steps):
        try:
            json.loads((path / "trainer_state.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if not finite or _is_finite(path):
            return str(path)
    return None


def pushed_checkpoint(repository: str | None, arguments: ImageTrainingArguments) -> str | None:
    """Fetch the checkpoint that `hub_strategy="checkpoint"` or "all_checkpoints" left on the Hub, or return None.

    "every_save" pushes the model alone. Its weights can be started from, but no training goes on from them exactly,
    and one that began anew would push over them.

    Args:
        repository: Of the training, as `Trainer.hub_model_id`.
        arguments: Of the training: its recipe, the branch that it pushes to, and the folder of its checkpoints.

    Returns:
        Its folder, named by its step; None if the repository holds none that is whole.

    Raises:
        InputError: The repository holds the checkpoint of a training with another recipe, or the model of one that was
            cut off and no state to go on from.
    """
    from huggingface_hub import HfApi, snapshot_download

    if repository is None:
        return None
    root, revision = Path(str(arguments.output_dir)), arguments.hub_revision
    ends = "/trainer_state.json"
    api = HfApi()
    whole = [name for name in api.list_repo_files(repository, revision=revision) if name.endswith(ends)]
    numbered = {int(match[1]): match[0] for name in whole if (match := re.match(r"checkpoint-(\d+)", name))}
    place = numbered[max(numbered)] if numbered else "last-checkpoint"
    if f"{place}{ends}" not in whole:
        if (newest := api.list_repo_commits(repository, revision=revision)[0].title).startswith(IN_PROGRESS):
            raise InputError(
                f"{repository} holds the model of a training that was cut off ({newest!r}) and not the state to go on "
                "from, which hub_strategy 'checkpoint' pushes: start from its weights by --init_from and another "
                "--hub_model_id, or delete the repository."
            )
        return None
    arriving = root / ".from-hub"  # so that a download that was cut off is taken for no checkpoint
    snapshot_download(repository, allow_patterns=f"{place}/*", revision=revision, local_dir=arriving)
    fetched = arriving / place
    try:
        step = json.loads((fetched / "trainer_state.json").read_text("utf-8"))["global_step"]
        recipe = json.loads((fetched / RECIPE).read_text("utf-8"))
    except (OSError, ValueError, KeyError):
        return None
    try:
        refuse_other_settings(
            f"{repository} holds a checkpoint of a training",
            recipe,
            recipe_of(arguments),
            "name another --hub_model_id, or give that training's settings to go on with it.",
        )
    except InputError:
        shutil.rmtree(arriving)
        raise
    named = root / f"checkpoint-{step}"
    shutil.rmtree(named, ignore_errors=True)  # cut off while it was saved here, or it would not have been asked for
    fetched.rename(named)
    shutil.rmtree(arriving)
    return str(named)


def _is_finite(checkpoint: Path) -> bool:
    from safetensors.torch import load_file

    return all(
        bool(tensor.isfinite().all())
        for file in checkpoint.glob("*.safetensors")
        for tensor in load_file(file).values()
        if tensor.is_floating_point()
    )
