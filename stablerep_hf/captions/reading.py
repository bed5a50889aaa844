"""Captions from a file, a folder or a data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from .caption_set import OPTIONAL, SCHEMA, CaptionSet

DEFAULT_COLUMN = "caption"
FILE_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
_OWN = (*SCHEMA.names, *OPTIONAL.names)
_NESTED = "nests lists or objects too deeply to be read, and captions are text or objects with text"
Rows = Iterator[tuple[str | None, str | None]]  # caption and label
_ROWS_THAT_TELL = 1000  # from which the types of a file's columns are told
_LONGEST_FIELD = 10_000_000  # characters of one CSV field; the csv module's own limit of 131,072 is easily met


def read_captions(
    source: str | Path, column: str | None = None, split: str = "train", label_column: str | None = None
) -> CaptionSet:
    """Read captions from a file or a data set.

    Args:
        source: A file: `.txt` (UTF-8, one caption a line), `.csv` or `.tsv` (first line names the columns), `.jsonl`
            or `.json` (a list; entries are objects or plain strings) or `.parquet`; or a folder or the id of a data
            set on the Hub, which `datasets.load_dataset` streams.
        column: Which column holds the captions. By default `caption`, else the only column that holds text (but not of
            a CSV file, whose only heading may be a caption).
        split: Which split of a data set to read. Files have none.
        label_column: Which column holds a label of each caption, to be kept as `label`.

    Returns:
        The normalised captions; exact duplicates are merged (see `CaptionSet.num_merged`) and empty ones left out (see
        `CaptionSet.num_empty`). A parquet file that `CaptionSet.write_parquet` wrote comes back as it was.

    Raises:
        InputError: If the source is missing, empty, not text, or has no such column.
    """
    path = Path(source)
    if path.is_file():
        captions = _read_file(path, column, label_column)
    elif path.is_dir():
        captions = _collect(_from_dataset(str(path), column, split, label_column), label_column)
    elif path.suffix in FILE_SUFFIXES or path.is_absolute() or str(source).startswith((".", "~")):
        raise InputError(f"The caption file {str(source)!r} does not exist; check the path.")
    else:
        captions = _collect(_from_dataset(str(source), column, split, label_column), label_column)
    if len(captions) == 0:
        seen = f"only {captions.num_empty} empty lines" if captions.num_empty else "nothing"
        raise InputError(f"{str(source)!r} holds {seen}, so there is no caption to draw; give at least one.")
    return captions


def _collect(rows: Rows, label_column: str | None) -> CaptionSet:
    return CaptionSet.from_texts(text for text, _ in rows) if label_column is None else CaptionSet.from_labelled(rows)


def _read_file(path: Path, column: str | None, label_column: str | None) -> CaptionSet:
    match path.suffix.lower():
        case ".parquet":
            return _read_parquet(path, column, label_column)
        case ".csv":
            return _collect(_from_separated(path, ",", column, label_column), label_column)
        case ".tsv":
            return _collect(_from_separated(path, "\t", column, label_column), label_column)
        case ".jsonl" | ".json" as suffix:
            return _collect(_from_json(path, column, label_column, lines=suffix == ".jsonl"), label_column)
        case ".txt" | "":
            if asked := column or label_column:
                raise InputError(
                    f"The column {asked!r} was asked of {path.name!r}, but a text file has no columns: "
                    "every line is a caption; leave the column out."
                )
            return CaptionSet.from_texts(_lines(path))
        case suffix:
            raise InputError(
                f"Captions cannot be read from {path.name!r}: the suffix {suffix!r} is none of "
                f"{', '.join(FILE_SUFFIXES)}; convert or rename the file."
            )


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, one at a time."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise InputError(
                        f"Line {number} of {path.name!r} holds a NUL byte, so this is not a text file; "
                        "give UTF-8 text."
                    )
                yield line
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path.name!r} is not UTF-8 text (byte 0x{error.object[error.start]:02x} after line {number}); "
            "convert it to UTF-8."
        ) from error


def _from_separated(path: Path, delimiter: str, column: str | None, label_column: str | None) -> Rows:
    csv.field_size_limit(_LONGEST_FIELD)
    # Tab-separated files know no quotes, and captions may begin with one.
    reader = (
        csv.reader(_lines(path), delimiter=delimiter, quoting=csv.QUOTE_NONE)
        if delimiter == "\t"
        else csv.reader(_lines(path), delimiter=delimiter, strict=True)
    )
    try:
        header = next(reader, [])
        if column is None and len(header) == 1 and header[0] != DEFAULT_COLUMN:
            raise InputError(
                f"The first line of {path.name!r} is {_short(header[0])}, a heading or a caption: name it as the "
                f"column, or put {DEFAULT_COLUMN!r} above it if it is a caption."
            )
        # A CSV file knows no types: every column may hold text.
        place = header.index(_choose_column(path.name, header, header, column)) if header else 0
        label = header.index(_choose_column(path.name, header, header, label_column)) if label_column else -1
        for row in reader:
            yield (row[place] if place < len(row) else None, row[label] if 0 <= label < len(row) else None)
    except csv.Error as error:
        raise InputError(
            f"Line {reader.line_num} of {path.name!r} is not valid CSV ({error}); repair the quotes there."
        ) from error


def _from_json(path: Path, column: str | None, label_column: str | None, *, lines: bool) -> Rows:
    chosen = column
    for number, entry in enumerate(_json_lines(path) if lines else _json_list(path), start=1):
        if isinstance(entry, dict):
            if chosen is None:
                texts = [key for key, value in entry.items() if isinstance(value, str)]
                chosen = _choose_column(path.name, list(entry), texts, None)
            elif chosen not in entry:
                _choose_column(f"{path.name} (entry {number})", list(entry), [], chosen)
            if label_column is not None and label_column not in entry:
                _choose_column(f"{path.name} (entry {number})", list(entry), [], label_column)
            yield entry[chosen], entry[label_column] if label_column is not None else None
        elif entry is None or (isinstance(entry, str) and column is None and label_column is None):
            yield entry, None
        else:
            raise InputError(
                f"Entry {number} of {path.name!r} is {_short(entry)}, but captions are text or objects"
                f"{'' if column is None else f' with the field {column!r}'}; repair that entry."
            )


def _json_lines(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"Line {number} of {path.name!r} is not valid JSON ({error.msg} at character {error.pos}); "
                    "repair or drop it."
                ) from error
            except RecursionError as error:
                raise InputError(f"Line {number} of {path.name!r} {_NESTED}; repair or drop it.") from error


def _json_list(path: Path) -> list[Any]:
    text = "".join(_lines(path))
    if not text.strip():
        return []
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path.name!r} is not valid JSON ({error.msg} on line {error.lineno}); repair it, or name it .jsonl if "
            "every line is an object of its own."
        ) from error
    except RecursionError as error:
        raise InputError(f"{path.name!r} {_NESTED}; repair it.") from error
    if not isinstance(entries, list):
        raise InputError(
            f"{path.name!r} holds {_short(entries)}, but captions are read from a JSON list of strings or objects; "
            "put them into a list."
        )
    return entries


def _read_parquet(path: Path, column: str | None, label_column: str | None) -> CaptionSet:
    try:
        with pq.ParquetFile(path) as file:
            return _from_parquet(path, file, column, label_column)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path.name!r} is not a readable parquet file ({_first_line(error)}); write it again."
        ) from error


def _from_parquet(path: Path, file: pq.ParquetFile, column: str | None, label_column: str | None) -> CaptionSet:
    schema = file.schema_arrow
    if column is None and label_column is None and set(SCHEMA.names) <= set(schema.names):
        own = [name for name in _OWN if name in schema.names]
        return CaptionSet.from_batches(schema, file.iter_batches(columns=own))
    texts = [field.name for field in schema if _is_text(field.type)]
    chosen = _choose_column(path.name, schema.names, texts, column)
    if chosen not in texts:
        raise InputError(
            f"The column {chosen!r} of {path.name!r} holds {schema.field(chosen).type}, not text; "
            f"choose one of {texts}."
        )
    label = _choose_column(path.name, schema.names, texts, label_column) if label_column else chosen
    batches = file.iter_batches(columns=sorted({chosen, label}))
    return _collect(
        (row for batch in batches for row in zip(batch[chosen].to_pylist(), batch[label].to_pylist(), strict=True)),
        label_column,
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _from_dataset(source: str, column: str | None, split: str, label_column: str | None) -> Rows:
    from datasets.exceptions import DatasetsError

    try:
        yield from _stream(source, column, split, label_column)
    except InputError:
        raise
    except (OSError, ValueError, DatasetsError) as error:  # no way to it, no such split, a file damaged halfway
        raise InputError(
            f"No captions could be read from {source!r}, split {split!r} ({_first_line(error)}); "
            "give a file, a folder or a data set id that `datasets.load_dataset` can load, and a split it has."
        ) from error


def _stream(source: str, column: str | None, split: str, label_column: str | None) -> Rows:
    import datasets

    rows = datasets.load_dataset(source, split=split, streaming=True)
    features = rows.features
    if features is None:  # of CSV and text files, which say nothing before they are read
        first = next(rows.with_format("arrow").iter(batch_size=_ROWS_THAT_TELL), None)
        if first is None:
            return
        features = datasets.Features.from_arrow_schema(first.schema)
    texts = [name for name, feature in features.items() if getattr(feature, "dtype", "") in ("string", "large_string")]
    chosen = _choose_column(source, list(features), texts, column)
    label = _choose_column(source, list(features), texts, label_column) if label_column else chosen
    names = getattr(features[label], "int2str", None)  # a ClassLabel is a number until it is asked for its name
    for row in rows.select_columns(sorted({chosen, label})):
        value = row[label]
        if names is not None and value is not None:
            value = names(value) if value >= 0 else None  # `datasets` writes -1 for no label
        yield row[chosen], value


def _choose_column(source: str, columns: Iterable[str], texts: list[str], column: str | None) -> str:
    """The column that was asked for, else `caption`, else the only one that holds text."""
    columns = list(columns)
    wanted = column or DEFAULT_COLUMN
    if wanted in columns:
        return wanted
    if column is None and len(texts) == 1:
        return texts[0]
    raise InputError(
        f"{source!r} has no column {wanted!r}{'' if column or not texts else ' and several that hold text'}: "
        f"its columns are {columns}; name the one that holds the captions."
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
