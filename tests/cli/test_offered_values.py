"""Every value that --help offers or names for an optimizer, a schedule or a scheduler: one step, or one sentence."""

import pytest
from tiny_training import TRAIN_FLAGS
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

NEEDS = {  # of a schedule -> what makes it work
    "reduce_lr_on_plateau": "an eval strategy",
    "greedy": "an eval strategy",
    "cosine_with_min_lr": {"min_lr": 0.25},
    "cosine_warmup_with_min_lr": {"min_lr": 0.25},
    "warmup_stable_decay": {"num_decay_steps": 1},
}


@pytest.fixture
def one_step(stablerep, grouped_folder, tmp_path):
    def run(flag, value, *others):
        output = tmp_path / f"{value}{len(others)}"
        flags = [*TRAIN_FLAGS, "--max_steps", "1", "--save_strategy", "no", flag, value, *others]
        code, _, error = stablerep("train", "--data", grouped_folder, "--output", output, *flags, "--quiet")
        assert code in (0, 2), (value, error)
        if code == 2:
            assert error.startswith("stablerep train: ") and error.count("\n") == 1, error
        return code, error

    return run


@pytest.mark.slow
def test_every_optimizer_trains_a_step_or_is_refused_by_a_sentence(one_step):
    codes = {name.value: one_step("--optim", name.value) for name in OptimizerNames}
    trains = {name for name, (code, _) in codes.items() if code == 0}
    assert {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"} <= trains
    for name, (code, error) in codes.items():
        assert code == 0 or "nstall" in error or "import" in error, (name, error)


@pytest.mark.slow
def test_every_schedule_trains_a_step_or_says_what_it_needs(one_step):
    import json

    for name in SchedulerType:
        code, error = one_step("--lr_scheduler_type", name.value)
        needs = NEEDS.get(name.value)
        assert code == (0 if needs is None else 2), error
        if isinstance(needs, str):
            assert needs in error
        elif needs is not None:
            assert "--lr-scheduler-kwargs" in error
            settings = ("--lr_scheduler_kwargs", json.dumps(needs))
            assert one_step("--lr_scheduler_type", name.value, *settings)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_every_scheduler_draws_or_is_refused_by_a_sentence(stablerep, pipeline, tmp_path, steps):
    import diffusers

    (tmp_path / "captions.txt").write_text("a red dot\n")
    draws = set()
    for name in sorted(name for name in dir(diffusers) if name.endswith("Scheduler")):
        words = ["--captions", tmp_path / "captions.txt", "--generator", pipeline, "--images-per-caption", "1"]
        words += ["--num-inference-steps", steps, "--scheduler", name, "--output", tmp_path / name, "--quiet"]
        code, _, error = stablerep("generate", *words)
        assert code in (0, 2), (name, error)
        if code == 2:
            last = error.splitlines()[-1]
            assert last.startswith("stablerep generate: ") and name in last, error
        else:
            draws.add(name)
    assert {"DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "LMSDiscreteScheduler"} <= draws
