"""Captions from a file, a folder or a data set on the Hub."""

from __future__ import annotations

import glob
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import InputError, refusing
from ..files.data_cards import read_card
from .caption_files import (
    FILE_SUFFIXES,
    Rows,
    choose_column,
    class_name,
    open_parquet,
    read_rows,
    refusing_damaged_parquet,
    suffix_of,
)
from .caption_set import OPTIONAL, SCHEMA, CaptionSet

_LOGGER = logging.getLogger(__name__)
_ROWS_FOR_TYPES = 1000  # from which the types of columns are inferred
_OWN = (*SCHEMA.names, *OPTIONAL.names)


def read_captions(
    source: str | Path, column: str | None = None, split: str = "train", label_column: str | None = None
) -> CaptionSet:
    """Read captions from a file or a data set.

    A file gives the same captions alone, in a folder and on the Hub. Files of a folder that are not read are counted,
    by reason, in a warning of the logger `stablerep_hf.captions.reading`.

    Args:
        source: A file: `.txt` (UTF-8, one caption a line), `.csv` or `.tsv` (the first line names the columns),
            `.jsonl`, `.ndjson` or `.json` (a list or lines; entries are objects or plain strings) or `.parquet`; text
            may be compressed (`.csv.gz`). Or a folder or the id of a data set on the Hub, whose files `datasets` sorts
            into splits; other files, such as tars, are streamed by `datasets`.
        column: Which column holds the captions. By default `caption`, else the only column that holds text (but not of
            a CSV file, whose only heading may be a caption).
        split: Which split of a data set to read. Files have none.
        label_column: Which column holds a label of each caption, to be kept as `label`; of classes their names.

    Returns:
        The normalised captions; exact duplicates are merged (see `CaptionSet.num_merged`) and empty ones left out (see
        `CaptionSet.num_empty`). A parquet file that `CaptionSet.write_parquet` wrote comes back as it was.

    Raises:
        InputError: The source is missing, empty, damaged, not text, or has no such column.
    """
    path = Path(source)
    if os.path.isfile(path):  # noqa: PTH113  # False, too, of a name that is too long for the file system
        captions = _read_files([str(path.absolute())], column, label_column)
    elif os.path.isdir(path):  # noqa: PTH112
        captions = _read_dataset(str(path.absolute()), column, split, label_column)
    elif path.suffix in FILE_SUFFIXES or path.is_absolute() or str(source).startswith((".", "~")):
        raise InputError(f"The caption file {str(source)!r} {_why_not_found(path)}; check the path.")
    else:
        captions = _read_dataset(str(source), column, split, label_column)
    if len(captions) == 0:
        seen = f"only {captions.num_empty} empty lines" if captions.num_empty else "nothing"
        raise InputError(f"{str(source)!r} holds {seen}, so there is no caption to draw; give at least one.")
    return captions


def _why_not_found(path: Path) -> str:
    try:
        path.stat()
    except PermissionError:
        return "is in a folder that may not be opened"
    except OSError:  # also a name that is too long for the file system
        pass
    return "does not exist"


def _read_files(files: Sequence[str], column: str | None, label_column: str | None) -> CaptionSet:
    if column is None and label_column is None and (own := _own_tables(files)):
        return CaptionSet.from_batches(*own)
    return _collect(chain.from_iterable(read_rows(file, column, label_column) for file in files), label_column)


def _collect(rows: Rows, label_column: str | None) -> CaptionSet:
    return CaptionSet.from_texts(text for text, _ in rows) if label_column is None else CaptionSet.from_labelled(rows)


def _own_tables(files: Sequence[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]] | None:
    """The schema and rows of files that `CaptionSet.write_parquet` wrote with the same columns; None for others."""
    schemas = []
    for file in files:
        if suffix_of(file) != ".parquet":
            return None
        with refusing_damaged_parquet(Path(file).name), open_parquet(file) as table:
            schemas.append(table.schema_arrow)
    columns = [[name for name in _OWN if name in schema.names] for schema in schemas]
    if any(names != columns[0] or not set(SCHEMA.names) <= set(names) for names in columns):
        return None

    def batches() -> Iterator[pa.RecordBatch]:
        for file in files:
            with refusing_damaged_parquet(Path(file).name), open_parquet(file) as table:
                yield from table.iter_batches(columns=columns[0])

    # A history is that of one file; it does not hold for several.
    return (schemas[0] if len(files) == 1 else schemas[0].remove_metadata()), batches()


