"""Opening what a flag names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import datasets


def load_images(source: str | Path, split: str) -> datasets.Dataset:
    """Load a split of an image data set: a folder or a Hub id.

    Raises:
        InputError: There is none, or it lacks the split.
    """
    import datasets

    try:
        return datasets.load_dataset(str(source), split=split)
    except OSError as error:  # not found, no connection, refused by the Hub
        raise InputError(
            f"--data {source} is neither a folder with images nor a data set within reach "
            f"({str(error).splitlines()[0][:100]}): check the name."
        ) from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(
            f"--data {source} cannot give the split {split!r}: {str(error).splitlines()[0][:200]}."
        ) from error
