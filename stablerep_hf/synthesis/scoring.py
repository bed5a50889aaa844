"""Scores of stored images, written into their rows: as they are drawn, or later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from ..errors import InputError, refusing
from ..files.shards import shard_path
from ..progress import track
from .provenance import Provenance, read_provenance
from .scorers import DiversityScorer, Scorer
from .store import ShardStore
from .verification import open_store

_COLUMNS = ("alignment", "nsfw", "diversity")


@dataclass(frozen=True)
class ScoringSummary:
    """What one call of `score_store` did.

    Attributes:
        num_images: Images scored now.
        num_kept: Images of this worker's part that had these scores already.
        means: Column -> mean over all images of the folder, once all are scored.
        is_complete: Whether all are; else other workers are still scoring.
    """

    num_images: int
    num_kept: int
    means: Mapping[str, float]
    is_complete: bool = True


def score_store(
    folder: str | Path, scorers: Sequence[Scorer], *, progress: bool = True, rank: int = 0, world_size: int = 1
) -> ScoringSummary:
    """Fill score columns of a folder that `synthesize` drew into.

    Shard by shard, each replaced at once: a kill leaves every shard whole, and another call, with any number of
    workers, goes on with those that lack a score or have it from something else. The images are not touched. A worker
    scores the shards with `shard % world_size == rank`, as in `synthesize`.

    Raises:
        InputError: A shard of this worker is missing or damaged, an image cannot be read, or a scorer gives no finite
            number.
    """
    store = open_store(folder)
    shards = range(rank, store.plan.num_shards, world_size)
    records = {shard: store.find_record(shard) for shard in shards}
    if absent := sum(record is None for record in records.values()):
        raise InputError(
            f"{absent} of {len(records)} shards of {str(folder)!r} are missing or damaged, so the whole cannot be "
            "scored; finish or repair the folder first."
        )
    counts = {True: 0, False: 0}
    for shard, record in track(records.items(), "scoring", unit="shard", total=len(records), shown=progress):
        assert record is not None
        counts[score_shard(store, shard, record, scorers)] += record["rows"]
    there = read_provenance(folder).shards
    lacking = [record for record in there if record["rows"] and missing_scores(record, scorers)]
    if lacking or len(there) < store.plan.num_shards:
        return ScoringSummary(counts[True], counts[False], {}, is_complete=False)
    sums, total = {scorer.column: 0.0 for scorer in scorers}, max(1, sum(record["rows"] for record in there))
    for shard in range(store.plan.num_shards):
        table = pq.read_table(store.shard_path(shard), columns=list(sums))
        for column in sums:
            sums[column] += float(table[column].to_numpy().sum())
    return ScoringSummary(counts[True], counts[False], {name: value / total for name, value in sums.items()})


def score_shard(store: ShardStore, shard: int, record: Mapping[str, Any], scorers: Sequence[Scorer]) -> bool:
    """Fill the score columns of a whole shard that are empty or were measured by something else.

    Returns:
        Whether there was something to measure.

    Raises:
        InputError: As `score_store`.
    """
    missing = missing_scores(record, scorers)
    if not missing or not record["rows"]:
        return False
    rows = pq.read_table(store.shard_path(shard)).to_pylist()
    scores = fill_scores(rows, missing)
    store.replace_rows(shard, record, rows, {"scores": {**record.get("scores", {}), **scores}})
    return True


def missing_scores(record: Mapping[str, Any], scorers: Sequence[Scorer]) -> list[Scorer]:
    """The scorers whose numbers a shard does not hold, by its record."""
    scores = record.get("scores", {})
    return [scorer for scorer in scorers if scores.get(scorer.column) != dict(scorer.describe())]


def fill_scores(rows: list[dict[str, Any]], scorers: Sequence[Scorer]) -> dict[str, dict[str, Any]]:
    """Measure the images of all rows of a shard, and put the numbers into the rows.

    Returns:
        What the shard's record says of them: column -> what measured.

    Raises:
        InputError: An image cannot be read, or a scorer gives no finite number.
    """
    if not scorers:
        return {}
    bare = [{key: value for key, value in row.items() if key != "image"} for row in rows]
    images = [_open(row) for row in rows]
    for scorer in scorers:
        numbers = np.asarray(scorer(images, bare), np.float64)
        if numbers.shape != (len(rows),) or not np.isfinite(numbers).all():
            raise InputError(
                f"The scorer of {scorer.column!r} gave {numbers.shape} numbers for {len(rows)} images, or some that "
                "are not finite; look at its model."
            )
        for row, value in zip(rows, numbers.tolist(), strict=True):
            row[scorer.column] = value
    return {scorer.column: dict(scorer.describe()) for scorer in scorers}


def score_histograms(folder: str | Path, bins: int = 20) -> dict[str, dict[str, Any]]:
    """What a card says of the scores of a folder. Shard by shard, in the memory of one.

    Returns:
        For each score that every row has, as JSON values: `scorer` (what measured), `unit` (what is counted: "images",
        of diversity "captions"), `mean`, `edges` (bins + 1) and `counts` (bins).
    """
    provenance = read_provenance(folder)
    result: dict[str, dict[str, Any]] = {}
    drawn = [record for record in provenance.shards if record["rows"]]
    scores = drawn[0].get("scores", {}) if drawn else {}
    for column in [name for name in _COLUMNS if name in scores]:
        if any(record.get("scores", {}).get(column) != scores[column] for record in drawn):
            continue
        total, number, low, high = 0.0, 0, np.inf, -np.inf
        for values in _values(folder, provenance, column):
            total, number = total + float(values.sum()), number + len(values)
            low, high = min(low, values.min()), max(high, values.max())
        counts, edges = np.zeros(bins, np.int64), np.histogram_bin_edges([low, high], bins)
        for values in _values(folder, provenance, column):
            counts += np.histogram(values, edges)[0]
        unit = "captions" if column == DiversityScorer.column else "images"
        numbers = {"unit": unit, "mean": total / number, "edges": edges.tolist(), "counts": counts.tolist()}
        result[column] = {"scorer": scores[column], **numbers}
    return result


def _values(folder: str | Path, provenance: Provenance, column: str) -> Iterator[np.ndarray]:
    """A score of each image of one shard after another, float64; diversity once a caption."""
    for record in provenance.shards:
        if not record["rows"]:
            continue
        path = shard_path(Path(folder), record["shard"], provenance.num_shards)
        table = pq.read_table(path, columns=["caption_id", column])
        values = table[column].to_numpy().astype(np.float64)
        if column == DiversityScorer.column:
            values = values[np.unique(table["caption_id"].to_numpy(), return_index=True)[1]]
        yield values


def _open(row: Mapping[str, Any]) -> Image.Image:
    with refusing(
        f"Image {row['image_index']} of caption_id {row['caption_id']} cannot be decoded",
        "`stablerep verify --repair` draws it again",
        (OSError, SyntaxError, ValueError),
    ):
        return Image.open(BytesIO(row["image"]["bytes"])).convert("RGB")
