"""Does an image find the other images of its caption?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import InputError
from .knn import as_array, as_unit_vectors


@dataclass(frozen=True)
class SiblingRetrieval:
    """Average precision over siblings.

    Attributes:
        average_precision: (Q,) float64 in [0, 1].
        queries: (Q,) int64, the rows that have siblings.
        chance: the mean average precision of a random ranking, exact.
    """

    average_precision: NDArray[np.float64]
    queries: NDArray[np.int64]
    chance: float


def sibling_retrieval(
    features: ArrayLike | Tensor,
    caption_ids: ArrayLike | Tensor,
    *,
    chunk_size: int = 512,
    device: str | torch.device | None = None,
) -> SiblingRetrieval:
    """Rank, for each image, all others by cosine similarity, and average the precision at its siblings' ranks.

    Average precision without interpolation; between equal similarities the wrong image comes first. An image without
    siblings asks nothing and stays a candidate. Ours: it measures the invariance that the paper trains for.

    Args:
        features: (N, D).
        caption_ids: (N,) integers or strings.
        chunk_size: queries a tile, of chunk_size x N similarities.
        device: where to compute; default where the features are.

    Raises:
        InputError: shapes do not fit, a feature is not finite, or no image has a sibling.
    """
    vectors = as_unit_vectors(features)
    vectors = vectors.to(vectors.device if device is None else device)
    ids = as_array(caption_ids)
    if ids.shape != (len(vectors),):
        raise InputError(
            f"There are {len(vectors)} images and caption ids of shape {ids.shape}; give one for each image."
        )
    codes, counts = np.unique(ids, return_inverse=True, return_counts=True)[1:]
    siblings = counts[codes] - 1
    queries = np.flatnonzero(siblings)
    if not len(queries):
        raise InputError(
            f"None of the {len(vectors)} images has a sibling, so there is nothing to find; check the caption ids."
        )
    own = torch.from_numpy(codes).to(vectors.device)
    precisions = []
    for rows in torch.split(torch.from_numpy(queries).to(vectors.device), chunk_size):
        similarity = vectors[rows] @ vectors.T
        relevant = own[rows, None] == own[None]
        similarity[
            torch.arange(len(rows), device=rows.device), rows
        ] = -torch.inf  # the query itself, which is last and not counted
        relevant[torch.arange(len(rows), device=rows.device), rows] = False
        # two stable sorts: by similarity, and among equals the relevant ones last
        order = relevant.to(torch.int8).sort(dim=1, stable=True).indices
        order = order.gather(1, similarity.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
        hit = relevant.gather(1, order).cpu().double()
        place = torch.arange(1, hit.shape[1] + 1, dtype=torch.float64)
        precisions.append((hit.cumsum(1) / place * hit).sum(1) / hit.sum(1))
    chance = _chance(siblings[queries], len(vectors) - 1)
    return SiblingRetrieval(torch.cat(precisions).numpy(), queries, chance)


def _chance(siblings: NDArray[np.int64], candidates: int) -> float:
    """Mean over queries of the expected average precision of a random order.

    A relevant item at place p has (p - 1)(R - 1) / (N - 1) relevant ones before it on average, so E[AP] = q + (1 - q)
    H_N / N with q = (R - 1) / (N - 1) and the N-th harmonic number H_N.
    """
    if candidates == 1:
        return 1.0
    others = (siblings - 1) / (candidates - 1)
    harmonic = float((1 / np.arange(1, candidates + 1)).sum())
    return float((others + (1 - others) * harmonic / candidates).mean())
