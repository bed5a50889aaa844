from __future__ import annotations

import json

import datasets
import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import (
    EvaluationSettings,
    Features,
    bootstrap_interval,
    evaluate_encoder,
    evaluate_features,
    extract_features,
    knn_predict,
    logistic_regression_probe,
    retrieval_recall,
)

COLUMNS = {"label_column": "label", "group_column": "concept", "artist_column": "artist"}


class CountingProcessor:
    """An image processor that counts what passes through it."""

    def __init__(self, image_processor) -> None:
        self.image_processor = image_processor
        self.images = 0

    def __call__(self, images, return_tensors):
        self.images += len(images)
        return self.image_processor(images=images, return_tensors=return_tensors)


def test_results_are_those_of_the_protocols_one_by_one(vit, image_processor, train_world, test_world):
    counting = CountingProcessor(image_processor)
    results = evaluate_encoder(
        vit,
        train_world,
        test_world,
        **COLUMNS,
        image_processor=counting,
        encoder_name="tiny",
        dataset_name="world",
        dataset_revision="abc",
        split="new concepts",
        seeds=(7,),
        settings=EvaluationSettings(knn_neighbours=(3, 10)),
        progress=False,
    )
    assert counting.images == len(train_world) + len(test_world)  # each image once for all protocols
    assert [(r.protocol, r.metric, r.settings.get("k")) for r in results] == [
        ("knn", "accuracy", 3),
        ("knn", "accuracy", 10),
        ("linear_probe", "accuracy", None),
        ("retrieval", "recall@1", None),
        ("retrieval", "recall@5", None),
    ]
    train, test = (
        extract_features(vit, world, image_processor=image_processor, progress=False).features
        for world in (train_world, test_world)
    )
    labels, expected = np.array(train_world["label"][:]), np.array(test_world["label"][:])
    concepts = np.array(test_world["concept"][:])
    for result, k in zip(results[:2], (3, 10), strict=True):
        correct = knn_predict(train, labels, test, k=k) == expected
        assert result.value == correct.mean()
        assert (result.low, result.high) == bootstrap_interval(correct, concepts)
    probe = logistic_regression_probe(train, labels, test, expected, train_groups=train_world["concept"][:])
    assert results[2].value == probe.accuracy
    assert results[2].settings["c"] == probe.c
    recall = retrieval_recall(test, concepts, test_world["artist"][:])
    assert [result.value for result in results[3:]] == list(recall.recall.values())
    assert [result.chance for result in results[3:]] == list(recall.chance.values())
    for result in results:
        assert (result.encoder, result.dataset, result.revision, result.split) == (
            "tiny",
            "world",
            "abc",
            "new concepts",
        )
        assert result.seeds == (7,)
        assert result.n == len(test_world)
        assert result.interval == "bootstrap over test groups"
        assert result.low <= result.value <= result.high
        json.dumps(result.to_dict(), allow_nan=False)
    assert results[0].settings["groups_in_both"] == 0


def make_features(num_concepts=40, artists=("ann", "bob", "cem"), seed=0, first=0, labels=4, signal=1.0) -> Features:
    generator = np.random.default_rng(seed)
    concepts = np.repeat(np.arange(first, first + num_concepts), len(artists))
    label = concepts % labels
    centres = np.random.default_rng(99).normal(size=(labels, 16))
    values = signal * centres[label] + generator.normal(size=(len(concepts), 16))
    columns = {
        "label": label,
        "concept": np.array([f"c{concept}" for concept in concepts]),
        "artist": np.tile(artists, num_concepts),
    }
    return Features(values.astype(np.float32), np.arange(len(concepts)), columns)


def test_labels_may_be_names_and_new_ones_count_as_wrong():
    train, test = make_features(), make_features(seed=1, first=100)
    plain = evaluate_features(train, test, **COLUMNS, protocols=["knn", "linear_probe"], encoder_name="e")
    names = np.array(["zebra", "ant", "mole", "cat"])  # another order than their numbers
    for features in (train, test):
        features.columns["label"] = names[features.columns["label"]]
    named = evaluate_features(train, test, **COLUMNS, protocols=["knn", "linear_probe"], encoder_name="e")
    assert [r.value for r in named] == [r.value for r in plain]
    test.columns["label"] = np.where(test.columns["label"] == "ant", "aardvark", test.columns["label"])
    unseen = evaluate_features(train, test, **COLUMNS, protocols=["knn", "linear_probe"], encoder_name="e")
    assert all(new.value <= 0.75 < old.value for new, old in zip(unseen, plain, strict=True))


def test_features_that_say_nothing_score_chance_by_every_protocol():
    train, test = make_features(200, signal=0.0), make_features(200, seed=1, first=1000, signal=0.0)
    for result in evaluate_features(train, test, **COLUMNS, encoder_name="noise"):
        assert result.chance is not None
        assert result.low - 0.02 <= result.chance <= result.high + 0.02, result


def test_chance_is_the_commonest_training_label_on_the_test_set():
    train, test = make_features(9, labels=4), make_features(9, first=101, labels=4)  # label 0 thrice in training
    result = evaluate_features(train, test, **COLUMNS, protocols=["knn"], encoder_name="e")[0]
    assert result.chance == pytest.approx(np.mean(test.columns["label"] == 0))


