"""A tiny encoder and a tiny world of concepts drawn by several hands."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessor, ViTModel


@pytest.fixture(scope="session")
def image_processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": 16, "width": 16})


@pytest.fixture
def vit() -> ViTModel:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        hidden_dropout_prob=0.5,  # features that depended on the training mode would change from call to call
    )
    return ViTModel(config, add_pooling_layer=False)


def draw_world(
    num_concepts: int, artists: tuple[str, ...], *, first: int = 0, num_labels: int = 4, seed: int = 0
) -> datasets.Dataset:
    """Each concept is a colour field in its label's hue, each artist adds noise of their own."""
    generator = np.random.default_rng((seed, first))
    rows: dict[str, list[Any]] = {"image": [], "label": [], "concept": [], "artist": []}
    for concept in range(first, first + num_concepts):
        label = concept % num_labels
        field = generator.uniform(0, 120, (4, 4, 3))
        field[..., label % 3] += 60 + 60 * (label // 3)
        for artist in artists:
            pixels = np.clip(field + generator.normal(0, 8, field.shape), 0, 255).astype(np.uint8)
            rows["image"].append(Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST))
            rows["label"].append(label)
            rows["concept"].append(f"concept {concept}")
            rows["artist"].append(artist)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=[f"label {index}" for index in range(num_labels)]),
            "concept": datasets.Value("string"),
            "artist": datasets.Value("string"),
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="session")
def train_world() -> datasets.Dataset:
    return draw_world(24, ("ann", "bob", "cem"))


@pytest.fixture(scope="session")
def test_world() -> datasets.Dataset:
    return draw_world(12, ("ann", "bob", "dee"), first=100)
