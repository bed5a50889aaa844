"""Captions that are equal, merged in little memory."""

from __future__ import annotations

import mmap
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import InputError
from .spool import Spool, release

_BLOCK = 65_536  # captions compared at a time
Int64Array = npt.NDArray[np.int64]
Places = npt.NDArray[np.signedinteger]


def has_repeats(ids: Int64Array) -> bool:
    """Whether an id occurs twice in int64 (C,)."""
    ordered = np.sort(ids)
    return bool((ordered[1:] == ordered[:-1]).any())


def merge_equal(
    table: pa.Table, mapping: mmap.mmap | None, blocks: list[Int64Array]
) -> tuple[pa.Table, mmap.mmap | None]:
    """Keep the first of equal captions, with their number as its count.

    Args:
        table: Columns `caption_id`, `caption`, `count` and perhaps others, as `Spool.close` returned it.
        mapping: See there.
        blocks: Its ids. The list is emptied, because with ten million captions each array that stays alive counts.

    Returns:
        As `Spool.close`; the same table if no caption occurs twice.

    Raises:
        InputError: If two different captions share an id.
    """
    ids = np.concatenate([np.empty(0, np.int64), *blocks])
    blocks.clear()
    if not has_repeats(ids):  # the usual case, at a third of the memory
        return table, mapping
    order = np.argsort(ids, kind="stable").astype(np.int32 if len(ids) < 2**31 else np.int64)
    ordered = ids[order]
    begins = np.r_[True, ordered[1:] != ordered[:-1]]
    del ids, ordered
    first, repeats = order[begins], order[~begins]
    del order
    sizes = np.diff(np.flatnonzero(np.r_[begins, True])).astype(np.int32)
    firsts = np.repeat(first, sizes - 1)
    counts = sizes[np.argsort(first)]
    keep = np.zeros(len(table), dtype=bool)
    keep[first] = True
    del begins, first, sizes
    _refuse_collisions(table, mapping, firsts, repeats)
    spool, place, row = Spool(table.schema), table.schema.get_field_index("count"), 0
    for batch in table.to_batches():
        kept = batch.filter(pa.array(keep[row : row + len(batch)]))
        row += len(batch)
        spool.append(kept.set_column(place, "count", pa.array(counts[: len(kept)], pa.int64())))
        counts = counts[len(kept) :]
        release(mapping)
    return spool.close()


def _refuse_collisions(table: pa.Table, mapping: mmap.mmap | None, firsts: Places, repeats: Places) -> None:
    """Raise if two captions with one id differ, by a second hash of the texts in one pass."""
    involved = np.zeros(len(table), dtype=bool)
    involved[firsts] = involved[repeats] = True
    hashes = np.zeros(len(table), np.int64)
    row = 0
    for batch in table.to_batches(max_chunksize=_BLOCK):
        here = involved[row : row + len(batch)]
        texts = batch.column("caption").filter(pa.array(here)).to_pylist()
        hashes[row : row + len(batch)][here] = [_second_hash(text) for text in texts]
        row += len(batch)
        release(mapping)
    wrong = np.flatnonzero(hashes[firsts] != hashes[repeats])
    if len(wrong):
        one, other = (table["caption"][int(places[wrong[0]])].as_py() for places in (firsts, repeats))
        raise InputError(f"The captions {one!r} and {other!r} differ but share one caption_id; drop one of them.")


def _second_hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8, person=b"second").digest(), "big", signed=True)
