from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from stablerep_hf.captions import read_captions
from stablerep_hf.captions.cleaning import MAX_LENGTH, CleaningRules
from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import (
    CaptionGroupedImages,
    DiffusersGenerator,
    GenerationSettings,
    SynthesisPlan,
    image_features,
    plan_generation,
    read_provenance,
)
from stablerep_hf.synthesis.pipeline_folder import content_digest


@pytest.fixture
def make_builder(tmp_path: Path, tiny_pipeline: Path) -> Any:
    (tmp_path / "captions.txt").write_text("a dog\na cat\na house\na dog\n")

    def make(**settings: Any) -> CaptionGroupedImages:
        return CaptionGroupedImages(
            **{
                "cache_dir": str(tmp_path / "cache"),
                "captions": str(tmp_path / "captions.txt"),
                "output": str(tmp_path / "store"),
                "generator": str(tiny_pipeline),
                "num_inference_steps": 2,
                "images_per_caption": 3,
                "captions_per_shard": 2,
                **settings,
            }
        )

    return make


def test_preparing_draws_and_serves_the_shards(
    make_builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = make_builder()
    builder.download_and_prepare(num_proc=2)
    rows = builder.as_dataset(split="train")
    assert (builder.name, rows.features) == ("caption_grouped_images", image_features())
    assert Counter(rows["caption"]) == {"a dog": 3, "a cat": 3, "a house": 3}
    plain = datasets.load_dataset(str(tmp_path / "store"), split="train", cache_dir=str(tmp_path / "cache"))
    bare = [data.cast_column("image", datasets.Image(decode=False)).to_list() for data in (plain, rows)]
    assert bare[0] == bare[1]
    assert len(read_provenance(tmp_path / "store").shards) == 2

    # Prepared again, even by another process with another cache, nothing is drawn.
    monkeypatch.setattr(DiffusersGenerator, "__call__", None)
    again = make_builder(cache_dir=str(tmp_path / "other cache"))
    again.download_and_prepare()
    assert again.as_dataset(split="train").num_rows == 9
    assert [row["caption"] for row in make_builder().as_streaming_dataset(split="train")] == plain["caption"][:]


def test_the_cache_follows_what_is_drawn_not_how_it_is_spelled(make_builder: Any, tmp_path: Path) -> None:
    builder = make_builder()
    assert make_builder(batch_size=2, output=str(tmp_path / "x")).cache_dir == builder.cache_dir
    assert make_builder(seed=1).cache_dir != builder.cache_dir
    (tmp_path / "captions.txt").write_text("a dog\na bird\n")  # same file name, other captions
    assert make_builder().cache_dir != builder.cache_dir


def test_every_setting_reaches_the_plan(make_builder: Any, tmp_path: Path, tiny_pipeline: Path) -> None:
    settings = {
        "generator": str(tiny_pipeline),
        "guidance_scale": 3.5,
        "num_inference_steps": 7,
        "scheduler": "DPMSolverMultistepScheduler",
        "negative_prompt": "blurred",
        "height": 24,
        "width": 16,
        "generator_license": "mit",
        "dtype": "bfloat16",
        "autoencoder": ["tiling"],
        "images_per_caption": 5,
        "prompt_templates": ["a {caption}", "{caption}!"],
        "seed": 9,
        "image_format": "webp",
        "stored_size": 8,
        "captions_per_shard": 2,
    }
    expected = {
        "plan_version": 3,
        "captions": {"number": 3, "digest": read_captions(tmp_path / "captions.txt").digest},
        "generator": {
            "name": tiny_pipeline.name,
            "revision": content_digest(tiny_pipeline),
            "pipeline": "StableDiffusionPipeline",
            "scheduler": "DPMSolverMultistepScheduler",
            "num_inference_steps": 7,
            "guidance_scale": 3.5,
            "negative_prompt": "blurred",
            "height": 24,
            "width": 16,
            "lora": None,
            "tiled": True,
            "dtype": "bfloat16",
            "license": "mit",
        },
        "images_per_caption": 5,
        "prompt_templates": ["a {caption}", "{caption}!"],
        "base_seed": 9,
        "image_format": "webp",
        "stored_size": 8,
        "captions_per_shard": 2,
    }
    assert plan_generation(make_builder(**settings).config)[0].settings == expected
    same = GenerationSettings(captions=str(tmp_path / "captions.txt"), **settings)
    assert plan_generation(same)[0].settings == expected  # what the command plans


def test_the_defaults_are_the_commands(tmp_path: Path) -> None:
    by_builder = CaptionGroupedImages(cache_dir=str(tmp_path), num_captions=3)
    plan = plan_generation(by_builder.config)[0]
    assert plan.hash == plan_generation(GenerationSettings(num_captions=3))[0].hash
    assert plan.generator["num_inference_steps"] == 12 and len(plan.prompt_templates) == 6
    by_hand = SynthesisPlan(plan.captions, DiffusersGenerator())
    assert by_hand.settings == plan.settings


def test_an_unknown_setting_is_refused(make_builder: Any) -> None:
    with pytest.raises(TypeError, match="images_per_captoin"):
        make_builder(images_per_captoin=3)


@pytest.mark.parametrize("more", [0, 1])
def test_the_longest_caption_that_cleaning_keeps_is_the_longest_that_is_drawn(tmp_path, more):
    text = "a dog " * (MAX_LENGTH // 6)
    text += "x" * (MAX_LENGTH - len(text) + more)
    (tmp_path / "captions.txt").write_text(text)
    settings = GenerationSettings(captions=str(tmp_path / "captions.txt"), num_inference_steps=1)
    reason = CleaningRules(max_words=None).reason_to_drop(text)
    if not more:
        assert reason is None and len(plan_generation(settings)[0].captions) == 1
        return
    assert reason == "too long"
    with pytest.raises(InputError, match=r"10,001 characters.* leave it out, as `stablerep captions` does"):
        plan_generation(settings)


def test_fewer_captions_are_spread_evenly_from_the_first_to_the_last(tmp_path):
    (tmp_path / "captions.txt").write_text("".join(f"thing {number}\n" for number in range(11)))
    settings = GenerationSettings(captions=str(tmp_path / "captions.txt"), num_captions=3)
    assert plan_generation(settings)[0].captions.captions == ["thing 0", "thing 5", "thing 10"]
    with pytest.raises(InputError, match="num_captions=12 asks for more than the 11"):
        plan_generation(dataclasses.replace(settings, num_captions=12))
    assert len(plan_generation(dataclasses.replace(settings, num_captions=1))[0].captions) == 1
