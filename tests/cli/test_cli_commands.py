"""The commands as a user types them: what they make, and what bad input gets."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import datasets
import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard
from tiny_training import TRAIN_FLAGS
from transformers import AutoImageProcessor, AutoModel

from stablerep_hf.cli import COMMANDS


def in_a_process(*argv, **options):
    return subprocess.Popen([sys.executable, "-m", "stablerep_hf.cli", *map(str, argv)], **options)


def refused(result, *parts):
    """Exit code 2 and one sentence that holds these parts."""
    code, out, err = result
    assert code == 2, (out, err)
    assert err.startswith("stablerep ")
    assert err.strip().count("\n") == 0
    for part in parts:
        assert part in err
    return True


# ---------------------------------------------------------------- the command itself


def test_help_loads_no_heavy_library_and_names_every_command():
    code = (
        "import sys; from stablerep_hf.cli import main; assert main(['--help']) == 0; "
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("[]")
    assert all(f"\n  {command} " in run.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_its_flags(command, capsys):
    from stablerep_hf import cli

    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    assert "--config" in capsys.readouterr().out


def test_unknown_commands_and_flags_are_refused(stablerep):
    assert stablerep("paint")[0] == 2
    assert refused(stablerep("generate", "--colour", "red"), "--colour")
    assert refused(stablerep("generate", "--seed", "many"), "--seed", "many")
    assert refused(stablerep("generate", "--image-format", "gif"), "gif")


def test_bad_input_leaves_no_traceback(tmp_path):
    process = in_a_process(
        "generate", "--captions", tmp_path / "none.txt", "--output", tmp_path / "out",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert "none.txt" in err
    assert not (tmp_path / "out").exists()


def test_a_configuration_file_stands_below_the_flags(tmp_path, stablerep):
    file = tmp_path / "config.yaml"
    file.write_text("captions: nowhere.txt\nseed: 3\n")
    assert refused(stablerep("generate", "--config", file), "nowhere.txt")
    assert refused(stablerep("generate", "--config", file, "--captions", "elsewhere.txt"), "elsewhere.txt")
    file.write_text("captoins: x\n")
    assert refused(stablerep("generate", "--config", file), "'captoins'")
    file.write_text("just words\n")
    assert refused(stablerep("generate", "--config", file), "key: value")
    assert refused(stablerep("train", "--config", "cc12m-9x"), "cc12m-9x", "cc12m-1x")


def test_the_release_s_preset_says_what_the_release_did():
    from stablerep_hf.cli.train import parse

    command, arguments = parse(["--config", "cc12m-1x", "--fp16", "false"])
    assert (command.size, command.image_size, command.patch_size) == ("base", 224, 16)
    assert arguments.captions_per_batch * arguments.images_per_caption == 8256
    assert arguments.learning_rate == pytest.approx(2e-4 * 8256 / 256 / 2, rel=1e-3)
    assert arguments.warmup_steps * arguments.num_train_epochs == pytest.approx(0.5, abs=1e-3)


# ---------------------------------------------------------------- generate


@pytest.fixture
def captions(tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("a red ball\na blue  house\na red ball\na green tree\n")
    return file


def generate_flags(captions, pipeline, output):
    return [
        "generate", "--captions", captions, "--generator", pipeline, "--images-per-caption", 2,
        "--num-inference-steps", 2, "--captions-per-shard", 2, "--image-format", "png", "--output", output,
    ]  # fmt: skip


def test_generate_makes_a_data_set_that_stock_datasets_loads(stablerep, captions, pipeline, tmp_path):
    output = tmp_path / "images"
    code, out, err = stablerep(*generate_flags(captions, pipeline, output))
    assert (code, "load_dataset" in out) == (0, True), err
    dataset = datasets.load_dataset(str(output), split="train")
    assert dataset["caption"][:] == [c for c in ("a red ball", "a blue house", "a green tree") for _ in range(2)]
    assert dataset.features["image"] == datasets.Image()
    assert set(dataset["guidance_scale"][:]) == {2.0}, "the release's guidance is the default"
    card = DatasetCard.load(output / "README.md")
    assert card.data.configs[0]["data_files"][0]["path"] == "data/train-*.parquet"
    assert (output / "grid.png").exists()


def test_generate_again_draws_nothing_and_other_settings_are_refused(stablerep, captions, pipeline, tmp_path):
    flags = generate_flags(captions, pipeline, tmp_path / "images")
    assert stablerep(*flags)[0] == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "images" / "data").iterdir()}
    assert stablerep(*flags)[0] == 0
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "images" / "data").iterdir()}
    assert refused(stablerep(*flags, "--guidance-scale", 7), "guidance_scale")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "images" / "data").iterdir()}


def test_two_workers_of_a_launcher_make_what_one_makes(stablerep, captions, pipeline, tmp_path, monkeypatch):
    stablerep(*generate_flags(captions, pipeline, tmp_path / "one"))
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert stablerep(*generate_flags(captions, pipeline, tmp_path / "two"))[0] == 0
        assert (tmp_path / "two" / "README.md").exists() == (rank == 0), "the last worker writes the card"
    one, two = (datasets.load_dataset(str(tmp_path / name), split="train") for name in ("one", "two"))
    assert one["seed"][:] == two["seed"][:]
    assert [image.tobytes() for image in one["image"]] == [image.tobytes() for image in two["image"]]


def test_prompt_templates_vary_siblings(stablerep, captions, pipeline, tmp_path):
    flags = generate_flags(captions, pipeline, tmp_path / "images")
    assert stablerep(*flags, "--prompt-template", "{caption} at night", "{caption} by day")[0] == 0
    dataset = datasets.load_dataset(str(tmp_path / "images"), split="train")
    assert {p for c, p in zip(dataset["caption"], dataset["prompt"], strict=True) if c == "a red ball"} == {
        "a red ball at night",
        "a red ball by day",
    }


def test_two_data_sets_in_folders_of_one_name_are_not_taken_for_each_other(stablerep, captions, pipeline, tmp_path):
    for name, seed in (("first", 1), ("second", 2)):
        assert stablerep(*generate_flags(captions, pipeline, tmp_path / name / "images"), "--seed", seed)[0] == 0
    first, second = (
        datasets.load_dataset(str(tmp_path / name / "images"), split="train") for name in ("first", "second")
    )
    assert first["seed"][:] != second["seed"][:]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--generator", "no-such-folder/"], ["no-such-folder"]),
        (["--generator", "owner/pipeline"], ["owner/pipeline"]),
        (["--caption-column", "text"], ["text"]),
        (["--images-per-caption", "0"], ["images_per_caption"]),
        (["--prompt-template", "a photo"], ["{caption}"]),
        (["--scheduler", "NoScheduler"], ["NoScheduler"]),
        (["--height", "13"], ["13"]),
        (["--device", "abacus"], ["abacus"]),
        (["--num-captions", "-3"], ["num_captions=-3"]),
    ],
)
def test_generate_refuses_what_cannot_work(stablerep, captions, pipeline, tmp_path, flags, parts):
    assert refused(stablerep(*generate_flags(captions, pipeline, tmp_path / "images"), *flags), *parts)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\x89PNG\x00\x01"])
def test_generate_refuses_empty_and_binary_captions(stablerep, pipeline, tmp_path, content):
    file = tmp_path / "captions.txt"
    file.write_bytes(content)
    assert refused(stablerep(*generate_flags(file, pipeline, tmp_path / "images")), "captions.txt")
    assert not (tmp_path / "images").exists()


# ---------------------------------------------------------------- train


def test_train_makes_an_encoder_that_stock_transformers_loads(trained):
    encoder, report = AutoModel.from_pretrained(trained, output_loading_info=True)
    assert type(encoder).__name__ == "ViTModel"
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = AutoImageProcessor.from_pretrained(trained)(datasets.Image().decode_example(image()), return_tensors="pt")
    output = encoder(**pixels)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, 0])
    record = json.loads((trained / "training.json").read_text())
    assert record["finished"]
    assert record["steps"] == 6
    assert record["views_seen"] == 6 * 12
    card = ModelCard.load(trained / "README.md")
    assert card.data.library_name == "transformers"
    assert not [path for path in trained.iterdir() if path.suffix in (".bin", ".pt", ".pkl")], "no pickle to publish"


def image():
    from training_data import picture

    return {"bytes": picture(0, 0), "path": None}


def test_train_keeps_the_whole_model_too(trained):
    from stablerep_hf import StableRepModel

    model = StableRepModel.from_pretrained(trained / "pretraining")
    stock = AutoModel.from_pretrained(trained)
    pixel_values = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(
        model.eval().vision_model(pixel_values).pooler_output, stock.eval()(pixel_values).pooler_output
    )


def test_train_again_is_done_and_other_settings_are_refused(stablerep, trained, grouped_folder):
    flags = ["train", "--data", grouped_folder, "--output", trained, *TRAIN_FLAGS]
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert stablerep(*flags)[0] == 0
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    assert refused(stablerep(*flags, "--learning_rate", "0.5"), "learning_rate")
    assert stablerep(*flags, "--logging_steps", "3")[0] == 0, "how often a run reports changes nothing it learns"


def test_train_killed_and_started_again_reaches_the_same_weights(trained, grouped_folder, tmp_path):
    flags = ["train", "--data", grouped_folder, "--output", tmp_path / "encoder", *TRAIN_FLAGS]
    process = in_a_process(*flags, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (tmp_path / "encoder/checkpoints/checkpoint-2/trainer_state.json").exists():
        assert time.time() < deadline
        assert process.poll() is None, "it must be killed while it runs"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = in_a_process(*flags, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert again.wait(timeout=120) == 0, again.stderr.read()
    resumed, whole = (AutoModel.from_pretrained(folder).state_dict() for folder in (tmp_path / "encoder", trained))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--data", "no-such-folder"], ["no-such-folder"]),
        (["--split", "validation"], ["validation"]),
        (["--protocols", "zero_shot"], ["knows no texts"]),
        (["--protocols", "text_retrieval", "--caption_column", "words"], ["'words'"]),
        (["--slice_columns", "hue"], ["'hue'"]),
        (["--metric", "f1"], ["f1", "mean_per_class"]),
        (["--knn_neighbours", "99"], ["99"]),
        (["--temperature", "0"], ["temperature=0.0"]),
        (["--captions_per_batch", "40"], ["captions_per_batch=40", "12"]),
        (["--images_per_caption", "9"], ["images_per_caption=9"]),
        (["--size", "huge"], ["huge"]),
        (["--image_size", "20"], ["20"]),
        (["--objective", "clip"], ["text tower"]),
        (["--gradient_accumulation_steps", "2"], ["gradient_accumulation_steps=2"]),
        (["--output_dir", "elsewhere"], ["--output"]),
        (["--lr_scheduler_type", "sawtooth"], ["sawtooth"]),
        (["--eval_strategy", "steps"], ["eval"]),
    ],
)
def test_train_refuses_what_cannot_work(stablerep, grouped_folder, tmp_path, flags, parts):
    assert refused(
        stablerep("train", "--data", grouped_folder, "--output", tmp_path / "encoder", *TRAIN_FLAGS, *flags), *parts
    )
    assert not (tmp_path / "encoder").exists()


def test_an_output_below_a_file_is_one_sentence(stablerep, captions, pipeline, grouped_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert refused(stablerep(*generate_flags(captions, pipeline, tmp_path / "file" / "images")), "cannot be written")
    flags = ["train", "--data", grouped_folder, *TRAIN_FLAGS]
    assert refused(stablerep(*flags, "--output", tmp_path / "file"), "cannot be written")
    assert (tmp_path / "file").read_text() == "in the way"


def test_secrets_are_not_recorded():
    from stablerep_hf.cli.train import _settings, parse

    command, arguments = parse([*TRAIN_FLAGS, "--hub_token", "hf_secret", "--hub_model_id", "me/encoder"])
    assert "hf_secret" not in json.dumps(_settings(command, arguments))


@pytest.mark.parametrize(("task", "first", "place"), [("0", "0", (0, 8)), ("8", "1", (7, 8)), ("1", "1", (0, 8))])
def test_a_slurm_array_may_start_anywhere(monkeypatch, task, first, place):
    from stablerep_hf.cli.generate import _rank_and_world_size

    for name, value in (("ID", task), ("MIN", first), ("COUNT", "8")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert _rank_and_world_size() == place


def test_train_refuses_data_without_images(stablerep, tmp_path):
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"caption": ["a", "b"]}).to_parquet(tmp_path / "data" / "train.parquet")
    assert refused(
        stablerep("train", "--data", tmp_path / "data", "--output", tmp_path / "encoder", *TRAIN_FLAGS), "'image'"
    )


# ---------------------------------------------------------------- evaluate


def test_evaluate_prints_and_saves_scores(stablerep, trained, labelled_folder, tmp_path):
    file = tmp_path / "results.json"
    code, out, err = stablerep(
        "evaluate", trained, "--data", labelled_folder, "--protocols", "knn", "linear_probe", "--output", file
    )
    assert code == 0, err
    results = json.loads(file.read_text())
    assert [(r["protocol"], r["metric"], r["n"], r["split"]) for r in results] == [
        ("knn", "accuracy", 24, "test"),
        ("linear_probe", "accuracy", 24, "test"),
    ]
    assert all(r["low"] <= r["value"] <= r["high"] for r in results)
    copy = shutil.copytree(labelled_folder, tmp_path / "copy")
    stablerep("evaluate", trained, "--data", copy, "--protocols", "knn", "--output", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again[0]["revision"] == results[0]["revision"], "the revision names the content, not the folder"
    assert f"{100 * results[0]['value']:.1f}" in out


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--label-column", "colour"], ["colour"]),
        (["--protocols", "astrology"], ["astrology"]),
        (["--protocols", "retrieval"], ["artist"]),
        (["--split", "validation"], ["validation"]),
        (["--protocols", "zero_shot"], ["knows no texts"]),
        (["--protocols", "text_retrieval", "--caption_column", "words"], ["'words'"]),
        (["--slice_columns", "hue"], ["'hue'"]),
        (["--metric", "f1"], ["f1", "mean_per_class"]),
        (["--knn_neighbours", "99"], ["99"]),
    ],
)
def test_evaluate_refuses_what_cannot_work(stablerep, trained, labelled_folder, flags, parts):
    assert refused(stablerep("evaluate", trained, "--data", labelled_folder, "--protocols", "knn", *flags), *parts)


def test_evaluate_keeps_features_and_reads_them_again(stablerep, trained, labelled_folder, tmp_path):
    flags = ["evaluate", trained, "--data", labelled_folder, "--protocols", "knn", "--output", tmp_path / "r.json"]
    stablerep(*flags)
    first = (tmp_path / "r.json").read_text()
    shards = list((tmp_path / "hf_home" / "stablerep" / "features").glob("*/*.npz"))
    assert len(shards) == 2
    times = {path: path.stat().st_mtime_ns for path in shards}
    stablerep(*flags)
    assert (tmp_path / "r.json").read_text() == first
    assert {path: path.stat().st_mtime_ns for path in shards} == times
    stablerep(*flags, "--cache", tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere").glob("*/*.npz"))) == 2


def test_evaluate_knows_every_protocol_of_images_and_slices(stablerep, trained, labelled_folder, tmp_path):
    file = tmp_path / "results.json"
    protocols = ["knn", "linear_probe_sgd", "linear_probe_sgd_optimistic", "few_shot", "sibling_retrieval"]
    few_shot = ["--few_shot_ways", "3", "--few_shot_shots", "1", "--few_shot_episodes", "10"]
    code, out, err = stablerep(
        "evaluate", trained, "--data", labelled_folder, "--protocols", *protocols, *few_shot, "--sgd_epochs", "2",
        "--knn_neighbours", "3", "--metric", "mean_per_class", "--slice_columns", "label", "--output", file,
    )  # fmt: skip
    assert code == 2, "fifteen queries a class are more than 24 images have"
    assert "few" in err or "classes have" in err
    code, out, err = stablerep(
        "evaluate", trained, "--data", labelled_folder, "--protocols", *(set(protocols) - {"few_shot"}),
        "--sgd_epochs", "2", "--knn_neighbours", "3", "--metric", "mean_per_class", "--slice_columns", "label",
        "--output", file,
    )  # fmt: skip
    assert code == 0, err
    results = json.loads(file.read_text())
    assert {r["protocol"] for r in results} == set(protocols) - {"few_shot"}
    assert {r["variant"] for r in results if r["protocol"] == "knn"} == {
        "", "label = 0", "label = 1", "label = 2", "worst label", "gap over label"
    }  # fmt: skip
    assert "| measure |" in out


def test_evaluate_measures_the_whole_pretraining_model_with_its_texts(
    stablerep, pipeline, grouped_folder, labelled_folder, tmp_path
):
    folder = tmp_path / "plus"
    flags = [*TRAIN_FLAGS, "--max_steps", "1", "--objective", "stablerep+", "--tokenizer", pipeline / "tokenizer"]
    flags += ["--text_width", "16", "--text_layers", "1"]
    code, _, err = stablerep("train", "--data", grouped_folder, "--output", folder, *flags)
    assert code == 0, err
    vectors, files = [], [tmp_path / "whole.json", tmp_path / "encoder.json"]
    for encoder, file in zip((folder / "pretraining", folder), files, strict=True):
        arguments = ["--data", labelled_folder, "--protocols", "knn", "linear_probe", "--output", file]
        code, _, err = stablerep("evaluate", encoder, *arguments)
        assert code == 0, err
        vectors.append([result["value"] for result in json.loads(file.read_text())])
    assert vectors[0] == vectors[1], "the encoder is the whole model's vision tower"
    arguments = ["--data", labelled_folder, "--protocols", "text_retrieval", "--output", files[0]]
    code, _, err = stablerep("evaluate", folder / "pretraining", *arguments)
    assert code == 0, err
    assert {r["variant"] for r in json.loads(files[0].read_text())} == {"image to text", "text to image"}
    assert refused(stablerep("evaluate", folder, *arguments), "knows no texts")


def test_evaluate_needs_an_encoder_that_is_there(stablerep, labelled_folder):
    assert refused(stablerep("evaluate", "--data", labelled_folder), "No encoder was named")
    assert refused(stablerep("evaluate", "no-such-encoder", "--data", labelled_folder), "no-such-encoder")


# ---------------------------------------------------------------- publish


def test_publish_lists_what_it_would_upload_and_no_pickle(stablerep, trained):
    code, out, err = stablerep("publish", trained, "me/encoder", "--dry_run")
    assert code == 0, err
    listing, card = out.split("model me/encoder")
    assert "model.safetensors" in listing
    assert "pretraining/modeling_stablerep.py" in listing
    assert (trained / "checkpoints").exists()
    assert not any(word in listing for word in ("checkpoints", ".bin", ".pt", "optimizer"))
    assert card.strip() == (trained / "README.md").read_text().strip()


def test_publish_knows_data_sets(stablerep, captions, pipeline, tmp_path):
    stablerep(*generate_flags(captions, pipeline, tmp_path / "images"))
    (tmp_path / "images" / "data" / ".train-00000-of-00002.parquet.1.tmp").write_bytes(b"half")
    code, out, _ = stablerep("publish", tmp_path / "images", "me/images", "--dry_run")
    assert code == 0
    assert "dataset me/images" in out
    assert "data/train-00000-of-00002.parquet" in out
    assert ".tmp" not in out


def test_publish_without_the_hub_is_one_sentence(stablerep, trained):
    assert refused(stablerep("publish", trained, "me/encoder"), "me/encoder was not published")


def test_publish_refuses_what_is_not_finished(stablerep, trained_copy, tmp_path):
    assert refused(stablerep("publish", tmp_path, "me/encoder"), "neither a model")
    assert refused(stablerep("publish", trained_copy), "Two names come first")
    (trained_copy / "README.md").unlink()
    assert refused(stablerep("publish", trained_copy, "me/encoder"), "no card")
