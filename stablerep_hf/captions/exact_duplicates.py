"""Captions that are equal, merged in little memory."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from .spool import Spool, release

_BLOCK = 65_536  # captions compared at a time
Int64Array = npt.NDArray[np.int64]


def has_repeats(ids: Int64Array) -> bool:
    """Whether an id stands twice in int64 (C,)."""
    ordered = np.sort(ids)
    return bool((ordered[1:] == ordered[:-1]).any())


def merge_equal(
    table: pa.Table, mapping: mmap.mmap | None, blocks: list[Int64Array]
) -> tuple[pa.Table, mmap.mmap | None]:
    """Put a caption that stands several times into its first place, with the number of times as its count.

    Args:
        table: Columns `caption_id`, `caption`, `count` and perhaps others, as `Spool.close` returned it.
        mapping: See there.
        blocks: Its ids, emptied here: of ten million captions every array that lives longer than needed counts.

    Returns:
        As `Spool.close`; the same table if no caption stands twice.

    Raises:
        InputError: If two different captions share an id.
    """
    ids = np.concatenate([np.empty(0, np.int64), *blocks])
    blocks.clear()
    if not has_repeats(ids):  # the usual case, at a third of the memory
        return table, mapping
    unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
    keep = np.zeros(len(ids), dtype=bool)
    keep[first] = True
    repeats = np.flatnonzero(~keep)
    firsts = first[np.searchsorted(unique, ids[repeats])]
    counts = counts[np.argsort(first)]
    del unique, first, ids
    captions = table["caption"]
    for start in range(0, len(repeats), _BLOCK):
        pairs = [captions.take(pa.array(places[start : start + _BLOCK])) for places in (firsts, repeats)]
        if not pc.all(same := pc.equal(*pairs)).as_py():
            one, other = (side[pc.index(same, False).as_py()].as_py() for side in pairs)
            raise InputError(f"The different captions {one!r} and {other!r} share one caption_id; drop one of them.")
        release(mapping)
    spool, place, row = Spool(table.schema), table.schema.get_field_index("count"), 0
    for batch in table.to_batches():
        kept = batch.filter(pa.array(keep[row : row + len(batch)]))
        row += len(batch)
        spool.append(kept.set_column(place, "count", pa.array(counts[: len(kept)])))
        counts = counts[len(kept) :]
        release(mapping)
    return spool.close()
