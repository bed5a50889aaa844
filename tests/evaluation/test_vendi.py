from __future__ import annotations

import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.vendi import vendi_score


def by_definition(features: np.ndarray) -> float:
    """exp of the von Neumann entropy of K / n, term by term."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvals(unit @ unit.T / len(unit)).real
    return float(np.exp(-sum(value * np.log(value) for value in eigenvalues if value > 1e-12)))


@pytest.mark.parametrize("shape", [(4, 16), (16, 4), (7, 7), (1, 3)])
def test_it_is_the_definition_whatever_the_shape_and_scale(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).normal(size=shape)
    assert vendi_score(features) == pytest.approx(by_definition(features))
    assert vendi_score(3 * features.astype(np.float32)) == pytest.approx(vendi_score(features), rel=1e-5)


def test_copies_count_once_and_orthogonal_things_each() -> None:
    assert vendi_score(np.ones((5, 3))) == pytest.approx(1.0)
    assert vendi_score(np.eye(6)) == pytest.approx(6.0)
    assert vendi_score(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3.0)


def test_features_without_a_direction_are_refused() -> None:
    for features, said in ((np.zeros((0, 3)), "shape"), (np.eye(3) * [1, 1, 0], "1 of 3"), ([[np.nan, 1]], "1 of 1")):
        with pytest.raises(InputError, match=said):
            vendi_score(features)
