"""The estimate of a step's memory beside what a process really takes."""

import subprocess
import sys

import pytest
import torch
from tiny_backbones import model_on
from training_data import make_dataset

from stablerep_hf.training import StableRepTrainer, StableRepTrainingArguments
from stablerep_hf.training.memory import step_memory, ways

MIB = 2**20
MEASURED = """
import threading, time
from pathlib import Path
from training_data import make_dataset
from stablerep_hf.models import StableRepConfig, StableRepModel
from stablerep_hf.training import StableRepTrainer, StableRepTrainingArguments
from stablerep_hf.training.memory import step_memory

def taken():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def trainer(**settings):
    model = StableRepModel(StableRepConfig.from_size("small", image_size=64, patch_size=8))
    arguments = StableRepTrainingArguments(
        "run", images_per_caption=4, max_steps=2, save_strategy="no", use_cpu=True, disable_tqdm=True, **settings
    )
    return StableRepTrainer(model, arguments, make_dataset([4] * 16))

trainer(captions_per_batch=1).train()  # what is loaded with the first step of all
asked = trainer(captions_per_batch=16)
expected = step_memory(asked)
before, most, ended = taken(), [0], threading.Event()

def watch():
    while not ended.wait(0.005):
        most[0] = max(most[0], taken())

thread = threading.Thread(target=watch)
thread.start()
asked.train()
ended.set()
thread.join()
print("MEASURED", most[0] - before, expected.peak - expected.weights)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_estimate_is_what_a_process_takes(tmp_path):
    paths = [path for path in sys.path if path]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{MEASURED}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    measured, expected = map(int, run.stdout.split("MEASURED")[1].split())
    assert measured > 1000 * MIB  # the step itself, not what the process holds anyway
    assert expected == pytest.approx(measured, rel=0.2)


def trainer_of(kind, tmp_path, **settings):
    defaults = {"captions_per_batch": 4, "images_per_caption": 4, "max_steps": 1, "use_cpu": True}
    args = StableRepTrainingArguments(str(tmp_path), **(defaults | settings))
    return StableRepTrainer(model_on(kind), args, make_dataset([4] * 4))


def test_chunks_checkpoints_and_half_precision_take_less_and_change_nothing(tmp_path):
    trainer = trainer_of("vit", tmp_path)
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    whole = step_memory(trainer)
    assert whole.weights == sum(p.numel() * p.element_size() for p in weights.values())
    for less in ({"forward_chunk_size": 4}, {"gradient_checkpointing": True}):
        assert step_memory(trainer, **less).step < 0.8 * whole.step, less
    assert step_memory(trainer_of("vit", tmp_path, bf16=True)).step < 0.9 * whole.step
    torch.testing.assert_close(dict(trainer.model.state_dict()), weights, rtol=0, atol=0)
    assert not getattr(trainer.model.vision_model, "is_gradient_checkpointing", False)


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext"])
def test_only_what_the_backbone_can_do_is_advised(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("stablerep_hf.training.memory._CHUNK", 8)
    found = ways(trainer_of(kind, tmp_path))
    assert ("forward_chunk_size=8" in found) == (kind != "resnet")
    assert all(memory.step > 0 for memory in found.values())
    if kind == "vit":
        assert list(found) == ["", "forward_chunk_size=8", "gradient_checkpointing=True"]
        assert list(ways(trainer_of(kind, tmp_path, forward_chunk_size=8))) == [""]


def test_shapes_that_depend_on_values_are_not_guessed(tmp_path):
    assert ways(trainer_of("siglip2_vision_model", tmp_path)) == {}
