"""Opening what a flag names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

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


def load_images(source: str | Path, split: str, subset: str | None = None, **settings: Any) -> Any:
    """Load a split of an image data set: a folder or a Hub id, of which `subset` may be one of several.

    Args:
        source: Folder or Hub id.
        split: Of the data set.
        subset: Of the data set.
        settings: As for `datasets.load_dataset`; with `streaming` what is returned is a stream.

    Raises:
        InputError: There is none, or it lacks the split.
    """
    import datasets

    try:
        return datasets.load_dataset(str(source), subset, split=split, **settings)
    except OSError as error:  # not found, no connection, refused by the Hub
        raise InputError(
            f"--data {source} is neither a folder with images nor a data set within reach "
            f"({str(error).splitlines()[0][:100]}): check the name."
        ) from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(
            f"--data {source} cannot give the split {split!r}: {str(error).splitlines()[0][:200]}."
        ) from error
