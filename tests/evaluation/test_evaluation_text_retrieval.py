from __future__ import annotations

import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.text_retrieval import text_retrieval_recall


def by_double_loop(queries, candidates, own, k) -> np.ndarray:
    """For each query, sort all candidates, the wrong ones first among equals, and look for an own one."""
    hits = []
    for query, vector in enumerate(queries):
        ranked = sorted(
            range(len(candidates)),
            key=lambda place: (-round(float(vector @ candidates[place]), 6), (query, place) in own),
        )
        hits.append(any((query, place) in own for place in ranked[:k]))
    return np.array(hits)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk_size", [3, 1000])
def test_recall_is_that_of_a_double_loop_with_several_captions_and_several_images(seed, chunk_size):
    generator = np.random.default_rng(seed)
    images, texts = generator.normal(size=(30, 4)), generator.normal(size=(40, 4))
    images[5:8] = images[5]  # ties
    texts[10:14] = texts[10]
    pairs = [(image, image) for image in range(30)] + [(text % 30, text) for text in range(30, 40)]
    pairs += [(int(image), int(text)) for image, text in generator.integers(0, (30, 40), (20, 2))]
    to_texts, to_images = text_retrieval_recall(images, texts, pairs, (1, 5, 10), chunk_size=chunk_size)
    own = set(pairs)
    reverse = {(text, image) for image, text in pairs}
    for k in (1, 5, 10):
        np.testing.assert_array_equal(to_texts.hits[k], by_double_loop(unit(images), unit(texts), own, k))
        np.testing.assert_array_equal(to_images.hits[k], by_double_loop(unit(texts), unit(images), reverse, k))


def test_other_captions_of_the_image_do_not_push_one_down():
    # one image, five captions of its own before the first wrong one: R@1 is 1 for it, however many there are
    images = np.eye(3)[:2]
    texts = np.array([[1, 0.0, 0]] * 5 + [[0, 1.0, 0]])
    to_texts, to_images = text_retrieval_recall(images, texts, [(0, place) for place in range(5)] + [(1, 5)], (1,))
    assert to_texts.hits[1].all() and to_images.hits[1].all()
    assert to_texts.chance[1] == pytest.approx((5 / 6 + 1 / 6) / 2)
    assert to_images.chance[1] == pytest.approx(1 / 2)


def test_an_encoder_that_maps_everything_to_one_point_scores_nothing():
    to_texts, to_images = text_retrieval_recall(np.ones((6, 2)), np.ones((6, 2)), [(i, i) for i in range(6)], (1, 5))
    assert not to_texts.hits[5].any() and not to_images.hits[5].any()


def test_random_embeddings_hit_as_often_as_chance_says():
    generator = np.random.default_rng(0)
    pairs = [(image, 2 * image + place) for image in range(400) for place in range(2)]
    found = text_retrieval_recall(generator.normal(size=(400, 8)), generator.normal(size=(800, 8)), pairs, (10,))
    for direction in found:
        deviation = np.sqrt(direction.chance[10] / len(direction.hits[10]))
        assert direction.hits[10].mean() == pytest.approx(direction.chance[10], abs=4 * deviation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": [(0, 0)]}, "1 of 2 images have no partner"),
        ({"text_embeds": np.ones((2, 5))}, "cannot be compared"),
        ({"ks": (0,)}, "from 1 up"),
    ],
)
def test_texts_that_cannot_be_ranked_are_refused(change, message):
    arguments = {"image_embeds": np.eye(2), "text_embeds": np.eye(2), "pairs": [(0, 0), (1, 1)]}
    with pytest.raises(InputError, match=message):
        text_retrieval_recall(**{**arguments, **change})
