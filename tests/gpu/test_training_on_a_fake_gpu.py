"""Training on a device: the weights of a run on the CPU, and where the host waits in a step."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from fake_gpu import DEVICE, fake_gpu, values, waits
from training_data import make_dataset
from transformers import CLIPTextConfig, TrainerCallback, ViTConfig, set_seed

from stablerep_hf.models import StableRepConfig, StableRepModel
from stablerep_hf.training import KnnProbe, StableRepTrainer, StableRepTrainingArguments

pytestmark = pytest.mark.fake_gpu
STEPS = 4


@pytest.fixture(scope="module")
def dataset() -> Any:
    return make_dataset([4] * 12)


def make_model(*, text: bool = False) -> StableRepModel:
    set_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    texts = CLIPTextConfig(
        vocab_size=40, num_hidden_layers=1, max_position_embeddings=16, bos_token_id=0, eos_token_id=39,
        pad_token_id=1, **sizes,
    )  # fmt: skip
    return StableRepModel(
        StableRepConfig(
            vision_config=ViTConfig(num_hidden_layers=2, image_size=16, patch_size=8, **sizes),
            text_config=texts if text else None,
            projection_hidden_dim=24,
            projection_dim=8,
            image_text_dim=8,
        )
    )


class Letters:
    """A tokenizer: one token a character, 39 at the end."""

    pad_token = "."

    def __call__(self, texts: list[str], max_length: int, **_: Any) -> dict[str, torch.Tensor]:
        ids = [[*(2 + ord(letter) % 30 for letter in text[: max_length - 2]), 39] for text in texts]
        width = max(map(len, ids))
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        return {"input_ids": torch.tensor([row + [1] * (width - len(row)) for row in ids]), "attention_mask": mask}

    def save_pretrained(self, folder: str) -> None: ...


class StopAfter(TrainerCallback):
    """A crash right after a step was saved."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == STEPS // 2:
            raise RuntimeError("cut off")


class WaitsOfASecondStep(TrainerCallback):
    """What the host waited for from one step's beginning to the next one's."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            self.found = dict(waits)
        waits.clear()


def trained(
    folder: Any, dataset: Any, *, cpu: bool, resume: bool = False, stop: bool = False, **settings: Any
) -> StableRepTrainer:
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu" if cpu else str(DEVICE)
    text = settings.get("objective") == "stablerep+"
    defaults = {
        "captions_per_batch": 4, "images_per_caption": 3, "learning_rate": 1e-2, "max_steps": STEPS,
        "logging_steps": STEPS, "save_strategy": "no", "use_cpu": cpu, "disable_tqdm": True,
    }  # fmt: skip
    args = StableRepTrainingArguments(output_dir=str(folder), **(defaults | settings))
    assert args.device == (torch.device("cpu") if cpu else DEVICE)
    probe = KnnProbe(dataset, dataset, k=3, label_column="caption_id") if args.eval_strategy != "no" else None
    callbacks = [WaitsOfASecondStep(), *([StopAfter()] if stop else [])]
    trainer = StableRepTrainer(make_model(text=text), args, dataset, Letters() if text else None, callbacks, probe)
    with pytest.raises(RuntimeError, match="cut off") if stop else nullcontext():
        trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer: StableRepTrainer) -> dict[str, torch.Tensor]:
    return {name: values(value.detach()) for name, value in trainer.model.named_parameters()}


# How many captions there are with the texts; and transformers asks whether the mask of the texts hides anything.
TEXTS = {"losses/image_text.py _both_directions": 1, "models/text_towers.py encode_texts": 2}
SETTINGS = {
    "plain": {},
    "in chunks": {"forward_chunk_size": 5},
    "with texts": {"objective": "stablerep+"},
    "averaged": {"ema_decay": 0.9},
    "in half precision": {"bf16": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_learns_what_a_cpu_learns_and_waits_where_it_must(name, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("stablerep_hf.training.color.cv2", None)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # it asks for CUDA
    settings = SETTINGS[name] | {"optim": "sgd"}  # Adam makes whole steps of what is rounding of a gradient of 0
    expected = trained(tmp_path / "cpu", dataset, cpu=True, **settings)
    with fake_gpu():
        found = trained(tmp_path / "gpu", dataset, cpu=False, **settings)
    assert {parameter.device for parameter in found.model.parameters()} == {DEVICE}
    if name == "in half precision":
        assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}
        losses = [trainer.state.log_history[0]["loss"] for trainer in (found, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=0.05)
    else:
        torch.testing.assert_close(weights(found), weights(expected), rtol=0, atol=1e-4)
    if found.average is not None and expected.average is not None:
        for key in weights(found):
            torch.testing.assert_close(
                values(found.average.average[key]), expected.average.average[key], rtol=0, atol=1e-4
            )
    waited = next(call.found for call in found.callback_handler.callbacks if isinstance(call, WaitsOfASecondStep))
    assert waited == {
        # how many captions and siblings the batch has
        "losses/multi_positive.py _group_sums": 1,
        "models/sibling_batch_norm.py _group": 2,
        **(TEXTS if name == "with texts" else {}),
    }


def test_a_resumed_run_ends_where_the_whole_one_does_and_is_probed(dataset, tmp_path):
    every = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "ema_decay": 0.9}
    with fake_gpu():
        whole = trained(tmp_path / "whole", dataset, cpu=False, **every)
        trained(tmp_path / "halves", dataset, cpu=False, stop=True, **every)
        second = trained(tmp_path / "halves", dataset, cpu=False, resume=True, **every)
    torch.testing.assert_close(weights(second), weights(whole), rtol=0, atol=0)
    scores = [entry["eval_knn_accuracy"] for entry in whole.state.log_history if "eval_knn_accuracy" in entry]
    assert len(scores) == 2 and all(0 <= score <= 1 for score in scores)
