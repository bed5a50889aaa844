"""A generator from any captioned set: what is read, what is trained, and that it goes on after a kill."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from embedded_generator import captioned, checkpoint, denoiser
from embedded_generator.captioned import CaptionedPictures
from embedded_generator.world import World, read_world
from PIL import Image
from train_embedded_generator import export_last, main, train

from stablerep_hf.errors import InputError

TINY: dict[str, Any] = {
    "image_size": 32,
    "autoencoder": {"steps": 2, "batch_size": 2, "widths": [8, 8, 8], "latent_channels": 4},
    "text": {"vocabulary": 560, "max_tokens": 24, "width": 16, "layers": 1, "heads": 2},
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
    save(tmp_path / "caption", {"caption": datasets.Value("string")}, image=[picture(20)], caption=["a  red\nball"])
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


@pytest.mark.slow
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


def test_the_last_checkpoint_is_exported_without_the_pictures(data: Path, tmp_path: Path) -> None:
    asked = world({"data": "classes"})
    with pytest.raises(InputError, match="holds no checkpoint of a denoiser: train first"):
        export_last(asked, tmp_path / "work", tmp_path / "again")
    train(asked, data, tmp_path / "work", tmp_path / "pipeline")
    export_last(asked, tmp_path / "work", tmp_path / "again")
    files = [path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.safetensors")]
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "pipeline" / file).read_bytes()


@pytest.mark.slow
def test_the_folder_is_a_stock_pipeline_and_looking_changes_no_weight(data: Path, tmp_path: Path) -> None:
    asked = world({"data": "classes"}, shown=["trilobite", "goldfish"], look_every=2)
    train(asked, data, tmp_path / "looked", tmp_path / "pipeline")
    assert sorted(path.name for path in (tmp_path / "looked" / "grids").iterdir()) == ["0000002.png", "0000004.png"]
    blind = asked.model_copy(update={"look_every": 1000})
    train(blind, data, tmp_path / "blind", tmp_path / "other")
    assert all(torch.equal(a, b) for a, b in zip(states(tmp_path / "looked"), states(tmp_path / "blind"), strict=True))

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", dtype=torch.float32)
    assert json.loads((tmp_path / "pipeline" / "drawing.json").read_text()) == asked.drawing.model_dump()
    images = pipeline(["trilobite"], num_inference_steps=2, guidance_scale=2.0, output_type="np").images
    assert images.shape == (1, 32, 32, 3)
    average = checkpoint.load(tmp_path / "looked" / "denoiser.pt")["average"]["values"]
    first = next(pipeline.unet.parameters())
    assert torch.allclose(first, average[0], atol=1e-3) and not torch.equal(first, torch.zeros_like(first))


def test_flow_and_v_prediction_give_back_the_picture_of_their_own_goal() -> None:
    """Both schedulers turn a perfect prediction at any level into the picture."""
    for objective in ("flow", "v_prediction"):
        settings = world({"data": "x"}).denoiser.model_copy(update={"objective": objective})
        signal, noise_scale = denoiser.signal_and_noise(settings)
        assert torch.allclose(signal[0], torch.tensor(1.0), atol=1e-3) and noise_scale[-1] > 0.99
        scheduler = DPMSolverMultistepScheduler(**denoiser.NOISE[objective], algorithm_type="dpmsolver++")
        scheduler.set_timesteps(10)
        picture, noise = torch.full((1, 1, 2, 2), 0.7), torch.ones(1, 1, 2, 2)
        for position, t in enumerate(scheduler.timesteps):
            scheduler._step_index = position
            a, b = signal[t], noise_scale[t]
            goal = noise - picture if objective == "flow" else a * noise - b * picture
            back = scheduler.convert_model_output(goal, sample=a * picture + b * noise)
            assert torch.allclose(back, picture, atol=0.01)


def test_a_larger_world_has_larger_latents(data: Path, tmp_path: Path) -> None:
    asked = world({"data": "caption"}, image_size=64, pictures="captioned")
    pictures = CaptionedPictures(asked, data)
    assert pictures.pixels.shape == (1, 3, 64, 64)
    assert denoiser.new_unet(asked).config.sample_size == 16


@pytest.mark.parametrize("name", ["pictograms", "photos"])
def test_the_worlds_that_ship_are_read(name: str) -> None:
    shipped = read_world(Path(denoiser.__file__).with_name(f"{name}.yaml"))
    assert shipped.image_size == 32 and shipped.shown


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path, data: Path) -> str:
    command = ["train", str(path), "--data", str(data), "--work", str(data / "work"), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", command)
    capsys.readouterr()
    assert main() == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.endswith(".\n")
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"denoiser": {**TINY["denoiser"], "learning_speed": 1}}, "denoiser.learning_speed"),
        ({"denoiser": {**TINY["denoiser"], "attention": [True]}}, "2 widths need as many flags"),
        ({"image_size": 48}, "image_size"),
        ({"sources": []}, "sources"),
        ({"sources": [{"data": "caption", "wordings": ["a photo"]}]}, "'a photo' needs the placeholder {caption}"),
        ({"sources": [{"data": "nowhere"}]}, "'nowhere'"),
        ({"sources": [{"data": "caption", "split": "test"}]}, "cannot give the split 'test'"),
        ({"sources": [{"data": "numbers"}]}, "labels of 'numbers' have no names"),
        ({"sources": [{"data": "blank"}]}, "1 rows of 'blank' have no text in `caption`, row 1 first"),
        ({"sources": [{"data": "broken"}]}, "Row 0 of 'broken' holds no image"),
        ({"sources": [{"data": "bare"}]}, "a generator needs `caption`, `captions` or `label`"),
        ({"held_out": [{"data": "classes"}]}, "Every training picture looks like one of `held_out`"),
    ],
)
def test_bad_input_is_one_sentence(
    change: dict[str, Any],
    said: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, number = {"caption": datasets.Value("string")}, {"label": datasets.Value("int64")}
    save(data / "numbers", number, image=[picture(1)], label=[3])
    save(data / "blank", text, image=[picture(1), picture(2)], caption=["a cat", " . "])
    save(data / "broken", text, image=[{"bytes": b"no picture", "path": None}], caption=["a cat"])
    save(data / "bare", {"source": datasets.Value("string")}, image=[picture(1)], source=["web"])
    path = data / "world.yaml"
    path.write_text(yaml.safe_dump({**TINY, "sources": [{"data": "classes"}], **change}))
    assert said in run_main(monkeypatch, capsys, path, data)
    assert not (data / "work").exists()


@pytest.mark.slow
def test_a_work_folder_of_other_settings_is_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = world({"data": "classes"})
    train(asked, data, data / "work", data / "pipeline")
    path = data / "world.yaml"
    path.write_text(
        yaml.safe_dump(
            {**TINY, "denoiser": {**TINY["denoiser"], "learning_rate": 0.5}, "sources": [{"data": "classes"}]}
        )
    )
    assert "denoiser.learning_rate=0.001, not 0.5" in run_main(monkeypatch, capsys, path, data)
    # longer is no other training
    longer = asked.model_copy(update={"denoiser": asked.denoiser.model_copy(update={"steps": 6})})
    assert train(longer, data, data / "work", data / "pipeline")
    assert checkpoint.load(data / "work" / "denoiser.pt")["step"] == 6
