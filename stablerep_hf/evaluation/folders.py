"""Which files of a folder are its data, which split each belongs to, and which are not read."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from PIL import features

from ..errors import InputError
from ..files.shards import FILES, MANIFEST, PLAN, PROVENANCE

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_NUMBERED = re.compile(rf"({'|'.join(SPLIT_NAMES)})([-_.]?\d[-\w.]*)?", re.IGNORECASE)  # train, train-0003, val2017
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*")  # of any split, as `datasets` names what it writes
_WORD = re.compile(rf"(?:^|[-_. ])({'|'.join(SPLIT_NAMES)})(?=$|[-_. \d])", re.IGNORECASE)
# Read as rows or as archives. Text is not among them: beside images it holds notes.
_TABLES = frozenset({".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".tar", ".zip"})
_HEIF = (".heic", ".heif")
_REASONS = {
    ".avif": ".avif (Pillow was built without AVIF)",
    **{suffix: f"{suffix} (`pip install pillow-heif` to read them)" for suffix in _HEIF},
}
_METADATA = frozenset(ImageFolder.METADATA_FILENAMES)
_RECORDS = {PROVENANCE: PLAN, MANIFEST: FILES}  # of data sets that this package wrote
_ABOUT = frozenset({"readme", "license", "licence", "notice", "changelog", "copying", "citation"})
_STATES = frozenset({"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})


@dataclass(frozen=True)
class FolderFiles:
    """The data files of a folder.

    Attributes:
        are_images: whether they are images, one a file, rather than tables or archives of rows.
        patterns: split -> glob patterns of its files, absolute; of a repository relative to it.
        drop_labels: as `datasets` takes it: True where no folder below a split can name a class, False where all do,
            else None. Left to itself `datasets` would give no labels in a first split that holds a single class.
        unread: what is not read, and why -> how many files.
        uneven: an image of a class folder and one of a deeper folder, if there are both: `datasets` reads no labels
            then, since it could not say at which depth classes are named.
    """

    are_images: bool
    patterns: dict[str, list[str]]
    drop_labels: bool | None
    unread: dict[str, int]
    uneven: tuple[str, ...] = ()


def image_suffixes() -> frozenset[str]:
    """Suffixes of image files that can be read here, lower case: AVIF and HEIC only where Pillow can read them."""
    known = set(ImageFolder.EXTENSIONS) - {".mpg", ".mpeg"}
    if features.check("avif"):
        known.add(".avif")
    if find_spec("pillow_heif") is not None:
        known.update(_HEIF)
    return frozenset(known)


def find_files(folder: Path, names: Iterable[str] | None = None) -> FolderFiles:
    """Sort the files of a folder, or of a repository on the Hub, whose card names none into splits.

    The split of a file follows from the first part of its path alone: a folder such as `train` or `val2017`, or, where
    the data are tables, a file such as `test.csv` or `train-00000-of-00002.parquet`. A word inside a name says nothing
    ("train station"). One class folder called `train` among others is not a split: all of them are `train`, as in
    every folder without splits. Folders around all data are passed through.

    Args:
        folder: the folder, or the repository's id.
        names: files of the repository, with their folders.

    Raises:
        InputError: the folder holds no data, or some of its data lie in splits and others do not.
    """
    images, tables, metadata, unread = _listed(_walk(folder) if names is None else _visible(names))
    # a table that is called as a split is is the data, whatever pictures lie beside it
    named = any(_split_of(path.name, is_folder=False, are_images=False) for path in tables)
    are_images = bool(images) and len(images) >= len(tables) and not named
    files = images if are_images else tables
    if not files:
        raise InputError(
            f"The folder {str(folder)!r} holds no image and no table that can be read"
            + (f" ({counted(unread)} cannot)" if unread else "")
            + "; name the folder of a data set."
        )
    for path in tables if are_images else [*images, *metadata]:
        unread[path.suffix.lower()] += 1
    base = _base(files)
    root = glob.escape(str(folder.resolve().joinpath(*base)) if names is None else "/".join(base))
    root += "/" if root else ""
    splits = _splits(folder, [path.parts[len(base) :] for path in files], are_images)
    patterns: dict[str, dict[str, None]] = {split: {} for split in splits.values()}
    for path in [*files, *(metadata if are_images else [])]:
        head, *rest = path.parts[len(base) :]
        split = splits.get(head if splits.keys() != {""} else "")
        if split is None:
            unread["metadata outside of the splits"] += 1
        elif are_images:
            name = path.name if path in metadata else f"*{glob.escape(path.suffix)}"
            patterns[split][f"{root}{glob.escape(head) + '/' if head in splits else ''}**/{name}"] = None
        else:
            patterns[split][f"{root}{glob.escape('/'.join([head, *rest]))}"] = None
    depth = len(base) + (0 if splits.keys() == {""} else 1)
    levels, classes = {len(path.parts): str(path) for path in files}, {path.parent.name for path in files}
    drop_labels = None if max(levels) > depth + 1 else True
    if drop_labels is None and len(levels) == 1 < len(classes):
        drop_labels = False
    uneven = tuple(levels.values())[:2] if are_images and drop_labels is None and len(levels) > 1 else ()
    return FolderFiles(
        are_images, {split: list(own) for split, own in patterns.items()}, drop_labels, dict(unread), uneven
    )


def counted(unread: Mapping[str, int]) -> str:
    """What is not read, for a sentence: "5 .heic, 2 .txt"."""
    return ", ".join(f"{count:,} {what}" for what, count in sorted(unread.items()))


def _walk(folder: Path) -> Iterator[PurePath]:
    """The visible files below a folder, relative to it, but those of our records."""
    seen = {os.path.realpath(folder)}
    for walked, folders, names in os.walk(folder, followlinks=True):
        place = Path(walked)
        records = {name for name, file in _RECORDS.items() if (place / name / file).is_file()}
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")) and name not in records)
        for name in list(folders):
            real = os.path.realpath(place / name)
            if Path(os.path.realpath(place)).is_relative_to(real):
                folders.remove(name)  # a link that leads back up
            elif real in seen:
                raise InputError(
                    f"The folder {str(place / name)!r} is in the data set twice, by a link, so that its files would "
                    "be in two splits or classes: take the link out."
                )
            seen.add(real)
        yield from (PurePath(place.relative_to(folder), name) for name in sorted(names) if not name.startswith("."))


def _visible(names: Iterable[str]) -> Iterator[PurePath]:
    """The files of a repository that `_walk` would give."""
    for path in map(PurePath, sorted(names)):
        if not path.name.startswith(".") and not any(part.startswith((".", "__")) for part in path.parent.parts):
            yield path


def _listed(
    paths: Iterable[PurePath],
) -> tuple[list[PurePath], list[PurePath], list[PurePath], Counter[str]]:
    """Images, tables and metadata among files, and the rest by why it is not read."""
    images: list[PurePath] = []
    tables: list[PurePath] = []
    metadata: list[PurePath] = []
    unread: Counter[str] = Counter()
    readable = image_suffixes()
    for path in paths:
        suffix = path.suffix.lower()
        if path.name in _STATES or path.stem.lower() in _ABOUT:
            continue
        if path.name in _METADATA:
            metadata.append(path)
        elif suffix in readable:
            images.append(path)
        elif suffix in _TABLES:
            tables.append(path)
        else:
            unread[_REASONS.get(suffix, suffix or "without a suffix")] += 1
    return images, tables, metadata, unread


def _base(files: Sequence[PurePath]) -> tuple[str, ...]:
    """The folders that are around all files and are not splits."""
    base = os.path.commonpath([path.parent for path in files]) if len(files) > 1 else str(files[0].parent)
    parts = PurePath(base).parts
    return tuple(itertools.takewhile(lambda part: not _NUMBERED.fullmatch(part), parts))


def _splits(folder: Path, places: Sequence[tuple[str, ...]], are_images: bool) -> dict[str, str]:
    """First part of a path -> split; a folder without splits has the empty part alone, which fits any path."""
    heads = {place[0]: len(place) > 1 for place in places}  # whether it is a folder
    named = {head: split for head, is_folder in heads.items() if (split := _split_of(head, is_folder, are_images))}
    if len(named) == len(heads):
        return named
    others = [head for head in heads if head not in named]
    is_class = len(named) == 1 and all(len(place) == 2 for place in places)  # one of several class folders
    if named and not is_class:
        raise InputError(
            f"The folder {str(folder)!r} has {', '.join(map(repr, sorted(named)))} for splits, and {others[0]!r} is "
            "none of train, validation and test: move it into one of them, or take it out."
        )
    words = [{SPLIT_NAMES[word.lower()] for word in _WORD.findall(head)} for head in others]
    if not named and all(words) and len(set().union(*words)) > 1 and (not are_images or all(heads.values())):
        raise InputError(
            f"The folder {str(folder)!r} holds {', '.join(map(repr, sorted(heads)[:3]))}, which look like splits and "
            "are not named as such: call them train, validation and test."
        )
    return {"": "train"}


def _split_of(head: str, is_folder: bool, are_images: bool) -> str | None:
    if not is_folder and are_images:
        return None  # pictures are called what their makers like
    stem = head if is_folder else head.partition(".")[0] if not _SHARD.fullmatch(head) else head
    if found := _NUMBERED.fullmatch(stem):
        return SPLIT_NAMES[found[1].lower()]
    shard = _SHARD.fullmatch(stem) if not is_folder else None
    return shard[1] if shard else None
