"""FSDP2: weights cut among processes, and the very training that DistributedDataParallel does."""

import os

import pytest
import test_fine_tuning as fine_tuning
import torch
from safetensors.torch import load_file
from test_launching import environment_of
from test_stablerep_trainer import labelled, largest_difference, letters, losses, make_arguments, make_model, weights
from training_data import make_dataset
from transformers import ViTModel

from stablerep_hf.errors import InputError
from stablerep_hf.models import StableRepModel, export_encoder
from stablerep_hf.training import FineTuningTrainer, KnnProbe, StableRepTrainer


def two_ranks(sharded, make):
    """Make arguments of two processes, with weights cut between them or whole on each."""
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    AcceleratorState._reset_state(reset_partial_state=False)
    if sharded:
        told = environment_of("fsdp2.yaml")[1]
        os.environ.update({name: value for name, value in told.items() if "FSDP" in name})
    arguments = make()
    assert (arguments.device.type, arguments.world_size) == ("cpu", 2)
    # Accelerate knows FSDP on accelerators alone and takes DDP on CPUs without a word: call these two ranks something
    # else, and its own code shards the model, on gloo
    PartialState._shared_state["distributed_type"] = DistributedType[("MULTI_XPU" if sharded else "MULTI_CPU")]
    return arguments


def train(folder, sharded, resume=None, **settings):
    """In float64, where a mistake stands out from the rounding that batch statistics of four amplify."""
    arguments = two_ranks(sharded, lambda: make_arguments(folder, objective="stablerep+", max_steps=4, **settings))
    trainer = StableRepTrainer(
        make_model(text=True).double(),
        arguments,
        make_dataset([4, 4, 2, 4] * 3),
        processing_class=letters,
        probe=KnnProbe(labelled(range(0, 18, 2)), labelled(range(1, 18, 2)), k=2),
    )
    augment = trainer.augment.forward
    trainer.augment.forward = lambda pixels, color: augment(pixels, color).double()
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    kinds = {type(parameter).__name__ for parameter in trainer.model.parameters()}
    assert kinds == {"DTensor" if sharded else "Parameter"}
    if trainer.average is not None:
        trainer.average.load_into(trainer.model)
    model = trainer.whole_model()
    if sharded and trainer.is_world_process_zero():
        model.save_pretrained(folder / "whole")
        export_encoder(model, folder / "encoder")
    return {"weights": weights(model), "losses": losses(trainer), "knn": losses(trainer, "eval_knn_accuracy")}


def train_each_way(folder):
    saving = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "ema_decay": 0.5}
    return {
        "replicated": train(folder / "replicated", False, **saving),
        "sharded": train(folder / "sharded", True, **saving),
        "resumed": train(folder / "sharded", True, folder / "sharded" / "checkpoint-2", **saving),
        "in chunks": train(folder / "chunks", True, forward_chunk_size=5, gradient_checkpointing=True, ema_decay=0.5),
    }


@pytest.mark.distributed
@pytest.mark.slow
def test_sharded_weights_learn_what_replicated_ones_do(run_on_gloo, tmp_path):
    first, _ = run_on_gloo(train_each_way, tmp_path, fresh=True)
    expected = first["replicated"]
    assert largest_difference(expected["weights"], weights(make_model(text=True))) > 1e-3
    # in chunks the colours are computed in other portions, and in float32
    for way, limit in (("sharded", 1e-9), ("resumed", 1e-9), ("in chunks", 1e-6)):
        assert largest_difference(expected["weights"], first[way]["weights"]) < limit, way
    assert first["sharded"]["losses"] == pytest.approx(expected["losses"], abs=1e-6)
    assert first["sharded"]["knn"] == expected["knn"] and len(expected["knn"]) == 2
    assert largest_difference(first["sharded"]["weights"], first["resumed"]["weights"]) == 0.0
    # what is saved is what anyone loads: no trace of sharding
    again = StableRepModel.from_pretrained(tmp_path / "sharded" / "whole")
    assert again.config.architectures == ["StableRepModel"]
    assert largest_difference(weights(again), first["sharded"]["weights"]) == 0.0
    checkpoint = StableRepModel.from_pretrained(tmp_path / "sharded" / "checkpoint-4")
    assert checkpoint.config.architectures == ["StableRepModel"]
    average = load_file(tmp_path / "sharded" / "checkpoint-4" / "ema.safetensors")
    assert torch.equal(average["projection_head.norm1.running_mean"], again.projection_head.norm1.running_mean)
    encoder = ViTModel.from_pretrained(tmp_path / "sharded" / "encoder", add_pooling_layer=False)
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    difference = encoder(pixels).last_hidden_state - again.vision_model(pixels).last_hidden_state
    assert float(difference.abs().max()) < 1e-6  # exported in float32


