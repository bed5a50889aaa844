"""Pipelines, scorers and protocols of the evaluation give on a device what they give on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, fake_gpu
from PIL import Image
from tiny_pipelines import PIPELINES

from stablerep_hf.assets import dual_encoder_path
from stablerep_hf.evaluation import Columns, EvaluationSettings, Features, Subject, evaluate_features
from stablerep_hf.evaluation.few_shot import few_shot_accuracy
from stablerep_hf.evaluation.knn import knn_predict
from stablerep_hf.evaluation.retrieval import retrieval_recall
from stablerep_hf.evaluation.sibling_retrieval import sibling_retrieval
from stablerep_hf.synthesis import DiffusersGenerator
from stablerep_hf.synthesis.scorers import AlignmentScorer

pytestmark = pytest.mark.fake_gpu
IDS = np.arange(24) // 4
ROWS = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_pipeline_draws_the_same_pictures(kind, tmp_path):
    PIPELINES[kind](tmp_path)
    drawn = []
    for device in ("cpu", str(DEVICE)):
        with fake_gpu():
            generator = DiffusersGenerator(tmp_path, num_inference_steps=2, height=16, width=16, device=device)
            assert generator.pipeline.device.type == torch.device(device).type
            images = generator(["a red ball", "a dog", "a dog"], [3, 5, 2**63 - 1])
        drawn.append(np.stack([np.asarray(image) for image in images]).astype(int))
    assert drawn[0].std() > 10
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


def test_alignment_is_scored_the_same(tmp_path):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(3)]
    rows = [{"caption": caption, "prompt": caption} for caption in ("a red ball", "a dog", "a house by the sea")]
    scores = []
    for device in ("cpu", str(DEVICE)):
        with fake_gpu():
            scores.append(AlignmentScorer(str(dual_encoder_path()), device=device)(images, rows))
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


CALLS = {
    "knn": lambda rows: knn_predict(rows, IDS, rows, k=2),
    "retrieval": lambda rows: retrieval_recall(rows, IDS, np.arange(24) % 2),
    "siblings": lambda rows: sibling_retrieval(rows, IDS),
    "few-shot": lambda rows: few_shot_accuracy(rows, IDS, ways=2, shots=1, queries=2, episodes=2),
}


@pytest.mark.parametrize("name", CALLS)
def test_features_on_a_device_are_measured(name):
    expected = CALLS[name](ROWS)
    with fake_gpu():
        found = CALLS[name](ROWS.to(DEVICE))
    ours, theirs = ([value if isinstance(value, np.ndarray) else vars(value)] for value in (found, expected))
    np.testing.assert_equal(ours, theirs)


def test_all_protocols_compute_on_the_device_that_is_named():
    columns = {"label": IDS % 3, "group": IDS, "artist": np.arange(24) % 2}
    side = Features(ROWS.numpy(), np.arange(24), columns, embeds=ROWS.numpy())
    results = []
    for device in ("cpu", DEVICE):
        with fake_gpu():
            results.append(
                evaluate_features(
                    side,
                    side,
                    columns=Columns(label="label", group="group", artist="artist", caption_id="group"),
                    protocols=[
                        "knn",
                        "linear_probe",
                        "linear_probe_sgd",
                        "few_shot",
                        "retrieval",
                        "sibling_retrieval",
                        "zero_shot",
                    ],
                    class_names=["a", "b", "c"],
                    embed_texts=lambda texts, device=device: torch.from_numpy(side.features[: len(texts)]).to(device),
                    subject=Subject(encoder="e"),
                    settings=EvaluationSettings(few_shot_queries=1),
                    device=device,
                )
            )
    for ours, theirs in zip(*(result for result in results), strict=True):
        assert ours.value == pytest.approx(theirs.value, abs=1e-6), ours
