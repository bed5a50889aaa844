"""Pushing a folder that this package made to the Hub, and nothing of it that does not belong there."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..errors import InputError

# No pickle (checkpoints hold optimiser state and `training_args.bin`), no cache, no half-written file.
NEVER_PUBLISHED = ("checkpoints/*", "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.tmp", ".*", "*/.*")


@dataclass(frozen=True)
class Publication:
    """What would go where.

    Attributes:
        folder: The local folder.
        repo_type: "dataset" or "model", as the folder's content says.
        files: Paths in the repository and their sizes in bytes, in order.
    """

    folder: Path
    repo_type: str
    files: tuple[tuple[str, int], ...]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(size for _, size in self.files)


def plan_publication(folder: str | Path) -> Publication:
    """Look at a folder and list what publishing it uploads.

    Raises:
        InputError: It is no folder that `generate` or `train` made, or its card is missing.
    """
    root = Path(folder)
    if any((root / name).exists() for name in ("config.json", "model_index.json")):
        repo_type = "model"
    elif any(root.glob("data/*.parquet")):
        repo_type = "dataset"
    else:
        raise InputError(
            f"{folder} holds neither a model (config.json) nor a data set (data/*.parquet): give a folder that "
            "`stablerep generate` or `stablerep train` finished."
        )
    if not (root / "README.md").is_file():
        raise InputError(f"{folder} has no card (README.md), so its making was not finished: run that command again.")
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    named = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in paths]
    kept = [entry for entry in named if not any(fnmatch(entry[0], pattern) for pattern in NEVER_PUBLISHED)]
    return Publication(root, repo_type, tuple(kept))


def publish(publication: Publication, repository: str, *, private: bool = False, create_pr: bool = False) -> str:
    """Upload to the Hub.

    Args:
        publication: From `plan_publication`.
        repository: "owner/name"; made if it is not there.
        private: If it is made, whether others can see it.
        create_pr: Propose the change instead of making it.

    Returns:
        Address of the commit or pull request.

    Raises:
        InputError: The Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # Connection errors are those of the client that huggingface_hub is built on: httpx in 1.x, httpx2 in 2.x.
    client = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    try:
        api = HfApi()
        api.create_repo(repository, repo_type=publication.repo_type, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=publication.folder,
            repo_type=publication.repo_type,
            allow_patterns=[name for name, _ in publication.files],
            commit_message=f"Publish {publication.folder.resolve().name}",
            create_pr=create_pr,
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, client.HTTPError) as error:
        raise InputError(
            f"{repository} was not published ({str(error).strip().splitlines()[0]}): check the name, `hf auth whoami` "
            "and the connection, then run the command again."
        ) from error
    return str(commit.pr_url or commit.commit_url)