def test_hands_join_artists_who_share_outlines():
    test = make_features(30, artists=("flat", "round", "bob"), seed=2)
    flat, solid = test.columns["artist"] == "flat", test.columns["artist"] == "round"
    test.features[flat] = test.features[solid]  # the same picture under two names
    columns = {"group_column": "concept", "artist_column": "artist"}
    apart = evaluate_features(None, test, **columns, protocols=["retrieval"], encoder_name="e")[0]
    joined = evaluate_features(
        None, test, **columns, protocols=["retrieval"], hands={"flat": "round"}, encoder_name="e"
    )[0]
    assert apart.value >= 2 / 3 > 0.3 > joined.value
    assert (apart.settings["hands"], joined.settings["hands"]) == (3, 2)


def test_splits_of_one_name_are_not_confused(vit, image_processor, train_world, test_world):
    arguments = {**COLUMNS, "protocols": ["knn"], "image_processor": image_processor, "progress": False}
    apart = evaluate_encoder(vit, train_world, test_world, **arguments)[0]
    same = evaluate_encoder(vit, train_world, test_world, train_split="train", split="train", **arguments)[0]
    assert (same.value, same.settings["train_images"], same.n) == (apart.value, len(train_world), len(test_world))


def test_concepts_on_both_sides_are_counted_in_the_result():
    train, test = make_features(20), make_features(20, seed=1, first=15)
    assert evaluate_features(train, test, **COLUMNS, encoder_name="e")[0].settings["groups_in_both"] == 5


def test_without_groups_images_stand_for_themselves():
    train, test = make_features(), make_features(seed=1, first=100)
    result = evaluate_features(train, test, label_column="label", protocols=["knn"], encoder_name="e")[0]
    assert result.interval == "bootstrap over test images"
    assert "groups_in_both" not in result.settings


def test_retrieval_alone_needs_neither_labels_nor_a_training_set(vit, image_processor, train_world, test_world):
    columns = {"group_column": "concept", "artist_column": "artist"}
    counting = CountingProcessor(image_processor)
    arguments = {"protocols": ["retrieval"], "image_processor": counting, "progress": False}
    alone = evaluate_encoder(vit, None, test_world.remove_columns("label"), **columns, **arguments)
    beside = evaluate_encoder(vit, train_world, test_world, label_column="label", **columns, **arguments)
    assert [r.value for r in alone] == [r.value for r in beside]
    assert counting.images == 2 * len(test_world)


def test_skipped_images_are_reported_in_the_result():
    train, test = make_features(), make_features(seed=1, first=100)
    torn = Features(test.features, test.rows, test.columns, skipped=("row 3", "row 9"))
    assert evaluate_features(train, torn, **COLUMNS, encoder_name="e")[0].settings["bad_images"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocols": ["knn", "guess"]}, "no protocol 'guess'; choose from knn, linear_probe, retrieval"),
        ({"protocols": "knn"}, "no list of names"),
        ({"protocols": []}, "no list of names"),
        ({"label_column": None}, "knn was given a training data set and the label column None"),
        ({"train_dataset": None}, "knn was given no training data set"),
        ({"artist_column": None}, "the artist column None"),
        ({"label_column": "kind"}, "no column 'kind'"),
        ({"label_column": "image"}, "label column 'image' of split 'train' holds images"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(vit, image_processor, train_world, test_world, changes, message):
    arguments = {"train_dataset": train_world, "test_dataset": test_world, **COLUMNS, **changes}
    counting = CountingProcessor(image_processor)
    with pytest.raises(InputError, match=message):
        evaluate_encoder(vit, image_processor=counting, progress=False, **arguments)
    assert counting.images == 0  # before any work is done


def test_missing_and_ambiguous_labels_are_refused(vit, image_processor, train_world, test_world):
    counting = CountingProcessor(image_processor)
    arguments = {"label_column": "label", "protocols": ["knn"], "image_processor": counting, "progress": False}
    other = datasets.ClassLabel(names=[f"label {index}" for index in (1, 0, 2, 3)])
    with pytest.raises(InputError, match="a number means another class"):
        evaluate_encoder(vit, train_world, test_world.cast_column("label", other), **arguments)
    plain = test_world.cast_column("label", datasets.Value("int64"))
    hidden = plain.map(lambda row, index: {"label": -1 if index < 5 else row["label"]}, with_indices=True)
    with pytest.raises(InputError, match="5 of 36 labels in column 'label' of split 'test' are missing"):
        evaluate_encoder(vit, train_world, hidden, **arguments)
    empty = plain.map(lambda row, index: {"label": None if index < 7 else row["label"]}, with_indices=True)
    with pytest.raises(InputError, match="7 of 36 labels"):
        evaluate_encoder(vit, train_world, empty, **arguments)
    assert counting.images == 0
    words = test_world.cast_column("label", datasets.Value("string"))
    with pytest.raises(InputError, match="cannot be compared"):
        evaluate_encoder(vit, train_world, words, **arguments)
