"""What an encoder is measured by while it trains: labelled images, or captions that are held out."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from .. import assets
from ..assets import EMBEDDED
from ..errors import InputError
from ..evaluation.images import load_images
from ..training import KnnProbe, SiblingProbe, StableRepTrainingArguments
from ..training.groups import caption_ids, key_column


def probed(
    settings: Any, arguments: StableRepTrainingArguments, dataset: Any
) -> tuple[Any, KnnProbe | SiblingProbe | None]:
    """What is left to train on, and what the encoder is measured by while it trains.

    Args:
        settings: `TrainingSettings`.
        arguments: They say when.
        dataset: One, or several by name.

    Raises:
        InputError: Two probes, or one without a time to measure; too few captions to hold any out.
    """
    given = [name for name in ("probe_data", "held_out_captions") if getattr(settings, name) is not None]
    if len(given) > 1:
        raise InputError("`probe_data` measures with labels and `held_out_captions` without: give either.")
    if (not given) != (arguments.eval_strategy == "no"):
        raise InputError(
            "`probe_data` or `held_out_captions` says what the encoder is measured on while it trains and "
            "`eval_strategy` (steps or epoch) when: give both, or neither."
        )
    if settings.held_out_captions is not None:
        return _hold_out(dataset, settings.held_out_captions, arguments.seed)
    if settings.probe_data is None:
        return dataset, None
    embedded = settings.probe_data == EMBEDDED
    source = str(assets.pictograms_path()) if embedded else settings.probe_data
    split = settings.probe_split or ("held_out_artist" if embedded else "test")
    return dataset, KnnProbe(
        load_images(source, settings.probe_train_split),
        load_images(source, split),
        label_column=settings.probe_label_column or ("group" if embedded else "label"),
    )


def _hold_out(dataset: Any, count: int, seed: int) -> tuple[Any, SiblingProbe]:
    """Whole captions, with all their images of all data sets, on either side."""
    named: dict[str, Any] = dataset if isinstance(dataset, dict) else {"": dataset}
    if not all(isinstance(images, datasets.Dataset) for images in named.values()):
        raise InputError(
            "`held_out_captions` chooses among all captions, which `streaming` does not know: give either."
        )
    ids = {name: _ids(images) for name, images in named.items()}
    known = np.unique(np.concatenate(list(ids.values())))
    if not 2 <= count < len(known):
        raise InputError(
            f"held_out_captions={count} of the {len(known)} captions leaves too few on one side: give at least 2, and "
            "leave some to train on."
        )
    chosen = np.random.default_rng(seed).choice(known, count, replace=False)
    rows = {name: np.isin(own, chosen) for name, own in ids.items()}
    rest = {name: images.select(np.flatnonzero(~rows[name])) for name, images in named.items()}
    held = [
        images.select(np.flatnonzero(rows[name]))
        .select_columns(["image"])
        .add_column("caption_id", ids[name][rows[name]])
        for name, images in named.items()
    ]
    probe = SiblingProbe(datasets.concatenate_datasets(held))
    return (rest if isinstance(dataset, dict) else rest[""]), probe


def _ids(images: datasets.Dataset) -> NDArray[np.int64]:
    column = key_column(images.column_names, "caption", "")
    assert column is not None
    return caption_ids(images.with_format("arrow")[column][:], column)
