"""Perceptual hashes of a data set's images, extracted, cached and shared by rank as features are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..evaluation import VisionEncoder, pixel_encoder
from ..synthesis.frames import perceptual_hash


def hash_encoder() -> VisionEncoder:
    """The 64 bits of `perceptual_hash` as features, -1 and 1: their cosine is 1 - bits that differ / 32."""
    # the model of `pixel_encoder` gives back what the processor made
    return replace(pixel_encoder(), image_processor=_Hashes(), name="perceptual hash")


class _Hashes:
    """Takes the place of an image processor."""

    def __call__(self, images: Sequence[Image.Image], return_tensors: str) -> dict[str, Tensor]:
        hashes = np.array([perceptual_hash(image) for image in images], ">i8")
        bits = np.unpackbits(hashes.view(np.uint8)).reshape(len(images), -1)
        return {"pixel_values": torch.from_numpy(bits.astype(np.float32) * 2 - 1)}

    def to_json_string(self) -> str:
        return '{"hash": "DCT of 32 x 32 grey pixels, 8 x 8 lowest frequencies"}'
