"""The commands as a user types them: what they make, and what bad input gets."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import datasets
import pytest
import torch
from card_reading import front_matter
from huggingface_hub import DatasetCard, ModelCard
from tiny_training import TRAIN_FLAGS
from transformers import AutoImageProcessor, AutoModel
from waiting import wait_until

from stablerep_hf import assets
from stablerep_hf.cli import COMMANDS, main
from stablerep_hf.errors import InputError


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


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["captions", "--help"]])
def test_a_reader_that_has_enough_is_no_error(words, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does once it has its lines
    run = subprocess.run(
        [sys.executable, "-m", "stablerep_hf.cli", *words],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert run.stderr == ""
    assert run.returncode in (0, 141)  # argparse writes its help into the void without a word


def test_another_broken_pipe_is_an_error(monkeypatch):
    def fail(arguments):
        raise BrokenPipeError("a worker died")

    monkeypatch.setattr("stablerep_hf.cli._run", fail)
    with pytest.raises(BrokenPipeError, match="a worker died"):
        main(["train"])


def test_an_interruption_promises_no_more_than_what_was_saved(stablerep, monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("stablerep_hf.cli.convert.main", interrupted)  # which saves nothing before its end
    code, _, error = stablerep("convert")
    assert code == 130 and error.endswith("goes on from what was saved until now, if anything was.\n")


def test_help_loads_no_heavy_library_and_names_every_command():
    code = (
        "import sys; from stablerep_hf.cli import main; assert main(['--help']) == 0; "
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("[]")
    assert all(f"\n  {command} " in run.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_is_a_phrase_by_itself(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert not re.findall(r"(?m)(?:^|  )(?:Of|Its|That|Likewise|How many)\b.*", said)
    assert ("cc12m-1x" in said) == (command == "train"), "presets are of training runs"


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
    file.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert refused(stablerep("generate", "--config", file), "config.yaml is no text in UTF-8")
    file.write_text("just words\n")
    assert refused(stablerep("generate", "--config", file), "key: value")
    assert refused(stablerep("train", "--config", "cc12m-9x"), "cc12m-9x", "cc12m-1x")


@pytest.mark.parametrize(
    ("preset", "epochs", "warmup", "downsample", "objective"),
    [
        ("cc12m-1x", 15, 0.5, 0.0, "stablerep"),
        ("cc12m-2x", 31, 1.0, 0.0, "stablerep"),
        ("cc12m-3x", 46, 1.5, 0.0, "stablerep"),
        ("cc12m-1x-downsample", 15, 0.5, 0.05, "stablerep"),
        ("cc12m-3x-downsample", 46, 1.5, 0.05, "stablerep"),
        ("cc12m-1x-text", 15, 0.5, 0.0, "stablerep+"),
        ("redcaps-1x", 13, 0.45, 0.0, "stablerep"),
        ("redcaps-2x", 27, 0.9, 0.0, "stablerep"),
        ("redcaps-3x", 40, 1.35, 0.0, "stablerep"),
        ("redcaps-1x-downsample", 13, 0.45, 0.05, "stablerep"),
        ("redcaps-3x-downsample", 40, 1.35, 0.05, "stablerep"),
        ("redcaps-1x-text", 13, 0.45, 0.0, "stablerep+"),
    ],
)
def test_the_presets_of_the_release_say_what_the_release_did(preset, epochs, warmup, downsample, objective):
    from stablerep_hf.cli.train import parse

    run = parse(["--config", preset, "--fp16", "false"])[1]
    command, arguments = run.settings, run.arguments
    assert (command.size, command.image_size, command.patch_size) == ("base", 224, 16)
    assert arguments.captions_per_batch * arguments.images_per_caption == 8256
    assert arguments.learning_rate == pytest.approx(3.225e-3)
    assert (arguments.num_train_epochs, arguments.warmup_epochs) == (epochs, warmup)
    assert arguments.get_warmup_steps(epochs * 1000) == pytest.approx(warmup * 1000, abs=1)
    assert (arguments.downsample_probability, arguments.objective) == (downsample, objective)
    assert (command.tokenizer is None) == (objective == "stablerep")


@pytest.mark.parametrize(("preset", "trained"), [("pictograms-text", True), ("pictograms-clip", False)])
def test_the_small_presets_with_text_train(tmp_path, stablerep, grouped_folder, preset, trained):
    flags = ["--data", grouped_folder, "--output", tmp_path / "out", "--config", preset, "--use_cpu"]
    flags += ["--captions_per_batch", 4, "--max_steps", 2, "--logging_steps", 1]
    assert stablerep("train", *flags)[0] == 0
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert ("image_loss" in record["log"][0], "image_text_loss" in record["log"][0]) == (trained, True)
    config = json.loads((tmp_path / "out" / "pretraining" / "config.json").read_text())
    assert (config["text_config"]["hidden_size"], config["image_text_dim"]) == (128, 128)
    flags[3] = tmp_path / "other"
    assert refused(stablerep("train", *flags, "--text_hidden_size", 100), "--text-hidden-size 100")


def test_every_preset_parses():
    from stablerep_hf.cli.train import parse
    from stablerep_hf.training.presets import presets

    for preset in presets():
        arguments = parse(["--config", preset, "--fp16", "false"])[1].arguments
        assert arguments.captions_per_batch * arguments.images_per_caption * arguments.crops_per_image in (256, 8256)


def test_a_configuration_file_can_extend_a_preset(tmp_path):
    from stablerep_hf.cli.train import parse
    from stablerep_hf.training.presets import read_config

    file = tmp_path / "mine.yaml"
    file.write_text("extends: cc12m-2x\nwarmup_epochs: null\nwarmup_steps: 7\nfp16: false\n")
    arguments = parse(["--config", str(file)])[1].arguments
    assert (arguments.num_train_epochs, arguments.warmup_steps, arguments.warmup_epochs) == (31, 7, None)
    file.write_text("extends: cc99m\n")
    with pytest.raises(InputError, match=r"extends 'cc99m'.*cc12m-1x"):
        read_config(str(file))


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
    assert "%|" not in err, "a library's bar where there is no terminal"
    dataset = datasets.load_dataset(str(output), split="train")
    assert dataset["caption"][:] == [c for c in ("a red ball", "a blue house", "a green tree") for _ in range(2)]
    assert dataset.features["image"] == datasets.Image()
    assert set(dataset["guidance_scale"][:]) == {2.0}, "the release's guidance is the default"
    card = DatasetCard.load(output / "README.md")
    assert card.data.configs[0]["data_files"][0]["path"] == "data/train-*.parquet"
    assert (output / "grid.png").exists()


def test_generate_looks_no_name_up(stablerep, captions, pipeline, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *names, **more: asked.append(names) or [])
    monkeypatch.setattr("socket.socket.connect", lambda self, address: asked.append(address))
    assert stablerep(*generate_flags(captions, pipeline, tmp_path / "images"))[0] == 0
    assert not asked
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"  # what onnxruntime sends, it sends by sockets of its own


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
    assert stablerep(*flags, "--prompt-templates", "{caption} at night", "{caption} by day")[0] == 0
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
        (["--images-per-caption", "0"], ["--images-per-caption 0"]),
        (["--prompt-templates", "a photo"], ["{caption}"]),
        (["--scheduler", "NoScheduler"], ["NoScheduler"]),
        (["--height", "13"], ["13"]),
        (["--device", "abacus"], ["abacus"]),
        (["--num-captions", "-3"], ["--num-captions -3 is out of range"]),
        (["--guidance-scale", "-1"], ["--guidance-scale -1"]),
        (["--output", "/proc/images"], ["--output /proc/images cannot be written"]),
        (["--num-captions", "4"], ["4 asks for more", "3 different captions"]),
        (["--license", "other"], ["--license other names none"]),
    ],
)
def test_generate_refuses_what_cannot_work(stablerep, captions, pipeline, tmp_path, flags, parts):
    assert refused(stablerep(*generate_flags(captions, pipeline, tmp_path / "images"), *flags), *parts)
    assert not (tmp_path / "images").exists(), "nothing was drawn"


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
    features = model.eval()(pixel_values).pooler_output
    torch.testing.assert_close(features, stock.eval()(pixel_values).last_hidden_state[:, 0])


def test_train_again_is_done_and_other_settings_are_refused(stablerep, trained, grouped_folder):
    flags = ["train", "--data", grouped_folder, "--output", trained, *TRAIN_FLAGS]
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert stablerep(*flags)[0] == 0
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    assert refused(stablerep(*flags, "--learning_rate", "0.5"), "--learning-rate")
    assert stablerep(*flags, "--logging_steps", "3")[0] == 0, "how often a run reports changes nothing it learns"


def test_a_finished_run_whose_weights_were_deleted_writes_them_again(stablerep, trained, grouped_folder):
    flags = ["train", "--data", grouped_folder, "--output", trained, *TRAIN_FLAGS]
    weights = (trained / "model.safetensors").read_bytes()
    (trained / "model.safetensors").unlink()
    code, _, err = stablerep(*flags)
    assert code == 0, err
    assert (trained / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_train_killed_and_started_again_reaches_the_same_weights(trained, grouped_folder, tmp_path):
    flags = ["train", "--data", grouped_folder, "--output", tmp_path / "encoder", *TRAIN_FLAGS]
    process = in_a_process(*flags, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "encoder/checkpoints/checkpoint-2/trainer_state.json").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = in_a_process(*flags, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert again.wait(timeout=120) == 0, again.stderr.read()
    resumed, whole = (AutoModel.from_pretrained(folder).state_dict() for folder in (tmp_path / "encoder", trained))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


PROBED = ["--probe_data", "LABELLED", "--eval_strategy", "steps"]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--data", "no-such-folder"], ["no-such-folder"]),
        (["--split", "validation"], ["validation"]),
        (["--temperature", "0"], ["--temperature 0.0"]),
        (["--captions_per_batch", "40"], ["--captions-per-batch 40", "12"]),
        (["--images_per_caption", "9"], ["--images-per-caption 9"]),
        (["--size", "huge"], ["huge"]),
        (["--image_size", "20"], ["20"]),
        (["--objective", "clip"], ["text tower", "`--tokenizer`"]),
        (["--load_best_model_at_end"], ["but found - Evaluation strategy: ", "- Save strategy: "]),
        (["--gradient_accumulation_steps", "2"], ["--gradient-accumulation-steps 2"]),
        (["--output_dir", "elsewhere"], ["--output"]),
        (["--config", "elsewhere.yaml"], ["--output"]),
        (["--patch_size", "0"], ["--patch-size 0"]),
        (["--objective", "clip", "--tokenizer", "embedded", "--text_max_tokens", "2"], ["--text-max-tokens 2"]),
        (["--objective", "clip", "--tokenizer", "embedded", "--text_num_layers", "0"], ["--text-num-layers 0"]),
        ([*PROBED, "--probe_label_column", "labl"], ["no 'labl'", "--probe-label-column"]),
        ([*PROBED, "--probe_train_split", "train[:4]"], ["--probe-train-split"]),
        (["--lr_scheduler_type", "sawtooth"], ["sawtooth"]),
        (["--eval_strategy", "steps"], ["eval"]),
        (["--deepspeed", "settings.json"], ["deepspeed"]),
        (["--output", "/proc/encoder"], ["--output /proc/encoder cannot be written"]),
    ],
)
def test_train_refuses_what_cannot_work(
    stablerep, grouped_folder, labelled_folder, tmp_path, monkeypatch, flags, parts
):
    (tmp_path / "elsewhere.yaml").write_text("output_dir: elsewhere\n")
    monkeypatch.chdir(tmp_path)
    flags = [labelled_folder if flag == "LABELLED" else flag for flag in flags]
    assert refused(
        stablerep("train", "--data", grouped_folder, "--output", tmp_path / "encoder", *TRAIN_FLAGS, *flags), *parts
    )
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("content", ["{torn", "{}", "[1]"])
def test_a_folder_whose_record_cannot_be_read_is_left_alone(stablerep, grouped_folder, tmp_path, content):
    (tmp_path / "training.json").write_text(content)
    refused(stablerep("train", "--data", grouped_folder, "--output", tmp_path, *TRAIN_FLAGS), "is not the record")
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]


def test_an_output_below_a_file_is_one_sentence(stablerep, captions, pipeline, grouped_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert refused(stablerep(*generate_flags(captions, pipeline, tmp_path / "file" / "images")), "cannot be written")
    flags = ["train", "--data", grouped_folder, *TRAIN_FLAGS]
    assert refused(stablerep(*flags, "--output", tmp_path / "file"), "cannot be written")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_mapping_in_a_configuration_file_is_one(tmp_path):
    from stablerep_hf.cli.train import parse

    file = tmp_path / "run.yaml"
    file.write_text("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 0.25}\n")
    assert parse([*TRAIN_FLAGS, "--config", str(file)])[1].arguments.lr_scheduler_kwargs == {"min_lr": 0.25}


def test_secrets_are_not_recorded():
    from stablerep_hf.cli.train import parse

    _, run = parse([*TRAIN_FLAGS, "--hub_token", "hf_secret", "--hub_model_id", "me/encoder"])
    assert "hf_secret" not in json.dumps(run.asked) and run.arguments.hub_token == "hf_secret"


@pytest.mark.parametrize(("task", "first", "place"), [("0", "0", (0, 8)), ("8", "1", (7, 8)), ("1", "1", (0, 8))])
def test_a_slurm_array_may_start_anywhere(monkeypatch, task, first, place):
    from stablerep_hf.synthesis.workers import rank_and_world_size

    for name, value in (("ID", task), ("MIN", first), ("COUNT", "8")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert rank_and_world_size() == place


@pytest.mark.parametrize(
    ("found", "place"),
    [
        ({}, (0, 1)),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (0, 1)),  # a batch script that asked for tasks, without srun
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, (3, 8)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1", "ARRAY": "2"}, (9, 16)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1", "RANK": "5", "WORLD_SIZE": "6"}, (5, 6)),  # torchrun below
    ],
)
def test_a_worker_finds_its_place_below_srun(monkeypatch, found, place):
    from stablerep_hf.synthesis.workers import rank_and_world_size

    if array := found.pop("ARRAY", None):
        for name, value in (("ID", array), ("MIN", "0"), ("COUNT", "4")):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert rank_and_world_size() == place


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x', which is not a whole number"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": ""}, "SLURM_PROCID='', which is not a whole number"),
        (
            {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"},
            "Task 7 of a Slurm array of 2 that begins at 3 .*--array=0-1",
        ),
    ],
)
def test_places_that_cannot_be_told(monkeypatch, found, said):
    from stablerep_hf.synthesis.workers import rank_and_world_size

    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        rank_and_world_size()


def test_each_worker_takes_its_own_gpu_unless_one_is_named(monkeypatch):
    from stablerep_hf.synthesis.workers import find_device

    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    names = [None, "cuda", "cuda:2", "cpu"]
    assert [find_device(name) for name in names] == ["cuda:1", "cuda:1", "cuda:2", "cpu"]
    monkeypatch.delenv("LOCAL_RANK")
    assert [find_device(name) for name in names] == ["cuda", "cuda", "cuda:2", "cpu"]
    with pytest.raises(InputError, match="device=cuda:4 was asked for, but there are 4 CUDA GPUs"):
        find_device("cuda:4")


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
    assert [result["encoder"] for result in results] == ["encoder"] * 3 + ["8 x 8 pixels"] * 3
    assert results[0]["settings"].keys() - results[3]["settings"].keys() == {"minus", "weights_sha256"}
    del results[3:]
    assert "| measure | encoder | 8 x 8 pixels | *chance* |" in out
    assert "| difference | encoder - 8 x 8 pixels |" in out
    assert [(r["protocol"], r["metric"], r["n"], r["split"]) for r in results] == [
        ("knn", "accuracy", 24, "test"),  # k = 10
        ("knn", "accuracy", 24, "test"),  # k = 20; the bank of 24 has no 100 neighbours
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
        (["--protocols", "zero_shot"], ["has no text tower"]),
        (["--protocols", "text_retrieval", "--caption_column", "words"], ["'words'"]),
        (["--slice_columns", "hue"], ["'hue'"]),
        (["--metric", "f1"], ["f1", "mean_per_class"]),
        (["--knn_neighbours", "99"], ["99"]),
        (["--knn_neighbours", "5", "-3"], ["--knn-neighbours -3"]),
        (["--train_split", "test"], ["are test, test", "name another split"]),
        (["--validation_split", "test"], ["train, test, test"]),
        (["--probe_c_values", "1"], ["--probe-c-values 1"]),
        (["--protocols", "knn", "knn"], ["'knn' was asked for twice"]),
        (["--few_shot_episodes", "1"], ["few-shot-episodes 1", "at least 2"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--templates", "a {} of {style}"], ["other brace"]),
        (["--templates", "a {} }"], ["other brace"]),
    ],
)
def test_evaluate_refuses_what_cannot_work(stablerep, trained, labelled_folder, flags, parts):
    assert refused(stablerep("evaluate", trained, "--data", labelled_folder, "--protocols", "knn", *flags), *parts)


def test_evaluate_finds_out_first_where_it_cannot_write(stablerep, trained, labelled_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    flags = ["evaluate", trained, "--data", labelled_folder, "--protocols", "knn"]
    for own, part in (
        (["--output", tmp_path], "is a folder"),
        (["--output", tmp_path / "file" / "r.json"], "takes no file"),
        (["--output", "/proc/x/r.json"], "/proc takes no file"),
        (["--cache", tmp_path / "file"], "takes no file"),
        (["--cache", "/proc/x"], "/proc takes no file"),
    ):
        assert refused(stablerep(*flags, *own), own[0], part)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "no feature was made"


def test_evaluate_keeps_features_and_reads_them_again(stablerep, trained, labelled_folder, tmp_path):
    flags = ["evaluate", trained, "--data", labelled_folder, "--protocols", "knn", "--output", tmp_path / "r.json"]
    stablerep(*flags)
    first = (tmp_path / "r.json").read_text()
    shards = list((tmp_path / "hf_home" / "stablerep" / "features").glob("*/*.npz"))
    assert len(shards) == 4, "two splits, of the encoder and of bare pixels"
    times = {path: path.stat().st_mtime_ns for path in shards}
    stablerep(*flags)
    assert (tmp_path / "r.json").read_text() == first
    assert {path: path.stat().st_mtime_ns for path in shards} == times
    stablerep(*flags, "--cache", tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere").glob("*/*.npz"))) == 4


def test_evaluate_knows_every_protocol_of_images_and_slices(stablerep, trained, labelled_folder, tmp_path, caplog):
    file = tmp_path / "results.json"
    protocols = ["knn", "linear_probe_sgd", "linear_probe_sgd_optimistic", "few_shot", "sibling_retrieval"]
    few_shot = ["--few_shot_ways", "3", "--few_shot_shots", "1", "--few_shot_episodes", "10"]
    code, out, err = stablerep(
        "evaluate", trained, "--data", labelled_folder, "--protocols", *protocols, *few_shot, "--sgd_epochs", "2",
        "--knn_neighbours", "3", "--metric", "mean_per_class", "--slice_columns", "label", "--output", file,
    )  # fmt: skip
    assert code == 0, err
    assert "few_shot of encoder is left out: 0 of 3 classes have the 16 images that 1 shots" in caplog.text
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
    flags += ["--text_hidden_size", "64", "--text_num_layers", "1"]
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
    assert refused(stablerep("evaluate", folder, *arguments), "has no text tower")


def test_evaluate_needs_an_encoder_that_is_there(stablerep, labelled_folder):
    assert refused(stablerep("evaluate", "--data", labelled_folder), "required: ENCODER")
    assert refused(stablerep("evaluate", "no-such-encoder", "--data", labelled_folder), "no-such-encoder")


# ---------------------------------------------------------------- publish


def test_publish_lists_what_it_would_upload_and_no_pickle(stablerep, trained):
    code, out, err = stablerep("publish", trained, "me/encoder", "--dry_run")
    assert code == 0, err
    listing, rest = out.split("model me/encoder")
    assert {line.split()[-1] for line in listing.splitlines()[:-1]} == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
        "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json",
    }  # fmt: skip
    left_out, card = rest.strip().split("\n\n", 1)
    assert "left out: checkpoints/checkpoint-2/" in left_out
    assert card.strip() == (trained / "README.md").read_text().strip().replace("path/to/this/folder", "me/encoder")
    assert 'from_pretrained("me/encoder")' in card


def test_publish_shows_what_evaluate_measured(stablerep, trained_copy, labelled_folder, tmp_path):
    results = tmp_path / "results.json"
    measure = ["--data", labelled_folder, "--protocols", "knn", "--knn_neighbours", "5", "--no_pixels"]
    for folder in (trained_copy, trained_copy / "pretraining"):
        assert stablerep("evaluate", folder, *measure, "--output", results)[0] == 0
        (value,) = [result["value"] for result in json.loads(results.read_text())]
        code, out, err = stablerep("publish", folder, "me/it", "--dry-run", "--results", results)
        assert code == 0, err
        card = out[out.index("---\n") :]
        (entry,) = front_matter(card)["model-index"][0]["results"]
        assert entry["metrics"][0]["value"] == round(value, 4)
        assert f"{100 * value:.1f} [" in card.partition("## Results")[2]
    assert "## Results" not in (trained_copy / "README.md").read_text()
    assert refused(stablerep("publish", trained_copy, "me/it", "--results", results), "'pretraining'", "its weights")
    assert refused(stablerep("publish", trained_copy, "me/it", "--results", tmp_path / "none.json"), "no results file")
    data = assets.pictograms_path()
    assert refused(stablerep("publish", data, "me/it", "--results", results), "leave out `--results`")


def test_publish_takes_the_full_model_as_a_repository_of_its_own(stablerep, trained):
    code, out, err = stablerep("publish", trained / "pretraining", "me/full", "--dry_run")
    assert code == 0, err
    for name in ("modeling_stablerep.py", "configuration_stablerep.py", "preprocessor_config.json"):
        assert name in out
    assert 'from_pretrained("me/full", trust_remote_code=True)' in out


def test_publish_uploads(stablerep, trained, hub_here):
    code, out, err = stablerep("publish", trained, "alice/encoder", "--private", "--tag", "v1")
    assert code == 0, err
    commit, published = out.strip().splitlines()[-2:]
    assert commit.endswith(f"/alice/encoder/commit/{hub_here.repository('alice/encoder').tags['v1']}")
    assert published.startswith("Published: http") and published.endswith("/alice/encoder")
    assert hub_here.repository("alice/encoder").private
    assert refused(stablerep("publish", trained, "alice/encoder", "--variables", "A=b"), "has no variables")
    assert refused(stablerep("publish", trained, "alice/encoder", "--variables", "A"), "NAME=VALUE")


@pytest.mark.parametrize(
    ("repository", "token", "parts"),
    [("bob/encoder", "hf_alice", ["may not write there"]), ("alice/encoder", "hf_wrong", ["does not know the token"])],
)
def test_train_does_not_begin_when_it_cannot_push(
    stablerep, grouped_folder, hub_here, tmp_path, monkeypatch, repository, token, parts
):
    monkeypatch.setenv("HF_TOKEN", token)
    flags = [*TRAIN_FLAGS, "--push_to_hub", "--hub_model_id", repository]
    assert refused(stablerep("train", "--data", grouped_folder, "--output", tmp_path / "out", *flags), *parts)
    assert not (tmp_path / "out" / "training.json").exists()


def test_train_pushes_and_goes_on_from_the_hub(stablerep, grouped_folder, hub_here, tmp_path):
    flags = [*TRAIN_FLAGS, "--push_to_hub", "--hub_model_id", "alice/encoder", "--hub_strategy", "checkpoint"]
    code, _, err = stablerep(
        "train", "--data", grouped_folder, "--output", tmp_path / "here", *flags, "--hub_always_push"
    )
    assert code == 0, err
    files = hub_here.files("alice/encoder")
    assert "last-checkpoint/optimizer.pt" in files
    assert b"license: unknown" in files["README.md"]
    code, _, err = stablerep("train", "--data", grouped_folder, "--output", tmp_path / "there", *flags)
    assert code == 0, err
    assert (tmp_path / "there" / "checkpoints" / "checkpoint-6" / "trainer_state.json").exists()
    record = json.loads((tmp_path / "there" / "training.json").read_text())
    assert (record["finished"], record["seconds"]) == (True, None), "the first steps were made elsewhere"


def test_publish_knows_data_sets(stablerep, captions, pipeline, tmp_path):
    stablerep(*generate_flags(captions, pipeline, tmp_path / "images"))
    (tmp_path / "images" / "data" / ".train-00000-of-00002.parquet.1.tmp").write_bytes(b"half")
    code, out, _ = stablerep("publish", tmp_path / "images", "me/images", "--dry_run")
    assert code == 0
    listing, rest = out.split("dataset me/images")
    assert "data/train-00000-of-00002.parquet" in listing
    assert ".tmp" not in listing
    assert "1  left out: data/.train-00000-of-00002.parquet.1.tmp" in rest


@pytest.mark.parametrize(("token", "says"), [("hf_alice", "HF_HUB_OFFLINE is set"), (None, "needs a token")])
def test_publish_without_the_hub_is_one_sentence(stablerep, trained, monkeypatch, tmp_path, token, says):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    assert refused(stablerep("publish", trained, "me/encoder"), "Publishing me/encoder needs", says)


def test_publish_refuses_what_is_not_finished(stablerep, trained_copy, tmp_path):
    (tmp_path / "empty").mkdir()
    assert refused(stablerep("publish", tmp_path / "empty", "me/encoder"), "holds none of")
    assert refused(stablerep("publish", tmp_path / "missing", "me/encoder"), "There is no folder")
    assert refused(stablerep("publish", trained_copy), "required: OWNER/NAME")
    (trained_copy / "README.md").unlink()
    assert refused(stablerep("publish", trained_copy, "me/encoder"), "no card")


@pytest.mark.parametrize("command", ["train", "finetune", "evaluate", "index"])
def test_a_name_that_no_file_can_have_is_one_sentence(stablerep, tmp_path, command):
    name = tmp_path / ("x" * 300)
    words = {
        "train": ("--data", name, "--output", tmp_path / "out"),
        "finetune": ("embedded", "--data", name, "--output", tmp_path / "out"),
        "evaluate": ("embedded", "--data", name),
        "index": (name, "embedded", "--output", tmp_path / "out"),
    }
    assert refused(stablerep(command, *words[command]), "xxx")


def test_what_may_not_be_read_is_one_sentence(stablerep, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "secret"))

    monkeypatch.setattr("stablerep_hf.runs.generation.plan_generation", refuse)
    assert refused(stablerep("generate", "--output", tmp_path / "out"), "secret", "Permission denied")
