"""A generator from any captioned set: what is read, what is trained, and that it goes on after a kill."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from embedded_generator import captioned, checkpoint, denoiser
from embedded_generator.captioned import CaptionedPictures
from embedded_generator.world import World, read_world
from PIL import Image
from train_embedded_generator import main, train

from stablerep_hf.errors import InputError

TINY: dict[str, Any] = {
    "image_size": 32,
    "autoencoder": {"steps": 2, "batch_size": 2, "widths": [8, 8, 8], "latent_channels": 4},
    "text": {"vocabulary": 530, "max_tokens": 8, "width": 16, "layers": 1, "heads": 2},
    "denoiser": {
        "steps": 4,
        "batch_size": 2,
        "widths": [8, 16],
        "attention": [False, True],
        "heads": 2,
        "norm_groups": 4,
        "pooled_text": True,
        "objective": "flow",
        "hold": 1.0,
    },
    "drawing": {"guidance_scale": 2.0, "num_inference_steps": 2},
    "save_seconds": 1000,
}


def picture(seed: int, size: int = 32) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BILINEAR)


def save(folder: Path, features: dict[str, Any] | None = None, split: str = "train", **columns: list[Any]) -> None:
    folder.mkdir(exist_ok=True)
    kinds = datasets.Features({"image": datasets.Image(), **features}) if features else None
    datasets.Dataset.from_dict(columns, features=kinds).to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = datasets.ClassLabel(names=["goldfish, Carassius auratus", "trilobite"])
    images = [picture(i) for i in range(6)]
    save(tmp_path / "classes", {"label": names}, image=images, label=[0, 0, 0, 0, 1, 1])
    several = datasets.List(datasets.Value("string"))
    texts = [["A dog runs .", "One dog"], ["A cat , asleep ."]]
    save(tmp_path / "captions", {"captions": several}, image=[picture(10, 48), picture(11, 48)], captions=texts)
    save(
        tmp_path / "caption", {"caption": datasets.Value("string")}, image=[picture(20)], caption=["a  red\nball"]
    )
    return tmp_path


def world(*sources: dict[str, Any], **changes: Any) -> World:
    return World.model_validate({**TINY, "sources": list(sources), **changes})


def test_classes_become_prompts_by_every_name_and_wording(data: Path) -> None:
    pictures = CaptionedPictures(world({"data": "classes", "wordings": ["{caption}", "a photo of a {caption}"]}), data)
    assert pictures.pixels.shape == (6, 3, 32, 32) and pictures.pixels.dtype == torch.uint8
    rng = random.Random(0)
    assert {pictures.prompt(0, rng) for _ in range(50)} == {
        "goldfish",
        "Carassius auratus",
        "a photo of a goldfish",
        "a photo of a Carassius auratus",
    }
    assert {pictures.prompt(5, rng) for _ in range(20)} == {"trilobite", "a photo of a trilobite"}
    # four pictures of one class weigh as much as two of the other
    assert sum(pictures.weights[:4]) == pytest.approx(sum(pictures.weights[4:]))


def test_several_captions_and_one_caption_are_read(data: Path) -> None:
    pictures = CaptionedPictures(world({"data": "captions", "share": 3}, {"data": "caption"}), data)
    assert pictures.texts == [("A dog runs", "One dog"), ("A cat, asleep",), ("a red ball",)]
    assert pictures.pixels.shape == (3, 3, 32, 32)  # 48 pixels come down to 32
    assert pictures.weights == pytest.approx([1.5, 1.5, 1.0])
    assert pictures.corpus() == ["A cat, asleep", "A dog runs", "One dog", "a red ball"]


def test_pictures_that_look_like_held_out_ones_are_dropped(data: Path) -> None:
    # the second photo stands in the held-out set, made smaller and saved again
    seen = picture(1).resize((30, 30)).resize((64, 64))
    save(data / "held", {"caption": datasets.Value("string")}, "test", image=[seen, picture(99)], caption=["a", "b"])
    held = {"data": "held", "split": "test"}
    pictures = CaptionedPictures(world({"data": "classes"}, held_out=[held]), data)
    assert pictures.dropped == {"classes": 1}
    assert len(pictures) == 5
    full = CaptionedPictures(world({"data": "classes"}), data)
    assert torch.equal(pictures.pixels, full.pixels[[0, 2, 3, 4, 5]])


def test_held_out_pictures_keep_prompt_and_class(data: Path) -> None:
    held = captioned.load_held_out(
        world({"data": "caption"}, held_out=[{"data": "classes", "wordings": ["a photo of a {caption}"]}]), data
    )
    assert held is not None and held.labels is not None
    assert held.prompts[0] == "a photo of a goldfish" and held.labels[5] == "trilobite"
    assert held.pictures.shape == (6, 3, 32, 32) and -1 <= held.pictures.min() < held.pictures.max() <= 1


def states(work: Path) -> list[torch.Tensor]:
    state = checkpoint.load(work / "denoiser.pt")
    assert state is not None
    return [*state["unet"].values(), *state["text_encoder"].values(), *state["average"]["values"], state["torch_rng"]]


class Killed(BaseException):
    """Stands for `kill -9`: nothing catches it."""


def test_a_training_that_was_killed_goes_on_bit_for_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = world({"data": "classes"}, save_seconds=1e-6)  # a checkpoint each step
    assert train(asked, data, tmp_path / "whole", tmp_path / "whole" / "pipeline")
    save_checkpoint = checkpoint.save

    def die(path: Path, state: dict[str, Any]) -> None:
        """Every checkpoint's first writing is cut off after its log line; its second arrives."""
        if str(path) in cut or path.name == "latents.pt":
            save_checkpoint(path, state)
            cut.discard(str(path))
        else:
            cut.add(str(path))
            raise Killed

    cut: set[str] = set()
    monkeypatch.setattr(checkpoint, "save", die)
    kills = 0
    while True:
        try:
            assert train(asked, data, tmp_path / "parts", tmp_path / "parts" / "pipeline")
            break
        except Killed:
            kills += 1
    assert kills == 2 + 1 + 4  # steps of the autoencoder, its end, steps of the denoiser
    assert all(torch.equal(a, b) for a, b in zip(states(tmp_path / "whole"), states(tmp_path / "parts"), strict=True))
    logs = [(tmp_path / run / "denoiser.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    one, other = ([(line["step"], line["loss"]) for line in map(json.loads, log)] for log in logs)
    assert one == other and [step for step, _ in one] == [1, 2, 3, 4]


def test_minutes_end_a_call_and_the_next_goes_on(data: Path, tmp_path: Path) -> None:
    asked = world({"data": "classes"})
    assert not train(asked, data, tmp_path / "work", tmp_path / "pipeline", minutes=0)
    assert not (tmp_path / "pipeline").exists()
    assert train(asked, data, tmp_path / "work", tmp_path / "pipeline")
