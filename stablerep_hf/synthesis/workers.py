"""Which of several workers this process is, by what its launcher says, and the device that is its own."""

from __future__ import annotations

import os

from ..errors import InputError


def rank_and_world_size() -> tuple[int, int]:
    """Place among the launcher's workers: torchrun and `accelerate launch` (or RANK and WORLD_SIZE by hand), or Slurm.

    In Slurm a worker is a task of `srun`, a task of an array (wherever its numbers start), or both. `InputError` if
    the environment holds no numbers, or an array has gaps.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _number("RANK"), _number("WORLD_SIZE")
    rank, world_size = 0, 1
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        task, first, world_size = (_number(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "COUNT"))
        rank = (task - first) // (_number("SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in os.environ else 1)
        if rank >= world_size:
            raise InputError(
                f"Task {task} of a Slurm array of {world_size} that begins at {first} has a gap before it, so its "
                f"place among the workers is unknown: use an array without gaps, as --array=0-{world_size - 1}."
            )
    if "SLURM_STEP_NUM_TASKS" in os.environ:  # srun's; a batch script alone has none, though it may ask for many tasks
        tasks = _number("SLURM_STEP_NUM_TASKS")
        rank, world_size = rank * tasks + _number("SLURM_PROCID"), world_size * tasks
    return rank, world_size


def find_device(device: str | None) -> str:
    """The device that was asked for, or the fastest there is: CUDA, MPS, CPU; `InputError` if there is no such device.

    A GPU without a number is this worker's own among those of its machine.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device={device} is unknown: use one such as cuda, cuda:1, mps or cpu.") from error
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device={device} was asked for, but there is no CUDA GPU here: use cpu.")
        if found.index is not None and found.index >= torch.cuda.device_count():
            raise InputError(
                f"device={device} was asked for, but there are {torch.cuda.device_count()} CUDA GPUs here, counted "
                "from 0."
            )
        if found.index is None:
            for name in ("LOCAL_RANK", "SLURM_LOCALID"):
                if os.environ.get(name):
                    return f"cuda:{_number(name) % torch.cuda.device_count()}"
    return device


def use_one_gpu() -> None:
    """Have this process, and those that it starts, see the first of its CUDA GPUs alone; before CUDA is used.

    For what is small and one process: Trainer would spread a batch over all GPUs, which contrastive training refuses.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise InputError(
            f"The environment has {name}={os.environ[name]!r}, which is not a whole number: leave it to the launcher, "
            "or unset it."
        ) from error
