"""`stablerep convert`, and trainings that start from somebody else's encoder."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from card_reading import front_matter
from hub_double.cards import check_card
from huggingface_hub import HfApi
from test_cli_commands import generate_flags, refused
from test_models_conversion import official, save
from tiny_training import TRAIN_FLAGS
from training_data import make_dataset
from transformers import AutoModel, ViTMAEConfig, ViTMAEModel

from stablerep_hf import assets
from stablerep_hf.files.locks import LOCK, lock_folder
from stablerep_hf.models import StableRepModel


def test_a_checkpoint_of_the_release_becomes_a_folder_that_from_pretrained_loads(tmp_path, stablerep):
    theirs, images = official(text=True), torch.randn(2, 3, 16, 16)
    save(theirs, tmp_path / "official.pth")
    code, out, _ = stablerep("convert", tmp_path / "official.pth", tmp_path / "encoder")
    assert code == 0 and str(tmp_path / "encoder") in out
    encoder = AutoModel.from_pretrained(tmp_path / "encoder")
    torch.testing.assert_close(encoder(images).pooler_output, theirs.visual(images), rtol=1e-5, atol=1e-5)
    whole = StableRepModel.from_pretrained(tmp_path / "encoder" / "pretraining").eval()
    torch.testing.assert_close(whole(images).image_embeds, theirs.embed_images(images), rtol=1e-5, atol=1e-5)
    assert stablerep("convert", tmp_path / "encoder", tmp_path / "timm", "--format", "timm")[0] == 0
    there = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(there(images), theirs.visual(images), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_converted_is_one_sentence(tmp_path, stablerep):
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    assert refused(stablerep("convert"), "required: CHECKPOINT, DIR")
    assert refused(stablerep("convert", tmp_path / "broken.pth", tmp_path / "out"), "broken.pth")
    assert refused(stablerep("convert", tmp_path / "nowhere", tmp_path / "out"), "nowhere")
    assert refused(stablerep("convert", "x", tmp_path), "is not an empty folder")
    assert refused(stablerep("convert", "x", tmp_path / "out", "--format", "gguf"), "gguf")
    assert not (tmp_path / "out").exists()


def test_what_makes_no_dual_encoder_is_one_sentence(tmp_path, stablerep, trained):
    flags = [tmp_path / "out", "--format", "sentence-transformers"]
    assert refused(stablerep("convert", trained, *flags), "of type 'vit'", "`pretraining`")
    assert refused(stablerep("convert", trained / "pretraining", *flags), "no text tower")
    tokenizer = assets.generator_path() / "tokenizer"
    save(official(text=True), tmp_path / "official.pth")
    assert refused(stablerep("convert", tmp_path / "official.pth", *flags), "no tokenizer", "--tokenizer")
    assert refused(stablerep("convert", tmp_path / "official.pth", *flags, "--tokenizer", tokenizer), "2600 tokens")
    assert not (tmp_path / "out").exists()


def test_a_converted_checkpoint_has_a_card_that_knows_its_training(tmp_path, stablerep, trained):
    assert stablerep("convert", trained, tmp_path / "timm", "--format", "timm")[0] == 0
    code, out, err = stablerep("publish", tmp_path / "timm", "me/timm", "--dry-run")
    assert code == 0, err
    assert 'timm.create_model("hf-hub:me/timm", pretrained=True)' in out
    assert "library_name: timm" in out and "## Training" in out and "| model type | timm vit_" in out
    assert stablerep("convert", tmp_path / "timm", tmp_path / "back")[0] == 0
    card = (tmp_path / "back" / "README.md").read_text()
    assert "converted from `timm`" in card and "license: unknown" in card


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            "license: other\nlicense_name: mine\nlicense_link: https://l.example",
            "under mine ([text](https://l.example))",
        ),
        ("license: [mit, apache-2.0]", "under mit, apache-2.0."),
        ("license: cc-by-nc-4.0", "under cc-by-nc-4.0."),
    ],
)
@pytest.mark.parametrize("on_the_hub", [False, True])
def test_a_converted_checkpoint_keeps_its_licence(
    tmp_path, stablerep, start, hub_here, monkeypatch, lines, says, on_the_hub
):
    source = start[0]
    (source / "README.md").write_text(f"---\n{lines}\n---\n")
    if on_the_hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        HfApi().create_repo("alice/start")
        HfApi().upload_folder(repo_id="alice/start", folder_path=source)
        source = "hf-hub:alice/start"
    code, _, error = stablerep("convert", source, tmp_path / "out")
    assert code == 0, error
    card = (tmp_path / "out" / "README.md").read_text()
    assert says in card
    assert check_card(card, "model") == ([], [])


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path, stablerep, start, monkeypatch):
    source, _ = start
    (source / "README.md").write_text("---\nlicense: [mit\n---\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for output in (".", tmp_path / "out"):
        assert refused(stablerep("convert", source, output), "YAML that cannot be read")
    assert {path.name for path in tmp_path.iterdir()} >= {"here", "start"} and not list(tmp_path.glob("*out*"))
    (source / "README.md").unlink()
    assert stablerep("convert", source, ".")[0] == 0
    assert (tmp_path / "here" / "model.safetensors").is_file()


def test_results_stay_with_the_features_they_are_of(tmp_path, stablerep):
    released = assets.encoder_path()
    assert stablerep("convert", released, tmp_path / "again")[0] == 0
    names = [[r["metrics"] for r in front_matter((folder / "README.md").read_text())["model-index"][0]["results"]]
             for folder in (released, tmp_path / "again")]  # fmt: skip
    assert names[0] == names[1]
    both = assets.dual_encoder_path()
    assert stablerep("convert", both, tmp_path / "dual", "--format", "sentence-transformers")[0] == 0
    assert "model-index" not in (tmp_path / "dual" / "README.md").read_text()
    assert stablerep("convert", both, tmp_path / "images")[0] == 0
    card = (tmp_path / "images" / "README.md").read_text()
    assert "kNN" in card and "zero-shot" not in card and "zero-shot" in (both / "README.md").read_text()


@pytest.fixture
def start(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=96, depth=4, num_heads=3,
                              num_classes=0)  # fmt: skip
    timm.models.save_for_hf(model, tmp_path / "start", safe_serialization=True)
    return tmp_path / "start", model


def test_a_training_starts_from_a_given_encoder(tmp_path, stablerep, start):
    folder, model = start
    make_dataset([4] * 12).to_parquet(tmp_path / "data" / "train.parquet")
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", *TRAIN_FLAGS, "--init-from", folder]
    assert stablerep("train", *flags, "--learning_rate", 0)[0] == 0
    images = torch.randn(2, 3, 16, 16)
    trained = AutoModel.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(trained(images).pooler_output, model.eval()(images), rtol=1e-5, atol=1e-5)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["settings"]["init_from"] == str(folder)


def test_an_encoder_that_cannot_be_started_from_is_refused_before_anything_is_written(tmp_path, stablerep, start):
    make_dataset([4] * 12).to_parquet(tmp_path / "data" / "train.parquet")
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", *TRAIN_FLAGS]
    flags = [*flags, "--init-from"]
    assert refused(stablerep("train", *flags, tmp_path / "nowhere"), "nowhere")
    ViTMAEModel(ViTMAEConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path / "mae"
    )
    assert refused(stablerep("train", *flags, tmp_path / "mae"), "'vit_mae'")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_conversion_left_is_replaced(tmp_path, stablerep, start):
    """On a disk of its own, whose root holds lost+found; nothing is written beside it."""
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    killed = "import os, pathlib; pathlib.Path.rename = lambda a, b: os._exit(9 * ('disk' in str(a))); "
    code = (
        f"{killed}from stablerep_hf.cli import main; main(['convert', {str(start[0])!r}, {str(tmp_path / 'disk')!r}])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 9
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "start"}
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {".unfinished-conversion", "lost+found", LOCK}
    with lock_folder(tmp_path / "disk"):  # as a conversion does that runs now
        assert refused(stablerep("convert", start[0], tmp_path / "disk"), "Another process is writing to")
    assert stablerep("convert", start[0], tmp_path / "disk")[0] == 0
    names = {path.name for path in (tmp_path / "disk").iterdir()}
    assert {"config.json", "model.safetensors", "lost+found"} < names and ".unfinished-conversion" not in names
    assert refused(stablerep("convert", start[0], tmp_path / "disk"), "is not an empty folder")


def test_a_folder_that_is_still_being_drawn_is_not_trained_on(tmp_path, stablerep, pipeline):
    (tmp_path / "captions.txt").write_text("a red ball\na blue house\na green tree\n")
    flags = generate_flags(tmp_path / "captions.txt", pipeline, tmp_path / "images")
    assert stablerep(*flags)[0] == 0
    (tmp_path / "images" / "provenance" / "shard-00001.json").unlink()
    train = ["train", "--data", tmp_path / "images", "--output", tmp_path / "out", *TRAIN_FLAGS]
    assert refused(stablerep(*train, "--images_per_caption", 2), "not finished", "1 of 2 shards")
    assert not (tmp_path / "out").exists()


def test_a_training_is_probed_with_the_embedded_pictograms(tmp_path, stablerep, grouped_folder):
    flags = ["--data", grouped_folder, "--output", tmp_path / "out", *TRAIN_FLAGS, "--max_steps", 2]
    assert refused(stablerep("train", *flags, "--probe_data", "embedded"), "--eval-strategy")
    assert refused(stablerep("train", *flags, "--eval_strategy", "steps"), "--probe-data")
    assert not (tmp_path / "out").exists()
    assert (
        stablerep("train", *flags, "--probe_data", "embedded", "--eval_strategy", "steps", "--eval_steps", 2)[0] == 0
    )
    log = json.loads((tmp_path / "out" / "training.json").read_text())["log"]
    (accuracy,) = [entry["eval_knn_accuracy"] for entry in log if "eval_knn_accuracy" in entry]
    assert 0.1 < accuracy < 0.9


def test_onnx_files_stand_beside_the_checkpoint_that_they_were_made_of(tmp_path, stablerep, trained):
    code, _, error = stablerep("convert", trained, tmp_path / "out", "--format", "onnx", "--int8")
    assert code == 0, error
    assert {path.name for path in (tmp_path / "out" / "onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}
    assert AutoModel.from_pretrained(tmp_path / "out").config.model_type == "vit"
    code, out, error = stablerep("publish", tmp_path / "out", "me/onnx", "--dry-run")
    assert code == 0 and "onnx/model_quantized.onnx" in out, error
    code, _, error = stablerep("convert", trained, tmp_path / "other", "--int8")
    assert code == 2 and "`--int8` goes with --format onnx" in error and not (tmp_path / "other").exists()
