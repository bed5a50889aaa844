"""Does an image find its captions, and a caption its images?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import InputError
from .knn import as_array, as_unit_vectors


@dataclass(frozen=True)
class TextRetrievalRecall:
    """Recall of one direction.

    Attributes:
        hits: for each k, (Q,) bool, whether one of the query's own is among the first k.
        chance: for each k, what a random ranking would give.
    """

    hits: dict[int, NDArray[np.bool_]]
    chance: dict[int, float]


def text_retrieval_recall(
    image_embeds: ArrayLike | Tensor,
    text_embeds: ArrayLike | Tensor,
    pairs: ArrayLike | Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk_size: int = 1024,
    device: str | torch.device | None = None,
) -> tuple[TextRetrievalRecall, TextRetrievalRecall]:
    """Recall@k from images to texts and from texts to images, by cosine similarity.

    An image may have several captions and a caption several images: a query is a hit if any of its own is among the
    first k, and its other own ones do not push that one down. Images and texts are each ranked once, so a caption of
    two images is one candidate. Ties count against the encoder: the wrong candidate comes first.

    Args:
        image_embeds: (N, E), each image once.
        text_embeds: (C, E), each text once.
        pairs: (P, 2) int, the image and the text of each pair that belongs together.
        ks: the ranks to report.
        chunk_size: queries a tile, of chunk_size x candidates similarities.
        device: where to compute; default where the images are.

    Returns:
        Images to texts, with the queries in the order of `image_embeds`, and texts to images.

    Raises:
        InputError: shapes do not fit, k below 1, or an image or text without a partner.
    """
    images, texts = as_unit_vectors(image_embeds), as_unit_vectors(text_embeds)
    device = images.device if device is None else device
    images, texts = images.to(device), texts.to(device)
    if images.shape[1] != texts.shape[1]:
        raise InputError(
            f"Images have {images.shape[1]} dimensions and texts {texts.shape[1]}, so they cannot be compared; embed "
            "both with one dual encoder."
        )
    if not ks or min(ks) < 1:
        raise InputError(f"The ranks are {tuple(ks)} and must be whole numbers from 1 up, such as (1, 5, 10).")
    belongs = np.unique(as_array(pairs).astype(np.int64).reshape(-1, 2), axis=0)
    for side, vectors, name in ((0, images, "images"), (1, texts, "texts")):
        lonely = len(vectors) - len(np.unique(belongs[:, side]))
        if lonely:
            raise InputError(f"{lonely} of {len(vectors)} {name} have no partner to find; leave them out.")
    return (
        _recall(images, texts, belongs, ks, chunk_size),
        _recall(texts, images, belongs[:, ::-1], ks, chunk_size),
    )


def _recall(
    queries: Tensor, candidates: Tensor, pairs: NDArray[np.int64], ks: Sequence[int], chunk_size: int
) -> TextRetrievalRecall:
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    counts = np.bincount(pairs[:, 0], minlength=len(queries))
    ranks = []
    for start in range(0, len(queries), chunk_size):
        similarity = queries[start : start + chunk_size] @ candidates.T
        first, last = np.searchsorted(pairs[:, 0], [start, start + len(similarity)])
        own = torch.zeros_like(similarity, dtype=torch.bool)
        of_query, of_candidate = torch.from_numpy(pairs[first:last].copy()).to(own.device).T
        own[of_query - start, of_candidate] = True
        best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        ranks.append((~own & (similarity >= best)).sum(1).cpu())  # wrong ones at or before the best right one
    rank = torch.cat(ranks).numpy()
    return TextRetrievalRecall(
        {k: rank < k for k in ks},
        {k: float(hit_by_chance(counts, np.full(len(queries), len(candidates)), k).mean()) for k in ks},
    )


def hit_by_chance(positives: NDArray[np.int64], candidates: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """(Q,) chance of a positive among k random candidates: 1 - C(candidates - positives, k) / C(candidates, k)."""
    miss = np.ones(len(positives))
    for drawn in range(k):
        miss *= np.clip(candidates - positives - drawn, 0, None) / np.clip(candidates - drawn, 1, None)
    return 1.0 - miss
