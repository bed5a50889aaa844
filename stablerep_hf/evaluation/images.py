"""Data sets of images, wherever they are, as `datasets` reads them."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarError
from typing import Any
from zipfile import BadZipFile

from ..errors import InputError
from ..files.data_cards import read_card
from ..files.hub_client import client_error
from ..files.shards import check_shards
from .decoding import IN_ARCHIVE, know_heif
from .folders import FolderFiles, counted, find_files, image_suffixes

logger = logging.getLogger(__name__)

_SAVED = ("dataset_dict.json", "state.json")  # of `save_to_disk`
# What its builders raise about files, cards and settings that they cannot read.
_DATASETS_ERRORS = (ValueError, RuntimeError, TypeError, KeyError, AttributeError, TarError, BadZipFile)
_CHECKED_ROWS = 64  # that the rows of a stream are read ahead


def load_images(source: str | Path, split: str | None, subset: str | None = None, **settings: Any) -> Any:
    """Load a split of an image data set: a folder or a Hub id, of which `subset` may be one of several.

    A folder is read as its files are now, its splits being those that its card names or else those of `find_files`,
    as are those of image files on the Hub; what is not read is counted in a warning. A column of structs of `bytes`
    and `path` holds images, whether or not the file says so.

    A row of a Parquet, CSV or JSON file may hold a path instead of an image: of any file of this machine, or an
    address. Rows that name anything outside the folder or repository of the data set lose that path, streamed or not,
    so that each is a bad image. A column of texts holds no images.

    The files of a data set that this package wrote are checked first (see `files.shards.check_shards`).

    Args:
        source: Folder or Hub id.
        split: Of the data set; None for all of them, as a dictionary.
        subset: Of the data set.
        settings: As for `datasets.load_dataset`; with `streaming` what is returned is a stream.

    Raises:
        InputError: There is none, it lacks the split, `datasets` cannot read it, or its files are not those that were
            written.
    """
    import datasets
    from datasets.fingerprint import Hasher

    know_heif()
    with _explained(source, f"give the split {split!r}"):
        check_shards(source)
        says = read_card(source)
        files = _own_files(source, says) if subset is None else None
        if files is not None:
            if says.get("dataset_info"):
                settings["features"] = datasets.load_dataset_builder(_place(source)).info.features
            loaded = _load_files(source, files, split, settings)
        else:
            if says and Path(source).is_dir():
                config = datasets.load_dataset_builder(_place(source), subset).config
                # what the rows are kept by: `datasets` goes on serving those of files that have changed since
                settings["config_id"] = f"{config.name}-{Hasher.hash(config.data_files)}"
            loaded = datasets.load_dataset(_place(source), subset, split=split, **settings)
    if isinstance(loaded, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        return type(loaded)({name: _as_images(part, source) for name, part in loaded.items()})
    return _as_images(loaded, source)


def image_splits(source: str | Path, subset: str | None = None) -> list[str]:
    """The splits of an image data set, as `load_images` knows them.

    Raises:
        InputError: There is no such data set.
    """
    import datasets

    with _explained(source, "name its splits"):
        says = read_card(source)
        if subset is None and (files := _own_files(source, says)) is not None:
            return list(files.patterns)
        return list(datasets.get_dataset_split_names(_place(source), subset))


def check_splits(source: str | Path, *splits: str) -> None:
    """Refuse a data set that is not there, or lacks a split, without reading more of it than names.

    Args:
        source: Folder or Hub id.
        splits: As for `load_images`, such as "train" or "train[:80%]+test".

    Raises:
        InputError: There is no such data set or split.
    """
    import datasets

    check_shards(source)
    says = read_card(source)
    with _explained(source, "be read"):
        if (files := _own_files(source, says)) is not None:
            known = list(files.patterns)
        else:
            known = list(getattr(datasets.load_dataset_builder(_place(source)).config, "data_files", None) or ())
    wanted = {part.partition("[")[0].strip() for split in splits for part in split.split("+")}
    names = list(map(str, known))
    if names and (missing := sorted(wanted - {*names, "all"})):
        raise InputError(
            f"The data set {str(source)!r} cannot give the split {missing[0]!r}, it has "
            f"{', '.join(map(repr, names))}: name one of those."
        )


def _place(source: str | Path) -> str:
    """What `datasets` loads: it takes the name of a folder from its path, and "." has none."""
    return str(Path(source).resolve()) if Path(source).is_dir() else str(source)


def _own_files(source: str | Path, card: Mapping[str, Any]) -> FolderFiles | None:
    """The files of a folder, or the images of a repository, of which nothing but their names says the splits."""
    folder = Path(source)
    if "configs" in card:
        return _files_of_card(folder.resolve(), card) if folder.is_dir() else None
    if folder.exists():
        saved = any((folder / name).is_file() for name in _SAVED)
        return find_files(folder) if folder.is_dir() and not saved else None
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(str(source), repo_type="dataset")
    except (OSError, ValueError, client_error()):  # said where it is loaded
        return None
    if not any(Path(name).suffix.lower() in image_suffixes() for name in names):
        return None
    files = find_files(folder, names)
    return files if files.are_images else None


def _files_of_card(folder: Path, card: Mapping[str, Any]) -> FolderFiles | None:
    """The files that a card names, where `datasets` would take brackets in the folder's own path for a pattern."""
    from datasets.data_files import sanitize_patterns

    if not glob.has_magic(str(folder)):
        return None
    configs = [one for one in card["configs"] if one.get("data_files")]
    default = [one for one in configs if one.get("default") or one.get("config_name") == "default"]
    if not (chosen := default or configs[:1]):
        return None
    root = glob.escape(str(folder / chosen[0].get("data_dir", "")))
    patterns = sanitize_patterns(chosen[0]["data_files"])
    named = {str(split): [f"{root}/{pattern}" for pattern in own] for split, own in patterns.items()}
    return FolderFiles(are_images=False, patterns=named, drop_labels=None, unread={})


