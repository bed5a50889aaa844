"""The device and the precision that are asked for reach everything that computes."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import (
    Columns,
    EvaluationSettings,
    Features,
    Subject,
    evaluate_encoder,
    evaluate_features,
    extract_features,
    features,
    load_encoder,
    measures,
    pixel_encoder,
    protocols,
    retrieval_measures,
)

FUNCTIONS = {
    "knn": (measures, "nearest_neighbours"),
    "linear_probe": (measures, "logistic_regression_probe"),
    "linear_probe_sgd": (measures, "sgd_probe"),
    "few_shot": (measures, "few_shot_accuracy"),
    "retrieval": (retrieval_measures, "retrieval_recall"),
    "sibling_retrieval": (retrieval_measures, "sibling_retrieval"),
    "text_retrieval": (retrieval_measures, "text_retrieval_recall"),
}


class Reached(Exception):
    """The function was called; its device is what matters."""


@pytest.mark.parametrize("protocol", FUNCTIONS)
def test_protocols_run_on_the_device_that_was_asked_for(monkeypatch, protocol):
    def spy(*_, device=None, **__):
        raise Reached(device)

    monkeypatch.setattr(*FUNCTIONS[protocol], spy)
    rows = np.arange(24)
    columns = {"label": rows % 3, "group": rows // 2, "artist": rows % 2, "caption": np.array([f"c{r}" for r in rows])}
    side = Features(np.eye(24, dtype=np.float32), rows, columns, embeds=np.eye(24, dtype=np.float32))
    with pytest.raises(Reached, match="meta"):
        evaluate_features(
            side,
            side,
            columns=Columns(label="label", group="group", artist="artist", caption="caption", caption_id="group"),
            protocols=[protocol],
            subject=Subject(encoder="e"),
            embed_texts=lambda texts: torch.eye(24)[: len(texts)],
            settings=EvaluationSettings(few_shot_queries=1),
            device="meta",
        )


def test_the_encoders_device_is_the_protocols_where_none_is_named(monkeypatch, test_world):
    seen = []
    monkeypatch.setattr(protocols, "evaluate_features", lambda *_, device, **__: seen.append(device) or [])
    vision = load_encoder(pixel_encoder())
    arguments = {"columns": {"label": "label"}, "protocols": ["few_shot"], "progress": False}
    evaluate_encoder(vision, None, test_world, device="cpu", **arguments)
    evaluate_encoder(vision, None, test_world, **arguments)
    assert seen == ["cpu", None], "bare pixels have no weights and no device"


def test_half_precision_is_close_and_kept_apart(vit, image_processor, test_world, tmp_path):
    arguments = {"image_processor": image_processor, "cache_dir": tmp_path, "progress": False}
    whole = extract_features(vit, test_world, **arguments).features
    half = extract_features(vit, test_world, precision="bfloat16", **arguments).features
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.05 * np.abs(whole).max()
    assert len(list(tmp_path.iterdir())) == 2, "a cache for each"
    with pytest.raises(InputError, match="precision='int8' is not known; choose one of float32, bfloat16, float16"):
        extract_features(vit, test_world, precision="int8", **arguments)


@pytest.mark.parametrize(
    ("device", "cores", "expected"), [("cuda", 16, (8, True)), ("cuda", 3, (3, True)), ("cpu", 16, (0, False))]
)
def test_workers_and_pinned_memory_follow_from_the_device(monkeypatch, test_world, device, cores, expected):
    seen = []

    def loader(*_, num_workers, pin_memory, **__):
        seen.append((num_workers, pin_memory))
        raise Reached

    monkeypatch.setattr(features, "DataLoader", loader)
    monkeypatch.setattr(features, "device_of", lambda vision: torch.device(device))
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    with pytest.raises(Reached):
        extract_features(pixel_encoder(), test_world, progress=False)
    with pytest.raises(Reached):
        extract_features(pixel_encoder(), test_world, num_workers=2, progress=False)
    assert seen == [expected, (2, expected[1])]


def test_an_extraction_that_is_left_leaves_gradients_on(vit, image_processor, test_world):
    broken = test_world.add_column("none", [None] * len(test_world)).rename_columns({"image": "old", "none": "image"})
    broken = broken.cast_column("image", datasets.Image())
    with pytest.raises(InputError, match="cannot be decoded") as kept:
        extract_features(vit, broken, image_processor=image_processor, progress=False)
    assert not torch.is_inference_mode_enabled(), kept
