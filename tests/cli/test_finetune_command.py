"""`stablerep finetune`: from an encoder's folder to a classifier that others load, and what it refuses."""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from stranger import run_as_stranger
from transformers import AutoModelForImageClassification

from stablerep_hf.evaluation.images import load_images
from stablerep_hf.runs.evaluation import MeasuringSettings, load_sides
from stablerep_hf.training import FineTuningTrainer

FLAGS = ["--max_steps", "4", "--save_steps", "2", "--images_per_batch", "8", "--logging_steps", "1", "--use_cpu"]


@pytest.fixture(scope="module")
def encoder(trained):
    return trained


def finetune(stablerep, encoder, data, output, *flags):
    return stablerep("finetune", encoder, "--data", data, "--output", output, *FLAGS, *flags)


@pytest.mark.parametrize("mode", ["full", "linear"])
def test_a_classifier_comes_out_with_its_score_and_card(stablerep, encoder, labelled_folder, tmp_path, mode):
    output = tmp_path / "pets"
    code, out, error = finetune(stablerep, encoder, labelled_folder, output, "--mode", mode, "--license", "mit")
    assert code == 0, error
    assert "classification accuracy" in out
    (result,) = json.loads((output / "results.json").read_text())
    assert result["protocol"] == "classification" and result["n"] == 24 and result["seeds"] == [42]
    record = json.loads((output / "finetuning.json").read_text())
    assert record["classes"] == ["0", "1", "2"]
    assert (record["trained_parameters"] == 96 * 3 + 3) == (mode == "linear")
    card = (output / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card and "model-index" in card and "Classes: 0, 1, 2." in card
    again = finetune(stablerep, encoder, labelled_folder, output, "--mode", mode, "--license", "mit")
    assert again[0] == 0 and "train_loss" in error and "train_loss" not in again[2], "reported again, not done again"
    assert again[1] == out
    code, _, error = finetune(stablerep, encoder, labelled_folder, output, "--license", "mit", "--seed", "7")
    assert code == 2 and "holds a training run with" in error
    code, out, _ = stablerep(
        "evaluate", output, "--data", labelled_folder, "--protocols", "classification", "--cache", "none"
    )
    assert code == 0 and f"{100 * result['value']:.1f}" in out


STRANGER = """
from pathlib import Path

import re
from PIL import Image

Image.new("RGB", (20, 20), (200, 0, 0)).save("picture.png")
exec(re.search(r"```python\\n(.*?)```", Path("pets/adapter/README.md").read_text(), re.DOTALL)[1])
assert {answer["label"] for answer in answers} == {"0", "1", "2"}, answers
by_card = {answer["label"]: answer["score"] for answer in answers}
merged = pipeline("image-classification", "pets")("picture.png")
for answer in merged:
    assert abs(answer["score"] - by_card[answer["label"]]) < 1e-5, (merged, answers)
"""


def test_adapters_come_out_alone_and_merged_and_their_card_s_example_runs(
    stablerep, encoder, labelled_folder, tmp_path
):
    # the encoder lies where the card's example looks for it
    shutil.copytree(encoder, tmp_path / "encoder", ignore=shutil.ignore_patterns("checkpoints", "pretraining"))
    flags = ["--mode", "lora", "--base_model", "encoder"]
    code, _, error = finetune(stablerep, encoder, labelled_folder, tmp_path / "pets", *flags)
    assert code == 0, error
    config = json.loads((tmp_path / "pets" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "encoder" and config["auto_mapping"] is None
    card = tmp_path / "pets" / "adapter" / "README.md"
    card.write_text(card.read_text().replace("path/to/this/folder", "pets/adapter"))
    run_as_stranger(STRANGER, folder=tmp_path)
    code, out, error = stablerep("publish", tmp_path / "pets" / "adapter", "me/pets-lora", "--dry-run")
    assert code == 0, error
    assert "adapter_model.safetensors" in out and "library_name: peft" in out
    code, out, error = stablerep("publish", tmp_path / "pets", "me/pets", "--dry-run")
    assert code == 0 and "adapter_model" not in out.partition("left out")[0], error


def test_energy_and_another_licence_reach_the_cards(stablerep, encoder, labelled_folder, tmp_path, monkeypatch):
    output = tmp_path / "pets"

    def save(trainer, *args):  # and write what codecarbon does
        (output / "checkpoints" / "emissions.csv").write_text("emissions,energy_consumed\n0.25,0.5\n")
        save_model(trainer, *args)

    save_model = FineTuningTrainer.save_model
    monkeypatch.setattr(
        FineTuningTrainer,
        "save_model",
        lambda trainer, folder=None, _internal_call=False: save(trainer, folder, _internal_call),
    )
    assert finetune(stablerep, encoder, labelled_folder, output, "--mode", "lora")[0] == 0
    record = json.loads((output / "finetuning.json").read_text())
    assert record["energy"] == {"energy_kwh": 0.5, "emissions_kg": 0.25}
    assert finetune(stablerep, encoder, labelled_folder, output, "--mode", "lora", "--license", "mit")[0] == 0
    renewed = json.loads((output / "finetuning.json").read_text())
    assert renewed["seconds"] == record["seconds"], "it was not trained again"
    for card in (output / "README.md", output / "adapter" / "README.md"):
        assert "\nlicense: mit\n" in card.read_text() and "0.25 kg CO2eq" in card.read_text()
        assert "model-index" in card.read_text(), "the results stay"


@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        ([], 5e-4),
        (["--mode", "linear"], 1e-2),
        (["--mode", "linear", "--learning_rate", "5e-4"], 5e-4),  # that of another mode
        (["--mode", "lora", "--learning_rate", "5e-4"], 5e-4),
    ],
)
def test_a_learning_rate_is_taken_as_given_and_else_follows_the_mode(
    stablerep, encoder, labelled_folder, tmp_path, flags, rate
):
    code, _, error = finetune(stablerep, encoder, labelled_folder, tmp_path / "out", *flags, "--max_steps", "1")
    assert code == 0, error
    record = json.loads((tmp_path / "out" / "finetuning.json").read_text())
    assert (record["settings"] | record["chosen"])["learning_rate"] == rate
    assert f"| learning rate | {rate} |" in (tmp_path / "out" / "README.md").read_text()


def test_few_images_a_class(stablerep, encoder, labelled_folder, tmp_path):
    code, _, error = finetune(stablerep, encoder, labelled_folder, tmp_path / "few", "--shots", "3")
    assert code == 0, error
    assert json.loads((tmp_path / "few" / "finetuning.json").read_text())["data"]["num_images"] == 9


def test_it_goes_on_after_an_interruption(stablerep, encoder, labelled_folder, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert finetune(stablerep, encoder, labelled_folder, whole)[0] == 0

    def cut_off(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stablerep_hf.models.export_classifier", cut_off)
        assert finetune(stablerep, encoder, labelled_folder, cut)[0] == 130
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    code, _, error = finetune(stablerep, encoder, labelled_folder, cut, "--seed", "7")
    assert code == 2 and "holds a training run with" in error
    # what is measured at the end may be thought over
    assert finetune(stablerep, encoder, labelled_folder, cut, "--slice_columns", "caption")[0] == 0
    assert len(json.loads((cut / "results.json").read_text())) > 1
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_goes_on_from_the_hub_on_another_machine(stablerep, encoder, labelled_folder, hub_here, tmp_path):
    flags = ["--push_to_hub", "--hub_model_id", "alice/pets", "--hub_always_push"]
    code, _, error = finetune(stablerep, encoder, labelled_folder, tmp_path / "here", *flags)
    assert code == 0, error
    code, _, error = finetune(stablerep, encoder, labelled_folder, tmp_path / "there", *flags)
    assert code == 0, error
    assert json.loads((tmp_path / "there" / "finetuning.json").read_text())["seconds"] is None
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("there", "here"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_stock_model_is_what_stands_on_the_hub_at_the_end(
    stablerep, encoder, labelled_folder, hub_here, tmp_path, mode
):
    flags = ["--push_to_hub", "--hub_model_id", "alice/pets", "--mode", mode, "--license", "mit"]
    code, _, error = finetune(stablerep, encoder, labelled_folder, tmp_path / "pets", *flags)
    assert code == 0, error
    files = {name: content for name, content in hub_here.files("alice/pets").items() if "/" not in name}
    here = tmp_path / "pets" / ("adapter" if mode == "lora" else "")
    card = (here / "README.md").read_text()
    assert files["README.md"].decode() == card.replace("path/to/this/folder", "alice/pets")
    assert "model-index" in card
    weights = "adapter_model.safetensors" if mode == "lora" else "model.safetensors"
    assert files[weights] == (here / weights).read_bytes()
    if mode == "full":
        pushed = HfApi().snapshot_download("alice/pets", allow_patterns=list(files), cache_dir=tmp_path / "cache")
        classifier = AutoModelForImageClassification.from_pretrained(pushed)  # no code of ours, though it is there
        assert type(classifier).__name__ == "ViTForImageClassification"


def test_it_does_not_begin_when_it_cannot_push(stablerep, encoder, labelled_folder, hub_here, tmp_path):
    flags = ["--push_to_hub", "--hub_model_id", "bob/pets"]
    code, _, error = finetune(stablerep, encoder, labelled_folder, tmp_path / "out", *flags)
    assert code == 2 and "may not write there" in error, error
    assert not (tmp_path / "out" / "finetuning.json").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--label_column", "breed"], "no 'breed'"),
        (["--image_column", "photo"], "no 'photo'"),
        (["--mode", "half"], "half"),
        (["--eval_strategy", "epoch"], "--validation-split"),
        (["--test_split", "secret"], "cannot give the split 'secret'"),
        (["--shots", "0"], "--shots 0"),
        (["--shots", "9"], "--shots 9 asks for more images than the class 0 has, 8"),
        (["--slice_columns", "captoin"], "`--slice-columns` names 'captoin'"),
        (["--metric", "11_point_map"], "--metric 11_point_map does not go with one label"),
        (["--metric", "nope"], "no --metric 'nope'"),
        (["--optim", "lomo"], "training arguments cannot work"),
        (["--mode", "lora", "--rank", "0"], "--rank 0"),
        (["--license", "other"], "--license other"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    stablerep, encoder, labelled_folder, tmp_path, flags, sentence
):
    code, _, error = finetune(stablerep, encoder, labelled_folder, tmp_path / "out", *flags)
    assert code == 2 and sentence in error and error.count("\n") <= 1
    assert not (tmp_path / "out").exists()


def test_no_encoder_and_a_classifier_without_weights(stablerep, labelled_folder, tmp_path, encoder):
    code, _, error = stablerep("finetune", "--data", labelled_folder)
    assert code == 2 and "required: ENCODER" in error
    code, _, error = stablerep(
        "evaluate", encoder, "--data", labelled_folder, "--protocols", "classification", "--cache", "none"
    )
    assert code == 2 and "is not a trained classifier" in error


def test_adapters_of_another_encoder_and_labels_of_other_classes(
    stablerep, encoder, labelled_folder, tmp_path, labelled_by_name
):
    output = tmp_path / "pets"
    assert finetune(stablerep, encoder, labelled_folder, output, "--mode", "lora")[0] == 0
    code, out, error = stablerep(
        "evaluate", output / "adapter", "--data", labelled_folder, "--protocols", "classification", "--cache", "none"
    )
    assert code == 0 and "classification accuracy" in out, error
    code, _, error = stablerep(
        "evaluate", output, "--data", labelled_by_name, "--protocols", "classification", "--cache", "none"
    )
    assert code == 2 and "which is not among the classifier's classes" in error
    config = output / "adapter" / "adapter_config.json"
    wide = AutoModelForImageClassification.from_pretrained(output).config
    wide.hidden_size, wide.intermediate_size = 48, 96
    AutoModelForImageClassification.from_config(wide).vit.save_pretrained(tmp_path / "wide")
    shutil.copy(output / "preprocessor_config.json", tmp_path / "wide")
    values = json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "wide")}
    config.write_text(json.dumps(values))
    code, _, error = stablerep(
        "evaluate", output / "adapter", "--data", labelled_folder, "--protocols", "classification", "--cache", "none"
    )
    assert code == 2 and "do not fit" in error
    weights = output / "adapter" / "adapter_model.safetensors"
    save_file({"base_model.model.vit.nothing": torch.zeros(1)}, weights, metadata={"format": "pt"})
    code, _, error = stablerep(
        "evaluate", output / "adapter", "--data", labelled_folder, "--protocols", "classification", "--cache", "none"
    )
    assert code == 2


def test_without_a_split_to_score_a_fifth_of_each_class_is_held_out_and_named(
    stablerep, encoder, labelled_folder, tmp_path
):
    data = tmp_path / "data"
    for number, row in enumerate(load_images(labelled_folder, "train")):
        (data / f"class {row['label']}").mkdir(parents=True, exist_ok=True)
        row["image"].save(data / f"class {row['label']}" / f"{number}.png")
    shown = {}
    for seed in ("3", "4"):
        code, out, error = finetune(stablerep, encoder, data, tmp_path / seed, "--mode", "linear", "--seed", seed)
        assert code == 0, error
        (result,) = json.loads((tmp_path / seed / "results.json").read_text())
        assert (result["split"], result["n"]) == ("a fifth of train (seed 0)", 6)
        subject = load_sides(MeasuringSettings(data=str(data), protocols=["knn"])).subject
        assert (result["split"], result["revision"]) == (subject.split, subject.revision), "scored on the same rows"
        assert f"{data}: 18 images to learn from, 6 to score, a fifth of train (seed 0)\n" in error
        assert "a fifth of train (seed 0)" in (tmp_path / seed / "README.md").read_text()
        shown[seed] = out
    again = finetune(stablerep, encoder, data, tmp_path / "3", "--mode", "linear", "--seed", "3")
    assert again[:2] == (0, shown["3"])


def test_labels_that_have_changed_since_a_run_began_are_refused(stablerep, encoder, labelled_folder, tmp_path):
    data = shutil.copytree(labelled_folder, tmp_path / "data")
    assert finetune(stablerep, encoder, data, tmp_path / "out", "--mode", "linear")[0] == 0
    shutil.copy(data / "test.parquet", data / "train.parquet")
    code, _, error = finetune(stablerep, encoder, data, tmp_path / "out", "--mode", "linear")
    assert code == 2 and f"whose --data {data} has changed since it began" in error
