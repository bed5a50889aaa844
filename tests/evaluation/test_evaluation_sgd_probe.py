from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.sgd_probe import SGDProbeSettings, _Heads, sgd_probe

SHORT = SGDProbeSettings(epochs=15, batch_size=64, checkpoint_epochs=5, learning_rates=(0.01, 0.1, 0.5))


def problem(seed: int = 0, num: int = 400, signal: float = 1.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, num)
    means = signal * np.random.default_rng(99).normal(size=(3, 8))
    return (3 + generator.normal(size=(num, 8)) + means[labels]).astype(np.float32), labels


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_head_is_what_torch_trains_alone(batch_norm):
    features, labels = (torch.from_numpy(array) for array in problem())
    heads = _Heads(8, 3, SHORT, SHORT.learning_rates, None)
    for _ in heads.train(lambda epoch: features, labels, torch.arange(400)):
        pass
    for place, rate in enumerate(SHORT.learning_rates):
        linear = nn.Linear(8, 3)
        start = _Heads(8, 3, SHORT, SHORT.learning_rates, None)
        linear.weight.data.copy_(start.weights[0][place])
        linear.bias.data.zero_()
        model = nn.Sequential(nn.BatchNorm1d(8, affine=False, eps=1e-6), linear) if batch_norm else linear
        optimizer = torch.optim.SGD(linear.parameters(), lr=rate * 64 / 256, momentum=0.9)
        total = 15 * (400 // 64)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step, total=total: 0.5 * (1 + math.cos(math.pi * step / total))
        )
        generator = torch.Generator().manual_seed(0)
        for _ in range(15):
            order = torch.randperm(400, generator=generator)
            for rows in order[: 400 // 64 * 64].split(64):  # the last, incomplete batch is dropped
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(features[rows]), labels[rows]).backward()
                optimizer.step()
                schedule.step()
        found = heads.weights[batch_norm][place]
        torch.testing.assert_close(found, linear.weight.data, atol=2e-4, rtol=1e-3)
        head = place + batch_norm * len(SHORT.learning_rates)
        assert heads.of(head) == (batch_norm, rate)
        expected = model.eval()(features).argmax(1)
        assert (heads.predict(features)[head] == expected.numpy()).mean() > 0.99


def test_the_choice_is_made_inside_the_training_set():
    train, labels = problem()
    test, expected = problem(1)
    found = sgd_probe(train, labels, test, expected, settings=SHORT)
    again = sgd_probe(train, labels, test, (expected + 1) % 3, settings=SHORT)  # other answers change no choice
    for one, other in zip(found, again, strict=True):
        assert (one.learning_rate, one.validation) == (other.learning_rate, other.validation)
        np.testing.assert_array_equal(one.predictions, other.predictions)
        assert one.selection == "held-out part of train"
        assert one.value == (one.predictions == expected).mean() > 0.8
        best = max(one.validation.values())
        assert one.validation[one.learning_rate] == best
        assert one.learning_rate == min(rate for rate, value in one.validation.items() if value == best)
    assert [head.batch_norm for head in found] == [False, True]


def test_the_releases_choice_is_the_maximum_over_heads_and_checkpoints_and_says_so():
    train, labels = problem(signal=0.3)
    test, expected = problem(1, signal=0.3)
    found = sgd_probe(train, labels, test, expected, selection="test", settings=SHORT)
    heads = _Heads(8, 3, SHORT, SHORT.learning_rates, None)
    looks = {
        epoch: (heads.predict(torch.from_numpy(test)) == expected).mean(1)
        for epoch in heads.train(lambda _: torch.from_numpy(train), torch.from_numpy(labels), torch.arange(400))
        if epoch in (5, 10, 15)
    }
    for side, head in enumerate(found):
        assert head.value == max(look[3 * side : 3 * side + 3].max() for look in looks.values())
        assert head.selection.startswith("maximum over heads and checkpoints on the test set")
        assert head.validation == {}


def test_features_that_say_nothing_give_chance_unless_the_maximum_is_taken():
    train, labels = problem(num=1500, signal=0)
    test, expected = problem(1, num=300, signal=0)
    margin = 4 * math.sqrt(2 / 9 / 300)
    honest = sgd_probe(train, labels, test, expected, settings=SHORT)
    assert all(abs(head.value - 1 / 3) < margin for head in honest)
    optimistic = sgd_probe(train, labels, test, expected, selection="test", settings=SHORT)
    assert min(head.value for head in optimistic) >= max(head.value for head in honest) - 0.02


def test_augmented_features_are_asked_for_once_an_epoch():
    train, labels = problem(num=100)
    asked = []

    def augmented(epoch):
        asked.append(epoch)
        return train + 0.01 * epoch

    settings = SGDProbeSettings(epochs=3, learning_rates=(0.1,))
    found = sgd_probe(train, labels, train, labels, augmented=augmented, settings=settings)
    assert asked == [0, 1, 2, 0, 1, 2]  # once to choose, once to fit
    plain = sgd_probe(train, labels, train, labels, settings=settings)
    assert found[0].validation.keys() == plain[0].validation.keys()


def test_groups_stay_on_one_side_of_the_choice():
    generator = np.random.default_rng(0)
    concepts = np.repeat(np.arange(60), 5)
    labels = generator.integers(0, 2, 60)[concepts]
    features = (2 * generator.normal(size=(60, 80))[concepts] + 0.1 * generator.normal(size=(300, 80))).astype("f4")
    settings = SGDProbeSettings(epochs=30, batch_size=32, learning_rates=(0.5,))
    leaking = sgd_probe(features, labels, features, labels, settings=settings)[1]
    grouped = sgd_probe(features, labels, features, labels, train_groups=concepts, settings=settings)[1]
    assert leaking.validation[0.5] > 0.9 > 0.8 > grouped.validation[0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.ones(20, int)}, "Every training label is 1"),
        ({"settings": SGDProbeSettings(learning_rates=())}, "at least one rate"),
        ({"settings": SGDProbeSettings(epochs=0)}, "one epoch"),
        ({"train_features": np.full((20, 8), np.nan)}, "hold NaN or infinity"),
        ({"train_labels": np.arange(3)}, "must be 20 integers"),
    ],
)
def test_what_cannot_be_probed_by_sgd_is_refused(change, message):
    features, labels = problem(num=20)
    arguments = {"train_features": features, "train_labels": labels, "test_features": features, "test_labels": labels}
    with pytest.raises(InputError, match=message):
        sgd_probe(**{**arguments, **change})
