"""A tiny encoder and a tiny world of concepts drawn by several hands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode


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


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A CLIP of random weights, with processor and tokenizer, as save_pretrained writes it."""
    torch.manual_seed(0)
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    # `vocab`, not `vocab_file`: transformers 5 ignores the old name and encodes every letter as unknown
    tokenizer = CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=24)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(words),
                "hidden_size": 16,
                "max_position_embeddings": 24,
                "bos_token_id": len(words) - 2,
                "eos_token_id": len(words) - 1,
                **sizes,
            },
            vision_config={"hidden_size": 24, "image_size": 16, "patch_size": 8, **sizes},
            projection_dim=12,
        )
    )
    folder = tmp_path / "clip"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
