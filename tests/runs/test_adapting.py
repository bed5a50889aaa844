"""Adapting an encoder by commands: adapters, frozen layers, a teacher, probes without labels, and a blend."""

import json

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tiny_backbones import pictures, saved, tiny_tower
from training_data import make_dataset
from transformers import AutoModel

from stablerep_hf import cli
from stablerep_hf.evaluation import load_encoder
from stablerep_hf.models import StableRepModel, encode_images

FLAGS = [
    "--projection-hidden-dim", "16", "--projection-dim", "8", "--captions-per-batch", "4", "--images-per-caption", "3",
    "--max-steps", "4", "--save-steps", "2", "--logging-steps", "1", "--learning-rate", "0.01", "--use-cpu",
]  # fmt: skip


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A DINOv2 with registers, as somebody else saved it, with a card."""
    folder = tmp_path_factory.mktemp("start") / "dino"
    saved(tiny_tower("dinov2_with_registers").eval(), folder)
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: their-terms\nlicense_link: https://x.org/t\n---\n"
    )
    return folder


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def run(capsys, *words):
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def train(capsys, data, output, *words):
    return run(capsys, "train", "--data", data, "--output", output, *FLAGS, *words)


def feature(folder):
    with torch.no_grad():
        return encode_images(AutoModel.from_pretrained(folder).eval(), pictures(2)).pooler_output


@pytest.mark.slow
def test_adapters_with_an_anchor_come_out_merged_and_alone(capsys, grouped_folder, start, tmp_path):
    output = tmp_path / "out"
    words = [
        "--init-from", start, "--teacher", start, "--lora-rank", "2", "--dora", "--held-out-captions", "4",
        "--eval-strategy", "steps", "--eval-steps", "2", "--load-best-model-at-end",
    ]  # fmt: skip
    code, _, error = train(capsys, grouped_folder, output, *words)
    assert code == 0, error
    assert f"{start}: its licence (their-terms, https://x.org/t) also applies to what is trained from it" in error
    record = json.loads((output / "training.json").read_text())
    log = record["log"]
    assert [set(entry) & {"eval_sibling_gap", "eval_rankme", "eval_lidar"} for entry in log if "eval_rankme" in entry]
    assert all({"distill_feature_loss", "distill_similarity_loss"} <= entry.keys() for entry in log if "loss" in entry)
    assert record["trained_parameters"] < 0.2 * record["parameters"] and record["data"]["num_captions"] == 8
    # the frozen weights are those of the start, and the merged ones the adapters on it
    assert type(AutoModel.from_pretrained(output)).__name__ == "Dinov2WithRegistersModel"
    before, after = load_file(start / "model.safetensors"), load_file(output / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("attention" in name and name.endswith(("query.weight", "value.weight")) for name in changed)
    alone = load_encoder(output / "adapter").encode(pictures(2))[0]
    torch.testing.assert_close(alone, feature(output), rtol=1e-4, atol=1e-5)
    whole = StableRepModel.from_pretrained(output / "pretraining")
    with torch.no_grad():
        features = encode_images(whole.vision_model.eval(), pictures(2)).pooler_output
    torch.testing.assert_close(features, feature(output), rtol=1e-5, atol=1e-6)
    card = (output / "README.md").read_text()
    for words in (
        "license_name: their-terms", "Training started from `dino`", "plain `Dinov2WithRegistersModel`",
        "dino (weights that the training started from): their-terms", "dino (teacher): their-terms",
    ):  # fmt: skip
        assert words in card.replace("[dino](https://x.org/t)", "dino"), words
    adapter = (output / "adapter" / "README.md").read_text()
    assert "library_name: peft" in adapter and "these are low-rank adapters for it" in adapter
    assert train(capsys, grouped_folder, output, *words and [])[0] == 2, "another run is in the folder"


def test_frozen_layers_and_rates_by_layer(capsys, grouped_folder, start, tmp_path):
    words = ["--init-from", start, "--freeze-layers", "1", "--layer-decay", "0.5", "--license", "mit"]
    code, _, error = train(capsys, grouped_folder, tmp_path / "out", *words)
    assert code == 0, error
    before, after = load_file(start / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("embeddings" in name or "layer.0." in name for name in changed)
    assert any("layer.1." in name for name in changed) and "layernorm.weight" in changed
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_the_licence_of_dinov3_is_said_without_a_card(capsys, grouped_folder, tmp_path):
    folder = saved(tiny_tower("dinov3_vit").eval(), tmp_path / "dinov3")
    words = ["--init-from", folder, "--objective", "distill", "--teacher", folder]
    code, _, error = train(capsys, grouped_folder, tmp_path / "out", *words)
    assert code == 0, error
    assert "its licence (dinov3-license, https://ai.meta.com/" in error
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license_name: dinov3-license" in card and "Objective: distillation" in card
    assert run(capsys, "convert", folder, tmp_path / "converted")[0] == 0
    assert "license_name: dinov3-license" in (tmp_path / "converted" / "README.md").read_text()


@pytest.fixture(scope="session")
def labelled_folders(tmp_path_factory):
    """Two labelled data sets with the splits train and test."""
    folders = []
    for name, modulus in (("domain", 3), ("general", 4)):
        folder = tmp_path_factory.mktemp(name)
        images = make_dataset([6] * 12)
        images = images.add_column("label", [int(text.rpartition(" ")[2]) % modulus for text in images["caption"]])
        for split, rows in (("train", range(0, 72, 2)), ("test", range(1, 72, 2))):
            images.select(rows).to_parquet(folder / f"{split}.parquet")
        folders.append(folder)
    return folders


@pytest.mark.slow
def test_a_blend_lies_between_and_is_chosen_without_the_reported_split(
    capsys, grouped_folder, start, labelled_folders, tmp_path
):
    adapted = tmp_path / "adapted"
    assert train(capsys, grouped_folder, adapted, "--init-from", start)[0] == 0
    domain, general = labelled_folders
    words = [
        "--weights",
        "0",
        "0.5",
        "--data",
        domain,
        "--general-data",
        general,
        "--cache",
        "none",
        "--device",
        "cpu",
    ]
    output = tmp_path / "blended"
    code, out, error = run(capsys, "blend", start, adapted, "--output", output, *words)
    assert code == 0, error
    told = json.loads((output / "blend.json").read_text())
    points = told["points"]
    assert [point["weight"] for point in points] == [0, 0.5, 1] and out.count("| chosen |") == 1
    least = points[0]["chosen_by"][1] - 0.01
    best = max(point["chosen_by"][0] for point in points if point["chosen_by"][1] >= least)
    chosen = next(point for point in points if point["weight"] == told["chosen"])
    assert chosen["chosen_by"][0] == best and chosen["chosen_by"][1] >= least
    assert {r["split"] for p in points for r in p["reported"]} == {"test"}
    assert all(r["low"] <= r["value"] <= r["high"] for p in points for r in p["reported"])
    ours, one, other = (load_file(f / "model.safetensors") for f in (output, start, adapted))
    for name, value in ours.items():
        torch.testing.assert_close(value, one[name].lerp(other[name], told["chosen"]), rtol=1e-6, atol=1e-7)
    assert "share" in (output / "README.md").read_text()
    assert run(capsys, "blend", start, adapted, "--output", output, *words)[0] == 2


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", ["--lora-rank", "2"], "--lora-rank 2 keeps what an encoder knows: name one by `--init-from`."),
        (
            "train",
            ["--init-from", "START", "--dora"],
            "`--dora` is a kind of adapter: give their rank by `--lora-rank`",
        ),
        (
            "train",
            ["--init-from", "START", "--freeze-layers", "3"],
            "--freeze-layers 3 cannot work, since the encoder",
        ),
        ("train", ["--init-from", "START", "--lora-rank", "2", "--freeze-layers", "1"], "give either"),
        (
            "train",
            ["--init-from", "CONV", "--lora-rank", "2"],
            "with --adapter-targets attention: give --adapter-targ",
        ),
        ("train", ["--objective", "distill"], "--objective distill learns nothing but a teacher's features"),
        ("train", ["--teacher", "nowhere"], "--teacher nowhere cannot be used: nowhere is neither a folder nor"),
        ("train", ["--held-out-captions", "4"], "`--eval-strategy` (steps or epoch) when: give both"),
        ("train", ["--held-out-captions", "12", "--eval-strategy", "epoch"], "of the 12 captions leaves too few"),
        ("train", ["--init-from", "GRAY"], "in 1 channels, and views are square and in three colours"),
        (
            "train",
            ["--init-from", "START", "--image-size", "30"],
            "--image-size 30 cannot be cut into the patches of 8",
        ),
        (
            "train",
            ["--objective", "clip", "--text-init-from", "START"],
            "dino cannot be used: text_config is of model type",
        ),
        ("blend", ["START", "CONV", "--general-data", "DATA", "--data", "DATA"], "nothing lies between them"),
        ("blend", ["START", "START"], "name such labelled images by `--general-data`"),
        ("blend", ["START", "START", "--general-data", "DATA", "--weights", "2"], "--weights"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    capsys, grouped_folder, start, labelled_folders, tmp_path, command, words, said
):
    places = {"START": start, "DATA": labelled_folders[0]}
    if "CONV" in words:
        places["CONV"] = saved(tiny_tower("convnextv2").eval(), tmp_path / "conv")
    if "GRAY" in words:
        places["GRAY"] = saved(tiny_tower("vit", num_channels=1).eval(), tmp_path / "gray", 0.5, 0.5)
    words = [places.get(word, word) for word in words]
    if command == "train":
        code, _, error = train(capsys, grouped_folder, tmp_path / "out", "--size", "micro", *words)
    else:
        code, _, error = run(capsys, command, *words, "--output", tmp_path / "out", "--device", "cpu")
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert not (tmp_path / "out").exists()
