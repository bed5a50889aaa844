"""Checkpoints: sealed when they are saved, checked before a training run goes on from them, removed when they are old.

A checkpoint is whole once it holds `manifest.json`, which is written last: the recipe of its training run and the
sha256 of each file. Nothing goes on from a checkpoint without one, or whose files differ from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from ..errors import InputError, refuse_other_settings
from ..files.sealing import seal, unseal

IN_PROGRESS = "Training in progress, step"
"""How the title of a commit begins that pushes the model of an unfinished training run."""

MANIFEST = "manifest.json"
_LAST = "last-checkpoint"
_NUMBERED = r"checkpoint-\d+"
_LOGGER = logging.getLogger(__name__)


class KeepCheckpoints(TrainerCallback):
    """Seals each checkpoint, and keeps the newest `limit` of this run and the best one.

    transformers would remove any folder called `checkpoint-...`; here only files that the manifest of this very
    training run lists are removed.

    Args:
        trainer: An `ImageTrainer`.
        limit: `save_total_limit`.
    """

    def __init__(self, trainer: Any, limit: int | None) -> None:
        self.trainer, self.limit = trainer, limit

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Seal the checkpoint of this step once every process has written its part, then remove old ones."""
        self.trainer.accelerator.wait_for_everyone()
        if not args.should_save:
            return
        root = Path(str(args.output_dir))
        recipe = self.trainer.recipe
        write_manifest(root / f"checkpoint-{state.global_step}", recipe)
        if self.limit is None or self.limit <= 0:
            return
        own = [path for path in _numbered(root) if (_read_manifest(path) or {}).get("recipe") == recipe]
        best = state.best_model_checkpoint
        kept = {own[0], *([Path(best)] if best else [])}
        for path in own:
            if len(kept) < self.limit:
                kept.add(path)
            elif path not in kept:
                remove_checkpoint(path)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Refuse a best checkpoint that was damaged since it was saved, after its weights were read."""
        best = state.best_model_checkpoint
        if args.load_best_model_at_end and best is not None and (fault := damage(Path(best))):
            raise InputError(f"The best checkpoint, {best}, cannot be used: {fault}. Remove it and train again.")


def write_manifest(checkpoint: Path, recipe: dict[str, Any]) -> None:
    """Seal a checkpoint whose other files are written."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    # a card is written anew where it is pushed
    listed = {
        path.relative_to(checkpoint).as_posix(): None if path.name == "README.md" else _sha256(path) for path in files
    }
    arriving = checkpoint / f".{MANIFEST}"
    arriving.write_text(seal({"recipe": recipe, "files": listed}), "utf-8")
    arriving.replace(checkpoint / MANIFEST)


def damage(checkpoint: Path) -> str | None:
    """Say in words what is wrong with a checkpoint; None if every file is as it was saved."""
    manifest = _read_manifest(checkpoint)
    if manifest is None:
        return f"it has no {MANIFEST} that can be read, so it was cut off or damaged"
    for name, digest in manifest["files"].items():
        path = checkpoint / name
        if digest is None:
            continue
        if not path.is_file():
            return f"{name} is missing"
        if _sha256(path) != digest:
            return f"{name} is not as it was saved"
    return None


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove the files that a manifest lists, and the folder if nothing else is in it."""
    manifest = _read_manifest(checkpoint) or {"files": {}}
    for name in [*manifest["files"], MANIFEST]:
        (checkpoint / name).unlink(missing_ok=True)
    folders = sorted((path for path in checkpoint.rglob("*") if path.is_dir()), reverse=True)
    for folder in [*folders, checkpoint]:
        if not any(folder.iterdir()):
            folder.rmdir()


def latest_checkpoint(folder: str | Path) -> str | None:
    """Return the newest whole checkpoint in a folder of `checkpoint-<step>` folders; None if there is none.

    Newer ones that are damaged are passed over with a warning.
    """
    for path in _numbered(Path(folder)):
        fault = damage(path)
        if fault is None:
            return str(path)
        _LOGGER.warning("%s is passed over: %s.", path, fault)
    return None


def checkpoint_to_resume(trainer: Any) -> str | None:
    """Return what a training run goes on from: its newest whole checkpoint, whether it is here or on the Hub.

    Damaged ones that are newer are moved aside, since the run is going to write checkpoints of those steps again.

    Raises:
        InputError: See `pushed_checkpoint`; or the Hub cannot be reached or refuses.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    from ..hub.refusals import readable_refusals

    repository = str(trainer.args.hub_model_id)
    with (
        trainer.args.main_process_first(desc="looking for a checkpoint"),
        readable_refusals(repository, LocalEntryNotFoundError),
    ):
        here = latest_checkpoint(str(trainer.args.output_dir))
        found = pushed_checkpoint(trainer, newer_than=_step(here) if here else -1) or here
        for path in _numbered(Path(str(trainer.args.output_dir))):
            if trainer.is_world_process_zero() and (found is None or _step(path.name) > _step(found)):
                _move_aside(path)
        return found


