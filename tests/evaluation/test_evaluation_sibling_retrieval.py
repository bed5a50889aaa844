from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.sibling_retrieval import sibling_retrieval


@pytest.mark.parametrize("chunk_size", [4, 1000])
def test_average_precision_is_sklearns_for_each_query(chunk_size):
    generator = np.random.default_rng(0)
    colours = ["red", "blue", "red", "green", "blue", "red"]
    ids = np.array([name for place in range(6) for name in (*colours, f"lone {place}")])
    features = generator.normal(size=(42, 5))
    found = sibling_retrieval(features, ids, chunk_size=chunk_size)
    assert set(found.queries) == {place for place, name in enumerate(ids) if not name.startswith("lone")}
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for query, precision in zip(found.queries, found.average_precision, strict=True):
        others = np.arange(42) != query
        expected = average_precision_score(ids[others] == ids[query], unit[others] @ unit[query])
        assert precision == pytest.approx(expected, abs=1e-6)


def test_siblings_at_one_point_score_one_and_everything_at_one_point_the_least():
    ids = np.repeat(np.arange(10), 3)
    assert (sibling_retrieval(np.eye(10)[ids], ids).average_precision == 1).all()
    worst = sibling_retrieval(np.ones((30, 4)), ids).average_precision
    np.testing.assert_allclose(worst, (1 / 28 + 2 / 29) / 2)  # both siblings behind 27 others


def test_chance_is_what_random_features_give():
    ids = np.repeat(np.arange(20), 3)
    generator = np.random.default_rng(0)
    found = [sibling_retrieval(generator.normal(size=(60, 50)), ids) for _ in range(200)]
    means = [result.average_precision.mean() for result in found]
    assert np.mean(means) == pytest.approx(found[0].chance, abs=4 * np.std(means) / 200**0.5)
    assert 4 * np.std(means) / 200**0.5 < 0.1 * found[0].chance


def test_images_without_siblings_are_refused():
    with pytest.raises(InputError, match="None of the 4 images has a sibling"):
        sibling_retrieval(np.eye(4), np.arange(4))
    with pytest.raises(InputError, match=r"caption ids of shape \(3,\)"):
        sibling_retrieval(np.eye(4), np.arange(3))
