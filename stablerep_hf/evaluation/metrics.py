"""What is counted, as functions of weights: with ones the score, with a bootstrap's counts one of its resamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .settings import METRICS

Weights = NDArray[np.float64]
# weights (R, N), how often each of the N items counts in each of R samples -> (R,) scores; NaN where nothing counts
Statistic = Callable[[Weights], NDArray[np.float64]]


@dataclass(frozen=True)
class MeanScore:
    """The mean of `scores` (N,), such as 1 for right and 0 for wrong."""

    scores: NDArray[np.float64]

    def __call__(self, weights: Weights) -> NDArray[np.float64]:
        """(R, N) -> (R,)."""
        return _ratio(weights @ self.scores, weights.sum(1))


@dataclass(frozen=True)
class MeanPerClass:
    """The mean over classes of the share of each class that is right; `correct` (N,) bool, `labels` (N,) int64."""

    correct: NDArray[np.bool_]
    labels: NDArray[np.int64]

    def __call__(self, weights: Weights) -> NDArray[np.float64]:
        """(R, N) -> (R,); a class that a sample does not hold is left out of its mean."""
        member = self.labels[:, None] == np.unique(self.labels)  # (N, K)
        right = _ratio(weights @ (member & self.correct[:, None]), weights @ member)
        return _mean_of_known(right)


@dataclass(frozen=True)
class ElevenPointMAP:
    """Mean over classes of the 11-point interpolated average precision; `scores` and `relevant` are (N, K)."""

    scores: NDArray[np.float64]
    relevant: NDArray[np.bool_]

    def __call__(self, weights: Weights) -> NDArray[np.float64]:
        """(R, N) -> (R,); a class without a positive in a sample is left out of its mean."""
        precisions = [
            _eleven_point_precision(self.scores[:, label], self.relevant[:, label], weights)
            for label in range(self.scores.shape[1])
        ]
        return _mean_of_known(np.stack(precisions, 1))


def statistic_of(
    metric: str, scores: NDArray[np.float64], classes: NDArray[np.int64], expected: NDArray[Any]
) -> Statistic:
    """A metric of decision values.

    Args:
        metric: one of `METRICS`.
        scores: (N, K), the higher, the surer.
        classes: (K,) the label of each column.
        expected: (N,) labels, or for the mAP (N, K) bool.
    """
    if metric not in METRICS:
        raise InputError(f"There is no metric {metric!r} of labels; choose from {', '.join(METRICS)}.")
    if metric == "11_point_map":
        return ElevenPointMAP(scores, expected if expected.ndim == 2 else expected[:, None] == classes)
    correct = classes[scores.argmax(1)] == expected
    return MeanScore(correct.astype(np.float64)) if metric == "accuracy" else MeanPerClass(correct, expected)


def value_of(statistic: Statistic, count: int) -> float:
    """The statistic of all `count` items, each once."""
    return float(statistic(np.ones((1, count)))[0])


def mean_per_class_accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean over classes of the share of each that is predicted right, in [0, 1].

    The metric of Aircraft, Caltech-101, Flowers-102 and Pets (Kornblith et al. 2019; SynCLR, appendix B.5).

    Args:
        predictions: (N,) integers.
        labels: (N,) integers.
    """
    found, expected = np.asarray(predictions), np.asarray(labels)
    if found.shape != expected.shape or expected.ndim != 1 or not len(expected):
        raise InputError(
            f"Predictions have shape {found.shape} and labels {expected.shape}; give one of each an image."
        )
    return value_of(MeanPerClass(found == expected, expected), len(expected))


def eleven_point_map(scores: ArrayLike, relevant: ArrayLike) -> float:
    """Mean average precision over classes, precision interpolated at the recalls 0, 0.1 ... 1, in [0, 1].

    The metric of VOC2007 (Everingham et al. 2010, section 4.2.1). Images of equal score enter together. A class
    without positives is left out. `voc_ap` in SynCLR/eval/main_downstream_linear.py, which takes its curve from
    scikit-learn, also counts that curve's artificial point of precision 1 at recall 0; here only images count.

    Args:
        scores: (N, K) the higher, the surer; of any scale.
        relevant: (N, K) bool, whether the image shows the class.
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if values.shape != positive.shape or values.ndim != 2 or not positive.any():
        raise InputError(
            f"Scores have shape {values.shape} and relevances {positive.shape} with {int(positive.sum())} positives; "
            "both must be (images, classes), with at least one."
        )
    return value_of(ElevenPointMAP(values, positive), len(values))


def _eleven_point_precision(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_], weights: Weights
) -> NDArray[np.float64]:
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # last of each run of equal scores
    counted = weights[:, order]
    found = np.cumsum(counted * relevant[order], 1)[:, ends]
    seen = np.cumsum(counted, 1)[:, ends]
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    best_from_here = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    total = np.zeros(len(weights))
    for tenth in range(11):
        first = (10 * found >= tenth * found[:, -1:]).argmax(1)  # in whole numbers: 3 of 10 are a recall of 0.3
        total += best_from_here[np.arange(len(weights)), first]
    return np.where(found[:, -1] > 0, total / 11, np.nan)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = np.broadcast_to(whole, part.shape)
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, K) -> (R,): the mean without NaN, NaN where there is nothing else."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(1), known.sum(1).astype(np.float64))
