from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import logistic_regression_probe
from stablerep_hf.evaluation.hold_out import validation_rows


def correlated_problem(seed: int, num: int = 600, dim: int = 20, num_labels: int = 4):
    """Features with a spectrum as steep as an encoder's."""
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(dim, dim)) * np.exp(-np.arange(dim) / 4)
    means = 0.4 * generator.normal(size=(num_labels, dim))
    labels = generator.integers(0, num_labels, num)
    return (generator.normal(size=(num, dim)) + means[labels]) @ mix, labels


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0, 100.0])
def test_predictions_are_those_of_sklearn(c):
    features, labels = correlated_problem(0)
    train, test = slice(0, 400), slice(400, None)
    probe = logistic_regression_probe(
        features[train], labels[train], features[test], labels[test], c_values=[c], max_iter=3000
    )
    scaler = StandardScaler().fit(features[train])
    expected = LogisticRegression(C=c, tol=1e-9, max_iter=20000).fit(scaler.transform(features[train]), labels[train])
    np.testing.assert_array_equal(probe.predictions, expected.predict(scaler.transform(features[test])))
    assert probe.converged


def test_weights_are_those_of_sklearn():
    import torch

    from stablerep_hf.evaluation.linear_probe import _Logistic, _standardisation  # the solution behind the predictions

    features, labels = correlated_problem(1)
    matrix = torch.from_numpy(features)
    mean, scale = _standardisation(matrix)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), 4)
    solver = _Logistic((matrix - mean) / scale, one_hot, False, None)
    for c in (1e-3, 0.1, 10.0):  # one after another: a warm start may not change the solution
        solver.fit(c, 1000, 1e-6)
        expected = LogisticRegression(C=c, tol=1e-10, max_iter=20000).fit(((matrix - mean) / scale).numpy(), labels)
        np.testing.assert_allclose((solver.weight @ solver.axes.T).numpy(), expected.coef_, atol=2e-4)
        bias = solver.bias.numpy()
        np.testing.assert_allclose(bias - bias.mean(), expected.intercept_ - expected.intercept_.mean(), atol=2e-4)


def test_c_is_chosen_as_a_loop_over_sklearn_chooses_it_on_real_images():
    pixels, labels = load_digits(return_X_y=True)
    train, test = slice(0, 1000), slice(1000, None)
    grid = (1e-4, 1e-2, 1.0)
    probe = logistic_regression_probe(pixels[train], labels[train], pixels[test], labels[test], c_values=grid, seed=3)
    held_out = validation_rows(labels[train], None, 0.2, 3)
    scaler = StandardScaler().fit(pixels[train][~held_out])
    expected = {}
    for c in grid:
        fitted = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
        fitted.fit(scaler.transform(pixels[train][~held_out]), labels[train][~held_out])
        expected[c] = fitted.score(scaler.transform(pixels[train][held_out]), labels[train][held_out])
    assert probe.validation == pytest.approx(expected)
    assert probe.c == max(grid, key=lambda c: (expected[c], -c))
    assert probe.num_fit == (~held_out).sum()
    assert probe.value == (probe.predictions == labels[test]).mean() > 0.9


def test_two_gaussians_reach_the_accuracy_theory_gives():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 8000)
    features = generator.normal(size=(8000, 5))
    features[:, 2] += 2.0 * labels  # means 2 apart, deviation 1: the best rule is right with probability Phi(1)
    probe = logistic_regression_probe(features[:4000], labels[:4000], features[4000:], labels[4000:])
    best = 0.5 * (1 + erf(1 / sqrt(2)))
    assert probe.value == pytest.approx(best, abs=4 * sqrt(best * (1 - best) / 4000))


def test_random_features_and_shuffled_labels_give_chance():
    features, labels = correlated_problem(2, num=4000)
    train, test = slice(0, 2000), slice(2000, None)
    noise = np.random.default_rng(1).normal(size=features.shape)
    margin = 4 * np.sqrt(0.25 * 0.75 / 2000)
    for values, targets in [(noise, labels), (features, np.random.default_rng(2).permutation(labels))]:
        probe = logistic_regression_probe(values[train], targets[train], values[test], targets[test])
        assert probe.value == pytest.approx(0.25, abs=margin)


