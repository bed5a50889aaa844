"""Checkpoints: which one training goes on from, and what is never deleted or exported."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_stablerep_trainer import StopAfter, largest_difference, make_arguments, make_model, weights
from transformers import TrainerCallback

from stablerep_hf.errors import InputError
from stablerep_hf.training import StableRepTrainer
from stablerep_hf.training.checkpoints import MANIFEST, damage, latest_checkpoint

SAVING = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def saved(dataset, tmp_path_factory):
    """Checkpoints of steps 1, 2 and 3, and the weights at the end."""
    folder = tmp_path_factory.mktemp("saved")
    trainer = StableRepTrainer(make_model(), make_arguments(folder, **SAVING), dataset)
    trainer.train()
    return folder, weights(trainer.model)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "optimizer.pt deleted": lambda folder: (folder / "optimizer.pt").unlink(),
    "scheduler.pt deleted": lambda folder: (folder / "scheduler.pt").unlink(),
    "a weight flipped": lambda folder: flip(folder / "model.safetensors"),
    "the optimiser's state flipped": lambda folder: flip(folder / "optimizer.pt"),
    "model.safetensors deleted": lambda folder: (folder / "model.safetensors").unlink(),
    "config.json empty": lambda folder: (folder / "config.json").write_text(""),
    "state a list": lambda folder: (folder / "trainer_state.json").write_text("[]"),
    "rng_state.pth cut off": lambda folder: (folder / "rng_state.pth").write_bytes(b"PK"),
    "manifest edited": lambda folder: flip(folder / MANIFEST),
    "cut off while saved": lambda folder: (folder / MANIFEST).unlink(),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(saved, tmp_path, caplog, kind):
    folder = shutil.copytree(saved[0], tmp_path / "run")
    DAMAGES[kind](folder / "checkpoint-3")
    assert latest_checkpoint(folder) == str(folder / "checkpoint-2")
    assert "checkpoint-3 is passed over: " in caplog.text
    assert damage(folder / "checkpoint-3") is not None and damage(folder / "checkpoint-2") is None


def test_training_goes_on_from_the_older_checkpoint_and_reaches_the_same_weights(saved, dataset, tmp_path):
    folder = shutil.copytree(saved[0], tmp_path / "run")
    for step in (2, 3):
        flip(folder / f"checkpoint-{step}" / "model.safetensors")
    for name in ("optimizer.pt", "trainer_state.json", MANIFEST):  # nothing can be written to these any more
        (folder / "checkpoint-3" / name).unlink()
    (folder / "checkpoint-3" / "optimizer.pt").mkdir()
    (folder / "checkpoint-3" / "trainer_state.json").symlink_to("trainer_state.json")
    trainer = StableRepTrainer(make_model(), make_arguments(folder, **SAVING), dataset)
    with pytest.raises(InputError, match=r"checkpoint-3 cannot be used: it has no manifest"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    trainer = StableRepTrainer(make_model(), make_arguments(folder, **SAVING), dataset)
    trainer.train(resume_from_checkpoint=True)
    assert largest_difference(weights(trainer.model), saved[1]) == 0.0
    assert damage(folder / "checkpoint-2") is None, "it was saved again"
    aside = sorted(path.name.rpartition("-")[0] for path in folder.glob("damaged-*"))
    assert aside == ["damaged-checkpoint-2", "damaged-checkpoint-3"]


def test_resuming_without_a_checkpoint_begins(saved, dataset, tmp_path):
    trainer = StableRepTrainer(make_model(), make_arguments(tmp_path, **SAVING), dataset)
    trainer.train(resume_from_checkpoint=True)
    assert largest_difference(weights(trainer.model), saved[1]) == 0.0
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_a_checkpoint_is_whole_only_once_all_processes_have_written_theirs(dataset, tmp_path, monkeypatch):
    trainer, written = (
        StableRepTrainer(make_model(), make_arguments(tmp_path, **SAVING | {"max_steps": 1}), dataset),
        [],
    )
    checkpoint = tmp_path / "checkpoint-1"
    monkeypatch.setattr(
        trainer.accelerator, "wait_for_everyone", lambda: written.append({path.name for path in checkpoint.iterdir()})
    )
    trainer.train()
    assert "rng_state.pth" in written[-1] and MANIFEST not in written[-1]
    assert latest_checkpoint(tmp_path) == str(checkpoint)


def test_rotation_deletes_what_this_run_wrote_and_nothing_else(dataset, tmp_path):
    """Neither another run's checkpoint, nor a folder that only bears such a name, nor a file put into one of ours."""
    others = StableRepTrainer(make_model(), make_arguments(tmp_path, **SAVING | {"seed": 7, "max_steps": 1}), dataset)
    others.train()
    (tmp_path / "checkpoint-1").rename(tmp_path / "checkpoint-100")
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "thesis.txt").write_text("mine")

    class PutNote(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 1:
                (tmp_path / "checkpoint-1" / "note.txt").write_text("mine")

    arguments = make_arguments(tmp_path, **SAVING | {"max_steps": 5, "save_total_limit": 2})
    trainer = StableRepTrainer(make_model(), arguments, dataset, callbacks=[PutNote()])
    trainer.train()
    left = {path.name: {file.name for file in path.iterdir()} for path in tmp_path.iterdir()}
    assert left.keys() == {f"checkpoint-{step}" for step in (1, 4, 5, 7, 100)}
    assert left["checkpoint-1"] == {"note.txt"} and left["checkpoint-7"] == {"thesis.txt"}
    assert damage(tmp_path / "checkpoint-100") is None
    assert arguments.save_total_limit == 2


def test_rotation_keeps_the_best_checkpoint(dataset, tmp_path):
    scores = iter([0.1, 0.9, 0.2, 0.3])
    settings = SAVING | {"max_steps": 4, "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "good"}
    arguments = make_arguments(tmp_path, **settings)
    StableRepTrainer(make_model(), arguments, dataset, probe=lambda model: {"good": next(scores)}).train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-4"}


def test_a_best_checkpoint_that_was_damaged_is_not_exported(dataset, tmp_path):
    class Damage(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            flip(tmp_path / f"checkpoint-{state.global_step}" / "model.safetensors")

    settings = SAVING | {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "good"}
    trainer = StableRepTrainer(
        make_model(), make_arguments(tmp_path, **settings), dataset, callbacks=[Damage()], probe=lambda _: {"good": 1}
    )
    with pytest.raises(InputError, match=r"best checkpoint, .*checkpoint-1, cannot be used: model.safetensors"):
        trainer.train()


@pytest.mark.parametrize("save", ["steps", "no"])
@pytest.mark.parametrize("settings", [{"learning_rate": 1e308}, {"learning_rate": 1e308, "ema_decay": 0.5}])
def test_weights_that_the_last_step_made_infinite_are_not_kept(dataset, tmp_path, save, settings):
    arguments = make_arguments(tmp_path, max_steps=1, save_strategy=save, **settings)
    trainer = StableRepTrainer(make_model(), arguments, dataset)
    with pytest.raises(InputError, match=r"Step 1 left weights that are not finite numbers: lower the learning rate"):
        trainer.train()
    assert latest_checkpoint(tmp_path) is None


def test_an_average_goes_on_from_a_checkpoint_elsewhere_and_never_without_its_file(dataset, tmp_path):
    settings = SAVING | {"ema_decay": 0.5}
    whole = StableRepTrainer(make_model(), make_arguments(tmp_path / "a", **settings), dataset)
    whole.train()
    moved = shutil.copytree(tmp_path / "a" / "checkpoint-2", tmp_path / "kept" / "checkpoint-2")
    resumed = StableRepTrainer(make_model(), make_arguments(tmp_path / "b", **settings), dataset)
    resumed.train(resume_from_checkpoint=str(moved))
    assert largest_difference(whole.average.average, resumed.average.average) == 0.0
    (moved / "ema.safetensors").unlink()
    with pytest.raises(InputError, match=r"ema.safetensors is missing"):
        resumed.train(resume_from_checkpoint=str(moved))


def test_a_damaged_folder_of_weights_is_never_read(saved, dataset, tmp_path):
    """Weights that were exchanged for others of the same shapes."""
    folder = shutil.copytree(saved[0], tmp_path / "run")
    file = folder / "checkpoint-3" / "model.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in load_file(file).items()}, file, {"format": "pt"})
    arguments = make_arguments(folder, **SAVING)
    with pytest.raises(RuntimeError, match="cut off"):
        StableRepTrainer(make_model(), arguments, dataset, callbacks=[StopAfter(3)]).train(resume_from_checkpoint=True)
    state = json.loads(Path(folder / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["global_step"] == 3 and latest_checkpoint(folder) == str(folder / "checkpoint-3")