def _read_dataset(source: str, column: str | None, split: str, label_column: str | None) -> CaptionSet:
    import datasets
    from datasets.exceptions import DatasetsError

    with (
        refusing(  # no way to it, a file damaged halfway
            f"No captions could be read from {source!r}, split {split!r}",
            "give a file, a folder or a data set id that `datasets.load_dataset` can load, and a split it has",
            (OSError, ValueError, DatasetsError),
        ),
        _without_patterns(source) as place,
    ):
        read_card(source)  # that it names no files but its own
        config = datasets.load_dataset_builder(place).config
        splits = {str(name): [str(file) for file in files] for name, files in (config.data_files or {}).items()}
        if splits and split not in splits:
            raise InputError(f"{source!r} has no split {split!r}; choose one of {list(splits)}.")
        files = splits.get(split, [])
        # Of images and tables the tables hold the captions.
        tables = [file for file in files if suffix_of(file) in FILE_SUFFIXES]
        _warn_of_the_rest(source, place, tables or files, split, splits)
        if tables:
            return _read_files(tables, column, label_column)
        # Of zipped CSV files pandas would take captions such as "None" for missing ones.
        options = {"keep_default_na": False} if hasattr(config, "keep_default_na") else {}
        rows = datasets.load_dataset(place, split=split, streaming=True, **options)
        return _collect(_stream(rows, source, column, label_column), label_column)


@contextmanager
def _without_patterns(source: str) -> Iterator[str]:
    """What `datasets` can list: for a folder whose path it would take for a pattern, one of links to its files."""
    folder = Path(source).resolve()
    if not folder.is_dir() or not glob.has_magic(str(folder)):
        yield source
        return
    with tempfile.TemporaryDirectory() as place:
        for file in folder.rglob("*"):
            if file.is_file():
                link = Path(place, file.relative_to(folder))
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
        yield place


def _stream(rows: Any, source: str, column: str | None, label_column: str | None) -> Rows:
    import datasets

    features = rows.features
    if features is None:  # of CSV and text files in archives, which say nothing before they are read
        first = next(rows.with_format("arrow").iter(batch_size=_ROWS_FOR_TYPES), None)
        if first is None:
            return
        features = datasets.Features.from_arrow_schema(first.schema)
    texts = [name for name, feature in features.items() if getattr(feature, "dtype", "") in ("string", "large_string")]
    chosen = choose_column(source, list(features), texts, column)
    label = choose_column(source, list(features), texts, label_column) if label_column else chosen
    names = getattr(features[label], "names", None)  # of classes
    for row in rows.select_columns(sorted({chosen, label})):
        yield row[chosen], row[label] if names is None else class_name(names, row[label])


def _warn_of_the_rest(
    source: str, place: str, read: Sequence[str], split: str, splits: Mapping[str, Sequence[str]]
) -> None:
    """Warn of the visible files of a folder that are not read, with their number by reason."""
    reasons_of = {file: f"in the split {name!r}" for name, files in splits.items() for file in files if name != split}
    folder, reasons = Path(place).resolve(), Counter[str]()
    for path in folder.rglob("*"):
        file, suffix = str(path), suffix_of(str(path))
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if file in read or is_hidden or path.name == "README.md" or not path.is_file():
            continue
        unasked = "of another format or in no split" if suffix in FILE_SUFFIXES else ""
        reason = reasons_of.get(file, unasked)
        reasons[f"{suffix or 'without a suffix'} {reason}".strip()] += 1
    if reasons:
        said = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
        _LOGGER.warning("%d files in %r are not read: %s.", reasons.total(), source, said)
