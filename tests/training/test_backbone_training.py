"""Training each kind of backbone: interruption, chunks, checkpointing, half precision and processes change nothing."""

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from test_stablerep_trainer import StopAfter, largest_difference, losses, make_arguments, weights
from tiny_backbones import MAIN, TYPES, model_on
from training_data import make_dataset
from transformers import set_seed

from stablerep_hf.errors import InputError
from stablerep_hf.models import StableRepModel
from stablerep_hf.training import StableRepTrainer, add_adapters
from stablerep_hf.training.checkpoints import latest_checkpoint, write_manifest

MAIN_OR_SLOW = [kind if kind in MAIN[:2] else pytest.param(kind, marks=pytest.mark.slow) for kind in MAIN]
EVERY = [kind if kind == "vit" else pytest.param(kind, marks=pytest.mark.slow) for kind in TYPES]
# Adam divides a gradient of nothing but rounding by its own size: what only rounds differently is compared under SGD
PLAIN = {"optim": "sgd", "learning_rate": 0.05}
SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 1e-3}


def model_of(kind, adapters=False):
    set_seed(0)
    model = model_on(kind, head_norm="layer")
    if adapters:
        add_adapters(model, rank=2, adapter_targets="all")
    return model


def train(folder, kind, callbacks=(), resume=None, double=False, adapters=False, **settings):
    model = model_of(kind, adapters)
    trainer = StableRepTrainer(
        model.double() if double else model,
        make_arguments(folder, **{"max_steps": 3, "learning_rate": 1e-3, **settings}),
        make_dataset([4, 4, 2, 4] * 3),
        callbacks=list(callbacks),
    )
    if double:
        augment = trainer.augment.forward
        trainer.augment.forward = lambda pixels, color: augment(pixels, color).double()
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def moved(trainer, kind):
    before = weights(model_of(kind))
    after = weights(trainer.model)
    return max(float((after[name] - before[name]).abs().max()) for name in before if name.startswith("vision_model."))


@pytest.mark.parametrize("kind", EVERY)
def test_a_resumed_run_of_each_type_ends_with_the_same_bits(kind, tmp_path):
    whole = train(tmp_path / "whole", kind, **SAVING)
    with pytest.raises(RuntimeError, match="cut off"):
        train(tmp_path / "cut", kind, [StopAfter(2)], **SAVING)
    checkpoint = latest_checkpoint(tmp_path / "cut")
    resumed = train(tmp_path / "cut", kind, resume=checkpoint, **SAVING)
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0.0
    assert moved(whole, kind) > 1e-4
    loaded = StableRepModel.from_pretrained(tmp_path / "cut" / "checkpoint-4")
    assert largest_difference(weights(loaded), weights(whole.model)) == 0.0


@pytest.mark.parametrize("kind", MAIN_OR_SLOW)
def test_a_lost_key_stops_a_resumed_run(kind, tmp_path):
    trainer = train(tmp_path, kind, **SAVING)
    file = tmp_path / "checkpoint-2" / "model.safetensors"
    tensors = load_file(file)
    lost = next(name for name in tensors if name.startswith("vision_model.") and name.endswith(".weight"))
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    write_manifest(tmp_path / "checkpoint-2", trainer.recipe)
    with pytest.raises(InputError, match=r"it lacks 1 keys \(" + lost):
        train(tmp_path, kind, resume=str(tmp_path / "checkpoint-2"), **SAVING)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in MAIN if kind != "convnextv2"])
def test_adapters_resume_with_the_same_bits_and_leave_the_rest(kind, tmp_path):
    whole = train(tmp_path, kind, adapters=True, **SAVING)
    resumed = train(tmp_path, kind, adapters=True, resume=str(tmp_path / "checkpoint-2"), **SAVING)
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0.0
    before, after = weights(model_of(kind, adapters=True)), weights(whole.model)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert {name for name in changed if name.startswith("vision_model.")} == {
        name for name in after if "lora_" in name
    }
    assert any(name.startswith("projection_head.") for name in changed)


@pytest.mark.parametrize("kind", MAIN_OR_SLOW)
def test_chunks_and_checkpointing_give_the_weights_of_whole_batches(kind, tmp_path):
    plain = train(tmp_path, kind, double=True, **PLAIN)
    chunked = train(tmp_path / "chunks", kind, double=True, **PLAIN, forward_chunk_size=5)
    # in chunks colours are computed in other portions, and in float32
    assert largest_difference(weights(plain.model), weights(chunked.model)) < 1e-5
    if kind == "convnextv2":
        with pytest.raises(InputError, match="no gradient checkpointing for a ConvNextV2Model"):
            train(tmp_path / "again", kind, gradient_checkpointing=True)
    else:
        again = train(tmp_path / "again", kind, double=True, **PLAIN, gradient_checkpointing=True)
        assert largest_difference(weights(plain.model), weights(again.model)) < 1e-8
    assert moved(plain, kind) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAIN)
def test_bf16_and_compile_learn_what_float32_does(kind, tmp_path):
    settings = {**PLAIN, "max_steps": 2, "logging_steps": 1}
    plain = train(tmp_path, kind, **settings)
    compiled = train(tmp_path / "compile", kind, torch_compile=True, **settings)
    assert largest_difference(weights(plain.model), weights(compiled.model)) < 1e-4
    AcceleratorState._reset_state()
    settings["learning_rate"] = 1e-4  # a long step of ConvNeXt V2 makes much of a little rounding
    plain = train(tmp_path / "plain", kind, **settings)
    AcceleratorState._reset_state()
    half = train(tmp_path / "half", kind, bf16=True, **settings)
    precision = half.accelerator.mixed_precision
    AcceleratorState._reset_state()  # later tests train in float32
    assert precision == "bf16"
    assert {value.dtype for value in half.model.parameters()} == {torch.float32}
    assert losses(half) == pytest.approx(losses(plain), rel=0.05)


def train_on_ranks(folder, kind):
    trainer = train(folder, kind, double=True, **PLAIN)
    return {"weights": weights(trainer.model), "losses": losses(trainer), "processes": trainer.args.world_size}


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("kind", MAIN)
def test_two_processes_reach_the_weights_of_one_with_each_type(run_on_gloo, tmp_path, kind):
    one = train_on_ranks(tmp_path / "one", kind)
    two = run_on_gloo(train_on_ranks, tmp_path / "two", kind, fresh=True)
    assert [rank["processes"] for rank in two] == [2, 2]
    assert largest_difference(one["weights"], two[0]["weights"]) < 1e-5
    assert largest_difference(two[0]["weights"], two[1]["weights"]) == 0.0
