"""The seed of every image follows from three numbers, never from who draws it or when."""

from __future__ import annotations

from hashlib import blake2b


def image_seed(base_seed: int, caption_id: int, image_index: int) -> int:
    """The seed of one image, in [0, 2**63): fit for `torch.Generator.manual_seed` and for an int64 column.

    The original release seeds each worker once, with the same number, so its images depend on batch size and worker
    count and the workers share their noise; here an image can be drawn again alone.

    Args:
        base_seed: The seed of the whole plan.
        caption_id: Identity of the caption, see `stablerep_hf.captions.caption_id`.
        image_index: Which image of the caption, from 0.
    """
    key = f"{base_seed}/{caption_id}/{image_index}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> 1
