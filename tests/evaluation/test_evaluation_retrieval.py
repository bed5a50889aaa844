from __future__ import annotations

import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import retrieval_recall


def double_loop(features, concepts, artists, k):
    hits = {}
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for query in range(len(features)):
        candidates = [row for row in range(len(features)) if artists[row] != artists[query]]
        if not any(concepts[row] == concepts[query] for row in candidates):
            continue
        ranked = sorted(candidates, key=lambda row: -(unit[query] @ unit[row]))
        hits[query] = any(concepts[row] == concepts[query] for row in ranked[:k])
    return hits


def random_pictures(seed: int, num: int = 150):
    generator = np.random.default_rng(seed)
    concepts, artists = generator.integers(0, 40, num), generator.integers(0, 4, num)
    features = generator.normal(size=(40, 8))[concepts] + generator.normal(size=(num, 8))
    return features, concepts, artists


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk_size", [7, 1024])
def test_recall_is_that_of_a_double_loop(seed, chunk_size):
    features, concepts, artists = random_pictures(seed)
    found = retrieval_recall(features, concepts, artists, (1, 5, 10), chunk_size=chunk_size)
    for k in (1, 5, 10):
        expected = double_loop(features, concepts, artists, k)
        np.testing.assert_array_equal(found.queries, list(expected))
        np.testing.assert_array_equal(found.hits[k], list(expected.values()))
        assert found.recall[k] == pytest.approx(np.mean(list(expected.values())))
    assert found.num_left_out == len(features) - len(found.queries)


def test_an_image_is_no_answer_to_itself_nor_to_its_own_artist():
    # two concepts; each artist's two pictures of a concept are identical, across artists they are swapped
    features = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 0]])
    concepts, artists = ["sun", "sun", "moon", "moon", "sun", "moon"], ["ann", "ann", "ann", "ann", "bob", "bob"]
    assert retrieval_recall(features, concepts, artists, (1,)).recall[1] == 0.0


def test_a_style_that_gives_the_artist_away_earns_nothing():
    generator = np.random.default_rng(0)
    artists, concepts = np.tile(np.arange(4), 50), np.repeat(np.arange(50), 4)
    style = 10 * np.eye(4)[artists] + 0.01 * generator.normal(size=(200, 4))
    found = retrieval_recall(style, concepts, artists)
    assert found.recall[1] < 4 * found.chance[1] < 0.1
    meaning = np.eye(50)[concepts]
    assert retrieval_recall(meaning, concepts, artists).recall == {1: 1.0, 5: 1.0}
    assert retrieval_recall(np.hstack([meaning, 0.5 * np.eye(4)[artists]]), concepts, artists).recall[1] == 1.0


def test_a_collapsed_encoder_scores_nothing():
    _, concepts, artists = random_pictures(0)
    assert retrieval_recall(np.ones((150, 3)), concepts, artists).recall == {1: 0.0, 5: 0.0}


def test_chance_is_what_random_features_average_to():
    _, concepts, artists = random_pictures(1)
    generator = np.random.default_rng(2)
    found = [retrieval_recall(generator.normal(size=(150, 16)), concepts, artists) for _ in range(60)]
    for k in (1, 5):
        runs = [run.recall[k] for run in found]
        assert found[0].chance[k] == pytest.approx(np.mean(runs), abs=4 * np.std(runs) / np.sqrt(60))


def test_chance_of_a_case_worked_by_hand():
    # 3 candidates for everybody, 1 of them right: 1/3 at rank 1, 2/3 at 2, certain at 3
    concepts, artists = [0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1]
    chance = retrieval_recall(np.random.default_rng(0).normal(size=(6, 4)), concepts, artists, (1, 2, 3, 9)).chance
    assert chance == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1.0, 9: 1.0})


@pytest.mark.parametrize(
    ("concepts", "artists", "ks", "message"),
    [
        (["a", "b"], ["x", "y"], (1,), "None of the 2 images has its concept drawn by another artist"),
        (["a", "a"], ["x", "x"], (1,), "None of the 2 images"),
        (["a", "a"], ["x", "y"], (0,), "whole numbers from 1 up"),
        (["a", "a"], ["x", "y"], (), "whole numbers from 1 up"),
        (["a"], ["x", "y"], (1,), r"ids of shape \(1,\)"),
    ],
)
def test_what_cannot_be_asked_is_refused(concepts, artists, ks, message):
    with pytest.raises(InputError, match=message):
        retrieval_recall(np.eye(2), concepts, artists, ks)
