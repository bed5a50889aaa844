"""Data sets of images, and the one place that reads and decodes a cell of them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from PIL import Image

from ..errors import InputError

logger = logging.getLogger(__name__)

_CARDS = ("README.md", ".huggingface.yaml")
_IN_ARCHIVE = r"^zip://[^:]*::"  # how `datasets` names a file in a zip archive: before the path of the archive


def load_images(source: str | Path, split: str | None, subset: str | None = None, **settings: Any) -> Any:
    """Load a split of an image data set: a folder or a Hub id, of which `subset` may be one of several.

    A folder is read as its files stand now. `datasets` itself goes on serving the rows that it has kept of a folder
    with a card for as long as the card names the same files, whatever has become of them.

    A row of a Parquet, CSV or JSON file may hold a path instead of an image: of any file of this machine, or an
    address. Rows that name anything outside the folder or repository of the data set lose that path, so that each is
    a bad image. This does not hold for a stream, whose reader must decide.

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
        loaded = datasets.load_dataset(str(source), subset, split=split, **settings)
    except OSError as error:  # not found, no connection, refused by the Hub
        raise InputError(
            f"The data set {str(source)!r} is neither a folder with images nor within reach "
            f"({str(error).splitlines()[0][:100]}): check the name."
        ) from error
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(
            f"The data set {str(source)!r} cannot give the split {split!r}: {str(error).splitlines()[0][:200]}."
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        return datasets.DatasetDict({name: _without_foreign_paths(part, source) for name, part in loaded.items()})
    return _without_foreign_paths(loaded, source) if isinstance(loaded, datasets.Dataset) else loaded


def read_content(stored: Mapping[str, Any]) -> bytes:
    """Read the file behind one cell of an image column.

    Args:
        stored: As `datasets.Image(decode=False)` gives it: `bytes`, or if they are None the `path` of a file of this
            machine or of a zip archive on it.

    Raises:
        ValueError: Neither is there, or the path is an address; nothing is fetched.
        OSError: The file cannot be read; zipfile.BadZipFile and KeyError of an archive.
    """
    if stored["bytes"] is not None:
        return bytes(stored["bytes"])
    if stored["path"] is None:
        raise ValueError("neither the bytes of an image nor a file of its data set")
    path = str(stored["path"])
    place = re.sub(_IN_ARCHIVE, "", path)
    if "://" in place or "::" in place:
        raise ValueError(f"{path[:100]!r} is an address and no file; images are not fetched one by one")
    if place == path:
        return Path(path).read_bytes()
    with ZipFile(place) as archive:
        return archive.read(path.removeprefix("zip://").removesuffix(f"::{place}"))


def decode_image(stored: Mapping[str, Any]) -> Image.Image:
    """Decode one cell of an image column.

    Args:
        stored: As for `read_content`.

    Returns:
        RGB, turned as its EXIF orientation says, transparent parts on white.

    Raises:
        Exception: As `read_content`, or whatever Pillow raises for bytes that are no image.
    """
    import datasets

    return to_rgb(datasets.Image().decode_example({"bytes": read_content(stored), "path": None}))


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB, transparent parts on white.

    Where an icon is transparent its colours are whatever its maker left there, mostly black under black lines.
    """
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")


def _without_foreign_paths(dataset: Any, source: str | Path) -> Any:
    """The data set, where rows that name a file outside `source` instead of holding an image name none."""
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if Path(source).exists():
        roots = {os.path.normpath(Path(source).absolute()), str(Path(source).resolve())}
    else:
        roots = {str(Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=str(source), repo_type="dataset")))}

    def is_foreign(cells: Any) -> Any:
        paths = pc.struct_field(cells, "path")
        files = pc.replace_substring_regex(paths, _IN_ARCHIVE, "")
        inside = pc.and_not(
            pc.match_substring_regex(files, f"^({'|'.join(re.escape(root) for root in roots)})[/\\\\]"),
            pc.match_substring_regex(files, r"[/\\]\.\.[/\\]|://|::"),
        )
        named = pc.and_(pc.is_null(pc.struct_field(cells, "bytes")), pc.is_valid(paths))
        return pc.fill_null(pc.and_not(named, inside), False)

    def without(table: Any, column: str) -> Any:
        foreign = is_foreign(table[column]).to_pylist()
        empty = {"bytes": None, "path": None}
        cells = [empty if bad else cell for bad, cell in zip(foreign, table[column].to_pylist(), strict=True)]
        place = table.column_names.index(column)
        return table.set_column(place, column, pa.array(cells, table.schema.field(column).type))

    for column, feature in dataset.features.items():
        if not isinstance(feature, datasets.Image):
            continue
        foreign = is_foreign(dataset.data.column(column))
        if not pc.any(foreign).as_py():
            continue
        first = pc.struct_field(dataset.data.column(column).filter(foreign), "path")[0]
        logger.warning(
            "%d rows of %s name files outside of it (such as %.100r) and hold no image; they are not read.",
            pc.sum(foreign).as_py(), source, first.as_py(),
        )  # fmt: skip
        dataset = dataset.with_format("arrow").map(
            without, fn_kwargs={"column": column}, batched=True, features=dataset.features, desc="checking paths"
        )
        dataset = dataset.with_format(None)
    return dataset
