"""Encoders side by side, their differences, and the baselines."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import (
    Columns,
    EvaluationSettings,
    Features,
    Subject,
    compare_encoders,
    evaluate_encoder,
    evaluate_features,
    extract_features,
    load_encoder,
    pixel_encoder,
    results_table,
    seed_interval,
    untrained_encoder,
)
from stablerep_hf.evaluation.comparison import with_differences
from stablerep_hf.evaluation.tables import differences_table

COLUMNS = Columns(label="label", group="concept", artist="artist")
SETTINGS = EvaluationSettings(few_shot_queries=3, few_shot_episodes=20, knn_neighbours=[3], num_resamples=200)


def test_each_encoder_scores_what_it_scores_alone(vit, image_processor, train_world, test_world):
    vision = load_encoder(vit, image_processor, name="tiny")
    arguments = {"columns": COLUMNS, "settings": SETTINGS, "progress": False}
    results = compare_encoders([vision, pixel_encoder()], train_world, test_world, **arguments)
    alone = [
        result
        for encoder in (vision, pixel_encoder())
        for result in evaluate_encoder(encoder, train_world, test_world, **arguments)
    ]
    assert [replace(result, settings={**result.settings, "minus": None}) for result in results] == [
        replace(result, settings={**result.settings, "minus": None}) for result in alone
    ]
    count = len(results) // 2
    for one, other in zip(results[:count], results[count:], strict=True):
        difference, low, high = one.settings["minus"]["8 x 8 pixels"]
        assert difference == pytest.approx(one.value - other.value)
        assert low <= difference <= high
        assert "minus" not in other.settings
    assert "| measure | tiny | 8 x 8 pixels | *chance* |" in results_table(results, measures_as_rows=True)
    assert f"| {100 * (results[0].value - results[count].value):+.1f} [" in differences_table(results)


def paired(seed, worse):
    """Two encoders of which the other is wrong on `worse` more of the same images."""
    generator = np.random.default_rng(seed)
    right = generator.random(400) < 0.6
    other = right & (generator.random(400) >= worse)
    rows = [np.eye(2, dtype=np.float32)[side.astype(int)] for side in (right, other)]
    return [Features(row, np.arange(400), {"label": np.ones(400, np.int64)}) for row in rows]


def measured(seed, worse):
    bank = Features(np.eye(2, dtype=np.float32), np.arange(2), {"label": np.arange(2)})
    arguments = {
        "columns": Columns(label="label"),
        "protocols": ["knn"],
        "settings": replace(SETTINGS, knn_neighbours=[1]),
    }
    return [
        evaluate_features(bank, test, subject=Subject(encoder=name), **arguments)[0]
        for name, test in zip("ab", paired(seed, worse), strict=True)
    ]


def test_a_paired_interval_is_narrower_than_that_of_each():
    one, other = measured(0, 0.05)
    difference, low, high = with_differences([one, other])[0].settings["minus"]["b"]
    assert 0 < low < difference < high
    assert high - low < 0.6 * (one.high - one.low)
    assert one.low < other.high, "the intervals of the two overlap"


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = 0
    for seed in range(60):
        one, other = measured(seed, 0.1)
        _, low, high = with_differences([one, other])[0].settings["minus"]["b"]
        held += low <= 0.6 * 0.1 <= high
    assert held >= 52


def test_episodes_are_paired_by_student(vit, image_processor, test_world):
    arguments = {"columns": Columns(label="label"), "protocols": ["few_shot"], "settings": SETTINGS, "progress": False}
    encoders = {"a": load_encoder(vit, image_processor), "b": pixel_encoder(4)}
    one, other = compare_encoders(encoders, None, test_world, **arguments)
    ends = seed_interval([float(value) for value in one.drawn - other.drawn])
    assert one.settings["minus"]["b"] == pytest.approx([one.value - other.value, *ends])


def test_what_was_measured_on_other_items_is_no_pair():
    one, other = measured(0, 0.1)
    for changed in ({"n": 399}, {"drawn": None}, {"split": "validation"}, {"encoder": "a"}, {"drawn": one.drawn[:9]}):
        assert "minus" not in with_differences([one, replace(other, **changed)])[0].settings
    assert differences_table([one, other]) == ""


def test_an_encoder_that_cannot_be_measured_leaves_the_others(clip_folder, test_world, caplog):
    columns = Columns(label="label")
    arguments = {"columns": columns, "protocols": ["zero_shot"], "progress": False}
    (result,) = compare_encoders([pixel_encoder(), str(clip_folder)], None, test_world, **arguments)
    assert result.encoder == "clip"
    assert "8 x 8 pixels is left out: The encoder '8 x 8 pixels' has no text tower" in caplog.text
    with pytest.raises(InputError, match="has no text tower"):
        compare_encoders([pixel_encoder(), pixel_encoder(4)], None, test_world, **arguments)
    with pytest.raises(InputError, match="Two encoders are called '8 x 8 pixels'"):
        compare_encoders([pixel_encoder(), pixel_encoder()], None, test_world, **arguments)


def test_a_protocol_that_cannot_be_computed_leaves_the_others(test_world, train_world, caplog):
    results = evaluate_encoder(
        pixel_encoder(), train_world, test_world, columns=COLUMNS, protocols=["few_shot", "knn"], progress=False
    )
    assert {result.protocol for result in results} == {"knn"}
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.message.startswith("few_shot of 8 x 8 pixels is left out: 0 of 4 classes have the 20 groups")


@pytest.mark.parametrize("of_transformers", [True, False])
def test_untrained_is_the_same_architecture_without_what_was_learned(
    vit, image_processor, test_world, of_transformers
):
    model = vit if of_transformers else torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    class Taking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model
            self.token = torch.nn.Parameter(torch.zeros(4))

        def forward(self, pixel_values):
            return self.inner(pixel_values)

    vision = load_encoder(model if of_transformers else Taking(), image_processor, name="tiny")
    state = torch.random.get_rng_state()
    fresh, again, other = (untrained_encoder(vision, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's numbers change"
    assert fresh.name == "untrained tiny"
    features = [extract_features(encoder, test_world, progress=False).features for encoder in (fresh, again, other)]
    assert np.array_equal(features[0], features[1]) and not np.allclose(features[0], features[2])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    shapes = [{name: value.shape for name, value in encoder.model.state_dict().items()} for encoder in (vision, fresh)]
    assert shapes[0].items() <= shapes[1].items()
