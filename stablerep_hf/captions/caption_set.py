"""An immutable, ordered set of captions, held as Arrow columns; of many captions the columns are in a file."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import InputError, refusing
from .exact_duplicates import has_repeats, merge_equal
from .history import as_metadata, history_of
from .identity import id_of_normalized, normalize_caption
from .spool import Spool, release

SCHEMA = pa.schema([("caption_id", pa.int64()), ("caption", pa.string()), ("count", pa.int64())])
OPTIONAL = pa.schema([("label", pa.string()), ("num_images", pa.int32())])
_BLOCK = 65_536  # captions turned from Python objects into Arrow at a time
_READ_ANEW = ", so its images would be grouped wrongly; drop the column caption_id and read the captions again"

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CaptionSet:
    """Distinct captions in the order in which they first appeared.

    Build one with `from_texts`, `from_table` or `stablerep_hf.captions.read_captions`.

    Attributes:
        table: The columns `caption_id` (int64, distinct), `caption` (string, normalised) and `count` (int64, >= 1: how
            often the caption occurs in the source); if known, `label` (string: the class it was written for) and
            `num_images` (int32, >= 1: how many images it is to get, where that differs from caption to caption).
        num_empty: How many empty captions of the source were left out: nulls, and text in which nothing can be seen.
        history: How the set came to be, as JSON values: what `prepare_captions` read, dropped and found. It is saved
            in the file and changes nothing else.
        mapping: The file that holds the columns of a large set, see `Spool`. Ten million captions take little more
            memory than their ids.
    """

    table: pa.Table
    num_empty: int = 0
    history: Mapping[str, Any] = field(default_factory=dict)
    mapping: mmap.mmap | None = field(default=None, repr=False)

    @classmethod
    def from_texts(cls, texts: Iterable[str | None]) -> CaptionSet:
        """Normalise captions, leave out the empty ones and merge exact duplicates into their first occurrence.

        Args:
            texts: Captions, consumed once and in blocks. `None` counts as an empty caption.

        Raises:
            InputError: An entry is not text or has no UTF-8 form, or two different captions share an id.
        """
        return cls._from_rows((text, None) for text in texts)

    @classmethod
    def from_labelled(cls, rows: Iterable[tuple[str | None, str | None]]) -> CaptionSet:
        """As `from_texts`, from pairs of a caption and its label; the first label of equal captions is kept."""
        return cls._from_rows(rows, labelled=True)

    @classmethod
    def _from_rows(cls, rows: Iterable[tuple[str | None, str | None]], *, labelled: bool = False) -> CaptionSet:
        spool = Spool(_schema(["label"] if labelled else []))
        ids: list[Int64Array] = []
        num_empty = 0
        iterator = iter(rows)
        while block := list(islice(iterator, _BLOCK)):
            kept = [(caption, label) for text, label in block if (caption := _normalize(text))]
            num_empty += len(block) - len(kept)
            texts = [caption for caption, _ in kept]
            ids.append(_ids_of(texts))
            columns = [ids[-1], texts, np.ones(len(kept), np.int64)]
            if labelled:
                columns.append([None if label is None else str(label) for _, label in kept])
            with _refusing_surrogates("label"):
                spool.append(pa.record_batch(columns, schema=_schema(["label"] if labelled else [])))
        table, mapping = merge_equal(*spool.close(), ids)
        return cls(table, num_empty, mapping=mapping)

    @classmethod
    def from_table(cls, table: pa.Table) -> CaptionSet:
        """Make a set of a table that has its columns already, such as one that `write_parquet` wrote.

        Args:
            table: Columns `caption_id`, `caption` and `count`, perhaps `label` and `num_images`; others are left out.

        Raises:
            InputError: A column is missing or has another type, an id is not its caption's, occurs twice or belongs to
                a caption that is empty or not normalised, or a count or number of images is below 1.
        """
        return cls.from_batches(table.schema, table.to_batches(max_chunksize=_BLOCK))

    @classmethod
    def from_batches(cls, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> CaptionSet:
        """As `from_table`, of a table that comes in parts and need not fit into memory."""
        missing = [name for name in SCHEMA.names if name not in schema.names]
        if missing:
            raise InputError(
                f"A caption table with the columns {schema.names} lacks {', '.join(missing)}; "
                "read the captions with `read_captions`, which adds them."
            )
        own = _schema(schema.names)
        spool = Spool(own)
        num_rows = 0
        for batch in batches:
            batch = _cast(batch.select(own.names), own)
            if what := _what_is_wrong(batch, num_rows):
                raise InputError(f"In a caption table {what}.")
            num_rows += len(batch)
            spool.append(batch)
        table, mapping = spool.close()
        result = cls(table, history=history_of(schema), mapping=mapping)
        if has_repeats(result.caption_ids):
            raise InputError(f"In a caption table of {num_rows} rows a caption_id occurs twice{_READ_ANEW}.")
        return result

    @property
    def captions(self) -> list[str]:
        """All captions as Python strings, normalised, in order."""
        captions: list[str] = self.table.column("caption").to_pylist()
        return captions

    @cached_property
    def caption_ids(self) -> Int64Array:
        """All ids, int64 (C,), distinct, in order."""
        ids: Int64Array = self.table.column("caption_id").to_numpy()
        ids.flags.writeable = False
        return ids

    @cached_property
    def num_images(self) -> Int64Array | None:
        """How many images to draw of each caption, int64 (C,); None if the set does not say."""
        if "num_images" not in self.table.column_names:
            return None
        numbers: Int64Array = self.table.column("num_images").to_numpy().astype(np.int64)
        numbers.flags.writeable = False
        return numbers

    @property
    def labels(self) -> list[str | None] | None:
        """The label of each caption; None if the set has no labels."""
        if "label" not in self.table.column_names:
            return None
        labels: list[str | None] = self.table.column("label").to_pylist()
        return labels

    @property
    def num_merged(self) -> int:
        """How many captions of the source were duplicates of an earlier one."""
        return int(pc.sum(self.table.column("count")).as_py() or 0) - len(self)

    @cached_property
    def digest(self) -> str:
        """Hex digest of the ids in order, and of `num_images`: sets with equal digests ask for the same images."""
        digest = blake2b(np.ascontiguousarray(self.caption_ids, "<i8").data, digest_size=16)
        if self.num_images is not None:
            digest.update(np.ascontiguousarray(self.num_images, "<i8").data)
        return digest.hexdigest()

    def select(self, indices: Iterable[int] | Int64Array) -> CaptionSet:
        """The captions at these places in [0, len), each at most once, in this order.

        Raises:
            InputError: A place is out of range or occurs twice.
        """
        places = np.fromiter(indices, np.int64)
        if len(places) and (places.min() < 0 or places.max() >= len(self)):
            raise InputError(
                f"Place {int(places.min() if places.min() < 0 else places.max())} is not in a set of {len(self)} "
                "captions; use places from 0 to its length minus one."
            )
        if len(np.unique(places)) != len(places):
            raise InputError("A place was selected twice, but a set holds each caption once; name each place once.")
        spool = Spool(self.table.schema)
        for start in range(0, len(places), _BLOCK):
            spool.append(self._take(places[start : start + _BLOCK]))
        table, mapping = spool.close()
        return CaptionSet(table, history=self.history, mapping=mapping)

    def _take(self, places: Int64Array) -> pa.RecordBatch:
        """The rows at these places, by batch: Arrow's own `Table.take` first joins all text, of which 2 GiB fit."""
        batches = self.table.to_batches()
        ends = np.cumsum([len(batch) for batch in batches])
        order = np.argsort(places)
        homes = np.searchsorted(ends, places[order], side="right")
        parts = [
            batches[home].take(pa.array(places[order[homes == home]] - (ends[home] - len(batches[home]))))
            for home in np.unique(homes)
        ]
        release(self.mapping)
        return pa.concat_batches(parts).take(pa.array(np.argsort(order)))

    def with_num_images(self, num_images: Iterable[int] | Int64Array) -> CaptionSet:
        """The same captions with these numbers of images to draw, (C,) integers; those with 0 are left out."""
        numbers = np.fromiter(num_images, np.int64)
        table = self.table.drop_columns(["num_images"]) if self.num_images is not None else self.table
        table = table.append_column("num_images", pa.array(numbers, pa.int32())).filter(pa.array(numbers > 0))
        return replace(self, table=table)

    def adding_up(self, source: CaptionSet, places: Int64Array) -> CaptionSet:
        """The same captions, with the counts of the captions of another set that were merged into them.

        Numbers of images, if `source` has them, are added up too: merging does not change how many are drawn in all.

        Args:
            source: The other set.
            places: (len(source),) for each caption of `source` the place of the caption here that it was merged into,
                -1 for none.
        """
        merged = places >= 0

        def sums(column: str) -> Int64Array:
            result = np.zeros(len(self), np.int64)
            np.add.at(result, places[merged], source.table[column].to_numpy()[merged])
            return result

        counts = pa.array(sums("count"), pa.int64())
        table = self.table.set_column(self.table.column_names.index("count"), "count", counts)
        result = replace(self, table=table)
        return result if source.num_images is None else result.with_num_images(sums("num_images"))

    def with_history(self, **facts: Any) -> CaptionSet:
        """The same captions with more facts (JSON values) on how they came to be."""
        return replace(self, history={**self.history, **facts})

    def slice(self, start: int, stop: int) -> CaptionSet:
        """The captions start, start + 1, ..., stop - 1 (fewer at the end), without copying them."""
        release(self.mapping)  # the pages of earlier slices: reading a set slice by slice takes the memory of one
        start = min(start, len(self))
        return CaptionSet(self.table.slice(start, max(0, stop - start)), history=self.history)

    def head(self, n: int) -> CaptionSet:
        """The first n captions (all, if there are fewer), without copying them."""
        return self.slice(0, n)

    def write_parquet(self, where: str | Path | IO[bytes]) -> None:
        """Write the table to a path or an open binary file; `read_captions` reads it back."""
        schema = self.table.schema.with_metadata(as_metadata(self.history))
        with pq.ParquetWriter(where, schema) as writer:
            for batch in self._blocks():
                writer.write_batch(batch)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[str]:
        for batch in self._blocks():
            yield from batch.column("caption").to_pylist()

    def _blocks(self) -> Iterator[pa.RecordBatch]:
        for batch in self.table.to_batches(max_chunksize=_BLOCK):
            yield batch
            release(self.mapping)

    def __repr__(self) -> str:
        return f"CaptionSet({len(self)} captions, {self.num_merged} merged, {self.num_empty} empty left out)"


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    with refusing(
        f"A caption table must have the types {_types(schema)}, not {_types(batch.schema)}",
        "read the captions with `read_captions`, which sets them",
        (pa.ArrowInvalid, pa.ArrowNotImplementedError),
    ):
        return batch.cast(schema)


