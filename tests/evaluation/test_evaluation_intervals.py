from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import bootstrap_interval, seed_interval


def test_many_independent_scores_give_the_normal_interval():
    scores = np.random.default_rng(0).random(2000) < 0.3
    half = 1.96 * scores.std() / np.sqrt(2000)
    low, high = bootstrap_interval(scores, num_resamples=4000)
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.1 * half)


def test_resamples_are_those_of_a_literal_loop():
    generator = np.random.default_rng(1)
    scores, groups = generator.random(60), generator.integers(0, 12, 60)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    means = []
    for _ in range(6000):
        rows = np.concatenate([members[drawn] for drawn in generator.integers(0, len(members), len(members))])
        means.append(scores[rows].mean())
    expected = np.quantile(means, [0.025, 0.975])
    width = expected[1] - expected[0]
    assert bootstrap_interval(scores, groups, num_resamples=6000) == pytest.approx(tuple(expected), abs=0.05 * width)


def test_siblings_that_agree_widen_the_interval_by_the_root_of_their_number():
    concept_scores = np.random.default_rng(2).random(300) < 0.5
    scores, groups = np.repeat(concept_scores, 9), np.repeat(np.arange(300), 9)
    naive, clustered = bootstrap_interval(scores), bootstrap_interval(scores, groups)
    assert (clustered[1] - clustered[0]) / (naive[1] - naive[0]) == pytest.approx(3.0, rel=0.1)
    assert clustered == bootstrap_interval(concept_scores)  # nine copies of an item say no more than one


def test_cluster_intervals_hold_what_they_promise():
    generator = np.random.default_rng(3)
    covered = 0
    for run in range(200):
        right = generator.beta(2, 2, 80)  # each concept has its own difficulty, the mean is 1/2
        groups = np.repeat(np.arange(80), 5)
        low, high = bootstrap_interval(generator.random(400) < right[groups], groups, num_resamples=300, seed=run)
        covered += low <= 0.5 <= high
    assert 0.9 <= covered / 200 <= 0.985


def test_the_seed_fixes_the_interval_and_certain_scores_have_no_width():
    scores = np.random.default_rng(4).random(50)
    assert (
        bootstrap_interval(scores, seed=1) == bootstrap_interval(scores, seed=1) != bootstrap_interval(scores, seed=2)
    )
    assert bootstrap_interval(np.ones(10)) == (1.0, 1.0)


def test_large_test_sets_are_drawn_in_parts():
    scores = np.random.default_rng(5).random(200_000) < 0.8  # 2 ** 22 draws hold 20 resamples at a time
    low, high = bootstrap_interval(scores, num_resamples=45)
    assert high - low == pytest.approx(2 * 1.96 * 0.4 / np.sqrt(200_000), rel=0.4)


@pytest.mark.parametrize("values", [[0.5, 0.6], [0.51, 0.56, 0.54, 0.57, 0.52]])
def test_seed_interval_is_students(values):
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert seed_interval(values) == pytest.approx(expected)


def test_seed_interval_of_two_runs_by_hand():
    assert seed_interval([0.4, 0.6]) == pytest.approx((0.5 - 12.7062 * 0.1, 0.5 + 12.7062 * 0.1), abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seed_interval([0.5]), "at least 2 seeds"),
        (lambda: bootstrap_interval([]), "at least one"),
        (lambda: bootstrap_interval([1.0, np.nan]), "finite"),
        (lambda: bootstrap_interval([1.0, 0.0], ["a"]), "one group an item"),
    ],
)
def test_intervals_of_nothing_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
