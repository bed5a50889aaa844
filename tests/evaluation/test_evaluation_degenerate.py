"""Encoders and data sets that say nothing: a number or a sentence, never a traceback."""

from __future__ import annotations

import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import (
    Columns,
    EvaluationSettings,
    Features,
    Subject,
    evaluate_features,
    logistic_regression_probe,
)

COLUMNS = Columns(label="label", group="concept", artist="artist", caption_id="concept")
SETTINGS = EvaluationSettings(few_shot_ways=4, few_shot_queries=4, few_shot_episodes=50, sgd_epochs=3)
SUBJECT = Subject(encoder="e")
OF_LABELS = ["knn", "linear_probe", "linear_probe_sgd", "few_shot"]


def constant(count, value=0.5, noise=0.0):
    values = np.full((count, 6), value, np.float32) + noise * np.random.default_rng(count).normal(size=(count, 6))
    label = np.arange(count) % 4
    columns = {"label": label, "concept": np.arange(count) // 2, "artist": np.arange(count) % 2}
    return Features(values.astype(np.float32), np.arange(count), columns)


@pytest.mark.parametrize(("value", "noise"), [(0.5, 0.0), (0.0, 0.0), (0.5, 1e-7)])
def test_an_encoder_that_has_collapsed_gets_chance_and_a_warning(caplog, value, noise):
    train, test = constant(80, value, noise), constant(64, value, noise)
    results = evaluate_features(
        train, test, columns=COLUMNS, protocols=OF_LABELS, settings=SETTINGS, subject=Subject(encoder="collapsed")
    )
    assert {result.protocol for result in results} == set(OF_LABELS)
    for result in results:
        if result.protocol != "few_shot" or not noise:
            assert result.value == pytest.approx(0.25, abs=0.15), result
    assert "collapsed gives all 64 test images the same features" in caplog.text


@pytest.mark.parametrize("metric", ["accuracy", "mean_per_class", "11_point_map"])
def test_a_probe_on_equal_features_names_the_commonest_class(metric):
    labels = np.array([0, 1, 1, 1] * 10)
    found = logistic_regression_probe(
        np.ones((40, 3)), labels, np.ones((8, 3)), np.array([0, 1] * 4), metric=metric, c_values=(0.1, 1.0)
    )
    assert found.converged and set(found.predictions) == {1}
    assert found.value == 0.5 or metric == "11_point_map"


def test_features_that_differ_are_not_called_collapsed(caplog):
    train, test = constant(80, 0.5, 1e-3), constant(64, 0.5, 1e-3)
    evaluate_features(train, test, columns=COLUMNS, protocols=["knn"], subject=SUBJECT)
    assert "the same features" not in caplog.text


@pytest.mark.parametrize("protocol", [*OF_LABELS, "retrieval", "sibling_retrieval"])
def test_features_that_are_no_numbers_are_refused(protocol):
    train, test = constant(80, 0.5, 0.1), constant(64, 0.5, 0.1)
    test.features[3, 2] = np.nan
    with pytest.raises(InputError, match="1 of 64 feature vectors hold NaN or infinity"):
        evaluate_features(train, test, columns=COLUMNS, protocols=[protocol], settings=SETTINGS, subject=SUBJECT)


@pytest.mark.parametrize("protocol", OF_LABELS)
def test_one_class_or_one_image_is_a_sentence_or_a_number(protocol):
    arguments = {"columns": COLUMNS, "protocols": [protocol], "settings": SETTINGS, "subject": SUBJECT}
    train, one = constant(80, 0.5, 0.1), constant(1, 0.5, 0.1)
    if protocol == "few_shot":
        with pytest.raises(InputError, match="classes"):
            evaluate_features(train, one, **arguments)
    else:
        assert evaluate_features(train, one, **arguments)[0].n == 1
    if protocol in ("linear_probe", "linear_probe_sgd"):
        train.columns["label"][:] = 2
        with pytest.raises(InputError, match="nothing to tell apart"):
            evaluate_features(train, constant(64, 0.5, 0.1), **arguments)
