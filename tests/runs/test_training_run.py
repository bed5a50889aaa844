"""Training runs from Python: what the command does, what they refuse, and what they choose."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from training_data import make_dataset

from stablerep_hf import cli
from stablerep_hf.errors import InputError
from stablerep_hf.files.locks import lock_folder
from stablerep_hf.runs.fine_tuning import FineTuningRun, FineTuningSettings
from stablerep_hf.runs.training import TrainingRun, TrainingSettings
from stablerep_hf.training import FineTuningArguments, ModelSettings, StableRepTrainingArguments
from stablerep_hf.training.checkpoints import latest_checkpoint

MODEL = {"size": "micro", "image_size": 16, "patch_size": 8, "projection_hidden_dim": 16, "projection_dim": 8}
TRAINING = {"max_steps": 2, "save_steps": 1, "use_cpu": True, "disable_tqdm": True}


def make_run(output, data, model=(), **arguments):
    settings = TrainingSettings(data=str(data), **(MODEL | dict(model)))
    return TrainingRun(output, settings, StableRepTrainingArguments(**(TRAINING | arguments)))


def flags(settings):
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_python_makes_what_the_command_makes(grouped_folder, tmp_path, capsys):
    words = flags(MODEL | {"max_steps": 2, "save_steps": 1})
    argv = ["train", "--data", str(grouped_folder), "--output", str(tmp_path / "a"), *words, "--use_cpu"]
    assert cli.main(argv) == 0
    record = make_run(tmp_path / "b", grouped_folder).run()
    ours, theirs = files(tmp_path / "b"), files(tmp_path / "a")
    assert ours == theirs and len(ours) == 4  # the encoder, the whole model, two checkpoints
    assert record["finished"] and record["steps"] == 2
    told = json.loads((tmp_path / "a" / "training.json").read_text())
    same = ("settings", "contents", "chosen", "steps", "views_seen", "parameters", "data", "bad_images")
    assert {name: told[name] for name in same} == {name: record[name] for name in same}


def test_fine_tuning_in_python_makes_what_the_command_makes(grouped_folder, tmp_path, capsys):
    encoder = tmp_path / "encoder"
    make_run(encoder, grouped_folder, max_steps=1).run()
    data = tmp_path / "labelled"
    labelled = make_dataset([4] * 12)
    labelled = labelled.add_column("label", [int(name.rpartition(" ")[2]) % 3 for name in labelled["caption"]])
    for split, rows in (("train", range(0, 48, 2)), ("test", range(1, 48, 2))):
        labelled.select(rows).to_parquet(data / f"{split}.parquet")
    words = ["finetune", encoder, "--data", data, "--output", tmp_path / "a", *flags({"max_steps": 2}), "--use_cpu"]
    assert cli.main(list(map(str, words))) == 0
    run = FineTuningRun(
        str(encoder), tmp_path / "b", FineTuningSettings(data=str(data)), FineTuningArguments(**TRAINING)
    )
    assert run.results == []
    record = run.run()
    assert record["chosen"]["images_per_batch"] == 24 and record["chosen"]["learning_rate"] == 5e-4
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("b", "a"))
    assert ours == theirs
    (result,) = run.results
    assert result.n == 24 and f"{100 * result.value:.1f}" in capsys.readouterr().out


def test_the_batch_follows_from_the_data_unless_it_is_given(grouped_folder, tmp_path, capsys):
    run = make_run(tmp_path / "a", grouped_folder)
    run.prepare()
    args = run.trainer.args
    assert (args.captions_per_batch, args.images_per_caption) == (12, 4)
    assert args.learning_rate == pytest.approx(2e-4 * 48 / 512)
    assert "chosen for the data: captions_per_batch=12, images_per_caption=4\n" in capsys.readouterr().err
    given = make_run(tmp_path / "b", grouped_folder, captions_per_batch=5, images_per_caption=2)
    given.prepare()
    assert (given.trainer.args.captions_per_batch, given.trainer.args.images_per_caption) == (5, 2)
    assert "chosen" not in capsys.readouterr().err
    assert not (tmp_path / "a").exists(), "nothing was written"


def test_a_model_of_the_papers_size_is_said_to_be_slow_on_a_cpu(grouped_folder, tmp_path, capsys):
    make_run(tmp_path / "a", grouped_folder).prepare()
    assert "slow" not in capsys.readouterr().err
    run = make_run(tmp_path / "b", grouped_folder)
    run.settings = replace(run.settings, image_size=None, size="tiny")
    run.prepare()
    assert "size=tiny at 224 pixels is slow without a GPU; size=micro" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sizes", "objective", "chosen"),
    [
        ([10] * 9, "stablerep", (9, 6)),
        ([1, 1, 1, 5], "stablerep", (4, 2)),
        ([1, 3, 4, 4], "stablerep", (4, 4)),
        ([2] * 300, "simclr", (128, 1)),
    ],
)
def test_what_is_chosen_for_ragged_and_large_data(tmp_path, sizes, objective, chosen):
    from test_stablerep_trainer import make_model

    from stablerep_hf.training import StableRepTrainer

    crops = 2 if objective == "simclr" else 1
    arguments = StableRepTrainingArguments(str(tmp_path), objective=objective, crops_per_image=crops, use_cpu=True)
    args = StableRepTrainer(make_model(), arguments, make_dataset(sizes)).args
    assert (args.captions_per_batch, args.images_per_caption) == chosen


def test_data_sets_are_joined_and_named_in_record_and_card(grouped_folder, tmp_path, capsys):
    photos = make_dataset([2] * 10).remove_columns("caption_id")
    photos.to_parquet(tmp_path / "photos" / "train.parquet")
    words = [*flags(MODEL | {"max_steps": 1}), "--source-weights", "1", "1", "--use_cpu"]
    sources = [str(grouped_folder), str(tmp_path / "photos")]
    argv = ["train", "--data", *sources, "--output", str(tmp_path / "run"), *words]
    assert cli.main(argv) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    first = grouped_folder.resolve().name
    data = record["data"]
    assert (data["name"], data["num_captions"], data["num_images"]) == (f"{first} + photos", 12, 68)
    assert [(part["name"], part["num_captions"], part["num_images"]) for part in data["sources"]] == [
        (first, 12, 48),
        ("photos", 10, 20),
    ]
    assert record["contents"]["data"].count("content ") == 2
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"- `{first}`: 48 images of 12 captions" in card and "- `photos`: 20 images of 10 captions" in card
    photos.select(range(18)).to_parquet(tmp_path / "photos" / "train.parquet")
    assert cli.main(argv) == 2
    assert "has changed since it began" in capsys.readouterr().err
    assert cli.main(["train", "--data", sources[0], "--output", str(tmp_path / "other"), *words]) == 2
    assert "weighs 2 sources, and the data has 1" in capsys.readouterr().err


@pytest.mark.parametrize("finished", [False, True])
def test_data_that_has_changed_is_refused(grouped_folder, tmp_path, monkeypatch, finished):
    data = shutil.copytree(grouped_folder, tmp_path / "data")
    run = make_run(tmp_path / "run", data)
    if finished:
        run.run()
    else:
        monkeypatch.setattr(TrainingRun, "finish", lambda run: exit("killed"))
        with pytest.raises(SystemExit):
            run.run()
        monkeypatch.undo()
    before = files(tmp_path / "run")
    make_dataset([4] * 13).to_parquet(data / "train.parquet")
    with pytest.raises(InputError, match=rf"whose data={data} has changed since it began \(content .* then, content"):
        make_run(tmp_path / "run", data)
    assert files(tmp_path / "run") == before
    shutil.copy(grouped_folder / "train.parquet", data)
    assert make_run(tmp_path / "run", data).run()["finished"], "what was there is back"


def test_other_sources_of_a_run_are_known_by_their_content_too(grouped_folder, tmp_path):
    make_run(tmp_path / "start", grouped_folder, max_steps=1).run()
    init = {"init_from": str(tmp_path / "start")}
    make_run(tmp_path / "run", grouped_folder, init).run()
    shutil.rmtree(tmp_path / "start")
    make_run(tmp_path / "start", grouped_folder, max_steps=1, seed=1).run()
    with pytest.raises(InputError, match=r"whose init_from=.* has changed"):
        make_run(tmp_path / "run", grouped_folder, init)


def test_two_runs_on_one_folder_do_not_meet(grouped_folder, tmp_path):
    run = make_run(tmp_path / "run", grouped_folder)
    with lock_folder(tmp_path / "run"), pytest.raises(InputError, match="Another process is writing to"):
        run.run()
    assert run.run()["finished"]


def test_a_folder_of_somebody_else_with_checkpoints_in_it_is_left_alone(grouped_folder, tmp_path):
    theirs = tmp_path / "checkpoints" / "checkpoint-1"
    theirs.mkdir(parents=True)
    (theirs / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'checkpoints' and no 'training\.json'"):
        make_run(tmp_path, grouped_folder, save_total_limit=1)
    assert (theirs / "thesis.txt").read_text() == "mine"


def test_a_run_that_does_not_fit_on_the_disk_is_refused_before_it_begins(
    grouped_folder, tmp_path, monkeypatch, capsys
):
    run = make_run(tmp_path / "run", grouped_folder, max_steps=20)
    run.prepare()
    weights = sum(value.numel() * value.element_size() for value in run.trainer.model.state_dict().values())
    trained = sum(parameter.numel() * 4 for parameter in run.trainer.model.parameters())
    assert (run.room.checkpoint, run.room.checkpoints) == (weights + 2 * trained, 20)
    limited = make_run(tmp_path / "run", grouped_folder, max_steps=20, save_total_limit=2, ema_decay=0.9)
    limited.prepare()
    assert (limited.room.checkpoint, limited.room.checkpoints) == (weights + 3 * trained, 3)

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(run.room.wanted - 1)))
    with pytest.raises(InputError, match=r"writes about .* GB to .*run \(20 checkpoints of .*`save_total_limit`"):
        make_run(tmp_path / "run", grouped_folder, max_steps=20).run()
    assert not (tmp_path / "run").exists()
    limited.prepare()


def test_the_estimate_is_what_a_run_writes(grouped_folder, tmp_path):
    run = make_run(tmp_path / "run", grouped_folder, {"projection_hidden_dim": 512}, max_steps=3)
    run.run()
    written = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert run.room.wanted == pytest.approx(written, rel=0.1)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(grouped_folder, tmp_path, capsys):
    argv = ["train", "--data", str(grouped_folder), "--output", str(tmp_path / "run"), "--dry_run", "--use_cpu"]
    assert cli.main([*argv, *flags(MODEL), "--num_train_epochs", "4"]) == 0
    said = capsys.readouterr().out
    assert "48 images in 12 groups" in said and "4 steps of 48 images, 192 in all" in said and "free" in said
    assert re.search(r"memory +[\d.]+ MB at the peak \(.* weights, .* optimizer, .* step\)\n", said)
    assert re.search(r"with --gradient_checkpointing true, [\d.]+ MB at the peak \(.* step\)\n?$", said)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_for_a_gpu_says_what_fits_it(grouped_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stablerep_hf.training.memory.device_memory", lambda _: 500_000_000)
    argv = ["train", "--data", str(grouped_folder), "--output", str(tmp_path / "run"), "--dry_run", "--use_cpu"]
    assert cli.main([*argv, "--size", "micro", "--image_size", "64", "--patch_size", "4"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"memory .*: more than 0.5 GB\n", said)
    assert re.search(r"with --gradient_checkpointing true, .*: fits 0.5 GB", said)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_afterwards(grouped_folder, tmp_path, monkeypatch):
    import safetensors.torch

    calls, save = [], safetensors.torch.save_file

    def save_file(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        return save(*args, **kwargs)

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", save_file)
    with pytest.raises(
        InputError, match=r"There is no room left for 'run' .*free some and run the same command again"
    ):
        make_run(tmp_path / "run", grouped_folder).run()
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") == str(
        tmp_path / "run" / "checkpoints" / "checkpoint-1"
    )
    record = make_run(tmp_path / "run", grouped_folder).run()
    assert record["finished"] and record["seconds"] is None
    make_run(tmp_path / "whole", grouped_folder).run()
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_preset_with_changes_and_a_setting_that_does_not_exist(tmp_path):
    run = TrainingRun.from_preset("pictograms", tmp_path / "run", max_steps=7, use_cpu=True)
    assert (run.settings.size, run.arguments.max_steps, run.arguments.images_per_caption) == ("micro", 7, 4)
    with pytest.raises(InputError, match="`max_step` is not a setting"):
        TrainingRun.from_preset("pictograms", tmp_path / "run", max_step=7)
    for make in (TrainingRun, StableRepTrainingArguments):
        with pytest.raises(InputError, match="`epochs` is not a setting of a training run: did you mean `num_train_"):
            make.from_preset("pictograms", epochs=3)
    with pytest.raises(InputError, match="`sise` is not a setting of a model: did you mean `size`"):
        ModelSettings.from_preset("pictograms", sise="small")
    arguments = StableRepTrainingArguments.from_preset("cc12m-1x", bf16=True, use_cpu=True)
    assert arguments.bf16 and not arguments.fp16 and arguments.learning_rate == pytest.approx(3.225e-3)
