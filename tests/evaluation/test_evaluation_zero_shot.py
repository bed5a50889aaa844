from __future__ import annotations

import numpy as np
import pytest
import torch

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.zero_shot import zero_shot_scores, zero_shot_weights

SENTENCES = {
    "a photo of a cat": [2.0, 0.0],
    "a drawing of a cat": [0.0, 0.5],
    "a photo of a sea lion": [0.0, -3.0],
    "a drawing of a sea lion": [0.0, -1.0],
}


def embed(texts):
    return torch.tensor([SENTENCES[text] for text in texts])


def test_sentences_are_normalised_averaged_and_normalised_again():
    weights = zero_shot_weights(embed, ["cat", "sea_lion"], ["a photo of a {}", "a drawing of a {}"])
    # the cat's sentences count alike although one is four times as long
    torch.testing.assert_close(weights, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))
    images = np.array([[1.0, 0.2], [5.0, -1.0], [0.1, -0.2]])
    scores = zero_shot_scores(images, weights)
    by_hand = images / np.linalg.norm(images, axis=1, keepdims=True) @ weights.numpy().T
    np.testing.assert_allclose(scores.numpy(), by_hand, atol=1e-6)
    assert scores.argmax(1).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        (["cat"], [], "once, where the class name goes"),
        (["cat"], ["a photo"], "once, where the class name goes"),
        (["cat"], ["{} and {}"], "once, where the class name goes"),
        ([], ["a photo of a {}"], "0 class names"),
    ],
)
def test_what_names_no_class_is_refused(names, templates, message):
    with pytest.raises(InputError, match=message):
        zero_shot_weights(embed, names, templates)
