"""Finding the checkpoint that an interrupted training goes on from."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from ..errors import InputError, refuse_other_settings

IN_PROGRESS = "Training in progress, step"
"""How the title of a commit begins by which a training that is not finished pushes its model."""

RECIPE = "recipe.json"
"""File of a checkpoint with `HubPushTrainer.recipe` of its training, by which another is told from it."""

_NUMBERED = r"checkpoint-\d+"
_STATE = "trainer_state.json"


def checkpoint_to_resume(trainer: Any) -> str | None:
    """Return what a training goes on from: its newest checkpoint, whether it is here or on the Hub.

    Raises:
        InputError: See `pushed_checkpoint`; or the Hub cannot be reached or refuses.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    from ..hub.publishing import explaining_refusals

    repository = str(trainer.args.hub_model_id)
    with (
        trainer.args.main_process_first(desc="looking for a checkpoint"),
        explaining_refusals(repository, LocalEntryNotFoundError),
    ):
        here = latest_checkpoint(str(trainer.args.output_dir))
        return pushed_checkpoint(trainer, newer_than=_step(here) if here else -1) or here


def latest_checkpoint(folder: str | Path, *, finite: bool = False) -> str | None:
    """Return the newest complete checkpoint in a folder, or None.

    Args:
        folder: Holds `checkpoint-<step>` folders.
        finite: Pass over checkpoints with a weight that is not a number.

    Trainer writes `trainer_state.json` last, so a checkpoint without a readable one was cut off while being saved;
    `transformers.trainer_utils.get_last_checkpoint` would choose it, and the resume would fail. So it would with one
    whose files a disk cut off later; it is passed over, too.
    """
    saved = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(_NUMBERED, path.name)]
    for path in sorted(saved, key=lambda path: _step(path.name), reverse=True):
        try:
            json.loads((path / _STATE).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if not _is_whole(path):
            continue
        if not finite or _is_finite(path):
            return str(path)
    return None


def pushed_checkpoint(trainer: Any, newer_than: int = -1) -> str | None:
    """Fetch the checkpoint that `hub_strategy="checkpoint"` or "all_checkpoints" left on the Hub, or return None.

    "every_save" pushes the model alone. Its weights can be started from, but no training goes on from them exactly,
    and one that began anew would push over them.

    Args:
        trainer: Of the training: it knows the repository and branch, the folder of the checkpoints, and the recipe.
        newer_than: Step of the newest checkpoint that is here; -1 if there is none.

    Returns:
        Its folder, named by its step; None if the repository holds no newer one.

    Raises:
        InputError: The repository holds the checkpoint of a training with another recipe or with none that can be
            read, or the model of one that was cut off and no state to go on from.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repository, revision = trainer.hub_model_id, trainer.args.hub_revision
    if repository is None:
        return None
    api = HfApi(token=trainer.args.hub_token)
    names = api.list_repo_files(repository, revision=revision)
    pushed = [match[1] for name in names if (match := re.fullmatch(rf"(last-checkpoint|{_NUMBERED})/{_STATE}", name))]
    if not pushed:
        newest = api.list_repo_commits(repository, revision=revision)[0].title
        if newer_than < 0 and newest.startswith(IN_PROGRESS):
            raise InputError(
                f"{repository} holds the model of a training that was cut off ({newest!r}) and not the state to go on "
                "from, which hub_strategy 'checkpoint' pushes: start from its weights by --init_from and another "
                "--hub_model_id, or delete the repository."
            )
        return None
    root = Path(str(trainer.args.output_dir))
    arriving = root / ".from-hub"  # so that a download that was cut off is taken for no checkpoint

    def read(name: str) -> dict[str, Any]:
        try:
            file = api.hf_hub_download(repository, name, revision=revision, local_dir=arriving)
            content: dict[str, Any] = json.loads(Path(file).read_text("utf-8"))
        except (RemoteEntryNotFoundError, json.JSONDecodeError) as error:
            raise InputError(
                f"{repository} holds a checkpoint without a {name} that can be read, so nothing tells which training "
                "it is of: name another --hub_model_id, or delete it there."
            ) from error
        return content

    try:
        step, place = max(
            (read(f"{place}/{_STATE}")["global_step"] if place == "last-checkpoint" else _step(place), place)
            for place in pushed
        )
        refuse_other_settings(
            f"{repository} holds a checkpoint of a training",
            read(f"{place}/{RECIPE}"),
            trainer.recipe,
            "name another --hub_model_id, or give that training's settings to go on with it.",
        )
        if step <= newer_than:
            return None
        api.snapshot_download(repository, allow_patterns=f"{place}/*", revision=revision, local_dir=arriving)
        named = root / f"checkpoint-{step}"
        shutil.rmtree(named, ignore_errors=True)  # cut off while it was saved here, or it would be among the newest
        (arriving / place).rename(named)
        return str(named)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _step(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    """Whether no file of tensors ends too early; their content is not read."""
    from safetensors import SafetensorError, safe_open

    try:
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, "pt"):
                pass
    except (SafetensorError, OSError):
        return False
    return all(is_zipfile(file) for pattern in ("*.pt", "*.pth") for file in checkpoint.glob(pattern))


def _is_finite(checkpoint: Path) -> bool:
    from safetensors.torch import load_file

    return all(
        bool(tensor.isfinite().all())
        for file in checkpoint.glob("*.safetensors")
        for tensor in load_file(file).values()
        if tensor.is_floating_point()
    )
