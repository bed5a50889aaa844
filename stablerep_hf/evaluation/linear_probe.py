"""Logistic regression on frozen features, its regularisation chosen inside the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .knn import check_labels

DEFAULT_C_VALUES = tuple(10.0**exponent for exponent in range(-5, 7))


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        predictions: (Q,) int64 labels of the test images.
        accuracy: share of them that are right, in [0, 1].
        c: the chosen inverse regularisation.
        validation_accuracy: for each C that was tried, the accuracy on the part held out of the training set.
        num_fit: training images that were fitted while choosing; the rest of the training images validated.
        converged: whether L-BFGS met its tolerance in the final fit.
    """

    predictions: NDArray[np.int64]
    accuracy: float
    c: float
    validation_accuracy: dict[float, float]
    num_fit: int
    converged: bool


def logistic_regression_probe(
    train_features: ArrayLike | Tensor,
    train_labels: ArrayLike,
    test_features: ArrayLike | Tensor,
    test_labels: ArrayLike,
    *,
    train_groups: ArrayLike | None = None,
    c_values: Sequence[float] = DEFAULT_C_VALUES,
    validation_fraction: float = 0.2,
    max_iter: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> ProbeResult:
    """Choose C on a part held out of the training set, refit on all of it, look at the test set once.

    The protocol of SynCLR's fine-grained evaluation (Tian et al. 2023, appendix B.5): features standardised by the
    mean and deviation of what is fitted, multinomial logistic regression by L-BFGS with C = 1 / l2, validation on 20 %
    of train, refit on everything. By default one value of C a decade over its eleven decades,
    where it has 45: ours, because accuracy is flat over a decade around its best. Between equal validation accuracies
    the stronger regularisation wins.

    Args:
        train_features: (N, D).
        train_labels: (N,) integers, two classes at least.
        test_features: (Q, D).
        test_labels: (Q,) integers; one that training never saw counts as wrong.
        train_groups: (N,) ids; no group is on both sides of the split, so that C is not chosen by recognising
            the same concept again.
        c_values: inverse regularisations to try, scikit-learn's C.
        validation_fraction: share of each class that is held out.
        max_iter: L-BFGS iterations a fit.
        seed: of the split.
        device: where to compute; default the CPU.

    Raises:
        InputError: one class only, labels or groups that do not fit, a C not above 0, or no group left to validate on.
    """
    train, test = _as_matrix(train_features), _as_matrix(test_features)
    labels, codes = np.unique(check_labels(train_labels, len(train)), return_inverse=True)
    expected = check_labels(test_labels, len(test))
    grid = sorted(float(c) for c in c_values)
    if len(labels) < 2:
        raise InputError(f"Every training label is {labels[0]}, so there is nothing to tell apart; give two classes.")
    if not grid or grid[0] <= 0:
        raise InputError(f"The values of C are {tuple(c_values)} and must be above 0, at least one.")
    target = torch.from_numpy(codes)
    held_out = torch.from_numpy(validation_rows(codes, train_groups, validation_fraction, seed))
    scores = _validation_path(train, target, held_out, len(labels), grid, max_iter, device)
    best = max(grid, key=lambda c: (scores[c], -c))
    mean, scale = _standardisation(train)
    solver = _Softmax((train - mean) / scale, target, len(labels), device)
    solver.fit(best, max_iter)
    found = labels[solver.predict((test - mean) / scale).numpy()]
    return ProbeResult(
        found, float((found == expected).mean()), best, scores, int((~held_out).sum()), solver.converged
    )


def validation_rows(
    codes: NDArray[np.int64], groups: ArrayLike | None, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which of N training rows validate: about `fraction` of each class's groups, drawn at random.

    Args:
        codes: (N,) class of each row.
        groups: (N,) ids that stay together, or None for each row by itself. A group is filed under its first row's
            class.
        fraction: between 0 and 1.
        seed: of the draw.

    Returns:
        (N,) bool. A class keeps at least one group to fit on.
    """
    if not 0 < fraction < 1:
        raise InputError(f"The validation fraction is {fraction} and must lie between 0 and 1, such as 0.2.")
    if groups is None:
        first, members = np.arange(len(codes)), np.arange(len(codes))
    else:
        ids = np.asarray(groups)
        if ids.shape != codes.shape:
            raise InputError(
                f"There are {len(codes)} labels and groups of shape {ids.shape}; give one group an image."
            )
        _, first, members = np.unique(ids, return_index=True, return_inverse=True)
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(first), dtype=bool)
    for label in np.unique(codes):
        own = np.flatnonzero(codes[first] == label)
        chosen[generator.permutation(own)[: min(len(own) - 1, round(len(own) * fraction))] if len(own) else own] = True
    if not chosen.any():
        raise InputError(
            f"{len(first)} groups in {len(np.unique(codes))} classes leave none to choose C on; give more groups a "
            "class or a larger validation fraction."
        )
    return chosen[members]


class _Softmax:
    """Multinomial logistic regression: mean cross-entropy + |W|^2 / (2 C N), the bias not regularised.

    This is scikit-learn's objective divided by C N, so its C means the same. Successive fits start from the last one.

    L-BFGS runs in coordinates in which the curvature at equal class probabilities, covariance / K + 1 / (C N), is the
    identity: the features are rotated to their principal axes, which leaves |W| as it is, and the weight of each axis
    is scaled. The solution is the same; some ten iterations reach it where plain coordinates need hundreds.
    """

    def __init__(self, features: Tensor, target: Tensor, num_labels: int, device: str | torch.device | None) -> None:
        features = features.to(device)
        curvature, axes = torch.linalg.eigh(features.T @ features / len(features))
        present = curvature > 1e-12 * curvature[-1]  # the best weights are 0 along an axis without variance
        self.axes, self.curvature = axes[:, present], curvature[present] / num_labels
        self.scores = features @ self.axes  # (N, rank)
        self.one_hot = functional.one_hot(target.to(device), num_labels).to(features.dtype)
        self.weight = self.scores.new_zeros(num_labels, len(self.curvature))
        self.bias = self.scores.new_zeros(num_labels)
        self.converged = False

    def fit(self, c: float, max_iter: int, tolerance: float = 1e-6) -> None:
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
            log_probability = (self.scores @ weight.T + self.bias).log_softmax(1)
            error = (log_probability.exp() - self.one_hot) / count
            scaled.grad = (error.T @ self.scores + penalty * weight) * scale
            self.bias.grad = error.sum(0)
            loss: Tensor = penalty / 2 * weight.square().sum() - (self.one_hot * log_probability).sum() / count
            return loss

        with torch.no_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            closure()
        gradients = [parameter.grad for parameter in (scaled, self.bias) if parameter.grad is not None]
        self.converged = max(float(gradient.abs().max()) for gradient in gradients) <= 10 * tolerance
        self.weight = scaled.detach() * scale

    def predict(self, features: Tensor) -> Tensor:
        logits: Tensor = features.to(self.scores) @ self.axes @ self.weight.T + self.bias
        return logits.argmax(1).cpu()


def _validation_path(
    train: Tensor,
    target: Tensor,
    held_out: Tensor,
    num_labels: int,
    grid: Sequence[float],
    max_iter: int,
    device: str | torch.device | None,
) -> dict[float, float]:
    mean, scale = _standardisation(train[~held_out])
    standard = (train - mean) / scale
    solver = _Softmax(standard[~held_out], target[~held_out], num_labels, device)
    scores = {}
    for c in grid:  # from strong to weak regularisation: each solution is a good start for the next
        solver.fit(c, max_iter)
        scores[c] = float((solver.predict(standard[held_out]) == target[held_out]).double().mean())
    return scores


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    deviation = features.std(0, correction=0)
    # a feature that never changes in training says nothing, whatever it does in testing
    return features.mean(0), torch.where(deviation > 1e-8 * deviation.max().clamp_min(1e-30), deviation, torch.inf)


def _as_matrix(features: ArrayLike | Tensor) -> Tensor:
    matrix = torch.as_tensor(features if isinstance(features, Tensor) else np.asarray(features)).detach().double()
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"Features have shape {tuple(matrix.shape)} and must be (images, dimensions), both above 0.")
    if not bool(torch.isfinite(matrix).all()):
        raise InputError(f"The features of {len(matrix)} images hold NaN or infinity; check the encoder's weights.")
    return matrix.cpu()
