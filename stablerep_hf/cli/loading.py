"""Opening what a flag names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.images import load_images as load_images

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