def _normalize(text: str | None) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InputError(
            f"The caption {text!r} is of type {type(text).__name__}, not text; choose a column that holds text."
        )
    return normalize_caption(text)


def _ids_of(captions: list[str]) -> Int64Array:
    """Ids of normalised captions, int64 (C,)."""
    with _refusing_surrogates("caption"):
        return np.fromiter(map(id_of_normalized, captions), np.int64, len(captions))


@contextmanager
def _refusing_surrogates(what: str) -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise InputError(
            f"The {what} {error.object!r} holds a lone surrogate and has no UTF-8 form; repair or drop it."
        ) from error


def _what_is_wrong(batch: pa.RecordBatch, start: int) -> str:
    """Say what is wrong with the rows of a caption table, '' if nothing is; `start` is the number of the first row."""
    texts = batch.column("caption").to_pylist()
    normalized = [_normalize(text) for text in texts]
    for row, (text, caption) in enumerate(zip(texts, normalized, strict=True), start=start):
        if text != caption or not caption:
            return f"the caption of row {row} is {text!r:.60}, not normalised text{_READ_ANEW}"
    wrong = np.flatnonzero(batch.column("caption_id").to_numpy(zero_copy_only=False) != _ids_of(normalized))
    if len(wrong):
        return f"the caption_id of row {start + wrong[0]} is not its caption's{_READ_ANEW}"
    for name, meaning in (("count", "occurs in the source"), ("num_images", "gets an image")):
        if name in batch.schema.names and (batch.column(name).fill_null(0).to_numpy(zero_copy_only=False) < 1).any():
            return (
                f"some {name} is below 1 or missing within the first {start + len(batch)} rows, but a caption that is "
                f"in the set {meaning}; drop that row"
            )
    return ""


def _schema(names: Iterable[str]) -> pa.Schema:
    """The columns of every set, and those of the optional ones that are named."""
    return pa.schema([*SCHEMA, *(field for field in OPTIONAL if field.name in set(names))])


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
