"""Naming the content of what a setting names, and what goes wrong while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files.hub_client import client_error

if TYPE_CHECKING:
    import datasets


_MOST_BYTES = 2**30  # of files that are read once more only to name their content


def content_revision(source: str | Path, dataset: datasets.Dataset | datasets.IterableDataset) -> str:
    """Name the content of a loaded data set: what results and cards call its revision.

    Of a folder that this package drew it is the hash of its plan, of another small parquet folder the digest of its
    files. Elsewhere it is the fingerprint of `datasets`, which follows the files' names and dates; of a
    stream there is none.
    """
    from ..synthesis import read_provenance
    from ..synthesis.pipeline_folder import content_digest

    folder = Path(source)
    if (folder / "provenance").is_dir():
        return str(read_provenance(folder).shards[0]["plan_hash"])
    sizes = [path.stat().st_size for path in folder.rglob("*.parquet")] if folder.is_dir() else []
    if sizes and sum(sizes) < _MOST_BYTES:
        return content_digest(folder)
    return str(getattr(dataset, "_fingerprint", ""))


def content_of(source: str, repo_type: str | None = None) -> str:
    """Name what a setting names as another machine would: a folder by its content, anything else by itself.

    The content is the hash of a drawn data set's plan, or else of a model's weights, or else of all files (of their
    names and sizes where they are more than a gigabyte); cards and hidden files do not count.

    Args:
        source: What the setting says.
        repo_type: "dataset" or "model", to name a repository on the Hub by its files, too, as long as it can be asked.
    """
    import hashlib

    from ..synthesis import read_provenance

    root = Path(source)
    if not root.exists():
        return source if repo_type is None else _content_on_hub(source, repo_type)
    if (root / "provenance").is_dir():
        return f"content {read_provenance(root).shards[0]['plan_hash']}"

    def counts(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        return not hidden and path.suffix != ".md" and path.is_file()

    weights = sorted(root.glob("*.safetensors"))  # below them may be the checkpoints of their training run
    files = weights or sorted(filter(counts, root.rglob("*"))) or [root]
    read = bool(weights) or sum(path.stat().st_size for path in files) < _MOST_BYTES
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest() if read else path.stat().st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return f"content {digest.hexdigest()[:32]}"


def is_content(name: str) -> bool:
    """Whether `content_of` knew more than the name."""
    return name.startswith("content ")


def _content_on_hub(source: str, repo_type: str) -> str:
    import hashlib

    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    from ..assets import EMBEDDED, ENCODERS

    if source == EMBEDDED or source in ENCODERS:
        return source
    try:
        tree = list(HfApi().list_repo_tree(source, recursive=True, repo_type=repo_type))
    except (OSError, ValueError, client_error()):  # offline, no such repository: said where it is read
        return source
    digest = hashlib.sha256()
    for file in sorted(tree, key=lambda file: file.path):
        if isinstance(file, RepoFile) and not file.path.startswith(".") and not file.path.endswith(".md"):
            digest.update(f"{file.path}\0{file.lfs.sha256 if file.lfs else file.blob_id}\n".encode())
    return f"content {digest.hexdigest()[:32]}"


@contextmanager
def readable_data_errors(source: str) -> Iterator[None]:
    """Turn what the Hub and its client say while a data set is read from it into a sentence.

    Raises:
        InputError: In place of their errors.
    """
    try:
        yield
    except (client_error(), ConnectionError) as error:
        if getattr(error, "errno", None):  # of a pipe or a process of this machine
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = lines[0].partition(" for url ")[0]  # which is long, and may be signed
        raise InputError(
            f"Reading data={source} stopped ({said[:200].rstrip('.')}): run the same command again, it goes on "
            "from its last checkpoint."
        ) from error
