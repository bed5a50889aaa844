"""Exact weighted nearest-neighbour classification, as DINO evaluates it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import InputError


def nearest_neighbours(
    queries: ArrayLike | Tensor,
    bank: ArrayLike | Tensor,
    k: int,
    *,
    query_chunk: int = 1024,
    bank_chunk: int = 65536,
    device: str | torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """The `k` most similar rows of `bank` for each query, by cosine similarity; exact, in tiles of bounded memory.

    Args:
        queries: (Q, D) features, of any scale.
        bank: (N, D) features, of any scale.
        k: neighbours a query, 1 to N.
        query_chunk: queries a tile.
        bank_chunk: rows of the bank a tile; the result does not depend on either.
        device: where to compute; default where the queries are.

    Returns:
        Similarities (Q, k) float32 in [-1, 1], falling along a row, and rows of the bank (Q, k) int64, on the CPU.

    Raises:
        InputError: `k` is out of range, shapes do not fit, or a feature is not finite.
    """
    query_vectors, bank_vectors = as_unit_vectors(queries), as_unit_vectors(bank)
    if query_vectors.shape[1] != bank_vectors.shape[1]:
        raise InputError(
            f"Queries have {query_vectors.shape[1]} features and the bank {bank_vectors.shape[1]}, so they cannot be "
            "compared; extract both with the same encoder."
        )
    check_neighbours(k, len(bank_vectors))
    device = query_vectors.device if device is None else device
    similarities = torch.empty(len(query_vectors), k)
    indices = torch.empty(len(query_vectors), k, dtype=torch.int64)
    for start in range(0, len(query_vectors), query_chunk):
        tile = query_vectors[start : start + query_chunk].to(device)
        best, where = tile.new_empty(len(tile), 0), torch.empty(len(tile), 0, dtype=torch.int64, device=tile.device)
        for offset in range(0, len(bank_vectors), bank_chunk):
            scores = tile @ bank_vectors[offset : offset + bank_chunk].to(device).T  # (query_chunk, bank_chunk)
            score, column = scores.topk(min(k, scores.shape[1]), dim=1)
            best, where = torch.cat([best, score], 1), torch.cat([where, column + offset], 1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            where = where.gather(1, order)
        similarities[start : start + query_chunk], indices[start : start + query_chunk] = best.cpu(), where.cpu()
    return similarities, indices


def check_neighbours(k: int, bank_size: int) -> None:
    """Refuse a number of neighbours that a bank of images cannot give.

    Raises:
        InputError: `k` is below 1 or above `bank_size`.
    """
    if not 1 <= k <= bank_size:
        raise InputError(
            f"There are no {k} neighbours in a bank of {bank_size} images; choose k between 1 and that number."
        )


def knn_predict(
    train_features: ArrayLike | Tensor,
    train_labels: ArrayLike | Tensor,
    test_features: ArrayLike | Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    device: str | torch.device | None = None,
) -> NDArray[np.int64]:
    """The label of each test image: each of its `k` neighbours votes with weight exp(similarity / temperature).

    k = 20 and temperature 0.07 are the settings DINO reports (Caron et al. 2021, appendix F.1; `eval_knn.py`). A tie
    of votes goes to the smaller label.

    Args:
        train_features: (N, D).
        train_labels: (N,) integers.
        test_features: (Q, D).
        k: neighbours that vote.
        temperature: of the weights, above 0.
        device: where to compute; default where the test features are.

    Returns:
        (Q,) int64 labels.

    Raises:
        InputError: as `nearest_neighbours`, or labels that do not fit the features.
    """
    train = as_matrix(train_features)
    labels, codes = np.unique(check_labels(train_labels, len(train)), return_inverse=True)
    similarities, indices = nearest_neighbours(test_features, train, k, device=device)
    votes = vote(similarities, torch.from_numpy(codes)[indices], len(labels), temperature)
    return labels[votes.argmax(1).numpy()]  # type: ignore[no-any-return]


def knn_accuracy(
    train_features: ArrayLike | Tensor,
    train_labels: ArrayLike | Tensor,
    test_features: ArrayLike | Tensor,
    test_labels: ArrayLike | Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    device: str | torch.device | None = None,
) -> float:
    """Share of test images, in [0, 1], whose label `knn_predict` finds. Arguments and errors as there."""
    test = as_matrix(test_features)
    expected = check_labels(test_labels, len(test))
    found = knn_predict(train_features, train_labels, test, k=k, temperature=temperature, device=device)
    return float((found == expected).mean())


def vote(similarities: Tensor, labels: Tensor, num_labels: int, temperature: float) -> Tensor:
    """Votes (Q, num_labels) float64 of neighbours with `similarities` (Q, k) and `labels` (Q, k) int64."""
    if not temperature > 0:
        raise InputError(f"The temperature is {temperature} and must be above 0; DINO uses 0.07.")
    # exp of the difference to the nearest: the same order of votes, and no overflow at a low temperature
    weights = ((similarities - similarities[:, :1]).double() / temperature).exp()
    return torch.zeros(len(labels), num_labels, dtype=torch.float64).scatter_add_(1, labels, weights)


def as_unit_vectors(features: ArrayLike | Tensor) -> Tensor:
    """Features (N, D) as float32 rows of length 1 (a row of zeros stays zero), or an `InputError`."""
    return functional.normalize(as_matrix(features), dim=1)


def as_matrix(features: ArrayLike | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Features (N, D) as numbers of `dtype`, or an `InputError` when there are none or one is not finite."""
    vectors = torch.as_tensor(features if isinstance(features, Tensor) else np.asarray(features)).detach().to(dtype)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise InputError(f"Features have shape {tuple(vectors.shape)} and must be (images, dimensions), both above 0.")
    if not bool(torch.isfinite(vectors).all()):
        bad = int((~torch.isfinite(vectors).all(1)).sum())
        raise InputError(f"{bad} of {len(vectors)} feature vectors hold NaN or infinity; check the encoder's weights.")
    return vectors


def as_array(values: ArrayLike | Tensor) -> NDArray[Any]:
    """Values as NumPy's, wherever they are."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def check_labels(labels: ArrayLike | Tensor, length: int) -> NDArray[np.int64]:
    """Labels as (N,) int64, or an `InputError` when they are of another kind or number."""
    array = as_array(labels)
    if array.shape != (length,) or array.dtype.kind not in "iub":
        raise InputError(
            f"Labels are {array.dtype} of shape {array.shape} and must be {length} integers, one for each image."
        )
    return array.astype(np.int64)
