"""Draw one shard: every sibling of every caption of it; frames without a picture, or near a sibling, are redrawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from PIL import Image

from ..captions import CaptionSet
from ..errors import InputError
from .frames import SUFFIXES, StoredFrame, is_black, store_frame
from .labelling import xmp_packet
from .plan import SynthesisPlan
from .protocol import ImageGenerator, PlainGenerator
from .siblings import Siblings
from .signing import ContentSigner
from .versions import library_versions

# Of one caption. Ours: a checker that withholds half of its frames loses one caption in some thousands.
MOST_REDRAWS = 16
_ENOUGH_BLACK = 4  # images, of a first batch or batches; fewer may be meant, or one caption's


@dataclass(frozen=True)
class DrawnShard:
    """What came of drawing a shard.

    Attributes:
        num_redrawn: Frames that carried no picture, or resembled a sibling, and were drawn again under the next index.
        failed_captions: Ids of captions that have no rows because this happened to more than `MOST_REDRAWS` frames.
        num_near: Those of the redrawn frames that resembled a sibling.
        num_truncated: Prompts whose end the generator does not read.
        pending: The rows without their image, and the image, perhaps still being encoded.
    """

    num_redrawn: int
    failed_captions: list[int]
    num_near: int = 0
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
    generator: ImageGenerator | PlainGenerator,
    batch_size: int,
    on_images: Callable[[int], object] = lambda number: None,
    *,
    encoders: Executor | None = None,
    signer: ContentSigner | None = None,
) -> DrawnShard:
    """Draw the images of some captions.

    A caption gets the images of its first m indices 0, 1, 2, ... that carry a picture which is no nearer to those
    before it than the plan's `min_sibling_distance` and `max_sibling_similarity` allow. Which these are depends on the
    caption alone, whatever the batches: its frames come back by ascending index.

    Args:
        plan: Seeds, prompts, number of siblings, format.
        captions: The captions of the shard.
        generator: Draws.
        batch_size: Images drawn at once, at least 1. Batches mix captions.
        on_images: Called with the number of further images that carry a picture.
        encoders: Threads that encode image files while the next batch is drawn; without them this one does.
        signer: Signs image files, where the plan says so.

    Raises:
        InputError: The generator returns no images, another number of them than prompts, or only black ones from the
            beginning.
    """
    texts, ids = captions.captions, captions.caption_ids.tolist()
    wanted = plan.num_images_of(captions).tolist()
    queue = deque((place, index) for place in range(len(ids)) for index in range(wanted[place]))
    next_index = list(wanted)
    frames: list[dict[int, tuple[dict[str, Any], Future[StoredFrame]]]] = [{} for _ in ids]
    failed: set[int] = set()
    rules = plan.stored_size, plan.min_sibling_distance, plan.max_sibling_similarity, plan.sibling_encoder
    siblings = [Siblings(*rules) for _ in ids]
    any_picture, num_black, num_near = False, 0, 0

    while queue:
        batch = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        rows = [row_of(plan, texts[place], ids[place], index) for place, index in batch]
        images = check_images(generator([row["prompt"] for row in rows], [row["seed"] for row in rows]), len(batch))
        num_pictures, num_seen, num_failed = 0, 0, len(failed)
        for (place, index), row, image in zip(batch, rows, images, strict=True):
            is_picture = image is not None and not is_black(image)
            num_seen += is_picture
            is_near = is_picture and siblings[place].resemble(image)
            if is_picture and not is_near:
                frames[place][index] = row, _encode(encoders, image, plan, row, signer)
                num_pictures += 1
            elif next_index[place] - wanted[place] == MOST_REDRAWS:
                failed.add(place)
            else:
                queue.append((place, next_index[place]))
                next_index[place] += 1
                num_near += is_near
        any_picture |= num_seen > 0
        num_black += sum(image is not None for image in images) - num_seen
        if not any_picture and num_black >= _ENOUGH_BLACK:
            raise InputError(_only_black(plan, num_black))
        if len(failed) > num_failed:
            queue = deque(entry for entry in queue if entry[0] not in failed)
        on_images(num_pictures)

    pending = [
        entry
        for place in range(len(ids))
        if place not in failed
        for entry in frames[place].values()  # ascending, since the queue is first in, first out
    ]
    failed_ids = [ids[place] for place in sorted(failed)]
    return DrawnShard(sum(next_index) - sum(wanted), failed_ids, num_near, pending=pending)


def check_images(images: Any, number: int) -> list[Image.Image | None]:
    """What a generator returned, as a list; `InputError` if these are not so many images."""
    found = list(images)
    if len(found) != number:
        raise InputError(f"The generator returned {len(found)} images for {number} prompts: it must return one each.")
    for image in found:
        if image is not None and not isinstance(image, Image.Image):
            raise InputError(
                f"The generator returned a {type(image).__name__}: it must return images of Pillow, or None where "
                "there is no picture."
            )
    return found


def _only_black(plan: SynthesisPlan, number: int) -> str:
    dtype = plan.generator.get("dtype")
    suspect = f"numbers may overflow in dtype={dtype}, so try dtype={'float32' if dtype == 'bfloat16' else 'bfloat16'}"
    return (
        f"The first {number} images of {plan.generator.get('name')!r} are wholly black, so drawing stops: "
        f"{suspect if dtype in ('float16', 'bfloat16') else 'look at its weights, settings and safety checker'}."
    )


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
        "generator_license": plan.generator.get("license"),
        "redrawable": plan.generator.get("redrawable", True),
        "library_versions": ", ".join(f"{name} {version}" for name, version in library_versions().items()),
    }
