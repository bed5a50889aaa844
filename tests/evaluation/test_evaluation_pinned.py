"""Constants of published protocols, and limits that nothing else would notice if they moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import (
    SYNCLR_C_VALUES,
    Columns,
    EvaluationSettings,
    Features,
    SGDProbeSettings,
    Subject,
    evaluate_encoder,
    evaluate_features,
    logistic_regression_probe,
    pixel_encoder,
)
from stablerep_hf.evaluation.decoding import to_rgb
from stablerep_hf.evaluation.retrieval import retrieval_recall
from stablerep_hf.evaluation.settings import DINO_NEIGHBOURS
from stablerep_hf.evaluation.sibling_retrieval import sibling_retrieval


def test_the_releases_settings():
    settings = SGDProbeSettings()
    assert settings.learning_rates == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    assert (settings.epochs, settings.batch_size, settings.momentum, settings.checkpoint_epochs) == (90, 1024, 0.9, 10)
    assert DINO_NEIGHBOURS == (10, 20, 100, 200)
    assert len(SYNCLR_C_VALUES) == 45
    assert (SYNCLR_C_VALUES[0], SYNCLR_C_VALUES[-1]) == pytest.approx((1e-5, 1e6))
    protocols = EvaluationSettings()
    assert (protocols.knn_temperature, protocols.probe_validation_fraction, protocols.num_resamples) == (
        0.07,
        0.2,
        1000,
    )
    assert (protocols.few_shot_shots, protocols.few_shot_queries, protocols.few_shot_episodes) == (5, 15, 600)


@pytest.mark.parametrize("name", ["knn_neighbours", "recall_at", "text_recall_at"])
def test_ranks_are_one_or_more_of_one_or_more(name):
    for wrong in ([], [0], [3, -1]):
        with pytest.raises(InputError, match=f"{name}="):
            EvaluationSettings(**{name: wrong})
    assert getattr(EvaluationSettings(**{name: [1]}), name) == [1]


def test_two_classes_are_enough_for_zero_shot_and_one_is_not():
    columns = {"label": np.array(["cat", "dog"] * 4)}
    test = Features(np.eye(8, dtype=np.float32), np.arange(8), columns, embeds=np.eye(8, dtype=np.float32))
    arguments = {"columns": Columns(label="label"), "protocols": ["zero_shot"], "subject": Subject(encoder="e")}
    arguments["embed_texts"] = lambda texts: torch.eye(8)[: len(texts)]
    (result,) = evaluate_features(None, test, **arguments)
    assert (result.chance, result.settings["num_labels"]) == (0.5, 2)
    columns["label"][:] = "cat"
    with pytest.raises(InputError, match="The only class is 'cat'"):
        evaluate_features(None, test, **arguments)


def test_an_official_validation_set_is_named_and_a_random_one_by_its_share():
    generator = np.random.default_rng(0)
    sides = [
        Features(generator.normal(size=(30, 4)).astype(np.float32), np.arange(30), {"label": np.arange(30) % 2})
        for _ in range(3)
    ]
    arguments = {"columns": Columns(label="label"), "protocols": ["linear_probe"], "subject": Subject(encoder="e")}
    arguments["settings"] = EvaluationSettings(probe_c_values=2)
    (drawn,) = evaluate_features(sides[0], sides[1], **arguments)
    (named,) = evaluate_features(sides[0], sides[1], validation=sides[2], **arguments)
    assert (drawn.settings["validation_fraction"], drawn.settings["validation_images"]) == (0.2, 6)
    assert (named.settings["validation_fraction"], named.settings["validation_images"]) == (None, 30)


@pytest.mark.parametrize(
    "labels", [np.ones((6, 2)), np.ones((5, 2), bool), np.zeros((6, 2), bool), np.ones((6, 2, 1), bool)]
)
def test_several_labels_are_one_row_of_truths_an_image(labels):
    with pytest.raises(InputError, match=r"must be bool|must be 6 integers"):
        logistic_regression_probe(np.eye(6), labels, np.eye(6), np.ones((6, 2), bool), metric="11_point_map")


def test_signed_sixteen_bits_are_scaled_from_their_least_to_their_most(tmp_path):
    values = np.array([[-(2**15), 0, 2**15 - 1]], np.int32)
    picture = Image.fromarray(values)
    picture.tag_v2 = {258: (16,)}  # as Pillow opens such a TIFF
    assert np.asarray(to_rgb(picture))[0, :, 0].tolist() == [0, 128, 255]


def test_chance_of_one_candidate_is_certain():
    two = np.eye(2)
    assert sibling_retrieval(two, [7, 7]).chance == 1.0
    found = retrieval_recall(two, ["a", "a"], ["me", "you"], ks=(1, 5))
    assert (found.chance, found.recall) == ({1: 1.0, 5: 1.0}, {1: 1.0, 5: 1.0})
    three = retrieval_recall(np.eye(3), ["a", "a", "b"], ["me", "you", "you"], ks=(1,))
    assert three.chance[1] == pytest.approx((0.5 + 1.0) / 2)


def test_two_classes_are_enough_to_train_on_and_one_is_not(train_world, test_world):
    two = [side.filter(lambda label: label < 2, input_columns="label") for side in (train_world, test_world)]
    results = evaluate_encoder(pixel_encoder(), *two, protocols=["knn", "linear_probe"], progress=False)
    assert {result.settings["num_labels"] for result in results} == {2}
    one = two[0].filter(lambda label: label < 1, input_columns="label")
    with pytest.raises(InputError, match="Every label in column 'label' of split 'train' is 0"):
        evaluate_encoder(pixel_encoder(), one, two[1], protocols=["knn"], progress=False)
