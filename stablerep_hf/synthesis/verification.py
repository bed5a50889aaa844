"""Is a folder what its plan says? Every file, row and image of it, and what to do about those that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from PIL import Image

from ..errors import InputError
from ..files.atomic import clear, leftovers
from ..files.shards import DATA, PLAN, PROVENANCE
from ..progress import track
from .plan import SynthesisPlan
from .store import ShardStore, stored_captions

ProblemKind = Literal[
    "missing shard",
    "damaged shard",
    "wrong number of images",
    "duplicate row",
    "orphan row",
    "unreadable image",
    "equal siblings",
    "orphan file",
    "leftover file",
]
# Drawing again would give the same: look at the generator, not at the store.
_NO_REMEDY = ("equal siblings",)


@dataclass(frozen=True)
class StoreProblem:
    """One thing that is not as the plan says.

    Attributes:
        kind: What it is.
        where: The file's name.
        detail: Which row, or what was found.
        shard: The shard that is to be drawn again; None if none is.
    """

    kind: ProblemKind
    where: str
    detail: str = ""
    shard: int | None = None


@dataclass(frozen=True)
class VerificationReport:
    """What `verify_store` looked at and found.

    Attributes:
        num_shards: Shards of the plan.
        num_images: Rows in the shards whose bytes are those of their record.
        problems: In the order of the shards.
    """

    num_shards: int
    num_images: int
    problems: tuple[StoreProblem, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Problems by kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    @property
    def listed(self) -> str:
        """Problems by kind, in words."""
        return ", ".join(f"{number:,} {kind}" for kind, number in self.counts.items()) or "nothing is wrong"

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong that drawing again would mend."""
        return all(problem.kind in _NO_REMEDY for problem in self.problems)


def open_store(folder: str | Path) -> ShardStore:
    """The store in a folder, with its plan.

    Raises:
        InputError: The folder is none that `synthesize` wrote, or its plan or captions were damaged.
    """
    root = Path(folder) / PROVENANCE
    try:
        text = (root / PLAN).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The folder {str(folder)!r} has no readable {PROVENANCE}/{PLAN}, so nothing says what should be there; "
            "give a folder that `stablerep generate` drew into, or run that command again, which restores the plan."
        ) from error
    return ShardStore(folder, SynthesisPlan.from_json(text, stored_captions(Path(folder))))


def verify_store(folder: str | Path, *, decode: bool = True, progress: bool = True) -> VerificationReport:
    """Check hashes, counts, rows, images and files against the plan.

    Args:
        folder: One that `synthesize` drew into.
        decode: Whether every image is decoded, and siblings are compared pixel by pixel.
        progress: Whether to show a bar.

    Raises:
        InputError: As `open_store`.
    """
    store = open_store(folder)
    problems: list[StoreProblem] = []
    num_images = 0
    for shard in track(range(store.plan.num_shards), "verifying", unit="shard", shown=progress):
        record, name = store.find_record(shard), store.shard_path(shard).name
        if record is None:
            kind: ProblemKind = "damaged shard" if store.is_damaged(shard) else "missing shard"
            problems.append(StoreProblem(kind, name, shard=shard))
            continue
        num_images += record["rows"]
        problems += _check_rows(store, shard, record, decode)
    problems += _check_files(store)
    return VerificationReport(store.plan.num_shards, num_images, tuple(problems))


def remove_problems(folder: str | Path, report: VerificationReport) -> list[int]:
    """Remove what `verify_store` found wrong, so that `synthesize` draws it again and nothing else.

    Returns:
        The shards that are missing now.
    """
    store = open_store(folder)
    shards = sorted({problem.shard for problem in report.problems if problem.shard is not None})
    for shard in shards:
        # The record first: a shard without one is drawn again, a record without its shard is only noticed later.
        clear(store.record_path(shard))
        clear(store.shard_path(shard))
    for problem in report.problems:
        if problem.kind in ("orphan file", "leftover file"):
            clear(store.folder / problem.where)
    return shards


def _check_rows(store: ShardStore, shard: int, record: dict[str, Any], decode: bool) -> Iterator[StoreProblem]:
    plan, path = store.plan, store.shard_path(shard)
    captions = plan.shard_captions(shard)
    wanted = dict(zip(captions.caption_ids.tolist(), plan.num_images_of(captions).tolist(), strict=True))
    texts = dict(zip(captions.caption_ids.tolist(), captions.captions, strict=True))
    for failed in record["failed_captions"]:
        wanted.pop(failed, None)
    found: Counter[int] = Counter()
    seen: set[tuple[int, int]] = set()
    pictures: set[tuple[int, bytes]] = set()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                caption_id, index = row["caption_id"], row["image_index"]
                key = f"caption_id {caption_id}, image_index {index}"
                if (caption_id, index) in seen:
                    yield StoreProblem("duplicate row", path.name, key, shard)
                    continue
                seen.add((caption_id, index))
                found[caption_id] += 1
                if (
                    caption_id not in wanted
                    or row["caption"] != texts[caption_id]
                    or row["seed"] != plan.seed(caption_id, index)
                    or row["prompt"] != plan.prompt(row["caption"], caption_id, index)
                ):
                    yield StoreProblem("orphan row", path.name, key, shard)
                elif decode:
                    try:
                        with Image.open(BytesIO(row["image"]["bytes"])) as image:
                            digest = blake2b(image.convert("RGB").tobytes(), digest_size=16).digest()
                    except (OSError, SyntaxError, ValueError, TypeError) as error:
                        yield StoreProblem("unreadable image", path.name, f"{key}: {error}", shard)
                        continue
                    if (caption_id, digest) in pictures:
                        yield StoreProblem("equal siblings", path.name, key)
                    pictures.add((caption_id, digest))
    for caption_id, number in wanted.items():
        if found[caption_id] != number:
            detail = f"caption_id {caption_id} has {found[caption_id]} of {number}"
            yield StoreProblem("wrong number of images", path.name, detail, shard)


def _check_files(store: ShardStore) -> Iterator[StoreProblem]:
    shards = range(store.plan.num_shards)
    expected = {store.shard_path(shard) for shard in shards} | {store.record_path(shard) for shard in shards}
    for path in sorted([*(store.folder / DATA).glob("*.parquet"), *(store.folder / PROVENANCE).glob("shard-*.json")]):
        if path not in expected:
            yield StoreProblem("orphan file", str(path.relative_to(store.folder)))
    for name in (DATA, PROVENANCE):
        for path in sorted(leftovers(store.folder / name)):
            yield StoreProblem("leftover file", str(path.relative_to(store.folder)))
