"""Logistic regression on frozen features, its regularisation chosen inside the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .hold_out import validation_rows
from .knn import as_array, as_matrix, check_labels
from .metrics import Statistic, statistic_of, value_of

# Largest entry of the gradient at which a fit is done; scikit-learn's is 1e-4. Choosing needs no more than that, nor
# more than single precision: accuracies then differ by less than those of scikit-learn do from the exact solution's.
_CHOOSING_TOLERANCE = 1e-4
_FINAL_TOLERANCE = 1e-5
_ROUNDING = 1e-6  # of a float32 that an encoder gives, relative


def c_values(count: int) -> tuple[float, ...]:
    """`count` values of C, log-spaced from 1e-5 to 1e6."""
    return tuple(float(c) for c in np.logspace(-5, 6, count))


SYNCLR_C_VALUES = c_values(45)  # the release's values of l2 = 1 / C


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        scores: (Q, K) float64 decision values of the test images for `classes`.
        classes: (K,) int64 labels in training, rising.
        statistic: the metric on the test images.
        value: what it gives, in [0, 1].
        c: the chosen inverse regularisation.
        validation: for each C that was tried, the metric on the part held out of the training set.
        num_fit: training images that were fitted while choosing; the rest of the training images validated.
        converged: whether L-BFGS met its tolerance in the final fit.
    """

    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    statistic: Statistic
    value: float
    c: float
    validation: dict[float, float]
    num_fit: int
    converged: bool

    @property
    def predictions(self) -> NDArray[np.int64]:
        """(Q,) the label of the highest score."""
        return self.classes[self.scores.argmax(1)]  # type: ignore[no-any-return]


