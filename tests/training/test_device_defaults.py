"""What training chooses for a GPU, with the answers of one put in; it was never run on one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_stablerep_trainer import make_arguments, make_model

from stablerep_hf.errors import InputError
from stablerep_hf.training import StableRepTrainer, device_defaults
from stablerep_hf.training.device_defaults import described, suit_the_device, workers_that_fit


@pytest.fixture
def gpu(monkeypatch):
    """An Ampere GPU on a machine of 16 cores with two ranks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(device_defaults.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


def asked(**settings):
    """What the defaults read and write of the arguments."""
    found = {
        "bf16": None, "fp16": False, "tf32": None, "dataloader_num_workers": None, "dataloader_pin_memory": True,
        "accelerator_config": {"split_batches": True}, "use_cpu": False, "device": torch.device("cuda", 0),
    }  # fmt: skip
    return SimpleNamespace(**(found | settings))


def test_a_cpu_trains_in_float32_and_decodes_by_itself(tmp_path):
    arguments = make_arguments(tmp_path)
    assert (arguments.bf16, arguments.tf32, arguments.dataloader_num_workers) == (None, None, 0)


def test_a_gpu_gets_half_precision_workers_and_copies_that_overlap(gpu):
    suit_the_device(arguments := asked())
    assert (arguments.bf16, arguments.tf32, arguments.dataloader_num_workers) == (True, True, 7)
    assert arguments.accelerator_config == {"non_blocking": True, "split_batches": True}
    assert "bf16=True" in described(arguments) and "dataloader_num_workers=7" in described(arguments)


def test_what_was_asked_for_stays(gpu):
    suit_the_device(arguments := asked(bf16=False, tf32=False, dataloader_num_workers=3, dataloader_pin_memory=False))
    assert (arguments.bf16, arguments.tf32, arguments.dataloader_num_workers) == (False, False, 3)
    assert arguments.accelerator_config == {"split_batches": True}
    suit_the_device(arguments := asked(fp16=True))  # as a preset does
    assert not arguments.bf16


def test_workers_keep_within_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(device_defaults, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(device_defaults.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert workers_that_fit(14, 2, 100) == 2
    assert workers_that_fit(1, 2, 100) == 1
    assert workers_that_fit(14, 2, 1000) == 0
    monkeypatch.setattr(device_defaults, "_SHARED_MEMORY", tmp_path / "none")
    assert workers_that_fit(14, 2, 1000) == 14


def test_memory_that_runs_out_is_one_sentence(dataset, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    trainer = StableRepTrainer(make_model(), make_arguments(tmp_path), dataset)
    monkeypatch.setattr(trainer, "compute_loss", full)
    with pytest.raises(InputError, match=r"A step of 12 images does not fit cpu \(CUDA out of memory.*forward_chunk"):
        trainer.train()