def pushed_checkpoint(trainer: Any, newer_than: int = -1) -> str | None:
    """Fetch the checkpoint that `hub_strategy="checkpoint"` or "all_checkpoints" left on the Hub, or return None.

    "every_save" pushes the model alone. A training run can start from its weights but not go on from them exactly, and
    one that began anew would push over them.

    Args:
        trainer: It knows the repository and branch, the folder of the checkpoints, and the recipe.
        newer_than: Step of the newest checkpoint that is here; -1 if there is none.

    Returns:
        Its folder, named by its step; None if the repository holds no newer one.

    Raises:
        InputError: The repository holds a checkpoint with another recipe, a damaged one, or the model of an unfinished
            training run and no state to go on from.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repository, revision = trainer.hub_model_id, trainer.args.hub_revision
    if repository is None:
        return None
    api = HfApi(token=trainer.args.hub_token)
    names = api.list_repo_files(repository, revision=revision)
    state = re.escape("trainer_state.json")
    pushed = [match[1] for name in names if (match := re.fullmatch(rf"({_LAST}|{_NUMBERED})/{state}", name))]
    if not pushed:
        newest = api.list_repo_commits(repository, revision=revision)[0].title
        if newer_than < 0 and newest.startswith(IN_PROGRESS):
            raise InputError(
                f"{repository} holds the model of an unfinished training run ({newest!r}) but no state to go on from, "
                "which hub_strategy 'checkpoint' pushes: start from its weights with `init_from` and another "
                "`hub_model_id`, or delete the repository."
            )
        return None
    root = Path(str(trainer.args.output_dir))
    arriving = root / ".from-hub"  # so that a download that is cut off is not taken for a checkpoint

    def read(name: str) -> str:
        try:
            return Path(api.hf_hub_download(repository, name, revision=revision, local_dir=arriving)).read_text(
                "utf-8"
            )
        except RemoteEntryNotFoundError:
            return ""

    def refuse(place: str, reason: str) -> InputError:
        return InputError(
            f"{repository} holds a checkpoint in {place} that cannot be used ({reason}): give another `hub_model_id`, "
            "or delete the checkpoint there."
        )

    try:
        steps = {}
        for place in pushed:
            try:
                last = json.loads(read(f"{place}/trainer_state.json")) if place == _LAST else None
                steps[place] = _step(place) if last is None else int(last["global_step"])
            except (ValueError, KeyError, TypeError) as error:
                raise refuse(place, "its trainer_state.json cannot be read") from error
        place = max(pushed, key=lambda place: (steps[place], place))
        try:
            recipe = unseal(read(f"{place}/{MANIFEST}"))["recipe"]
        except ValueError as error:
            raise refuse(place, f"it has no {MANIFEST} that can be read") from error
        refuse_other_settings(
            f"{repository} holds a checkpoint of a training run",
            recipe,
            trainer.recipe,
            "give another `hub_model_id`, or that run's settings to go on with it.",
        )
        if steps[place] <= newer_than:
            return None
        api.snapshot_download(repository, allow_patterns=f"{place}/*", revision=revision, local_dir=arriving)
        if fault := damage(arriving / place):
            raise refuse(place, fault)
        named = root / f"checkpoint-{steps[place]}"
        if named.exists():  # damaged, or it would be the newest here
            _move_aside(named)
        (arriving / place).rename(named)
        return str(named)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _move_aside(checkpoint: Path) -> None:
    checkpoint.rename(checkpoint.with_name(f"damaged-{checkpoint.name}-{time.time_ns()}"))


def _numbered(folder: Path) -> list[Path]:
    """Folders of checkpoints, whole or not, newest first."""
    saved = [path for path in folder.glob("checkpoint-*") if re.fullmatch(_NUMBERED, path.name)]
    return sorted(saved, key=lambda path: _step(path.name), reverse=True)


def _step(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])


def _read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    try:
        manifest = unseal((checkpoint / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest.get("files"), dict) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
