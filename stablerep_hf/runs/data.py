"""The data set that a setting names: where it is, and whether it can be read at all. Imports no torch."""

from __future__ import annotations

from ..progress import say


def find_data(data: str) -> str:
    """The folder or id of a data set that may be called 'embedded'."""
    from .. import assets

    return str(assets.pictograms_path()) if data == assets.EMBEDDED else data


def check_data(data: str, *splits: str) -> None:
    """Say what is going to be read, and refuse it where it is not there, is damaged or lacks a split.

    Args:
        data: A folder, a Hub id, or 'embedded'.
        splits: What is read of it, as for `datasets.load_dataset`.

    Raises:
        InputError: It cannot be read.
    """
    from ..evaluation.images import check_splits

    say(f"reading {data} ({', '.join(splits)})", only_to_people=True)
    check_splits(find_data(data), *splits)
