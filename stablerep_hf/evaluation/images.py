"""Images as they come: data sets of them, and pictures of any mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError

_CARDS = ("README.md", ".huggingface.yaml")


def load_images(source: str | Path, split: str | None, subset: str | None = None, **settings: Any) -> Any:
    """Load a split of an image data set: a folder or a Hub id, of which `subset` may be one of several.

    A folder is read as its files stand now. `datasets` itself goes on serving the rows that it has kept of a folder
    with a card for as long as the card names the same files, whatever has become of them.

    Args:
        source: Folder or Hub id.
        split: Of the data set.
        subset: Of the data set.
        settings: As for `datasets.load_dataset`; with `streaming` what is returned is a stream.

    Raises:
        InputError: There is none, or it lacks the split.
    """
    import datasets
    from datasets.fingerprint import Hasher

    try:
        if any((Path(source) / card).is_file() for card in _CARDS):
            config = datasets.load_dataset_builder(str(source), subset).config
            # what the rows are kept by: the names and dates of the files
            settings["config_id"] = f"{config.name}-{Hasher.hash(config.data_files)}"
        return datasets.load_dataset(str(source), subset, split=split, **settings)
    except OSError as error:  # not found, no connection, refused by the Hub
        raise InputError(
            f"The data set {str(source)!r} is neither a folder with images nor within reach "
            f"({str(error).splitlines()[0][:100]}): check the name."
        ) from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(
            f"The data set {str(source)!r} cannot give the split {split!r}: {str(error).splitlines()[0][:200]}."
        ) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB, transparent parts on white.

    Where an icon is transparent its colours are whatever its maker left there, mostly black under black lines.
    """
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")
