"""Any callable of prompts and seeds draws, with the same store, resume and cards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painters import Painter, picture
from PIL import Image

from stablerep_hf.captions import CaptionSet
from stablerep_hf.errors import InputError
from stablerep_hf.hub import dataset_facts, render_dataset_card
from stablerep_hf.synthesis import SynthesisPlan, describe_generator, read_provenance, synthesize

CAPTIONS = CaptionSet.from_texts(["a dog", "a cat", "a house"])


def paint(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
    return [Image.fromarray(picture(seed)) for seed in seeds]


def paint_white(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), "white") for _ in seeds]


def test_a_function_draws_resumes_and_gets_a_card(tmp_path: Path) -> None:
    plan = SynthesisPlan(CAPTIONS, paint, images_per_caption=2, captions_per_shard=1)
    assert plan.generator["name"] == "paint" and len(plan.generator["revision"]) == 32
    synthesize(plan, paint, tmp_path, rank=1, world_size=2, progress=False)
    summary = synthesize(plan, paint, tmp_path, progress=False)
    assert (summary.num_images, summary.num_drawn) == (6, 4)
    assert read_provenance(tmp_path).settings["generator"] == describe_generator(paint)
    card = str(render_dataset_card(dataset_facts(tmp_path, name="Painted", license="mit")))
    assert "paint" in card


def test_another_function_is_another_generator(tmp_path: Path) -> None:
    plan = SynthesisPlan(CAPTIONS, paint, images_per_caption=1)
    with pytest.raises(
        InputError, match=r"The generator is not the plan's: name is \"paint\" there and \"paint_white"
    ):
        synthesize(plan, paint_white, tmp_path, progress=False)
    assert describe_generator(lambda prompts, seeds: [])["revision"] != describe_generator(paint)["revision"]
    assert describe_generator(Painter()) == Painter().describe() == describe_generator(Painter().describe())


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([np.zeros((8, 8, 3), np.uint8)], "returned a ndarray: it must return images of Pillow"),
        ([], "returned 0 images for 1 prompts"),
    ],
)
def test_what_is_no_image_gets_one_sentence(tmp_path: Path, returned: list[Any], said: str) -> None:
    def draw(prompts: list[str], seeds: list[int]) -> list[Any]:
        return returned

    plan = SynthesisPlan(CaptionSet.from_texts(["a"]), draw, images_per_caption=1)
    with pytest.raises(InputError, match=said):
        synthesize(plan, draw, tmp_path, progress=False)


def test_what_cannot_draw_or_be_described_gets_one_sentence() -> None:
    class Vague(Painter):
        def describe(self) -> dict[str, object]:
            return {"guidance_scale": math.nan}

    with pytest.raises(InputError, match="The generator is a int, which cannot be called"):
        SynthesisPlan(CAPTIONS, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`describe` says is not JSON"):
        SynthesisPlan(CAPTIONS, Vague())


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        ("float16", "numbers may overflow in dtype=float16, so try dtype=bfloat16"),
        ("bfloat16", "so try dtype=float32"),
        (None, "look at its weights"),
    ],
)
def test_nothing_but_black_stops_at_the_first_batch(tmp_path: Path, dtype: str | None, said: str) -> None:
    class Black(Painter):
        def describe(self) -> dict[str, object]:
            return {**super().describe(), "dtype": dtype}

    painter = Black(black=lambda prompt, seed: True)
    plan = SynthesisPlan(CaptionSet.from_texts(f"thing {i}" for i in range(50)), painter, images_per_caption=4)
    with pytest.raises(InputError, match=rf"The first 8 images of 'painter' are wholly black.*{said}"):
        synthesize(plan, painter, tmp_path, batch_size=8, max_failed_captions=50, progress=False)
    assert len(painter.calls) == 1


def test_a_black_picture_among_others_is_drawn_again(tmp_path: Path) -> None:
    plan = SynthesisPlan(CAPTIONS, Painter(), images_per_caption=4)
    first = {plan.seed(caption_id, 0) for caption_id in CAPTIONS.caption_ids.tolist()}
    painter = Painter(black=lambda prompt, seed: seed in first)
    summary = synthesize(plan, painter, tmp_path, batch_size=1, progress=False)
    assert (summary.num_images, summary.num_redrawn) == (12, 3)
