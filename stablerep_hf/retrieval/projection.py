"""Many vectors on a plane."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Method = Literal["umap", "pca"]


@dataclass(frozen=True)
class Projection:
    """Points of a map.

    Attributes:
        points: (N, 2) float32, each axis from 0 to 1.
        method: "umap" or "pca".
        variance: share of the vectors' variance that the plane holds; None of UMAP, which keeps neighbours instead.
    """

    points: NDArray[np.float32]
    method: Method
    variance: float | None


def project(vectors: ArrayLike, method: Method | None = None, seed: int = 0) -> Projection:
    """Lay vectors out on a plane.

    Args:
        vectors: (N, D), N >= 1.
        method: "umap" (McInnes et al. 2018; cosine distance) needs `umap-learn`; "pca" scikit-learn alone. None: UMAP
            if it is installed.
        seed: Of UMAP.
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if method is None:
        method = "umap" if find_spec("umap") is not None and len(rows) > 50 else "pca"
    if method == "umap":
        from umap import UMAP

        plane, variance = UMAP(metric="cosine", random_state=seed).fit_transform(rows), None
    else:
        from sklearn.decomposition import PCA

        fitted = PCA(min(2, *rows.shape), random_state=seed)
        with np.errstate(invalid="ignore"):  # equal vectors have no variance to share out
            plane = fitted.fit_transform(rows)
        plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
        variance = float(np.nan_to_num(fitted.explained_variance_ratio_).sum())
    low, high = plane.min(0), plane.max(0)
    return Projection(((plane - low) / np.where(high > low, high - low, 1)).astype(np.float32), method, variance)
