"""The shipped generator: a stock pipeline folder that draws, and the words it was taught."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from stablerep_hf import assets


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(assets.generator_path(), dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: StableDiffusionPipeline, prompts: list[str], seed: int = 0) -> np.ndarray:
    seeds = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    defaults = assets.drawing_defaults()
    asked = {name: defaults[name] for name in ("guidance_scale", "num_inference_steps")}
    return pipe(prompts, generator=seeds, output_type="np", **asked).images


def test_it_draws_32_pixels_and_the_same_again(pipeline: StableDiffusionPipeline) -> None:
    first = draw(pipeline, ["red heart, glossy style", "grinning face, blob style"])
    again = draw(pipeline, ["red heart, glossy style", "grinning face, blob style"])
    assert first.shape == (2, 32, 32, 3)
    assert np.array_equal(first, again)


def test_the_caption_is_in_the_picture(pipeline: StableDiffusionPipeline) -> None:
    heart, face = draw(pipeline, ["red heart, glossy style", "grinning face, flat style"])
    for image in (heart, face):
        ink = image[image.min(axis=2) < 0.7]
        assert 100 < len(ink) < 1000  # neither blank nor full
    red = heart[heart.min(axis=2) < 0.5].mean(axis=0)
    yellow = face[face.min(axis=2) < 0.5].mean(axis=0)
    assert red[0] > 0.6 and red[1] < 0.45
    assert yellow[0] > 0.6 and yellow[1] > 0.45 and yellow[2] < 0.5


def test_another_seed_gives_another_picture(pipeline: StableDiffusionPipeline) -> None:
    one, other = (draw(pipeline, ["dog face, classic style"], seed)[0] for seed in (1, 2))
    assert np.abs(one - other).mean() > 0.005


def test_it_is_the_stock_layout_without_pickle() -> None:
    folder = Path(assets.generator_path())
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None] and index["requires_safety_checker"] is False
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    assert sum(path.stat().st_size for path in files) < 25e6


def test_any_text_has_tokens(pipeline: StableDiffusionPipeline) -> None:
    tokenizer = pipeline.tokenizer
    ids = tokenizer("xylophone ☃ piñata").input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[1:-1]


def test_templates_hold_the_caption_and_name_different_hands() -> None:
    templates = assets.prompt_templates()
    assert len(set(templates)) == len(templates) == 6
    for template in templates:
        assert template.count("{caption}") == 1
        assert template.format(caption="rocket") != "rocket"


def test_defaults_say_how_to_draw() -> None:
    defaults = assets.drawing_defaults()
    assert 1 < defaults["guidance_scale"] < 8
    assert 4 <= defaults["num_inference_steps"] <= 50


def test_every_artist_of_the_weights_is_named() -> None:
    names = " ".join(part["name"] for part in assets.licensed_parts())
    for artist in ("Noto", "Fluent", "FxEmojis", "EmojiTwo", "emojibase"):
        assert artist in names
        assert artist in (Path(__file__).parents[2] / "NOTICE").read_text()


def test_no_card_of_other_captions_says_that_its_own_are_emojibase_s() -> None:
    assert all(part["role"].endswith("the embedded generator learned from") for part in assets.licensed_parts())


def test_the_paths_need_no_torch() -> None:
    code = "import sys; import stablerep_hf.assets as a; a.prompt_templates(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
