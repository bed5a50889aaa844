"""The Vendi score: how many different things there are in a sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError


def vendi_score(features: ArrayLike) -> float:
    """Effective number of different items (Friedman and Dieng, TMLR 2023, definition 3.1), with the cosine kernel.

    The exponential of the entropy of the eigenvalues of K / n, where K holds the cosines of all pairs. It is 1 for
    copies of one thing and n for n things at right angles. Its eigenvalues are taken from the smaller of the two Gram
    matrices, which share them.

    Args:
        features: (n, D), any scale; every row has a direction.

    Returns:
        A number in [1, n].

    Raises:
        InputError: If there is no row, or one of them is zero or not finite.
    """
    rows: NDArray[np.float64] = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise InputError(f"Features of shape {rows.shape} have no diversity; give one row for each item.")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise InputError(
            f"{int((~np.isfinite(norms) | (norms == 0)).sum())} of {len(rows)} features are zero or not finite, so "
            "they have no direction to compare; look at the encoder."
        )
    rows = rows / norms
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    shares = np.clip(np.linalg.eigvalsh(gram / len(rows)), 0, None)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
