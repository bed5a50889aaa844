"""The release's linear probe: ten learning rates as parallel heads, with and without BatchNorm, by SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .hold_out import validation_rows
from .knn import as_array, as_matrix, check_labels

RELEASE_LEARNING_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)

# epoch -> features (N, D) of the training images under that epoch's augmentation
AugmentedFeatures = Callable[[int], ArrayLike]


@dataclass(frozen=True)
class SGDProbeResult:
    """What the best head found, among those with or those without BatchNorm.

    Attributes:
        batch_norm: whether features passed a BatchNorm without weights before the head.
        predictions: (Q,) int64 labels of the test images.
        value: share of them that are right, in [0, 1].
        learning_rate: the head's, for a batch of 256.
        epochs: after how many it was read.
        validation: for each learning rate, the accuracy on the part held out of the training set; empty if the head
            was chosen on the test set.
        selection: "held-out part of train", or the release's "maximum over heads and checkpoints on the test set".
    """

    batch_norm: bool
    predictions: NDArray[np.int64]
    value: float
    learning_rate: float
    epochs: int
    validation: dict[float, float]
    selection: str


@dataclass(frozen=True)
class SGDProbeSettings:
    """The release's settings (StableRep/main_linear.py).

    Attributes:
        learning_rates: one head each, for a batch of 256; scaled by batch / 256.
        epochs: passes over the training set; the rate falls as a half cosine from step to step, to 0.
        batch_size: images a step over all devices, the last incomplete one dropped; fewer training images are one
            batch.
        momentum: of SGD; there is no weight decay.
        checkpoint_epochs: how often the release looks at the test set.
        validation_fraction: share of each class that chooses the head, where it is chosen honestly.
        seed: of the initial weights, the order and the split.
    """

    learning_rates: tuple[float, ...] = RELEASE_LEARNING_RATES
    epochs: int = 90
    batch_size: int = 1024
    momentum: float = 0.9
    checkpoint_epochs: int = 10
    validation_fraction: float = 0.2
    seed: int = 0


def sgd_probe(
    train_features: ArrayLike | Tensor,
    train_labels: ArrayLike | Tensor,
    test_features: ArrayLike | Tensor,
    test_labels: ArrayLike | Tensor,
    *,
    selection: Literal["validation", "test"] = "validation",
    train_groups: ArrayLike | Tensor | None = None,
    augmented: AugmentedFeatures | None = None,
    settings: SGDProbeSettings | None = None,
    device: str | torch.device | None = None,
) -> list[SGDProbeResult]:
    """Train all heads in one pass; report the best without and the best with BatchNorm.

    The heads see the frozen features as they are: a linear layer from N(0, 0.01), or the same behind a BatchNorm
    without weights (eps 1e-6). With `selection="validation"` the learning rate is chosen on a part held out of the
    training set, the chosen heads are trained again on all of it, and the test set is looked at once.

    `selection="test"` is what the release does: train on everything, look at the test set every ten epochs, report the
    maximum over heads and looks. It is optimistic, and good for comparison with the release's tables only.

    Args:
        train_features: (N, D), not augmented.
        train_labels: (N,) integers, two classes at least.
        test_features: (Q, D).
        test_labels: (Q,) integers; one that training never saw counts as wrong.
        selection: on what the head is chosen.
        train_groups: (N,) ids; no group is on both sides of the split.
        augmented: the training features anew for each epoch, counted from 0; default the same every epoch.
        settings: default the release's.
        device: where to compute; default the CPU.

    Raises:
        InputError: one class only, labels or groups that do not fit, or settings out of range.
    """
    settings = settings or SGDProbeSettings()
    if not settings.learning_rates or min(settings.learning_rates) <= 0 or settings.epochs < 1:
        raise InputError(
            f"The probe has the learning rates {settings.learning_rates} and {settings.epochs} epochs; give at least "
            "one rate above 0 and one epoch."
        )
    train, test = as_matrix(train_features).cpu(), as_matrix(test_features).cpu()
    labels, codes = np.unique(check_labels(train_labels, len(train)), return_inverse=True)
    expected = check_labels(test_labels, len(test))
    if len(labels) < 2:
        raise InputError(f"Every training label is {labels[0]}, so there is nothing to tell apart; give two classes.")
    target = torch.from_numpy(codes)

    def features_of(epoch: int) -> Tensor:
        return train if augmented is None else as_matrix(augmented(epoch)).cpu()

    def result(
        head: tuple[bool, float], found: NDArray[np.int64], epochs: int, validation: dict[float, float], selection: str
    ) -> SGDProbeResult:
        batch_norm, rate = head
        value = float((labels[found] == expected).mean())
        return SGDProbeResult(batch_norm, labels[found], value, rate, epochs, validation, selection)

    every = torch.arange(len(train))
    if selection == "test":
        heads = _Heads(train.shape[1], len(labels), settings, settings.learning_rates, device)
        best: dict[bool, SGDProbeResult] = {}
        for epoch in heads.train(features_of, target, every):
            if epoch % settings.checkpoint_epochs and epoch != settings.epochs:
                continue
            for head, found in enumerate(heads.predict(test)):
                seen = result(heads.of(head), found, epoch, {}, "maximum over heads and checkpoints on the test set")
                if seen.batch_norm not in best or seen.value > best[seen.batch_norm].value:
                    best[seen.batch_norm] = seen
        return [best[False], best[True]]

    groups = None if train_groups is None else as_array(train_groups)
    held_out = torch.from_numpy(validation_rows(codes, groups, settings.validation_fraction, settings.seed))
    heads = _Heads(train.shape[1], len(labels), settings, settings.learning_rates, device)
    for _ in heads.train(features_of, target, every[~held_out]):
        pass
    validation: dict[bool, dict[float, float]] = {False: {}, True: {}}
    for head, found in enumerate(heads.predict(train[held_out])):
        batch_norm, rate = heads.of(head)
        validation[batch_norm][rate] = float((found == codes[held_out.numpy()]).mean())
    results = []
    # between equal scores the smaller rate wins
    chosen = {norm: max(scores, key=lambda rate: (scores[rate], -rate)) for norm, scores in validation.items()}
    final = _Heads(train.shape[1], len(labels), settings, tuple(dict.fromkeys(chosen.values())), device)
    for _ in final.train(features_of, target, every):
        pass
    for head, found in enumerate(final.predict(test)):
        batch_norm, rate = final.of(head)
        if rate == chosen[batch_norm]:
            scores = validation[batch_norm]
            results.append(result((batch_norm, rate), found, settings.epochs, scores, "held-out part of train"))
    return results


class _Heads:
    """Linear heads, one a learning rate without BatchNorm and one with, all in one matrix product a step."""

    def __init__(
        self,
        dimensions: int,
        num_labels: int,
        settings: SGDProbeSettings,
        rates: Sequence[float],
        device: str | torch.device | None,
    ) -> None:
        self.settings, self.rates, self.num_labels = settings, tuple(rates), num_labels
        generator = torch.Generator().manual_seed(settings.seed)
        # every head starts from the same weights, so that a head does not depend on which others run beside it
        weight = 0.01 * torch.randn(num_labels, dimensions, generator=generator)
        self.weights = [weight.repeat(len(self.rates), 1, 1).to(device) for _ in (False, True)]  # (rates, K, D)
        self.biases = [torch.zeros(len(self.rates), num_labels, device=device) for _ in (False, True)]
        self.mean, self.variance = torch.zeros(dimensions, device=device), torch.ones(dimensions, device=device)

    def of(self, head: int) -> tuple[bool, float]:
        """BatchNorm and learning rate of a head."""
        return head >= len(self.rates), self.rates[head % len(self.rates)]

    def train(self, features_of: Callable[[int], Tensor], target: Tensor, rows: Tensor) -> Iterator[int]:
        """Train on these rows; yields the number of epochs that are done, after each."""
        settings = self.settings
        batch = min(settings.batch_size, len(rows))
        steps = len(rows) // batch
        rates = torch.tensor(self.rates, device=self.mean.device).reshape(-1, 1, 1) * batch / 256
        parameters = [*self.weights, *self.biases]
        momenta = [torch.zeros_like(parameter) for parameter in parameters]
        generator = torch.Generator().manual_seed(settings.seed)
        for epoch in range(settings.epochs):
            features = features_of(epoch)
            order = rows[torch.randperm(len(rows), generator=generator)]
            for step in range(steps):
                chosen = order[step * batch : (step + 1) * batch]
                values, codes = features[chosen].to(self.mean.device), target[chosen].to(self.mean.device)
                hot = functional.one_hot(codes, self.num_labels).to(values)
                progress = (epoch * steps + step) / (settings.epochs * steps)
                gradients: list[Tensor] = []
                bias_gradients: list[Tensor] = []
                for side, entering in enumerate((values, self._normalise_and_count(values))):
                    logits = torch.einsum("bd,hkd->hbk", entering, self.weights[side]) + self.biases[side][:, None]
                    error = (logits.softmax(2) - hot) / len(chosen)
                    gradients.append(torch.einsum("hbk,bd->hkd", error, entering))
                    bias_gradients.append(error.sum(1))
                cosine = 0.5 * (1 + math.cos(math.pi * progress))
                for parameter, momentum, gradient in zip(parameters, momenta, gradients + bias_gradients, strict=True):
                    momentum.mul_(settings.momentum).add_(gradient)
                    rate = rates if parameter.ndim == 3 else rates[..., 0]
                    parameter.sub_(cosine * rate * momentum)
            yield epoch + 1

    def predict(self, features: Tensor) -> NDArray[np.int64]:
        """Codes (heads, Q) of the labels, those without BatchNorm first."""
        found = []
        for side in range(2):
            parts = []
            for values in torch.split(features, 4096):
                entering = values.to(self.mean.device)
                if side:
                    entering = (entering - self.mean) / (self.variance + 1e-6).sqrt()
                logits = torch.einsum("bd,hkd->hbk", entering, self.weights[side]) + self.biases[side][:, None]
                parts.append(logits.argmax(2).cpu())
            found.append(torch.cat(parts, 1))
        codes: NDArray[np.int64] = torch.cat(found).numpy()
        return codes

    def _normalise_and_count(self, values: Tensor) -> Tensor:
        """A batch by its own mean and variance, which also enter the running ones, as torch's BatchNorm does."""
        normal: Tensor = functional.batch_norm(values, self.mean, self.variance, training=len(values) > 1, eps=1e-6)
        return normal
