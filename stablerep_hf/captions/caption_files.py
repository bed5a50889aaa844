"""Captions and their labels in one file: text, CSV, JSON or parquet, compressed or not, on this machine or the Hub."""

from __future__ import annotations

import csv
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from ..errors import InputError, one_line, refusing

DEFAULT_COLUMN = "caption"
FILE_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
Rows = Iterator[tuple[str | None, str | None]]  # caption and label
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_REMEDIES = {",": "put captions that hold a comma into double quotes", "\t": "take the tab out of the text"}
_NESTED = "nests lists or objects too deeply to be read, and captions are text or objects with text"
_LONGEST_FIELD = 10_000_000  # characters of one CSV field; the csv module's own limit of 131,072 is easily met


def suffix_of(file: str) -> str:
    """The suffix that says what a file holds, in small letters: '.csv' of `a.CSV` and of `a.csv.gz`."""
    path = PurePath(file)
    return (path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path).suffix.lower()


def read_rows(file: str, column: str | None, label_column: str | None) -> Rows:
    """Read captions and labels one by one.

    Args:
        file: Absolute path, or an `hf://` address.
        column: Which column holds the captions; see `read_captions` for the default.
        label_column: Which column holds the labels; None reads none, and what is yielded as labels has no meaning.

    Raises:
        InputError: The file is damaged, of another kind, or has no such column.
    """
    name = PurePath(file).name
    match suffix_of(file):
        case ".parquet":
            return _from_parquet(file, name, column, label_column)
        case ".csv":
            return _from_separated(file, name, ",", column, label_column)
        case ".tsv":
            return _from_separated(file, name, "\t", column, label_column)
        case ".jsonl" | ".ndjson" | ".json":
            return _from_json(file, name, column, label_column)
        case ".txt" | "":
            if asked := column or label_column:
                raise InputError(
                    f"The column {asked!r} was asked of {name!r}, but a text file has no columns: every line is a "
                    "caption; leave the column out."
                )
            return ((line, None) for line in _lines(file, name))
        case suffix:
            raise InputError(
                f"Captions cannot be read from {name!r}: the suffix {suffix!r} is none of {', '.join(FILE_SUFFIXES)}; "
                "convert or rename the file."
            )


def open_parquet(file: str) -> pq.ParquetFile:
    """Open a parquet file, here or on the Hub; reading it raises what pyarrow raises."""
    is_remote = file.startswith("hf://")
    return pq.ParquetFile(file.removeprefix("hf://"), filesystem=_file_system(file) if is_remote else None)


