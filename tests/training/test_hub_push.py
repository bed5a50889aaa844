"""Pushing while training: what is on the Hub then, and that a run goes on from there on another machine."""

from __future__ import annotations

import json
import logging
import threading

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import TrainerCallback, set_seed

from stablerep_hf.errors import InputError
from stablerep_hf.hub import ModelFacts, TrainingData, describe_encoder
from stablerep_hf.models import StableRepConfig, StableRepModel
from stablerep_hf.training import StableRepTrainer, StableRepTrainingArguments
from stablerep_hf.training.checkpoints import checkpoint_to_resume, pushed_checkpoint, write_manifest

REPOSITORY = "alice/encoder"
MODEL = {"model.safetensors", "config.json", "modeling_stablerep.py", "preprocessor_config.json", "README.md"}
CODE = {
    "backbones.py", "configuration_stablerep.py", "pretrained.py", "sibling_batch_norm.py", "text_towers.py",
}  # fmt: skip
STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "manifest.json"}


pytestmark = pytest.mark.usefixtures("hub_here")


class StopAfter(TrainerCallback):
    """A crash right after a step was saved."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("cut off")


def make_trainer(dataset, folder, callbacks=(), **settings):
    set_seed(0)
    config = StableRepConfig.from_size(
        "micro", image_size=16, patch_size=8, projection_hidden_dim=16, projection_dim=8
    )
    defaults = {
        "captions_per_batch": 4, "images_per_caption": 3, "learning_rate": 1e-2, "max_steps": 6, "use_cpu": True,
        "save_strategy": "steps", "save_steps": 2, "disable_tqdm": True, "hub_model_id": REPOSITORY,
    }  # fmt: skip
    arguments = StableRepTrainingArguments(str(folder), **(defaults | settings))
    return StableRepTrainer(StableRepModel(config), arguments, dataset, callbacks=list(callbacks))


@pytest.mark.parametrize(("strategy", "place"), [(None, "last-checkpoint"), ("all_checkpoints", "checkpoint-4")])
def test_a_run_goes_on_from_the_hub_on_another_machine(hub_here, dataset, tmp_path, strategy, place):
    whole = make_trainer(dataset, tmp_path / "whole")
    whole.train()
    settings = {"push_to_hub": True, "hub_always_push": True} | ({"hub_strategy": strategy} if strategy else {})
    cut = make_trainer(dataset, tmp_path / "cut", [StopAfter(4)], **settings)
    with pytest.raises(RuntimeError, match="cut off"):
        cut.train()
    cut.pushing.wait()

    files = set(hub_here.files(REPOSITORY))
    assert files >= MODEL | {f"{place}/{name}" for name in MODEL | STATE}
    assert not {name for name in files if name.endswith(".bin")}
    assert not files & STATE, "the model itself is free of the training's state"

    resumed = make_trainer(dataset, tmp_path / "fresh", push_to_hub=True)
    checkpoint = pushed_checkpoint(resumed)
    assert checkpoint == str(tmp_path / "fresh" / "checkpoint-4")
    resumed.train(resume_from_checkpoint=checkpoint)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_every_save_pushes_the_model_of_that_step_and_no_state(hub_here, dataset, tmp_path):
    """So a training can start from its weights elsewhere, and none begins anew over them as if they were not there."""
    settings = {"push_to_hub": True, "hub_strategy": "every_save", "hub_always_push": True}
    cut = make_trainer(dataset, tmp_path / "cut", [StopAfter(4)], **settings)
    with pytest.raises(RuntimeError, match="cut off"):
        cut.train()
    cut.pushing.wait()
    files = set(hub_here.files(REPOSITORY))
    assert files >= MODEL
    assert not {name for name in files if name.endswith((".bin", ".pt", ".pth")) or name in STATE}
    with pytest.raises(InputError, match=f"{REPOSITORY} holds the model of an unfinished training run .*step 4"):
        pushed_checkpoint(cut)
    downloaded = HfApi().snapshot_download(REPOSITORY, cache_dir=tmp_path / "cache")
    pushed = StableRepModel.from_pretrained(downloaded)
    for name, value in cut.model.state_dict().items():
        assert torch.equal(value, pushed.state_dict()[name]), name
    titles = [commit.title for commit in HfApi().list_repo_commits(REPOSITORY)]
    assert titles == ["Training in progress, step 4", "Training in progress, step 2", "initial commit"]
    resumed = make_trainer(dataset, tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    resumed.pushing.wait()
    assert HfApi().list_repo_commits(REPOSITORY)[0].title == "Training in progress, step 6", "it goes on pushing"


def test_what_is_pushed_at_the_end_has_our_card_and_no_pickle(hub_here, dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, push_to_hub=True, hub_strategy="end")
    trainer.train()
    assert set(hub_here.files(REPOSITORY)) == set()
    trainer.push_to_hub(license="mit", dataset="alice/drawings", tags="test")
    files = hub_here.files(REPOSITORY)
    assert set(files) >= MODEL
    assert not {name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))}
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.datasets) == ("mit", ["alice/drawings"])
    assert {"stablerep", "test"} <= set(card.data.tags)
    for wanted in (f'from_pretrained("{REPOSITORY}", trust_remote_code=True)', "| captions per batch | 4 |", "48"):
        assert wanted in card.text, wanted
    assert "fine-tuned version" not in card.text


def test_what_lies_beside_the_model_stays_here(hub_here, dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, push_to_hub=True, ema_decay=0.9, max_steps=2)
    for name in ("ema.safetensors", "model.safetensors.index.json", "handler.py"):
        HfApi().upload_file(repo_id=REPOSITORY, path_in_repo=name, path_or_fileobj=b"earlier")
    trainer.train()
    (tmp_path / "runs").mkdir()
    for name in (".env", "emissions.csv", "runs/events.out.tfevents.1", "notes.json", "model-copy.safetensors"):
        (tmp_path / name).write_bytes(b"mine")
    trainer.push_to_hub(blocking=False).result()
    files = hub_here.files(REPOSITORY)
    ours = MODEL | CODE
    assert {name for name in files if "/" not in name} == ours | {"handler.py"}
    assert "last-checkpoint/ema.safetensors" in files
    tensors = sum(value.numel() for value in trainer.model.state_dict().values())
    for name in ("README.md", "last-checkpoint/README.md"):
        assert f"| parameters | {tensors:,} |" in files[name].decode(), "the average is not counted as well"
    assert not list(tmp_path.glob(".to-hub-*"))


def test_the_card_is_made_of_what_the_caller_knows(hub_here, dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, push_to_hub=True, max_steps=2)
    trainer.describe = lambda folder: ModelFacts(
        name="mine",
        license="apache-2.0",
        form="pretraining",
        architecture=describe_encoder(folder),
        data=TrainingData(name="drawings", num_captions=12, num_images=48, revision="abc"),
    )
    trainer.train()
    for place in ("last-checkpoint/", ""):
        card = hub_here.files(REPOSITORY)[f"{place}README.md"].decode()
        for wanted in ("# mine", "license: apache-2.0", "| drawings |", "| abc |", f'"{REPOSITORY}"'):
            assert wanted in card, (place, wanted)
    trainer.push_to_hub(license="mit", model_name="ours")
    card = hub_here.files(REPOSITORY)["README.md"].decode()
    assert "# ours" in card and "license: mit" in card and "| abc |" in card


def test_a_checkpoint_arrives_that_is_no_longer_here(hub_here, dataset, tmp_path, caplog):
    """`save_total_limit` removes it while it is uploaded."""
    gone = threading.Event()

    class Tell(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 4:
                assert not (tmp_path / "checkpoint-2").exists()
                gone.set()

    trainer = make_trainer(dataset, tmp_path, [Tell()], push_to_hub=True, save_total_limit=1, max_steps=4)
    hub_here.fail("POST", "/objects/batch", before=lambda: gone.wait(30))
    trainer.train()
    assert json.loads(hub_here.files(REPOSITORY)["last-checkpoint/trainer_state.json"])["global_step"] == 2
    assert "A push to the Hub failed" not in caplog.text
    assert not list(tmp_path.glob(".to-hub-*"))


def test_a_push_that_fails_is_told_and_does_not_stop_the_training(hub_here, dataset, tmp_path, caplog):
    trainer = make_trainer(dataset, tmp_path, push_to_hub=True, hub_strategy="every_save", max_steps=2)
    hub_here.fail("POST", "/commit/", status=403)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 2
    assert "A push to the Hub failed" in caplog.text


def test_a_repository_without_a_checkpoint_gives_none(hub_here, dataset, tmp_path):
    assert pushed_checkpoint(make_trainer(dataset, tmp_path, push_to_hub=True)) is None
    assert pushed_checkpoint(make_trainer(dataset, tmp_path)) is None


def write_checkpoint(folder, step, recipe):
    """As a training run leaves it, but without weights."""
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if recipe is not None:
        write_manifest(folder, recipe)


def push_checkpoint(scratch, place, step, recipe):
    write_checkpoint(scratch / place, step, recipe)
    HfApi().upload_folder(repo_id=REPOSITORY, path_in_repo=place, folder_path=scratch / place)


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        ({"learning_rate": 2e-2}, r"with learning_rate=0.02, not 0.01: give another"),
        ({"num_images": 44}, r"with num_images=44, not 48: give another"),
        ({"data": "others"}, r"with data=others, not mine: give another"),
        (None, r"cannot be used \(it has no manifest.json that can be read\)"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_and_leaves_nothing(
    hub_here, dataset, tmp_path, theirs, sentence
):
    trainer = make_trainer(dataset, tmp_path, push_to_hub=True)
    trainer.identity = {"data": "mine"}
    push_checkpoint(tmp_path / "scratch", "last-checkpoint", 4, None if theirs is None else trainer.recipe | theirs)
    for step_here in (None, 6):  # also where the run here is further: it would push over the other
        if step_here:
            write_checkpoint(tmp_path / f"checkpoint-{step_here}", step_here, trainer.recipe)
        with pytest.raises(InputError, match=f"^{REPOSITORY} holds a checkpoint .*{sentence}"):
            checkpoint_to_resume(trainer)
        assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("numbered", "last", "here", "newest"),
    [(4, 6, None, 6), (10, 6, None, 10), (4, 6, 2, 6), (4, 6, 6, 6), (4, 6, 8, 8), (None, 6, 2, 6), (4, None, 2, 4)],
)
def test_the_newest_checkpoint_wins_wherever_it_is(hub_here, dataset, tmp_path, numbered, last, here, newest):
    trainer = make_trainer(dataset, tmp_path, push_to_hub=True)
    for place, step in ((f"checkpoint-{numbered}", numbered), ("last-checkpoint", last), ("checkpoint-2", 2)):
        if step is not None:
            push_checkpoint(tmp_path / "scratch", place, step, trainer.recipe)
    if here is not None:
        write_checkpoint(tmp_path / f"checkpoint-{here}", here, trainer.recipe)
    assert checkpoint_to_resume(trainer) == str(tmp_path / f"checkpoint-{newest}")
    came = json.loads((tmp_path / f"checkpoint-{newest}" / "trainer_state.json").read_text())
    assert came == {"global_step": newest}


def test_a_checkpoint_that_is_damaged_on_the_hub_is_refused_and_one_that_is_damaged_here_replaced(
    hub_here, dataset, tmp_path
):
    trainer = make_trainer(dataset, tmp_path, push_to_hub=True)
    push_checkpoint(tmp_path / "scratch", "last-checkpoint", 4, trainer.recipe)
    write_checkpoint(tmp_path / "checkpoint-4", 4, None)
    (tmp_path / "checkpoint-4" / "note.txt").write_text("mine")
    assert checkpoint_to_resume(trainer) == str(tmp_path / "checkpoint-4")
    assert (tmp_path / "checkpoint-4" / "manifest.json").exists()
    (aside,) = tmp_path.glob("damaged-checkpoint-4-*")
    assert (aside / "note.txt").read_text() == "mine"
    HfApi().upload_file(
        repo_id=REPOSITORY, path_in_repo="last-checkpoint/trainer_state.json", path_or_fileobj=b'{"global_step": 5}'
    )
    with pytest.raises(InputError, match=r"last-checkpoint that cannot be used \(trainer_state.json is not as it was"):
        checkpoint_to_resume(trainer)
    HfApi().upload_file(repo_id=REPOSITORY, path_in_repo="last-checkpoint/trainer_state.json", path_or_fileobj=b"[]")
    with pytest.raises(InputError, match=r"last-checkpoint that cannot be used \(its trainer_state.json"):
        checkpoint_to_resume(trainer)


def test_without_an_id_the_repository_is_named_after_the_output_folder(hub_here, dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path / "pictures", hub_model_id=None, max_steps=1, save_strategy="no")
    trainer.train()
    trainer.push_to_hub()
    assert set(hub_here.files("alice/pictures")) >= MODEL
