from __future__ import annotations

import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.few_shot import few_shot_accuracy
from stablerep_hf.evaluation.intervals import seed_interval


def clusters(signal: float, num_classes: int = 8, each: int = 30, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), each)
    return generator.normal(size=(len(labels), 16)) + signal * np.eye(16)[labels], labels


def test_clear_classes_are_told_and_noise_gives_chance():
    features, labels = clusters(30)
    assert (few_shot_accuracy(features, labels, episodes=20).accuracies == 1).all()
    noise, labels = clusters(0)
    found = few_shot_accuracy(noise, labels, episodes=300)
    low, high = seed_interval(list(found.accuracies))
    assert low - 0.01 < 0.2 < high + 0.01
    assert found.num_classes == 8


def test_an_episode_by_hand():
    # two classes, one support image each; the queries lie on their own class's side, but one
    features = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1.0]])
    labels = np.array([3, 3, 9, 9])
    assert (few_shot_accuracy(features, labels, ways=2, shots=1, queries=1, episodes=5).accuracies == 1).all()
    features[1] = [0, 1]  # now class 3 is one image on each side: right half the time at best
    mixed = few_shot_accuracy(features, labels, ways=2, shots=1, queries=1, episodes=50).accuracies
    assert set(mixed) <= {0.5, 0.0} and mixed.max() == 0.5


def test_more_shots_help_and_the_same_seed_gives_the_same_episodes():
    features, labels = clusters(1.5)
    one, five = (few_shot_accuracy(features, labels, shots=shots, episodes=100) for shots in (1, 5))
    assert five.accuracies.mean() > one.accuracies.mean() + 0.05
    again = few_shot_accuracy(features, labels, shots=1, episodes=100)
    np.testing.assert_array_equal(again.accuracies, one.accuracies)
    other = few_shot_accuracy(features, labels, shots=1, episodes=100, seed=1)
    assert (other.accuracies != one.accuracies).any()


def test_no_query_has_its_like_in_the_support():
    # every image has a twin, and classes say nothing else: only a twin in the support can be recognised
    generator = np.random.default_rng(0)
    groups = np.arange(240) // 2
    labels = (groups % 4).astype(int)
    features = generator.normal(size=(120, 64))[groups]
    leaking = few_shot_accuracy(features, labels, ways=4, shots=5, queries=15, episodes=100).accuracies.mean()
    apart = few_shot_accuracy(
        features, labels, groups=groups, ways=4, shots=5, queries=15, episodes=100
    ).accuracies.mean()
    assert apart == pytest.approx(0.25, abs=0.03)
    assert leaking > apart + 0.03


def test_small_classes_are_left_out_and_counted():
    features, labels = clusters(5, num_classes=6)
    labels[:25] = 99  # class 0 keeps 5 images, and the new one has 25
    found = few_shot_accuracy(features, labels, episodes=3)
    assert (found.num_classes, found.num_left_out) == (6, 1)
    with pytest.raises(InputError, match=r"6 of 7 classes have the 20 images .* needs 7 classes"):
        few_shot_accuracy(features, labels, ways=7)
    with pytest.raises(InputError, match="the 20 groups"):
        few_shot_accuracy(features, labels, groups=np.arange(len(labels)) // 2)
    with pytest.raises(InputError, match="at least 2 ways"):
        few_shot_accuracy(features, labels, ways=1)
