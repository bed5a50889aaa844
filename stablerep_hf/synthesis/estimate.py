"""What a plan would take, before it is drawn: measured on a few of its own images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .drawing import check_images, encode_row, row_of
from .plan import SynthesisPlan
from .protocol import ImageGenerator, KeepingGenerator, PlainGenerator
from .run import batch_size_for, count_truncated
from .signing import ContentSigner
from .store import ShardStore


@dataclass(frozen=True)
class SynthesisEstimate:
    """What is missing of a plan, and what drawing it would take on one worker like this one.

    Attributes:
        num_images: Images to draw; redrawn frames come on top.
        num_batches: Calls of the generator.
        num_shards: Files to write.
        batch_size: Images drawn at once.
        num_truncated: Prompts that are longer than the generator reads.
        seconds_per_batch: Measured on one batch after a first one that warmed up; 0 if each image would be billed.
        bytes_per_image: Mean size of that batch's image files; parquet adds little. 0 as above.
    """

    num_images: int
    num_batches: int
    num_shards: int
    batch_size: int
    num_truncated: int
    seconds_per_batch: float
    bytes_per_image: float

    @property
    def seconds(self) -> float:
        """All batches, one after another."""
        return self.num_batches * self.seconds_per_batch

    @property
    def num_bytes(self) -> float:
        """All image files."""
        return self.num_images * self.bytes_per_image

    def cost(self, dollars_per_hour: float) -> float:
        """US dollars, at the price of one worker's hour: more workers take less time for the same money."""
        return self.seconds / 3600 * dollars_per_hour


def estimate_synthesis(
    plan: SynthesisPlan,
    generator: ImageGenerator | PlainGenerator,
    output_dir: str | Path,
    *,
    batch_size: int | None = None,
    signer: ContentSigner | None = None,
) -> SynthesisEstimate:
    """Draw two batches that are thrown away, and multiply. Nothing is written, nor more drawn than the job has.

    A `KeepingGenerator` draws nothing, as each image would be billed. The arguments are those of `synthesize`; shards
    that are in the folder are not counted.

    Raises:
        InputError: The folder holds another plan's images, or the batch size is below 1.
    """
    batch_size = batch_size_for(generator, batch_size)
    store = ShardStore(output_dir, plan)
    plan = store.plan
    missing = [shard for shard in range(plan.num_shards) if store.find_record(shard) is None]
    truncated = count_truncated(plan, generator, missing)
    numbers = [plan.num_images_in(shard) for shard in missing]
    rows: list[dict[str, Any]] = []
    for shard in [] if isinstance(generator, KeepingGenerator) else missing[:1]:  # batches do not reach over shards
        captions = plan.shard_captions(shard).head(batch_size)
        counts = plan.num_images_of(captions).tolist()
        rows = [
            row_of(plan, caption, caption_id, index)
            for caption, caption_id, count in zip(captions, captions.caption_ids.tolist(), counts, strict=True)
            for index in range(count)
        ][:batch_size]
    seconds, sizes = 0.0, [0]
    # A warm-up first, unless the whole job is no more than this batch: then that is what the job takes.
    for _ in range(0 if not rows else 2 if sum(numbers) >= 2 * len(rows) else 1):
        begin = time.perf_counter()
        images = check_images(generator([row["prompt"] for row in rows], [row["seed"] for row in rows]), len(rows))
        seconds = time.perf_counter() - begin
        sizes = [
            len(encode_row(image, plan, row, signer).encoded)
            for row, image in zip(rows, images, strict=True)
            if image is not None
        ] or [0]
    return SynthesisEstimate(
        num_images=sum(numbers),
        num_batches=sum(-(-number // batch_size) for number in numbers),
        num_shards=len(missing),
        batch_size=batch_size,
        num_truncated=sum(truncated.values()),
        seconds_per_batch=seconds,
        bytes_per_image=sum(sizes) / len(sizes),
    )
