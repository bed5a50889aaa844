"""Several data sets as one: rows of the same caption are siblings, whichever data set they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import datasets
import numpy as np

from ..errors import InputError
from ..evaluation.images import load_images
from .groups import Int64Array, check_dataset

TrainingImages: TypeAlias = (
    datasets.Dataset
    | datasets.IterableDataset
    | Mapping[str, datasets.Dataset]
    | Mapping[str, datasets.IterableDataset]
)
"""A data set, a stream, or several of one kind by name."""
_Made = TypeVar("_Made")


def load_caption_groups(sources: Sequence[str | Path], split: str = "train", **settings: Any) -> dict[str, Any]:
    """Load data sets that a trainer joins by caption: drawn by several generators, or real.

    `caption_id` tells which rows are siblings; a data set without that column gets it from `caption`. Nothing is
    copied: the images stay in the files of their data sets.

    Args:
        sources: Folders or Hub ids.
        split: Of the data sets.
        settings: As for `datasets.load_dataset`; with `streaming` the data sets are streams.

    Returns:
        Short name -> data set, in the order given. `StableRepTrainer` takes it as `train_dataset`.

    Raises:
        InputError: One is named twice, is not there or lacks the split.

    Example:
        >>> images = load_caption_groups(["sd15-images", "sdxl-images", "user/photos"])
        >>> trainer = StableRepTrainer("small", StableRepTrainingArguments(source_weights=[1, 1, 1]), images)
    """
    names = source_names(sources)
    return {name: load_images(source, split, **settings) for name, source in zip(names, sources, strict=True)}


def source_names(sources: Sequence[str | Path]) -> list[str]:
    """Short names of data sets, each another: the last part of a folder's path, or a Hub id.

    Raises:
        InputError: One is named twice, so that its images would be siblings of themselves.
    """
    places = [str(Path(source).resolve()) if Path(source).exists() else str(source) for source in sources]
    if twice := [place for place in places if places.count(place) > 1]:
        raise InputError(f"data={twice[0]} is named twice, and no image is a sibling of itself: name it once.")
    names = [Path(place).name if Path(place).is_absolute() else place for place in places]
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]


def by_name(images: TrainingImages | None) -> dict[str, Any]:
    """What a trainer was given, by name; "" is that of a single data set.

    Raises:
        InputError: Something is not a data set, or some are streams and some are not.
    """
    if isinstance(images, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        raise InputError(f"train_dataset holds the splits {', '.join(map(str, images))}: pass one of them.")
    named = dict(images) if isinstance(images, Mapping) and images else {"": images}
    for part in named.values():
        check_dataset(part)
    streams = [name for name, part in named.items() if isinstance(part, datasets.IterableDataset)]
    others = [name for name in named if name not in streams]
    if streams and others:
        raise InputError(
            f"{', '.join(streams)} is a stream and {', '.join(others)} is none, and they are read in different ways: "
            "open all with streaming=True, or none."
        )
    return named


def of_source(name: str, make: Callable[..., _Made], *arguments: Any) -> _Made:
    """Call something, and put the name of a data set before what it refuses."""
    try:
        return make(*arguments)
    except InputError as error:
        raise InputError(f"{name}: {error}" if name else str(error)) from error


def check_shared(ids: Mapping[str, Int64Array]) -> None:
    """Refuse a data set none of whose captions another one has.

    Args:
        ids: int64 (N,), by the name of the data set.

    Raises:
        InputError: A data set shares no caption with the others.
    """
    for name, own in reversed(list(ids.items())):
        others = [other for label, other in ids.items() if label != name]
        if others and not np.isin(own, np.concatenate(others)).any():
            raise InputError(
                f"No caption of {name} is in {' or '.join(label for label in ids if label != name)}, so its images "
                "would have no sibling there: give data sets of the same captions (the same text, or equal "
                "caption_id)."
            )