def _load_files(source: str | Path, files: FolderFiles, split: str | None, settings: dict[str, Any]) -> Any:
    import datasets

    from .image_files import ImageFiles

    if files.unread:
        logger.warning("Files in %s that are not read: %s.", source, counted(files.unread))
    if files.uneven:
        logger.warning(
            "Folders of %s name no classes, since its images lie at different depths (%s): move them to one depth to "
            "have labels.",
            source,
            " and ".join(files.uneven),
        )
    if files.are_images and files.drop_labels is not None:
        settings["drop_labels"] = files.drop_labels
    if not files.are_images:
        return datasets.load_dataset(_place(source), data_files=files.patterns, split=split, **settings)
    streaming = settings.pop("streaming", False)
    root = "" if Path(source).is_dir() else f"hf://datasets/{source}/"
    named = {split: [root + pattern for pattern in own] for split, own in files.patterns.items()}
    builder = ImageFiles(data_files=named, **settings)
    if streaming:
        return builder.as_streaming_dataset(split)
    builder.download_and_prepare()
    if number := builder.unnamed():
        logger.warning("%d images in %s are not read: no metadata file names them.", number, source)
    return builder.as_dataset(split)


@contextmanager
def _explained(source: str | Path, wanted: str) -> Iterator[None]:
    """Turn what `datasets` raises about a data set into a sentence."""
    import datasets

    try:
        yield
    except InputError:
        raise
    except datasets.exceptions.SplitsVerificationError as error:
        raise InputError(
            f"The card of the data set {str(source)!r} counts other images than its files hold, so some are missing "
            "or the card is old: complete the files, or take `dataset_info` out of the card."
        ) from error
    except OSError as error:  # not found, no connection, refused by the Hub
        raise InputError(
            f"The data set {str(source)!r} is neither a folder with images nor within reach ({_first(error)[:100]}): "
            "check the name."
        ) from error
    except (*_DATASETS_ERRORS, datasets.exceptions.DatasetsError) as error:
        reason = _first(error)[:200]
        if "class label" in reason:  # datasets 5 takes the name of an archive's own folder for a class
            reason += ", perhaps since it holds class folders in an archive: unpack that"
        raise InputError(f"The data set {str(source)!r} cannot {wanted}: {reason}.") from error


def _first(error: BaseException) -> str:
    """The first line of what was raised, or of what it was raised from where it says no more than that."""
    if error.__cause__ is not None and "error occurred while generating" in str(error):
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _as_images(dataset: Any, source: str | Path) -> Any:
    """The data set with every column of image files declared as such, and no file read from outside of it."""
    import datasets

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, Mapping) and feature.keys() == {"bytes", "path"}:
            dataset = dataset.cast_column(column, datasets.Image())
    return _without_foreign_paths(dataset, source)


def _without_foreign_paths(dataset: Any, source: str | Path) -> Any:
    """The data set or stream, where rows that name a file outside `source` instead of holding an image name none."""
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    columns = [name for name, feature in (dataset.features or {}).items() if isinstance(feature, datasets.Image)]
    is_stream = isinstance(dataset, datasets.IterableDataset)
    if Path(source).exists():
        roots = [re.escape(root) for root in {os.path.normpath(Path(source).absolute()), str(Path(source).resolve())}]
    elif is_stream:
        roots = [rf"hf://datasets/{re.escape(str(source))}(?:@[^/]+)?"]
    else:
        folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=str(source), repo_type="dataset"))
        roots = [re.escape(str(folder))]

    def is_foreign(cells: Any) -> Any:
        paths = pc.struct_field(cells, "path").cast(pa.string())  # where all are None they are of no type
        files = pc.replace_substring_regex(paths, IN_ARCHIVE, "")
        below = pc.replace_substring_regex(files, rf"^({'|'.join(roots)})[/\\]", "/")
        inside = pc.and_not(pc.not_equal(below, files), pc.match_substring_regex(below, r"[/\\]\.\.[/\\]|://|::"))
        named = pc.and_(pc.is_null(pc.struct_field(cells, "bytes")), pc.is_valid(paths))
        return pc.fill_null(pc.and_not(named, inside), False)

    def without(table: Any) -> Any:
        for column in columns:
            foreign = is_foreign(table[column])
            if pc.any(foreign).as_py():
                empty = pa.scalar({"bytes": None, "path": None}, table.schema.field(column).type)
                cells = pc.if_else(foreign, empty, table[column])
                table = table.set_column(table.column_names.index(column), column, cells)
        return table

    options = {"batched": True, "batch_size": _CHECKED_ROWS, "features": dataset.features}
    if is_stream:
        return dataset.with_format("arrow").map(without, **options).with_format(None) if columns else dataset
    number = 0
    for column in columns:
        foreign = is_foreign(dataset.data.column(column))
        if found := pc.sum(foreign).as_py():
            number += found
            first = pc.struct_field(dataset.data.column(column).filter(foreign), "path")[0]
            logger.warning(
                "%d rows of %s name files outside of it (such as %.100r) and hold no image; they are not read.",
                found, source, first.as_py(),
            )  # fmt: skip
    if number:
        dataset = dataset.with_format("arrow").map(without, **options, desc="checking paths").with_format(None)
    return dataset
