"""Probes without labels: answers that are known from their formulas."""

import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import lidar, rankme, sibling_gap


def test_rankme_counts_directions_of_equal_weight():
    assert rankme(np.eye(6)) == pytest.approx(6, rel=1e-5)
    assert rankme(np.outer(np.arange(1.0, 9), [1, 2, 3])) == pytest.approx(1, rel=1e-4)
    # singular values 3 and 1: shares 3/4 and 1/4
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert rankme([[3, 0], [0, -1], [0, 0]]) == pytest.approx(np.exp(entropy), rel=1e-5)


def lidar_by_the_paper(features, groups, delta):
    """Covariances and matrix root as equation 1 has them, caption by caption."""
    each = [features[groups == group] for group in np.unique(groups)]
    means = np.array([one.mean(0) for one in each])
    between = sum(np.outer(m - means.mean(0), m - means.mean(0)) for m in means) / (len(means) - 1)
    within = sum(np.outer(row - one.mean(0), row - one.mean(0)) for one in each for row in one)
    within = within / sum(len(one) - 1 for one in each) + delta * np.eye(features.shape[1])
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    shares = np.linalg.eigvalsh(root @ between @ root).clip(0)
    shares = shares / shares.sum() + 1e-7
    return np.exp(-(shares * np.log(shares)).sum())


def test_lidar_is_that_of_the_paper_and_ignores_what_siblings_do_not_share():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    features = rng.normal(size=(40, 5))[groups] + 0.3 * rng.normal(size=(120, 5))
    assert lidar(features, groups) == pytest.approx(lidar_by_the_paper(features, groups, 1e-4), rel=1e-6)
    order = rng.permutation(120)
    assert lidar(features[order], groups[order].astype(str)) == pytest.approx(lidar(features, groups), rel=1e-9)
    # two directions tell captions apart equally well, three others are noise that siblings do not share
    means = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[np.arange(40) % 4]
    known = np.column_stack([means[groups], np.zeros((120, 3))])
    noise = np.column_stack([np.zeros((120, 2)), 9 * rng.normal(size=(120, 3))])
    assert lidar(known + noise, groups) == pytest.approx(2, abs=0.01)
    assert rankme(known + noise) > 2.9, "which rank alone takes for information"


def test_the_sibling_gap_is_the_difference_of_two_means():
    rng = np.random.default_rng(1)
    features, groups = rng.normal(size=(30, 4)) + 1, np.repeat(np.arange(12), [2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines, same = unit @ unit.T, groups[:, None] == groups
    others = cosines[~same].mean()
    siblings = cosines[same & ~np.eye(30, dtype=bool)].mean()
    assert sibling_gap(features, groups) == pytest.approx(siblings - others, rel=1e-9)
    assert sibling_gap([[1, 0], [2, 0], [0, 1], [0, 3]], ["a", "a", "b", "b"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("features", "ids", "words"),
    [
        ([[1.0, np.nan], [1, 2]], [0, 0], "must be finite"),
        ([[1.0], [2]], [0], "caption ids of shape"),
        ([[1.0], [2], [3]], [0, 0, 1], "Fewer than two of 2 captions have several images"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(features, ids, words):
    for probe in (lidar, sibling_gap):
        with pytest.raises(InputError, match=words):
            probe(features, ids)
