"""A pipeline folder that is damaged or hostile: one sentence, no code run, nothing drawn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import DiffusersGenerator

CODE = "import pathlib\npathlib.Path({marker!r}).touch()\nclass Hostile:\n    pass\n"


@pytest.fixture
def copy(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "copy"))


def as_pickle(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()


def encoder_as_pickle(folder: Path) -> None:
    weights = folder / "text_encoder" / "model.safetensors"
    torch.save(load_file(weights), folder / "text_encoder" / "pytorch_model.bin")
    weights.unlink()


def without_vocabulary(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)


def zeros_in_encoder(folder: Path) -> None:
    weights = folder / "text_encoder" / "model.safetensors"
    save_file({name: torch.zeros_like(part) for name, part in load_file(weights).items()}, weights, {"format": "pt"})


def without_a_weight(file: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / file)
        weights.pop(sorted(weights)[len(weights) // 2])
        save_file(weights, folder / file, {"format": "pt"})

    return damage


def nothing_in_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (as_pickle, "cannot be loaded"),
        (encoder_as_pickle, "cannot be loaded"),
        (zeros_in_encoder, "gives different prompts the same embedding"),
        (lambda folder: os.truncate(folder / "text_encoder" / "model.safetensors", 2000), "cannot be loaded"),
        (lambda folder: os.truncate(folder / "vae" / "diffusion_pytorch_model.safetensors", 2000), "cannot be loaded"),
        (lambda folder: (folder / "text_encoder" / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: shutil.rmtree(folder / "text_encoder"), "cannot be loaded"),
        (nothing_in_tokenizer, "cannot be loaded"),
        (without_a_weight("text_encoder/model.safetensors"), "lacks 1 weights of its text_encoder .* left to chance"),
        (without_a_weight("unet/diffusion_pytorch_model.safetensors"), "lacks 1 weights of its unet"),
        (without_a_weight("vae/diffusion_pytorch_model.safetensors"), "lacks 1 weights of its vae"),
    ],
)
def test_a_damaged_pipeline_is_one_sentence(copy: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(copy)
    with pytest.raises(InputError, match=said) as caught:
        DiffusersGenerator(copy, num_inference_steps=1)(["a dog"], [1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [(without_vocabulary, "same tokens|cannot be loaded"), (nothing_in_tokenizer, "The tokenizer of 'copy' cannot")],
)
def test_a_tokenizer_that_reads_nothing_is_found_before_weights_are_loaded(
    copy: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(copy)
    generator = DiffusersGenerator(copy)
    with pytest.raises(InputError, match=said):
        generator.too_long(["a dog"])
    assert "pipeline" not in generator.__dict__


def name_own_pipeline(folder: Path, marker: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = ["pipe", "StableDiffusionPipeline"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "pipe.py").write_text(CODE.format(marker=str(marker)))


def name_own_unet(folder: Path, marker: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["net", "Hostile"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "net.py").write_text(CODE.format(marker=str(marker)))


def name_own_tokenizer(folder: Path, marker: Path) -> None:
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoTokenizer": ["words.Hostile", None]}
    config["tokenizer_class"] = "Hostile"
    path.write_text(json.dumps(config))
    (folder / "tokenizer" / "words.py").write_text(CODE.format(marker=str(marker)))


@pytest.mark.parametrize("own", [name_own_pipeline, name_own_unet, name_own_tokenizer])
def test_a_pipe_of_yes_runs_no_code(copy: Path, tmp_path: Path, own: Callable[[Path, Path], None]) -> None:
    own(copy, tmp_path / "ran")
    (tmp_path / "c.txt").write_text("a dog\n")
    flags = ["--captions", tmp_path / "c.txt", "--generator", copy, "--num-inference-steps", 1, "--output"]
    done = subprocess.run(
        [sys.executable, "-m", "stablerep_hf.cli", "generate", *map(str, flags), str(tmp_path / "out")],
        input="y\n" * 50, capture_output=True, text=True,
    )  # fmt: skip
    assert not (tmp_path / "ran").exists()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("stablerep generate:") == 1
    assert not (tmp_path / "out").exists()
