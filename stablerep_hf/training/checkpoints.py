"""Finding the checkpoint that an interrupted training goes on from."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path


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


def pushed_checkpoint(repository: str | None, folder: str | Path, revision: str | None = None) -> str | None:
    """Fetch the checkpoint that `hub_strategy="checkpoint"` or "all_checkpoints" left on the Hub, or return None.

    "every_save" and "end" push the model alone: its weights can be started from, but no training goes on from them
    exactly, so None is returned.

    Args:
        repository: Of the training, as `Trainer.hub_model_id`.
        folder: Checkpoints go below it.
        revision: Branch that was pushed to.

    Returns:
        Its folder, named by its step; None if the repository holds none that is whole.
    """
    from huggingface_hub import HfApi, snapshot_download

    if repository is None:
        return None
    root = Path(folder)
    ends = "/trainer_state.json"
    whole = [name for name in HfApi().list_repo_files(repository, revision=revision) if name.endswith(ends)]
    numbered = {int(match[1]): match[0] for name in whole if (match := re.match(r"checkpoint-(\d+)", name))}
    place = numbered[max(numbered)] if numbered else "last-checkpoint"
    if f"{place}{ends}" not in whole:
        return None
    arriving = root / ".from-hub"  # so that a download that was cut off is taken for no checkpoint
    snapshot_download(repository, allow_patterns=f"{place}/*", revision=revision, local_dir=arriving)
    fetched = arriving / place
    try:
        step = json.loads((fetched / "trainer_state.json").read_text("utf-8"))["global_step"]
    except (OSError, ValueError, KeyError):
        return None
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
