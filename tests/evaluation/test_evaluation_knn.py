from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import knn_accuracy, knn_predict, nearest_neighbours


def random_problem(seed: int, num_train: int = 200, num_test: int = 60, dim: int = 12, num_labels: int = 5):
    generator = np.random.default_rng(seed)
    means = generator.normal(size=(num_labels, dim))
    train_labels, test_labels = (
        generator.integers(0, num_labels, num_train),
        generator.integers(0, num_labels, num_test),
    )
    train = (means[train_labels] + 1.5 * generator.normal(size=(num_train, dim))).astype(np.float32)
    test = (means[test_labels] + 1.5 * generator.normal(size=(num_test, dim))).astype(np.float32)
    return train, train_labels, test, test_labels


def sklearn_predict(train, labels, test, k, temperature):
    classifier = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    return classifier.fit(train, labels).predict(test)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (50, 1.0), (200, 0.07)])
def test_knn_agrees_with_sklearn_on_random_features(k, temperature):
    train, labels, test, _ = random_problem(k)
    found = knn_predict(train, labels, test, k=k, temperature=temperature)
    np.testing.assert_array_equal(found, sklearn_predict(train, labels, test, k, temperature))


def test_knn_agrees_with_sklearn_on_real_images():
    pixels, labels = load_digits(return_X_y=True)
    train, test = slice(0, 1200), slice(1200, None)
    found = knn_predict(pixels[train], labels[train], pixels[test], k=20)
    np.testing.assert_array_equal(found, sklearn_predict(pixels[train], labels[train], pixels[test], 20, 0.07))
    assert knn_accuracy(pixels[train], labels[train], pixels[test], labels[test], k=20) > 0.9


def test_knn_agrees_with_a_double_loop():
    train, labels, test, _ = random_problem(3, num_train=40, num_test=15)
    expected = []
    for query in test:
        similarity = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in train]
        nearest = sorted(range(len(train)), key=lambda row: -similarity[row])[:7]
        votes = {
            label: sum(np.exp(similarity[i] / 0.1) for i in nearest if labels[i] == label) for label in set(labels)
        }
        expected.append(max(sorted(votes), key=votes.__getitem__))
    np.testing.assert_array_equal(knn_predict(train, labels, test, k=7, temperature=0.1), expected)


@pytest.mark.parametrize(("query_chunk", "bank_chunk"), [(1, 1), (7, 3), (64, 1000)])
def test_neighbours_do_not_depend_on_the_tiles(query_chunk, bank_chunk):
    train, _, test, _ = random_problem(4)
    similarities, rows = nearest_neighbours(test, train, 9, query_chunk=query_chunk, bank_chunk=bank_chunk)
    unit = [torch.nn.functional.normalize(torch.from_numpy(values), dim=1) for values in (test, train)]
    expected = (unit[0] @ unit[1].T).sort(dim=1, descending=True)
    torch.testing.assert_close(similarities, expected.values[:, :9])
    torch.testing.assert_close(rows, expected.indices[:, :9])


def test_scale_of_features_and_names_of_labels_do_not_matter():
    train, labels, test, _ = random_problem(5)
    found = knn_predict(train, labels, test)
    scales = np.random.default_rng(0).uniform(0.01, 100, (len(train), 1)).astype(np.float32)
    np.testing.assert_array_equal(knn_predict(train * scales, labels, 7 * test), found)
    np.testing.assert_array_equal(knn_predict(train, 1000 * labels - 3, test), 1000 * found - 3)


def test_a_low_temperature_is_the_nearest_neighbour_and_does_not_overflow():
    train, labels, test, _ = random_problem(6)
    np.testing.assert_array_equal(
        knn_predict(train, labels, test, k=20, temperature=1e-6), knn_predict(train, labels, test, k=1)
    )


def test_shuffled_labels_give_chance():
    train, labels, test, test_labels = random_problem(7, num_train=2000, num_test=2000)
    assert knn_accuracy(train, labels, test, test_labels) > 0.4
    shuffled = np.random.default_rng(1).permutation(labels)
    assert knn_accuracy(train, shuffled, test, test_labels) == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 2000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 201}, "no 201 neighbours in a bank of 200"),
        ({"k": 0}, "no 0 neighbours"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"train_labels": np.zeros(3, dtype=int)}, "must be 200 integers"),
        ({"train_labels": np.linspace(0, 1, 200)}, "float64"),
        ({"test_features": np.zeros((4, 5))}, "5 features and the bank 12"),
        ({"test_features": np.full((4, 12), np.nan)}, "4 of 4 feature vectors hold NaN"),
        ({"test_features": np.zeros((0, 12))}, r"shape \(0, 12\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    train, labels, test, _ = random_problem(8)
    arguments = {"train_features": train, "train_labels": labels, "test_features": test, **change}
    with pytest.raises(InputError, match=message):
        knn_predict(**arguments)
