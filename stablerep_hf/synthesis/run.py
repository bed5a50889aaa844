"""Draw what is missing of a plan."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..captions import CaptionSet
from ..errors import InputError
from .drawing import MOST_REDRAWS, draw_shard
from .plan import SynthesisPlan, describe_difference
from .protocol import ImageGenerator
from .store import ShardStore


@dataclass(frozen=True)
class SynthesisSummary:
    """What one call of `synthesize` found and did, on one worker's shards.

    Attributes:
        num_images: Rows that stand now.
        num_drawn: Rows that this call drew.
        num_redrawn: Frames of this call that carried no picture and were drawn again.
        num_shards: Shards that stand now.
        num_shards_drawn: Shards that this call drew.
        damaged_shards: Shards that were there but torn or altered, and were drawn again.
        failed_captions: Ids of captions that have no rows, from this and earlier calls.
        seconds: Time this call spent on drawing and writing.
    """

    num_images: int
    num_drawn: int
    num_redrawn: int
    num_shards: int
    num_shards_drawn: int
    damaged_shards: tuple[int, ...]
    failed_captions: tuple[int, ...]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Rows that this call drew, a second; 0 if it drew none."""
        return self.num_drawn / self.seconds if self.num_drawn else 0.0


def synthesize(
    plan: SynthesisPlan,
    generator: ImageGenerator,
    output_dir: str | Path,
    *,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
    max_failed_captions: int = 0,
) -> SynthesisSummary:
    """Draw a plan into a folder, or the part of it that is missing there.

    Shards that stand are checked by size and sha256 and kept; missing, torn and altered ones are drawn (again). A
    worker draws the shards with `shard % world_size == rank`: no one waits for anyone, a worker may die and come back,
    and whoever runs next, with any world size, draws what is missing. Which rows there are depends on the plan alone
    (an image that is drawn in another batch may differ by rounding).

    Args:
        plan: What to draw.
        generator: What draws; it must be the one that the plan describes.
        output_dir: The folder; `datasets.load_dataset` loads it.
        batch_size: Images drawn at once. Changes no image beyond rounding.
        rank: This worker's number in [0, world_size).
        world_size: How many workers share the plan.
        progress: Whether to show a bar with images/s.
        max_failed_captions: How many of this worker's captions may get no picture. They are left out and counted; one
            more ends the run, with the finished shards kept.

    Returns:
        What was found and done.

    Raises:
        InputError: If the folder holds another plan's images, the generator is not the plan's, the disk is full, a
            rank or size is impossible, or too many captions fail.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, which draws nothing; set it to 1 or more.")
    if not 0 <= rank < world_size:
        raise InputError(
            f"rank is {rank} of {world_size} workers; ranks count from 0 to the number of workers minus 1."
        )
    description = json.loads(json.dumps(dict(generator.describe())))
    if difference := describe_difference(plan.settings["generator"], description):
        raise InputError(
            f"The generator is not the plan's: {difference} (there: the plan, here: the generator); "
            "make the plan from this generator's `describe()`."
        )

    store = ShardStore(output_dir, plan)
    missing, standing = [], []
    shards = range(rank, plan.num_shards, world_size)
    for shard in tqdm(shards, desc="Checking shards", unit="shard", leave=False, disable=not progress):
        record = store.find_record(shard)
        if record is None:
            missing.append(shard)
        else:
            standing.append(record)
    damaged = tuple(shard for shard in missing if store.is_damaged(shard))
    failed = [caption_id for record in standing for caption_id in record["failed_captions"]]
    num_kept = sum(record["rows"] for record in standing)
    num_drawn = num_redrawn = 0
    begin = time.perf_counter()

    store.claim()
    for shard in damaged:
        # Its record no longer holds; without it nobody takes the folder for finished while the shard is drawn again.
        store.record_path(shard).unlink(missing_ok=True)
    total = num_kept + plan.images_per_caption * sum(len(plan.shard_captions(shard)) for shard in missing)
    label = "Drawing" if world_size == 1 else f"Drawing ({rank} of {world_size})"
    with tqdm(total=total, initial=num_kept, desc=label, unit="image", disable=not (progress and missing)) as bar:
        for shard in missing:
            shard_begin = time.perf_counter()
            captions = plan.shard_captions(shard)
            drawn = draw_shard(plan, captions, generator, batch_size, on_images=bar.update)
            failed += drawn.failed_captions
            if drawn.failed_captions and len(failed) > max_failed_captions:
                raise InputError(_too_many_failed(captions, drawn.failed_captions, len(failed), max_failed_captions))
            store.write_shard(shard, drawn, time.perf_counter() - shard_begin)
            num_drawn += len(drawn.rows)
            num_redrawn += drawn.num_redrawn
    store.tidy()
    return SynthesisSummary(
        num_images=num_kept + num_drawn,
        num_drawn=num_drawn,
        num_redrawn=num_redrawn,
        num_shards=len(shards),
        num_shards_drawn=len(missing),
        damaged_shards=damaged,
        failed_captions=tuple(failed),
        seconds=time.perf_counter() - begin,
    )


def _too_many_failed(captions: CaptionSet, failed: list[int], number: int, limit: int) -> str:
    first = captions.captions[captions.caption_ids.tolist().index(failed[0])]
    return (
        f"{number} of the captions drawn so far got too few pictures ({MOST_REDRAWS + 1} frames withheld or black), "
        f"such as {first!r} (caption_id {failed[0]}), but max_failed_captions is {limit}; drop them, look at the "
        "generator's safety checker, or raise the limit."
    )
