from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.intervals import bootstrap_values
from stablerep_hf.evaluation.metrics import (
    ElevenPointMAP,
    MeanPerClass,
    MeanScore,
    eleven_point_map,
    mean_per_class_accuracy,
    statistic_of,
    value_of,
)


def voc_average_precision(relevant, scores) -> float:
    """The definition, by scikit-learn's curve: at each recall the best precision there or further on."""
    precision, recall, _ = precision_recall_curve(relevant, scores)
    precision, recall = precision[:-1], recall[:-1]  # without the point (0, 1), which no image stands behind
    reached = np.round(10 * recall, 9)
    return float(np.mean([precision[reached >= tenth].max(initial=0) for tenth in range(11)]))


def problem(seed: int, num: int = 300, num_labels: int = 5, ties: bool = False):
    generator = np.random.default_rng(seed)
    labels = generator.choice(num_labels, num, p=np.arange(1, num_labels + 1) / sum(range(1, num_labels + 1)))
    scores = generator.normal(size=(num, num_labels)) + 1.2 * np.eye(num_labels)[labels]
    return (scores.round(1) if ties else scores), labels


@pytest.mark.parametrize("seed", range(3))
def test_mean_per_class_is_sklearns_balanced_accuracy(seed):
    scores, labels = problem(seed)
    found = scores.argmax(1)
    assert mean_per_class_accuracy(found, labels) == pytest.approx(balanced_accuracy_score(labels, found))
    assert mean_per_class_accuracy(found, labels) != pytest.approx((found == labels).mean(), abs=1e-3)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_eleven_points_are_those_of_the_definition(seed, ties):
    scores, labels = problem(seed, ties=ties)
    relevant = np.eye(5, dtype=bool)[labels] | (np.random.default_rng(seed).uniform(size=scores.shape) < 0.1)
    expected = np.mean([voc_average_precision(relevant[:, k], scores[:, k]) for k in range(5)])
    assert eleven_point_map(scores, relevant) == pytest.approx(expected)


def test_a_recall_of_three_tenths_is_three_of_ten():
    """0.3 as a float lies below the 0.30000000000000004 that stands at the fourth of eleven equal steps."""
    relevant = np.zeros((20, 1), bool)
    relevant[:3] = relevant[13:] = True  # three of ten at once, the rest at the end
    end = 10 / 20
    assert eleven_point_map(-np.arange(20.0)[:, None], relevant) == pytest.approx((4 * 1 + 7 * end) / 11)


def test_a_perfect_order_gives_one_and_its_reverse_little():
    relevant = np.array([[True], [True], [False], [False]])
    scores = np.array([[4.0], [3.0], [2.0], [1.0]])
    assert eleven_point_map(scores, relevant) == pytest.approx(1)
    assert eleven_point_map(-scores, relevant) == pytest.approx(0.5)  # two of four at every recall


def test_weights_count_items_as_repeating_them_does():
    scores, labels = problem(7, num=60)
    counts = np.random.default_rng(1).integers(0, 4, 60)
    repeated = np.repeat(np.arange(60), counts)
    classes = np.arange(5)
    for metric in ("accuracy", "mean_per_class", "11_point_map"):
        whole = statistic_of(metric, scores, classes, labels)
        part = statistic_of(metric, scores[repeated], classes, labels[repeated])
        assert whole(counts[None].astype(float))[0] == pytest.approx(value_of(part, len(repeated)))


def test_a_class_that_is_not_there_is_left_out_and_nothing_gives_no_number():
    labels = np.array([0, 0, 1])
    right = MeanPerClass(np.array([True, False, True]), labels)
    values = right(np.array([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]]))
    np.testing.assert_allclose(values, [0.75, 0.5, np.nan])
    found = ElevenPointMAP(np.array([[1.0], [0.0]]), np.array([[True], [False]]))(np.array([[0.0, 1.0]]))
    assert np.isnan(found).all()


def test_bootstrap_of_any_statistic_draws_what_the_bootstrap_of_means_draws():
    scores = np.random.default_rng(0).uniform(size=80)
    groups = np.arange(80) // 4
    mean = bootstrap_values(MeanScore(scores), 80, groups, num_resamples=50, seed=3)
    double = bootstrap_values(lambda w: np.stack([MeanScore(scores)(w)] * 2, 1), 80, groups, num_resamples=50, seed=3)
    np.testing.assert_array_equal(double, np.stack([mean, mean], 1))
    drawn = np.random.default_rng(3).multinomial(20, np.full(20, 1 / 20), size=50)
    np.testing.assert_allclose(mean, drawn @ scores.reshape(20, 4).sum(1) / 80)  # whole groups are drawn


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(InputError, match="no metric 'f1'"):
        statistic_of("f1", np.zeros((1, 2)), np.arange(2), np.zeros(1, int))
    with pytest.raises(InputError, match="one of each an image"):
        mean_per_class_accuracy([1, 2], [1])
    with pytest.raises(InputError, match="0 positives"):
        eleven_point_map(np.zeros((3, 2)), np.zeros((3, 2), bool))
