"""Draw what is missing of a plan."""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..captions import CaptionSet
from ..errors import InputError
from ..files.atomic import clear
from ..progress import Progress, track
from .answers import forget, keeping
from .drawing import MOST_REDRAWS, DrawnShard, draw_shard
from .plan import SynthesisPlan, describe_difference
from .protocol import ImageGenerator, KeepingGenerator, PlainGenerator, TokenizingGenerator, describe_generator
from .scorers import Scorer
from .scoring import fill_scores, missing_scores, score_shard
from .signing import ContentSigner
from .store import ShardStore

_ENCODERS = 4  # threads; a file of 512 x 512 takes some 10 ms, which Pillow spends outside Python's lock


@dataclass(frozen=True)
class SynthesisSummary:
    """What one call of `synthesize` found and did, on one worker's shards.

    Attributes:
        num_images: Rows that are there now.
        num_drawn: Rows that this call drew.
        num_redrawn: Frames of this call that carried no picture, or resembled a sibling, and were drawn again.
        num_shards: Shards that are there now.
        num_shards_drawn: Shards that this call drew.
        damaged_shards: Shards that were there but torn or altered, and were drawn again.
        failed_captions: Ids of captions that have no rows, from this and earlier calls.
        num_truncated: Prompts of this call whose end the generator does not read.
        num_scored: Images of finished shards that lacked these scores and got them now.
        seconds: Time this call spent on drawing and writing.
    """

    num_images: int
    num_drawn: int
    num_redrawn: int
    num_shards: int
    num_shards_drawn: int
    damaged_shards: tuple[int, ...]
    failed_captions: tuple[int, ...]
    num_truncated: int
    num_scored: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Rows that this call drew, a second; 0 if it drew none."""
        return self.num_drawn / self.seconds if self.num_drawn else 0.0


def synthesize(
    plan: SynthesisPlan,
    generator: ImageGenerator | PlainGenerator,
    output_dir: str | Path,
    *,
    batch_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
    max_failed_captions: int = 0,
    scorers: Sequence[Scorer] = (),
    signer: ContentSigner | None = None,
) -> SynthesisSummary:
    """Draw a plan into a folder, or the part of it that is missing there.

    While the generator draws, other threads encode the images of earlier batches and write earlier shards.

    Finished shards are checked by size and sha256 and kept; missing, torn and altered ones are drawn (again). A
    worker draws the shards with `shard % world_size == rank`: workers do not wait for each other, one may die and come
    back, and the next run, with any world size, draws what is missing. Which rows there are depends on the plan alone
    (an image that is drawn in another batch may differ by rounding).

    Args:
        plan: What to draw.
        generator: The one that the plan was made with. Of prompts that are longer than it reads it draws the
            beginning, with one warning that counts them.
        output_dir: The folder; `datasets.load_dataset` loads it.
        batch_size: Images drawn at once; changes no image beyond rounding. By default what the generator thinks fits,
            else 64.
        rank: This worker's number in [0, world_size).
        world_size: How many workers share the plan.
        progress: Whether to show a bar with images/s.
        max_failed_captions: How many of this worker's captions may get no picture (they are left out and counted)
            before the run ends, with the finished shards kept.
        scorers: Measure the images as they are drawn, as `score_store` would later. They are no part of the plan;
            finished shards without their scores get them too.
        signer: Signs image files; the one that the plan describes, if it describes one.

    Raises:
        InputError: The folder holds another plan's images, generator or signer are not the plan's, the disk is full, a
            number is impossible, too many captions fail, all images are black, or a scorer fails.
    """
    batch_size = batch_size_for(generator, batch_size)
    if not 0 <= rank < world_size:
        raise InputError(
            f"rank is {rank} of {world_size} workers; ranks count from 0 to the number of workers minus 1."
        )
    check_parts(plan, generator, signer)

    store = ShardStore(output_dir, plan)
    plan = store.plan
    missing: list[int] = []
    failed: list[int] = []
    unscored: list[int] = []
    num_kept = num_drawn = num_redrawn = num_scored = 0
    shards = range(rank, plan.num_shards, world_size)
    for shard in track(shards, "checking shards", unit="shard", shown=progress and sys.stderr.isatty()):
        record = store.find_record(shard)
        if record is None:
            missing.append(shard)
        else:
            if isinstance(generator, KeepingGenerator):
                forget(store.folder, shard)  # where a kill left what is in the shard now
            num_kept += record["rows"]
            failed += record["failed_captions"]
            if missing_scores(record, scorers):
                unscored.append(shard)
    damaged = tuple(shard for shard in missing if store.is_damaged(shard))
    truncated = count_truncated(plan, generator, missing)
    if truncated:
        warnings.warn(truncation_warning(generator, truncated), stacklevel=2)
    if missing:
        getattr(generator, "pipeline", None)  # what cannot be loaded is found before the folder is made
    begin = time.perf_counter()

    store.claim()
    for shard in damaged:
        # Its record is no longer true; without it the folder does not look finished while the shard is drawn again.
        clear(store.record_path(shard))
        if not store.shard_path(shard).is_file():
            clear(store.shard_path(shard))
    total = num_kept + sum(map(plan.num_images_in, missing))
    label = "drawing" if world_size == 1 else f"drawing ({rank} of {world_size})"
    with (
        Progress(label, total, done=num_kept, shown=progress and bool(missing)) as bar,
        ThreadPoolExecutor(_ENCODERS, "encoder") as encoders,
        _Writer(store, scorers) as writer,
    ):
        for shard in missing:
            keeper = generator if isinstance(generator, KeepingGenerator) else None
            with nullcontext() if keeper is None else keeping(keeper, store.folder, shard):
                # another process may have been faster
                if keeper is not None and (record := store.find_record(shard)) is not None:
                    num_kept += record["rows"]
                    continue
                shard_begin = time.perf_counter()
                captions = plan.shard_captions(shard)
                drawn = draw_shard(
                    plan, captions, generator, batch_size, bar.advance, encoders=encoders, signer=signer
                )
                drawn = replace(drawn, num_truncated=truncated.get(shard, 0))
                failed += drawn.failed_captions
                if drawn.failed_captions and len(failed) > max_failed_captions:
                    raise InputError(_too_many_failed(plan, captions, drawn, len(failed), max_failed_captions))
                writer.write(shard, drawn, time.perf_counter() - shard_begin)
                if keeper is not None:
                    writer.finish()
            num_drawn += drawn.num_rows
            num_redrawn += drawn.num_redrawn
    for shard in track(unscored, "scoring", unit="shard", shown=progress and bool(unscored)):
        record = store.find_record(shard)
        if record is not None and score_shard(store, shard, record, scorers):
            num_scored += record["rows"]
    store.tidy()
    return SynthesisSummary(
        num_images=num_kept + num_drawn,
        num_drawn=num_drawn,
        num_redrawn=num_redrawn,
        num_shards=len(shards),
        num_shards_drawn=len(missing),
        damaged_shards=damaged,
        failed_captions=tuple(failed),
        num_truncated=sum(truncated.values()),
        num_scored=num_scored,
        seconds=time.perf_counter() - begin,
    )


def check_parts(plan: SynthesisPlan, generator: ImageGenerator | PlainGenerator, signer: ContentSigner | None) -> None:
    """Refuse a generator or signer that the plan does not describe (`InputError`)."""
    if difference := describe_difference(plan.settings["generator"], describe_generator(generator)):
        raise InputError(
            f"The generator is not the plan's: {difference} (there: the plan, here: the generator): make the plan "
            "from this generator."
        )
    planned, given = plan.settings.get("signature", {}), {} if signer is None else signer.describe()
    if difference := describe_difference(planned, given):
        raise InputError(
            f"What signs the images is not what the plan says: {difference} (there: the plan, here: the signer); "
            "give the certificate and key that the plan was made with."
        )


class _Writer:
    """Scores and writes shards on a thread of its own, in order, so that the generator need not wait for the disk.

    At most two shards wait: a slow disk slows the generator down instead of filling the memory.
    """

    def __init__(self, store: ShardStore, scorers: Sequence[Scorer]) -> None:
        self._store, self._scorers = store, scorers
        self._thread = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[object]] = deque()

    def write(self, shard: int, drawn: DrawnShard, seconds: float) -> None:
        self._waiting.append(self._thread.submit(self._score_and_write, shard, drawn, seconds))
        while len(self._waiting) > 2 or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def _score_and_write(self, shard: int, drawn: DrawnShard, seconds: float) -> None:
        scores = fill_scores(drawn.rows, self._scorers) if drawn.rows else {}
        self._store.write_shard(shard, drawn, seconds, scores)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if error is None:
                self.finish()
            wait(self._waiting)  # shards that were finished are written even where a later one failed
        finally:
            self._thread.shutdown(cancel_futures=True)


def batch_size_for(generator: object, batch_size: int | None) -> int:
    """Images to draw at once: as asked for, at least 1, or what the generator thinks fits, or 64."""
    if batch_size is None:
        return int(getattr(generator, "default_batch_size", 64))
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} draws nothing: give 1 or more.")
    return batch_size


def count_truncated(plan: SynthesisPlan, generator: object, shards: Sequence[int]) -> dict[int, int]:
    """Shard -> how many of its different prompts are longer than the generator reads; only shards that have any."""
    counts: dict[int, int] = {}
    if isinstance(generator, TokenizingGenerator):
        for shard in shards:
            captions = plan.shard_captions(shard)
            # Siblings walk the templates, so that many of the first ones hold all prompts of a caption.
            numbers = np.minimum(plan.num_images_of(captions), len(plan.prompt_templates)).tolist()
            prompts = [
                plan.prompt(caption, caption_id, index)
                for caption, caption_id, number in zip(captions, captions.caption_ids.tolist(), numbers, strict=True)
                for index in range(number)
            ]
            if number := sum(generator.too_long(prompts)):
                counts[shard] = number
    return counts


def truncation_warning(generator: object, counts: Mapping[int, int]) -> str:
    """One sentence about the prompts that `count_truncated` counted."""
    limit = getattr(generator, "max_prompt_tokens", None)
    return (
        f"{sum(counts.values()):,} prompts are longer than the {limit} tokens that the generator's text encoder "
        "reads: it draws their beginning."
    )


def _too_many_failed(plan: SynthesisPlan, captions: CaptionSet, drawn: DrawnShard, number: int, limit: int) -> str:
    failed = drawn.failed_captions[0]
    first = captions.captions[captions.caption_ids.tolist().index(failed)]
    what, remedy = "withheld or black", "look at the generator's safety checker"
    if drawn.num_near:
        limits = {name: getattr(plan, name) for name in ("min_sibling_distance", "max_sibling_similarity")}
        asked = " and ".join(f"{name}={value}" for name, value in limits.items() if value is not None)
        what += f", or nearer to a sibling than {asked}"
        remedy = "allow siblings to be nearer"
    return (
        f"{number} of the captions drawn so far got too few pictures ({MOST_REDRAWS + 1} frames {what}), such as "
        f"{first!r} (caption_id {failed}), but max_failed_captions is {limit}; drop them, {remedy}, or raise the "
        "limit."
    )
