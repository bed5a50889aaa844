"""Draw one shard: every sibling of every caption of it, frames without a picture redrawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from ..captions import CaptionSet
from .frames import SUFFIXES, StoredFrame, is_black, store_frame
from .labelling import xmp_packet
from .plan import SynthesisPlan
from .protocol import ImageGenerator
from .signing import ContentSigner

MOST_REDRAWS = (
    16  # of one caption. Ours: a checker that withholds half of its frames loses one caption in some thousands.
)


@dataclass(frozen=True)
class DrawnShard:
    """What came of drawing a shard.

    Attributes:
        num_redrawn: Frames that carried no picture and were drawn again under the next index.
        failed_captions: Ids of captions that have no rows because more than `MOST_REDRAWS` frames carried no picture.
        num_truncated: Prompts whose end the generator does not read.
        pending: The rows without their image, and the image, perhaps still being encoded.
    """

    num_redrawn: int
    failed_captions: list[int]
    num_truncated: int = 0
    pending: list[tuple[dict[str, Any], Future[StoredFrame]]] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Rows of the shard."""
        return len(self.pending)

    @property
    def num_captions(self) -> int:
        """Captions that have rows."""
        return len({row["caption_id"] for row, _ in self.pending})

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One dict a row, keyed by column, siblings contiguous, by ascending image_index; waits for the encoding."""
        rows = []
        for row, future in self.pending:
            frame = future.result()
            image = {"bytes": frame.encoded, "path": row["path"]}
            rows.append({**row, "image": image, "is_blank": frame.is_blank, "perceptual_hash": frame.perceptual_hash})
        return rows


def draw_shard(
    plan: SynthesisPlan,
    captions: CaptionSet,
    generator: ImageGenerator,
    batch_size: int,
    on_images: Callable[[int], object] = lambda number: None,
    *,
    encoders: Executor | None = None,
    signer: ContentSigner | None = None,
    num_truncated: int = 0,
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
        encoders: Threads that encode image files while the next batch is drawn; without them this one does.
        signer: Signs image files, where the plan says so.
        num_truncated: See `DrawnShard`.

    Raises:
        RuntimeError: If the generator returns another number of images than it was given prompts.
    """
    texts, ids = captions.captions, captions.caption_ids.tolist()
    wanted = plan.num_images_of(captions).tolist()
    queue = deque((place, index) for place in range(len(ids)) for index in range(wanted[place]))
    next_index = list(wanted)
    frames: list[dict[int, tuple[dict[str, Any], Future[StoredFrame]]]] = [{} for _ in ids]
    failed: set[int] = set()

    while queue:
        batch = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        rows = [row_of(plan, texts[place], ids[place], index) for place, index in batch]
        images = generator([row["prompt"] for row in rows], [row["seed"] for row in rows])
        if len(images) != len(batch):
            raise RuntimeError(f"The generator returned {len(images)} images for {len(batch)} prompts.")
        num_pictures, num_failed = 0, len(failed)
        for (place, index), row, image in zip(batch, rows, images, strict=True):
            if image is not None and not is_black(image):
                frames[place][index] = row, _encode(encoders, image, plan, row, signer)
                num_pictures += 1
            elif next_index[place] - wanted[place] == MOST_REDRAWS:
                failed.add(place)
            else:
                queue.append((place, next_index[place]))
                next_index[place] += 1
        if len(failed) > num_failed:
            queue = deque(entry for entry in queue if entry[0] not in failed)
        on_images(num_pictures)

    pending = [
        entry
        for place in range(len(ids))
        if place not in failed
        for entry in frames[place].values()  # ascending, since the queue is first in, first out
    ]
    return DrawnShard(sum(next_index) - sum(wanted), [ids[place] for place in sorted(failed)], num_truncated, pending)


def _encode(
    encoders: Executor | None, image: Any, plan: SynthesisPlan, row: dict[str, Any], signer: ContentSigner | None
) -> Future[StoredFrame]:
    if encoders is not None:
        return encoders.submit(encode_row, image, plan, row, signer)
    done: Future[StoredFrame] = Future()
    done.set_result(encode_row(image, plan, row, signer))
    return done


def encode_row(
    image: Any, plan: SynthesisPlan, row: dict[str, Any], signer: ContentSigner | None = None
) -> StoredFrame:
    """The image of a row as it is stored: scaled, labelled, encoded, signed."""
    sign = None if signer is None else partial(signer.sign, image_format=plan.image_format, row=row)
    return store_frame(image, plan.image_format, plan.stored_size, xmp_packet(row), sign)


def row_of(plan: SynthesisPlan, caption: str, caption_id: int, image_index: int) -> dict[str, Any]:
    """The columns of a row that are known before it is drawn, and under "path" the name of its image file."""
    return {
        "path": f"{caption_id:019d}-{image_index}.{SUFFIXES[plan.image_format]}",
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
