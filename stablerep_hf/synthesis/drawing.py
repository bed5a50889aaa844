"""Draw one shard: every sibling of every caption of it, frames without a picture redrawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..captions import CaptionSet
from .frames import SUFFIXES, encode_image, is_black
from .plan import SynthesisPlan
from .protocol import ImageGenerator

MOST_REDRAWS = (
    16  # of one caption. Ours: a checker that withholds half of its frames loses one caption in some thousands.
)


@dataclass(frozen=True)
class DrawnShard:
    """What came of drawing a shard.

    Attributes:
        rows: One dict a row, keyed by column; siblings contiguous, by ascending image_index.
        num_redrawn: Frames that carried no picture and were drawn again under the next index.
        failed_captions: Ids of captions that have no rows because more than `MOST_REDRAWS` frames carried no picture.
    """

    rows: list[dict[str, Any]]
    num_redrawn: int
    failed_captions: list[int]


def draw_shard(
    plan: SynthesisPlan,
    captions: CaptionSet,
    generator: ImageGenerator,
    batch_size: int,
    on_images: Callable[[int], object] = lambda number: None,
) -> DrawnShard:
    """Draw the images of some captions.

    A caption gets the images of its first m indices 0, 1, 2, ... that carry a picture. Which these are depends on the
    caption alone, whatever the batches.

    Args:
        plan: Seeds, prompts, number of siblings, format.
        captions: The captions of the shard.
        generator: Draws.
        batch_size: Images drawn at once, at least 1. Batches mix captions.
        on_images: Told how many more images carry a picture.

    Raises:
        RuntimeError: If the generator returns another number of images than it was given prompts.
    """
    texts, ids = captions.captions, captions.caption_ids.tolist()
    wanted = plan.images_per_caption
    queue = deque((place, index) for place in range(len(ids)) for index in range(wanted))
    next_index = [wanted] * len(ids)
    frames: list[dict[int, bytes]] = [{} for _ in ids]
    failed: set[int] = set()

    while queue:
        batch = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        images = generator(
            [plan.prompt(texts[place], ids[place], index) for place, index in batch],
            [plan.seed(ids[place], index) for place, index in batch],
        )
        if len(images) != len(batch):
            raise RuntimeError(f"The generator returned {len(images)} images for {len(batch)} prompts.")
        num_pictures, num_failed = 0, len(failed)
        for (place, index), image in zip(batch, images, strict=True):
            if image is not None and not is_black(image):
                frames[place][index] = encode_image(image, plan.image_format)
                num_pictures += 1
            elif next_index[place] - wanted == MOST_REDRAWS:
                failed.add(place)
            else:
                queue.append((place, next_index[place]))
                next_index[place] += 1
        if len(failed) > num_failed:
            queue = deque(entry for entry in queue if entry[0] not in failed)
        on_images(num_pictures)

    rows = [
        _row(plan, texts[place], ids[place], index, encoded)
        for place in range(len(ids))
        if place not in failed
        for index, encoded in frames[place].items()  # ascending, since the queue is first in, first out
    ]
    return DrawnShard(rows, sum(next_index) - wanted * len(ids), [ids[place] for place in sorted(failed)])


def _row(plan: SynthesisPlan, caption: str, caption_id: int, image_index: int, encoded: bytes) -> dict[str, Any]:
    return {
        "image": {"bytes": encoded, "path": f"{caption_id:019d}-{image_index}.{SUFFIXES[plan.image_format]}"},
        "caption": caption,
        "caption_id": caption_id,
        "image_index": image_index,
        "seed": plan.seed(caption_id, image_index),
        "prompt": plan.prompt(caption, caption_id, image_index),
        "generator": plan.generator.get("name"),
        "generator_revision": plan.generator.get("revision"),
        "scheduler": plan.generator.get("scheduler"),
        "guidance_scale": plan.generator.get("guidance_scale"),
        "num_inference_steps": plan.generator.get("num_inference_steps"),
    }
