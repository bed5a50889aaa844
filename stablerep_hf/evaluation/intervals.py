"""How far to trust a number: bootstrap over test items, Student's t over training seeds or episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .metrics import MeanScore, Statistic


def bootstrap_interval(
    scores: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of per-item scores.

    The images of one concept are alike, so treating them as independent makes intervals too narrow; with `groups`
    whole groups are drawn (cluster bootstrap; Davison and Hinkley 1997, section 3.8), each resample's mean being the
    sum over the drawn groups over their number of items. The interval is about other test items, not other trainings.

    Args:
        scores: (N,) one number an item, such as 1 for right and 0 for wrong.
        groups: (N,) ids of the groups that are drawn together; default each item for itself.
        num_resamples: bootstrap samples.
        confidence: share of them inside the interval.
        seed: of the resampling.

    Returns:
        The low and the high end.

    Raises:
        InputError: no scores, or groups of another length.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError(f"Scores of shape {values.shape} must be one finite number for each item, at least one.")
    means = bootstrap_values(MeanScore(values), len(values), groups, num_resamples=num_resamples, seed=seed)
    return percentile_interval(means, confidence=confidence)


def bootstrap_values(
    statistic: Statistic, count: int, groups: ArrayLike | None = None, *, num_resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Values (num_resamples, ...) of a statistic on samples of `count` items, or of their whole groups, put back.

    The samples depend on the groups, `num_resamples` and `seed` alone, so differences between statistics of the same
    items may be taken sample by sample.
    """
    codes = np.arange(count)
    if groups is not None:
        ids = np.asarray(groups)
        if ids.shape != (count,):
            raise InputError(f"There are {count} scores and groups of shape {ids.shape}; give one group an item.")
        codes = np.unique(ids, return_inverse=True)[1]
    units = int(codes.max()) + 1
    generator = np.random.default_rng(seed)
    rows = max(1, 2**22 // count)  # resamples at once: 32 MB of weights whatever the size of the test set
    values = []
    for start in range(0, num_resamples, rows):
        drawn = generator.multinomial(units, np.full(units, 1 / units), size=min(rows, num_resamples - start))
        values.append(statistic(drawn[:, codes].astype(np.float64)))
    return np.concatenate(values)


def percentile_interval(values: NDArray[np.float64], *, confidence: float = 0.95) -> tuple[float, float]:
    """The middle `confidence` of bootstrap values (R,); samples on which the statistic is not defined do not count."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def seed_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean over independent runs or episodes: mean +- t(n - 1) s / sqrt(n), s with n - 1.

    It is not cut to [0, 1]: with few runs the honest interval of an accuracy may reach beyond.

    Raises:
        InputError: fewer than two runs, from which nothing can be said about their spread.
    """
    runs = np.asarray(values, dtype=np.float64)
    if runs.ndim != 1 or len(runs) < 2:
        raise InputError(f"{runs.size} run has no spread to make an interval from; train with at least 2 seeds.")
    from scipy.special import stdtrit

    half = float(stdtrit(len(runs) - 1, (1 + confidence) / 2)) * runs.std(ddof=1) / np.sqrt(len(runs))
    return float(runs.mean() - half), float(runs.mean() + half)
