"""The protocols on real pictures: the embedded pictograms."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from stablerep_hf import assets
from stablerep_hf.evaluation import (
    Columns,
    EvaluationSettings,
    Features,
    Placement,
    Subject,
    evaluate_encoder,
    evaluate_features,
    extract_features,
    knn_predict,
    load_results,
    logistic_regression_probe,
    pixel_encoder,
)

COMMITTED = Path(__file__).parents[2] / "model_cards" / "results" / "demo.json"
COLUMNS = Columns(label="group", group="concept", artist="artist")


@pytest.fixture(scope="module")
def pictograms():
    return datasets.load_dataset(str(assets.pictograms_path()))


@pytest.fixture(scope="module")
def pixels(pictograms):
    """Features of the training pictograms and of the held-out concepts, as pixels."""
    return [
        extract_features(
            pixel_encoder(), pictograms[split], columns=["group", "concept", "artist"], progress=False, batch_size=512
        )
        for split in ("train", "held_out_concepts")
    ]


def codes(train, test):
    both = np.unique(np.concatenate([train.columns["group"], test.columns["group"]]), return_inverse=True)[1]
    return both[: len(train)], both[len(train) :]


def test_knn_is_sklearns(pixels):
    train, test = pixels
    labels, _ = codes(train, test)
    weigh = KNeighborsClassifier(
        20, weights=lambda distances: np.exp((1 - distances**2 / 2) / 0.07), algorithm="brute"
    ).fit(normalize(train.features), labels)
    found = knn_predict(train.features, labels, test.features[:400])
    assert (found == weigh.predict(normalize(test.features[:400]))).mean() > 0.995  # ties of float32 aside


def test_logistic_regression_is_sklearns(pixels):
    train, test = pixels
    rows = np.random.default_rng(0).choice(len(train), 1000, replace=False)
    labels, expected = codes(train, test)
    probe = logistic_regression_probe(train.features[rows], labels[rows], test.features, expected, c_values=[0.01])
    scaler = StandardScaler().fit(train.features[rows].astype(float))
    fitted = LogisticRegression(C=0.01, tol=1e-7, max_iter=5000)
    fitted.fit(scaler.transform(train.features[rows].astype(float)), labels[rows])
    found = fitted.predict(scaler.transform(test.features.astype(float)))
    assert (probe.predictions == found).mean() > 0.999


def test_pixels_score_what_was_committed(pixels):
    """The demo's row of bare pixels, but for a prediction or two that rounding moves; a leak would show."""
    results = load_results(COMMITTED)
    committed = [one for one in results if (one.encoder, one.variant) == ("8 x 8 pixels", "aligned")]  # as stored
    settings = EvaluationSettings(knn_neighbours=(20,), probe_c_values=12)
    found = evaluate_features(*pixels, columns=COLUMNS, settings=settings, subject=Subject(encoder="8 x 8 pixels"))
    assert len(found) == len(committed) == 4
    for new, old in zip(found, committed, strict=True):
        assert (new.protocol, new.metric, new.n) == (old.protocol, old.metric, old.n)
        for name in ("value", "low", "high", "chance"):
            assert getattr(new, name) == pytest.approx(getattr(old, name), abs=2e-3), (new.protocol, name)


def test_noise_in_place_of_pixels_gives_chance_by_every_protocol_of_labels(pixels):
    noise = [
        Features(
            np.random.default_rng(seed).normal(size=(len(side), 32)).astype(np.float32),
            side.rows,
            side.columns,
        )
        for seed, side in enumerate(pixels)
    ]
    results = evaluate_features(
        *noise,
        columns=COLUMNS,
        protocols=["knn", "linear_probe", "linear_probe_sgd", "few_shot", "retrieval"],
        settings=EvaluationSettings(knn_neighbours=(20,), probe_c_values=2, sgd_epochs=5),
        subject=Subject(encoder="noise"),
    )
    for result in results:
        assert result.value <= result.chance + 0.04, result.protocol


def test_placed_pixels_find_little(pictograms):
    """Pictograms are cropped to their ink, so the same thing covers the same pixels; elsewhere it does not."""
    part = pictograms["held_out_concepts"].select(range(600))
    aligned, placed = (
        evaluate_encoder(
            pixel_encoder(),
            None,
            part,
            columns=COLUMNS,
            protocols=["retrieval"],
            settings=EvaluationSettings(recall_at=(1,)),
            progress=False,
            transform=transform,
        )[0].value
        for transform in (None, Placement())
    )
    assert aligned > 0.5 > 0.25 > placed