@contextmanager
def refusing_damaged_parquet(name: str) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged or unreadable file into an `InputError`."""
    with refusing(f"{name!r} is not a readable parquet file", "write it again", (pa.ArrowException, OSError)):
        yield


def choose_column(source: str, columns: Iterable[str], texts: list[str], column: str | None) -> str:
    """The column that was asked for, else `caption`, else the only one that holds text, or `InputError`."""
    columns = list(columns)
    wanted = column or DEFAULT_COLUMN
    if columns.count(wanted) > 1:
        raise InputError(f"{source!r} has {columns.count(wanted)} columns {wanted!r}; rename all but one.")
    if wanted in columns:
        return wanted
    if column is None and len(texts) == 1:
        return texts[0]
    raise InputError(
        f"{source!r} has no column {wanted!r}{'' if column or not texts else ' and several that hold text'}: "
        f"its columns are {columns}; name the one that holds the captions."
    )


def _file_system(file: str) -> AbstractFileSystem:
    if not file.startswith("hf://"):
        return LocalFileSystem()
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


def _lines(file: str, name: str) -> Iterator[str]:
    """The lines of a UTF-8 text file, one at a time."""
    number = 0
    try:
        with _file_system(file).open(file, "rt", encoding="utf-8-sig", compression="infer") as lines:
            for number, line in enumerate(lines, start=1):
                if "\0" in line:
                    raise InputError(
                        f"Line {number} of {name!r} holds a NUL byte, so this is not a text file; give UTF-8 text."
                    )
                yield line
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name!r} is not UTF-8 text (byte 0x{error.object[error.start]:02x} after line {number}); "
            "convert it to UTF-8."
        ) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(
            f"{name!r} cannot be read after line {number} ({one_line(error)}); check the file and who may read it."
        ) from error


def _from_separated(file: str, name: str, delimiter: str, column: str | None, label_column: str | None) -> Rows:
    csv.field_size_limit(_LONGEST_FIELD)
    lines = _lines(file, name)
    # Tab-separated files know no quotes, and captions may begin with one.
    is_tsv = delimiter == "\t"
    quoting = csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=not is_tsv)  # type: ignore[arg-type]
    try:
        header = next(reader, [])
        _check_header(name, header, delimiter, column)
        # A CSV file knows no types: every column may hold text.
        place = header.index(choose_column(name, header, header, column)) if header else 0
        label = header.index(choose_column(name, header, header, label_column)) if label_column else place
        for row in reader:
            if len(row) > len(header):
                raise InputError(
                    f"Line {reader.line_num} of {name!r} has {len(row)} fields, but the first line names "
                    f"{len(header)}: {_REMEDIES[delimiter]}."
                )
            yield (row[place] if place < len(row) else None, row[label] if label < len(row) else None)
    except csv.Error as error:
        raise InputError(
            f"Line {reader.line_num} of {name!r} is not valid CSV ({error}); repair the quotes there."
        ) from error


def _check_header(name: str, header: list[str], delimiter: str, column: str | None) -> None:
    if len(header) != 1 or header[0] in (DEFAULT_COLUMN, column):
        return
    if found := [other for other in _SEPARATORS if other != delimiter and other in header[0]]:
        raise InputError(
            f"The first line of {name!r}, {_short(header[0])}, is separated by {_SEPARATORS[found[0]]} and not by "
            f"{_SEPARATORS[delimiter]}: write the file again with {_SEPARATORS[delimiter]}"
            f"{', or name it .tsv' if found[0] == chr(9) else ''}."
        )
    if column is None:
        raise InputError(
            f"The first line of {name!r} is {_short(header[0])}, a heading or a caption: name it as the column, or "
            f"put {DEFAULT_COLUMN!r} above it if it is a caption."
        )


def _from_json(file: str, name: str, column: str | None, label_column: str | None) -> Rows:
    chosen = column
    for number, entry in enumerate(_entries(file, name), start=1):
        if isinstance(entry, dict):
            if chosen is None:
                texts = [key for key, value in entry.items() if isinstance(value, str)]
                chosen = choose_column(name, list(entry), texts, None)
            for wanted in (chosen, label_column or chosen):
                if wanted not in entry:
                    choose_column(f"{name} (entry {number})", list(entry), [], wanted)
            yield entry[chosen], entry[label_column or chosen]
        elif entry is None or (isinstance(entry, str) and column is None and label_column is None):
            yield entry, None
        else:
            raise InputError(
                f"Entry {number} of {name!r} is {_short(entry)}, but captions are text or objects"
                f"{'' if column is None else f' with the field {column!r}'}; repair that entry."
            )


def _entries(file: str, name: str) -> Iterator[Any]:
    """The entries of a JSON list, or of lines that are JSON: whatever the file is called, its first letter tells."""
    lines, is_first = _lines(file, name), True
    for number, line in enumerate(lines, start=1):
        if is_first and line.lstrip().startswith("["):
            yield from _parse("".join(chain([line], lines)), repr(name))
        elif line.strip():
            is_first = False
            yield _parse(line, f"Line {number} of {name!r}")


def _parse(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{error.msg} on line {error.lineno}, character {error.colno}"
        raise InputError(f"{what} is not valid JSON ({where}); repair or drop it.") from error
    except RecursionError as error:
        raise InputError(f"{what} {_NESTED}; repair it.") from error


def _from_parquet(file: str, name: str, column: str | None, label_column: str | None) -> Rows:
    with refusing_damaged_parquet(name), open_parquet(file) as table:
        schema = table.schema_arrow
        texts = [field.name for field in schema if _is_text(field.type)]
        chosen = choose_column(name, schema.names, texts, column)
        if chosen not in texts:
            raise InputError(
                f"The column {chosen!r} of {name!r} holds {schema.field(chosen).type}, not text; "
                f"choose one of {texts}."
            )
        label = choose_column(name, schema.names, texts, label_column) if label_column else chosen
        names = class_names(schema, label)
        for batch in table.iter_batches(columns=sorted({chosen, label})):
            for text, value in zip(batch[chosen].to_pylist(), batch[label].to_pylist(), strict=True):
                yield text, value if names is None else class_name(names, value)


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The names of the classes that a column holds the numbers of, as `datasets` wrote them into the schema."""
    if b"huggingface" not in (schema.metadata or {}) or not pa.types.is_integer(schema.field(column).type):
        return None
    from datasets import Features

    return getattr(Features.from_arrow_schema(schema)[column], "names", None)


def class_name(names: list[str], number: int | None) -> str | None:
    """The name of a class; None for no class, which `datasets` writes as -1."""
    return names[number] if number is not None and 0 <= number < len(names) else None


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
