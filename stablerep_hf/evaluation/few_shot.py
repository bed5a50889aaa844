"""Few-shot classification: how well a handful of labelled images tells new classes apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .knn import as_array, as_unit_vectors, check_labels


@dataclass(frozen=True)
class FewShotResult:
    """What the episodes gave.

    Attributes:
        accuracies: (episodes,) float64, the share of each episode's queries that were right.
        ways: classes an episode.
        num_classes: classes with enough images to be drawn.
        num_left_out: classes without.
    """

    accuracies: NDArray[np.float64]
    ways: int
    num_classes: int
    num_left_out: int


def few_shot_accuracy(
    features: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    groups: ArrayLike | Tensor | None = None,
    ways: int | None = None,
    shots: int = 5,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> FewShotResult:
    """Draw episodes; a query gets the class whose mean support feature is nearest by cosine.

    Features are normalised before the mean and the mean after it: the nearest-centroid rule of SimpleShot (Wang et al.
    2019, "L2N"), which trains nothing; 15 queries a class and 600 episodes are its field's custom. The paper
    evaluates 5-way 5-shot; its classifier and number of episodes were not found, so this is ours.

    Args:
        features: (N, D).
        labels: (N,) integers.
        groups: (N,) ids; in an episode no two images of a class are of one group, so that no query has its like in
            the support of its class. A group that holds images of several classes may be in each of them.
        ways: classes an episode; default 5, or as many as have enough images where that is fewer.
        shots: labelled images a class.
        queries: images a class that are classified.
        episodes: how many; the interval of their mean narrows with its root.
        seed: of the draws.
        device: where to compute; default where the features are.

    Raises:
        InputError: fewer than `ways` classes, or two, have `shots + queries` images (of groups of their own), or
            numbers below 1.
    """
    vectors = as_unit_vectors(features)
    vectors = vectors.to(vectors.device if device is None else device)
    codes = check_labels(labels, len(vectors))
    if min((5 if ways is None else ways) - 1, shots, queries, episodes) < 1:
        raise InputError(
            f"ways={ways}, shots={shots}, queries={queries} and episodes={episodes} cannot be drawn; give at least 2 "
            "ways and 1 of each other."
        )
    units = np.arange(len(codes)) if groups is None else np.unique(as_array(groups), return_inverse=True)[1]
    if units.shape != codes.shape:
        raise InputError(f"There are {len(codes)} labels and groups of shape {units.shape}; give one group an image.")
    need = shots + queries
    members = [_rows_by_group(units, np.flatnonzero(codes == label)) for label in np.unique(codes)]
    enough = [groups_of for groups_of in members if len(groups_of) >= need]
    ways = max(2, min(5, len(enough))) if ways is None else ways
    if len(enough) < ways:
        raise InputError(
            f"{len(enough)} of {len(members)} classes have the {need} {'images' if groups is None else 'groups'} that "
            f"{shots} shots and {queries} queries need, and an episode needs {ways} classes; ask for fewer ways or "
            "shots, or give more images a class."
        )
    generator = np.random.default_rng(seed)
    answers = torch.arange(ways, device=vectors.device).repeat_interleave(queries)
    accuracies = np.empty(episodes)
    for episode in range(episodes):
        rows = np.empty((ways, need), dtype=np.int64)
        for way, chosen in enumerate(generator.choice(len(enough), ways, replace=False)):
            drawn = generator.choice(len(enough[chosen]), need, replace=False)
            rows[way] = [generator.choice(enough[chosen][group]) for group in drawn]
        centres = functional.normalize(vectors[torch.from_numpy(rows[:, :shots]).to(vectors.device)].mean(1), dim=1)
        asked = vectors[torch.from_numpy(rows[:, shots:].reshape(-1)).to(vectors.device)]
        accuracies[episode] = int(((asked @ centres.T).argmax(1) == answers).sum()) / len(answers)
    return FewShotResult(accuracies, ways, len(enough), len(members) - len(enough))


def _rows_by_group(units: NDArray[np.int64], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = rows[np.argsort(units[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(units[order])) + 1)