def train_in_half_precision(folder):
    trained = {}
    for mode in ("replicated", "sharded"):
        settings = {"objective": "stablerep+", "max_steps": 2, "bf16": True, "learning_rate": 1e-5}
        settings |= {"logging_steps": 1}
        arguments = two_ranks(
            mode == "sharded", lambda settings=settings, mode=mode: make_arguments(folder / mode, **settings)
        )
        model = make_model(text=True)
        with torch.no_grad():
            model.logit_scale.fill_(4.51)  # bf16 has 4.5 and 4.53
        trainer = StableRepTrainer(model, arguments, make_dataset([4] * 12), letters)
        trainer.train()
        assert trainer.accelerator.mixed_precision == "bf16"
        trained[mode] = {"weights": weights(trainer.whole_model()), "losses": losses(trainer)}
        trained[mode]["scales"] = losses(trainer, "logit_scale")
    return trained


@pytest.mark.distributed
def test_sharded_weights_in_bf16_learn_what_replicated_ones_do(run_on_gloo, tmp_path):
    first, _ = run_on_gloo(train_in_half_precision, tmp_path, fresh=True)
    replicated, sharded = first["replicated"], first["sharded"]
    assert {value.dtype for value in sharded["weights"].values() if value.is_floating_point()} == {torch.float32}
    assert sharded["scales"] == pytest.approx(replicated["scales"], abs=1e-4)
    assert abs(sharded["scales"][0] - 4.51) < 1e-3
    assert sharded["losses"][0] == pytest.approx(replicated["losses"][0], rel=0.03)  # bf16 cosines x 91


def fine_tune_each_way(folder):
    trained = {}
    for mode in ("replicated", "sharded"):
        sharded = mode == "sharded"
        arguments = two_ranks(sharded, lambda mode=mode: fine_tuning.make_arguments(folder / mode, max_steps=4))
        model = fine_tuning.make_model().double()
        model.vision_model.embeddings.requires_grad_(False)
        trainer = FineTuningTrainer(model, arguments, fine_tuning.labelled())
        augment = trainer.augment.forward
        trainer.augment.forward = lambda *views, augment=augment: augment(*views).double()
        trainer.train()
        assert sharded == any(type(parameter).__name__ == "DTensor" for parameter in trainer.model.parameters())
        trained[mode] = weights(trainer.whole_model())
    with pytest.raises(InputError, match=r"adapters are saved whole.*ddp.yaml"):
        FineTuningTrainer(fine_tuning.adapted(), arguments, fine_tuning.labelled())
    return trained


@pytest.mark.distributed
@pytest.mark.slow
def test_sharded_weights_are_fine_tuned_as_replicated_ones_are(run_on_gloo, tmp_path):
    first, _ = run_on_gloo(fine_tune_each_way, tmp_path, fresh=True)
    assert largest_difference(first["replicated"], weights(fine_tuning.make_model().double())) > 1e-3
    assert largest_difference(first["replicated"], first["sharded"]) < 1e-5  # the loss is computed in float32
