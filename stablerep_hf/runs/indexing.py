"""The images of a data set that is named, findable by an encoder: what `stablerep index` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.atomic import readable_disk_errors
from ..files.locks import lock_folder
from ..progress import say
from ..setting import setting
from .data import find_data
from .encoding import EncodingSettings

if TYPE_CHECKING:
    from ..retrieval import ImageIndex


@dataclass
class IndexingSettings(EncodingSettings):
    """Settings of `index`, beside the data set and the encoder."""

    output: str = setting("index", "Folder of the index.")
    split: str = setting("train", "Split of the data set; several as a+b.")
    subset: str | None = setting(None, "Configuration of a data set that has several.")
    exact_below: int = setting(200_000, "So many images and more get a graph (HNSW) instead of an exact scan.")


def index_dataset(data: str, encoder: str, settings: IndexingSettings | None = None) -> ImageIndex | None:
    """Build the index of a data set's images, or open the one that is there.

    Args:
        data: A folder, a Hub id, or 'embedded'.
        encoder: A folder, a Hub id, 'embedded' or 'embedded-stablerep'.
        settings: Which images, and where to.

    Returns:
        The index; None in a process of a launcher that is not the first, which encodes its part only.

    Raises:
        InputError: Encoder, data or columns are not there or do not fit, the folder holds another index, or another
            process writes to it.
    """
    from ..evaluation.images import load_images

    settings = settings or IndexingSettings()
    settings.check_places(settings.output, data, is_file=False)
    dataset = load_images(find_data(data), settings.split, settings.subset)
    say(f"{data}: {len(dataset):,} images of {settings.split}", only_to_people=True)
    from ..evaluation import extract_features  # what follows takes seconds to import
    from ..evaluation.tables import public_name
    from ..retrieval import index_images

    vision = settings.load(encoder)
    if settings.rank:
        extract_features(vision, dataset, **settings.options())
        return None
    names = {  # travels with the index, so no path of this machine
        "encoder": public_name(encoder),
        "dataset": public_name(data),
        "split": settings.split,
        "subset": settings.subset or "",
    }
    with readable_disk_errors(Path(settings.output)), lock_folder(settings.output):
        return index_images(
            vision,
            dataset,
            settings.output,
            names=names,
            exact_below=settings.exact_below,
            **settings.options(),
        )
