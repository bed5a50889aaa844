"""How good features are, without labels: their rank, and how siblings lie together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

_EPSILON = 1e-7  # in the entropies, as in RankMe, equation 2
_DELTA = 1e-4  # keeps the covariance within captions from being singular


def rankme(features: ArrayLike) -> float:
    """Effective rank of features: exponential of the entropy of their singular values (Garrido et al. 2023, eq. 1).

    Args:
        features: (N, D), as the encoder gives them: neither centred nor normalised.

    Returns:
        About 1 for features along one line, min(N, D) where all directions have the same weight.

    Raises:
        InputError: No features, or one that is not finite.
    """
    return _effective_number(np.linalg.svd(_matrix(features), compute_uv=False))


def lidar(features: ArrayLike, caption_ids: ArrayLike, *, delta: float = _DELTA) -> float:
    """Effective rank of what tells captions apart (Thilak et al. 2024, equations 1 and 2).

    The exponential of the entropy of the eigenvalues of W^-1/2 B W^-1/2: B is the covariance of the captions' means, W
    that of images around the mean of their caption, plus `delta` times the identity. Siblings take the place that
    augmented views have in the paper. Images without siblings are left out; captions may have different numbers.

    Args:
        features: (N, D).
        caption_ids: (N,) integers or strings.
        delta: Of the scale of squared features.

    Returns:
        From about 1 to D.

    Raises:
        InputError: Shapes do not fit, a feature is not finite, or fewer than two captions have siblings.
    """
    values, groups, sizes = _siblings(features, caption_ids)
    means = _group_sums(values, groups, len(sizes)) / sizes[:, None]
    within = values - means[groups]
    between = means - means.mean(axis=0)
    spread = within.T @ within / (len(values) - len(sizes)) + delta * np.eye(values.shape[1])
    scales, axes = np.linalg.eigh(spread)
    whitened = between @ axes / np.sqrt(scales)
    # the eigenvalues of the whitened covariance are squared singular values of the whitened means
    return _effective_number(np.linalg.svd(whitened, compute_uv=False) ** 2)


def sibling_gap(features: ArrayLike, caption_ids: ArrayLike) -> float:
    """Mean cosine similarity of siblings less that of images of different captions, over all pairs.

    Args:
        features: (N, D).
        caption_ids: (N,) integers or strings.

    Returns:
        In [-2, 2], 0 for features that know nothing of captions.

    Raises:
        InputError: Shapes do not fit, a feature is not finite, or fewer than two captions have siblings.
    """
    values, groups, sizes = _siblings(features, caption_ids)
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    sums = _group_sums(unit, groups, len(sizes))
    own = (sums**2).sum()
    siblings = (own - (unit**2).sum()) / (sizes * (sizes - 1)).sum()
    others = ((sums.sum(axis=0) ** 2).sum() - own) / (len(unit) ** 2 - (sizes**2).sum())
    return float(siblings - others)


def label_free_metrics(features: ArrayLike, caption_ids: ArrayLike) -> dict[str, float]:
    """All three: "sibling_gap", "rankme" and "lidar". Arguments and errors as theirs."""
    return {
        "sibling_gap": sibling_gap(features, caption_ids),
        "rankme": rankme(features),
        "lidar": lidar(features, caption_ids),
    }


def _effective_number(weights: NDArray[np.floating[Any]]) -> float:
    total = weights.sum()
    if not total > 0:
        return 1.0  # nothing differs from anything
    shares = weights / total + _EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _matrix(features: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise InputError(
            f"Features of shape {values.shape} must be finite, one row for each image: look at the encoder."
        )
    return values


def _siblings(
    features: ArrayLike, caption_ids: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """(M, D) images that have siblings, (M,) the number of their caption, (C,) images of each caption."""
    values, ids = _matrix(features), np.asarray(caption_ids)
    if ids.shape != (len(values),):
        raise InputError(
            f"There are {len(values)} images and caption ids of shape {ids.shape}: give one for each image."
        )
    _, groups, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    kept = sizes[groups] > 1
    if len(np.unique(groups[kept])) < 2:
        raise InputError(
            f"Fewer than two of {len(sizes)} captions have several images, so siblings cannot be compared with "
            "others: give more captions with siblings."
        )
    _, groups, sizes = np.unique(groups[kept], return_inverse=True, return_counts=True)
    return values[kept], groups, sizes


def _group_sums(values: NDArray[np.float64], groups: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums
