"""Does an image find the same concept drawn by another hand?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import InputError
from .knn import as_array, as_unit_vectors
from .text_retrieval import hit_by_chance


@dataclass(frozen=True)
class RetrievalRecall:
    """Recall of cross-artist retrieval.

    Attributes:
        recall: for each k, the share of queries in [0, 1] with a hit among the first k.
        chance: for each k, what a random ranking of the same candidates would give (hypergeometric, exact).
        hits: for each k, (Q,) bool.
        queries: (Q,) int64, the rows that could be asked: those with the concept in another artist's hand.
        num_left_out: rows without such an image.
    """

    recall: dict[int, float]
    chance: dict[int, float]
    hits: dict[int, NDArray[np.bool_]]
    queries: NDArray[np.int64]
    num_left_out: int


def retrieval_recall(
    features: ArrayLike | Tensor,
    concept_ids: ArrayLike | Tensor,
    artist_ids: ArrayLike | Tensor,
    ks: Sequence[int] = (1, 5),
    *,
    chunk_size: int = 1024,
    device: str | torch.device | None = None,
) -> RetrievalRecall:
    """Rank, for each image, all images by other artists by cosine similarity; a hit is the same concept in the top k.

    An artist's own images are not candidates, so recognising an artist's style does not help. Between equal
    similarities the wrong image comes first: an encoder that maps everything to one point scores 0, not chance.
    Protocol: ours, because no published one fits pictures drawn by several hands.

    Args:
        features: (N, D).
        concept_ids: (N,) what is drawn; integers or strings.
        artist_ids: (N,) who drew it; integers or strings.
        ks: the ranks to report.
        chunk_size: queries a tile, of chunk_size x N similarities.
        device: where to compute; default where the features are.

    Raises:
        InputError: shapes do not fit, k below 1, a feature is not finite, or no concept is drawn by two artists.
    """
    vectors = as_unit_vectors(features)
    device = vectors.device if device is None else device
    vectors = vectors.to(device)
    concepts, artists = _codes(concept_ids, len(vectors), device), _codes(artist_ids, len(vectors), device)
    if not ks or min(ks) < 1:
        raise InputError(f"The ranks are {tuple(ks)} and must be whole numbers from 1 up, such as (1, 5).")
    ranks, positives, candidates = [], [], []
    for start in range(0, len(vectors), chunk_size):
        part = slice(start, start + chunk_size)
        similarity = vectors[part] @ vectors.T
        candidate = artists[part, None] != artists[None]
        same = (concepts[part, None] == concepts[None]) & candidate
        best = similarity.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
        ranks.append((candidate & ~same & (similarity >= best)).sum(1).cpu())  # wrong images at or before the best hit
        positives.append(same.sum(1).cpu())
        candidates.append(candidate.sum(1).cpu())
    rank, positive, candidate_count = (torch.cat(parts).numpy() for parts in (ranks, positives, candidates))
    queries = np.flatnonzero(positive)
    if not len(queries):
        raise InputError(
            f"None of the {len(vectors)} images has its concept drawn by another artist, so there is nothing to find; "
            "check the concept and artist columns."
        )
    hits = {k: rank[queries] < k for k in ks}
    chance = {k: float(hit_by_chance(positive[queries], candidate_count[queries], k).mean()) for k in ks}
    recall = {k: float(hit.mean()) for k, hit in hits.items()}
    return RetrievalRecall(recall, chance, hits, queries, len(vectors) - len(queries))


def _codes(values: ArrayLike | Tensor, length: int, device: str | torch.device) -> Tensor:
    array = as_array(values)
    if array.shape != (length,):
        raise InputError(f"There are {length} images and ids of shape {array.shape}; give one id for each image.")
    return torch.from_numpy(np.unique(array, return_inverse=True)[1].astype(np.int64)).to(device)