def logistic_regression_probe(
    train_features: ArrayLike | Tensor,
    train_labels: ArrayLike | Tensor,
    test_features: ArrayLike | Tensor,
    test_labels: ArrayLike | Tensor,
    *,
    metric: str = "accuracy",
    train_groups: ArrayLike | Tensor | None = None,
    held_out: ArrayLike | Tensor | None = None,
    c_values: Sequence[float] = SYNCLR_C_VALUES,
    validation_fraction: float = 0.2,
    max_iter: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> ProbeResult:
    """Choose C on a part held out of the training set, refit on all of it, look at the test set once.

    The protocol of SynCLR's fine-grained evaluation (Tian et al. 2023, appendix B.5;
    SynCLR/eval/main_downstream_linear.py): features standardised by the mean and deviation of what is fitted,
    logistic regression by L-BFGS with C = 1 / l2 over 45 values, the best by the metric on an official validation set
    or 20 % of train, refit on everything. Multinomial, but for the 11-point mAP one regression a class. Between equal
    validation scores the stronger regularisation wins.

    Args:
        train_features: (N, D).
        train_labels: (N,) integers, two classes at least; or (N, K) bool, what each image shows, for the mAP.
        test_features: (Q, D).
        test_labels: (Q,) or (Q, K) likewise; a label that training never saw counts as wrong.
        metric: one of `METRICS`; what is reported, and what chooses C.
        train_groups: (N,) ids; no group is on both sides of the split, so that C is not chosen by recognising
            the same concept again.
        held_out: (N,) bool, an official validation set among the training rows, in place of a random one.
        c_values: inverse regularisations to try, scikit-learn's C.
        validation_fraction: share of each class that is held out.
        max_iter: L-BFGS iterations a fit.
        seed: of the split.
        device: where to compute; default the CPU.

    Raises:
        InputError: one class only, labels or groups that do not fit, a C not above 0, or no group left to validate on.
    """
    train, test = as_matrix(train_features, torch.float64).cpu(), as_matrix(test_features, torch.float64).cpu()
    grid = sorted(float(c) for c in c_values)
    if not grid or grid[0] <= 0:
        raise InputError(f"The values of C are {tuple(c_values)} and must be above 0, at least one.")
    train_labels, test_labels = as_array(train_labels), as_array(test_labels)
    several = train_labels.ndim == 2
    target: NDArray[np.bool_]
    expected: NDArray[Any]
    labels: NDArray[Any]
    if several and metric != "11_point_map":
        raise InputError(
            f"Images with several labels each have no {metric}, which takes one answer; use 11_point_map."
        )
    if several:
        target, expected = check_multi_labels(train_labels, len(train)), check_multi_labels(test_labels, len(test))
        if target.shape[1] != expected.shape[1]:
            raise InputError(
                f"Training images have {target.shape[1]} classes and test images {expected.shape[1]}; give one column "
                "a class on both sides."
            )
        labels = np.arange(target.shape[1])
        codes = target.argmax(1)  # which class an image is filed under when the split is drawn
    else:
        labels, codes = np.unique(check_labels(train_labels, len(train)), return_inverse=True)
        if len(labels) < 2:
            raise InputError(
                f"Every training label is {labels[0]}, so there is nothing to tell apart; give two classes."
            )
        expected = check_labels(test_labels, len(test))
        target = codes[:, None] == np.arange(len(labels))

    if held_out is None:
        chooses = validation_rows(
            codes, None if train_groups is None else as_array(train_groups), validation_fraction, seed
        )
    else:
        chooses = as_array(held_out).astype(bool)
    fit_rows, chooses_rows = torch.from_numpy(np.flatnonzero(~chooses)), torch.from_numpy(np.flatnonzero(chooses))
    one_against_rest = metric == "11_point_map"
    hot = torch.from_numpy(target.astype(np.float64))
    mean, scale = _standardisation(train[fit_rows])
    solver = _Logistic((train[fit_rows] - mean) / scale, hot[fit_rows], one_against_rest, device, torch.float32)
    seen = solver.rotated((train[chooses_rows] - mean) / scale)
    seen_labels = target[chooses] if several else labels[codes[chooses]]
    if not target[chooses].any():
        raise InputError(
            f"None of the {len(seen)} images that would choose C shows any class, so there is nothing to choose by; "
            "give more labelled images or an official validation set."
        )
    validation, found = {}, {}
    for c in grid:  # from strong to weak regularisation: each solution is a good start for the next
        solver.fit(c, max_iter, _CHOOSING_TOLERANCE)
        found[c] = solver.weight.to(solver.axes) @ solver.axes.T, solver.bias.to(solver.axes)
        validation[c] = value_of(statistic_of(metric, solver.scores_of(seen), labels, seen_labels), len(seen))
    best = max(grid, key=lambda c: (validation[c], -c))

    mean, scale = _standardisation(train)
    solver = _Logistic((train - mean) / scale, hot, one_against_rest, device)
    weight, solver.bias = found[best]  # nearly the solution: only a part of the images is new
    solver.weight = weight @ solver.axes
    solver.fit(best, max_iter, _FINAL_TOLERANCE)
    scores = solver.scores_of(solver.rotated((test - mean) / scale))
    statistic = statistic_of(metric, scores, labels, expected)
    value = value_of(statistic, len(test))
    return ProbeResult(scores, labels, statistic, value, best, validation, len(fit_rows), solver.converged)


class _Logistic:
    """Logistic regression: mean cross-entropy + |W|^2 / (2 C N), the bias not regularised.

    This is scikit-learn's objective divided by C N, so its C means the same; multinomial, or one against the rest for
    each class. Successive fits start from the last one.

    L-BFGS runs in coordinates in which the curvature at equal class probabilities, covariance / K + 1 / (C N) (one
    against the rest: covariance / 4), is the identity: the features are rotated to their principal axes, which leaves
    |W| as it is, and the weight of each axis is scaled. The solution is the same; some ten iterations reach it where
    plain coordinates need hundreds.
    """

    def __init__(
        self,
        features: Tensor,
        target: Tensor,
        one_against_rest: bool,
        device: str | torch.device | None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if device is not None and torch.device(device).type == "mps":  # which has no numbers of double precision
            device = "cpu"
        features = features.to(device)
        curvature, axes = torch.linalg.eigh(features.T @ features / len(features))
        present = curvature > 1e-12 * curvature[-1]  # the best weights are 0 along an axis without variance
        self.target = target.to(device, dtype)  # (N, K)
        self.one_against_rest = one_against_rest
        num_labels = self.target.shape[1]
        self.axes = axes[:, present]
        self.curvature = (curvature[present] / (4 if one_against_rest else num_labels)).to(dtype)
        self.scores = self.rotated(features)  # (N, rank)
        self.weight = self.scores.new_zeros(num_labels, len(self.curvature))
        self.bias = self.scores.new_zeros(num_labels)
        self.converged = False

    def fit(self, c: float, max_iter: int, tolerance: float) -> None:
        count, penalty = len(self.scores), 1 / (c * len(self.scores))
        scale = (self.curvature + penalty).rsqrt()
        scaled = self.weight / scale
        optimizer = torch.optim.LBFGS(
            [scaled, self.bias],
            max_iter=max_iter,
            history_size=20,
            tolerance_grad=tolerance,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            weight = scaled * scale
            logits = self.scores @ weight.T + self.bias
            if self.one_against_rest:
                error = (logits.sigmoid() - self.target) / count
                cross_entropy = functional.softplus(logits).sum() - (self.target * logits).sum()
            else:
                log_probability = logits.log_softmax(1)
                error = (log_probability.exp() - self.target) / count
                cross_entropy = -(self.target * log_probability).sum()
            scaled.grad = (error.T @ self.scores + penalty * weight) * scale
            self.bias.grad = error.sum(0)
            loss: Tensor = penalty / 2 * weight.square().sum() + cross_entropy / count
            return loss

        with torch.no_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            closure()
        gradient = torch.cat([parameter.grad.flatten() for parameter in (scaled, self.bias)])  # type: ignore[union-attr]
        self.converged = float(gradient.abs().max()) <= 10 * tolerance
        self.weight = scaled.detach() * scale

    def rotated(self, features: Tensor) -> Tensor:
        """(Q, D) -> (Q, rank) along the principal axes; rounded only there, so that small axes keep their digits."""
        scores: Tensor = features.to(self.axes) @ self.axes
        return scores.to(self.target.dtype)

    def scores_of(self, rotated: Tensor) -> NDArray[np.float64]:
        logits: Tensor = rotated @ self.weight.T + self.bias
        return logits.double().cpu().numpy()


def check_multi_labels(labels: ArrayLike | Tensor, length: int) -> NDArray[np.bool_]:
    """Labels as (N, K) bool, or an `InputError`."""
    array = as_array(labels)
    if array.ndim != 2 or len(array) != length or array.dtype != bool or not array.any():
        raise InputError(
            f"Labels are {array.dtype} of shape {array.shape} and must be bool of shape ({length}, classes), one row "
            "for each image, with at least one that is true."
        )
    return array


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = features.mean(0), features.std(0, correction=0)
    # a feature that never changes in training, or by no more than rounding, says nothing whatever it does in testing
    least = torch.maximum(1e-8 * deviation.max().clamp_min(1e-30), _ROUNDING * mean.abs())
    return mean, torch.where(deviation > least, deviation, torch.inf)


def are_alike(features: NDArray[np.float32]) -> bool:
    """Whether all rows (N, D) are the same vector up to rounding, as those of a collapsed encoder are."""
    return bool((np.ptp(features, axis=0) <= 10 * _ROUNDING * np.abs(features).max()).all())
