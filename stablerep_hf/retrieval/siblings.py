"""Images that fit captions: the nearest in a space that both share, each unlike the others of its caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..evaluation.knn import as_unit_vectors, nearest_neighbours

HASH_BITS = 64
_CANDIDATES = 4  # looked at for each image that is wanted, so that near duplicates among them can be passed over


@dataclass(frozen=True)
class Hits:
    """Images found for captions.

    Attributes:
        caption: int64 (H,), number of the caption, ascending.
        image: int64 (H,), number of the image; of one caption the nearest first.
        similarity: float32 (H,), cosine of the two.
        num_near: Candidates passed over because they resemble an image that the caption has already.
    """

    caption: NDArray[np.int64]
    image: NDArray[np.int64]
    similarity: NDArray[np.float32]
    num_near: int


def find_siblings(
    texts: Tensor,
    images: NDArray[np.float32],
    hashes: NDArray[np.float32],
    per_caption: int,
    *,
    min_similarity: float = -1.0,
    near_bits: int = 0,
) -> Hits:
    """The images nearest to each caption; exact.

    Args:
        texts: (C, E), captions in the space shared with images, of any scale.
        images: (N, E), images in that space.
        hashes: (N, 64), bits of their perceptual hashes as -1 and 1.
        per_caption: Most images of a caption; it gets fewer if four times as many candidates hold no more.
        min_similarity: Least cosine of caption and image.
        near_bits: Images whose hashes differ in so many bits or fewer are near duplicates: a caption gets one of them.
    """
    most = min(len(images), _CANDIDATES * per_caption)
    cosines, places = (found.numpy() for found in nearest_neighbours(texts, images, most))
    captions, chosen, similarities = [], [], []
    num_near = 0
    for caption in range(len(texts)):
        candidates = places[caption][cosines[caption] >= min_similarity]
        bits = hashes[candidates]
        near = (HASH_BITS - bits @ bits.T) / 2 <= near_bits
        taken: list[int] = []
        for number in range(len(candidates)):
            if len(taken) == per_caption:
                break
            if near[number, taken].any():
                num_near += 1
            else:
                taken.append(number)
        captions += [caption] * len(taken)
        chosen += candidates[taken].tolist()
        similarities += cosines[caption][taken].tolist()
    cosine = np.asarray(similarities, np.float32)
    return Hits(np.asarray(captions, np.int64), np.asarray(chosen, np.int64), cosine, num_near)


def near_duplicates(
    hashes: NDArray[np.float32], others: NDArray[np.float32], near_bits: int, device: str | torch.device | None = None
) -> NDArray[np.bool_]:
    """Which images resemble one of a set, bool (N,): their hashes differ in at most `near_bits` bits.

    `hashes` (N, 64) and `others` (M, 64), of the set, are bits of perceptual hashes as -1 and 1.
    """
    cosines, _ = nearest_neighbours(as_unit_vectors(hashes), others, 1, device=device)
    bits: NDArray[np.bool_] = np.rint((1 - cosines[:, 0].numpy()) * HASH_BITS / 2) <= near_bits
    return bits