def test_nothing_of_the_test_set_reaches_the_choice_or_the_fit():
    features, labels = correlated_problem(3)
    train, test = slice(0, 400), slice(400, None)
    probe = logistic_regression_probe(features[train], labels[train], features[test], labels[test])
    other = logistic_regression_probe(features[train], labels[train], features[test][:5] * 100, 1 - labels[test][:5])
    assert (other.c, other.validation) == (probe.c, probe.validation)
    wrong = logistic_regression_probe(features[train], labels[train], features[test], (labels[test] + 1) % 4)
    np.testing.assert_array_equal(wrong.predictions, probe.predictions)


def test_groups_keep_the_choice_of_c_from_recognising_a_concept_again():
    # features say which concept it is and nothing of its label: only siblings across the split can be told
    generator = np.random.default_rng(0)
    concepts = np.repeat(np.arange(120), 5)
    labels = generator.integers(0, 2, 120)[concepts]
    features = 3 * generator.normal(size=(120, 150))[concepts] + 0.1 * generator.normal(size=(600, 150))
    arguments = (features, labels, features[:5], labels[:5])
    leaking = logistic_regression_probe(*arguments)
    grouped = logistic_regression_probe(*arguments, train_groups=concepts)
    assert max(leaking.validation.values()) > 0.95
    assert max(grouped.validation.values()) < 0.75


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides_and_every_class_is_on_both(seed):
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 60, 500)
    codes = groups % 4
    held_out = validation_rows(codes, groups, 0.25, seed)
    assert not set(groups[held_out]) & set(groups[~held_out])
    assert set(codes[held_out]) == set(codes[~held_out]) == {0, 1, 2, 3}
    assert len(np.unique(groups[held_out])) == pytest.approx(0.25 * len(np.unique(groups)), abs=2)
    np.testing.assert_array_equal(held_out, validation_rows(codes, groups, 0.25, seed))
    assert (held_out != validation_rows(codes, groups, 0.25, seed + 100)).any()


def test_constant_and_surplus_features_do_no_harm():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = generator.normal(size=(60, 200)) + labels[:, None]  # more features than images
    features[:, 7] = 5.0
    changed = features.copy()
    changed[30:, 7] = 1e6  # never seen to vary in training, so it has no say in testing
    plain = logistic_regression_probe(features[:30], labels[:30], features[30:], labels[30:])
    moved = logistic_regression_probe(features[:30], labels[:30], changed[30:], labels[30:])
    np.testing.assert_array_equal(moved.predictions, plain.predictions)
    assert plain.value == 1.0


def test_between_equal_choices_the_stronger_regularisation_wins():
    labels = np.arange(40) % 2
    features = np.stack([labels * 10.0, np.zeros(40)], 1)
    assert logistic_regression_probe(features, labels, features, labels, c_values=[1.0, 0.01, 0.1]).c == 0.01


def test_a_test_label_that_training_never_saw_counts_as_wrong():
    labels = np.arange(40) % 2
    features = np.stack([labels * 10.0, np.zeros(40)], 1)
    probe = logistic_regression_probe(features, labels, features[:4], np.array([0, 1, 0, 9]))
    assert probe.value == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.ones(40, dtype=int)}, "Every training label is 1"),
        ({"c_values": [0.0, 1.0]}, "must be above 0"),
        ({"c_values": []}, "at least one"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
        ({"train_groups": np.arange(40) % 2}, "leave none to choose C on"),
        ({"train_groups": np.arange(3)}, r"groups of shape \(3,\)"),
        ({"train_features": np.full((40, 2), np.inf)}, "NaN or infinity"),
        (
            {
                "train_labels": np.eye(40, 2, dtype=bool),
                "test_labels": np.eye(40, 2, dtype=bool),
                "metric": "11_point_map",
            }
            | {"held_out": np.arange(40) >= 30},
            "None of the 10 images that would choose C shows any class",
        ),
    ],
)
def test_what_cannot_be_probed_is_refused(change, message):
    labels = np.arange(40) % 2
    features = np.random.default_rng(0).normal(size=(40, 2))
    arguments = {"train_features": features, "train_labels": labels, "test_features": features, "test_labels": labels}
    with pytest.raises(InputError, match=message):
        logistic_regression_probe(**{**arguments, **change})
