"""What a training run on a CUDA GPU does unless its arguments say otherwise. Never run on a GPU."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import TrainingArguments

_SHARED_MEMORY = Path("/dev/shm")
_MOST_WORKERS = 14  # as in the release; a view costs a core about 0.7 ms


def suit_the_device(args: TrainingArguments) -> None:
    """Fill in `bf16`, `tf32` and `dataloader_num_workers` where they were not given, and let copies overlap.

    On CUDA: bf16 where the GPU has it and no fp16 was asked for, TF32 for other products than the loss's (from Ampere
    on), and as many workers as this process has cores. Elsewhere float32, and this process decodes.
    """
    on_cuda = torch.cuda.is_available() and not args.use_cpu
    if args.dataloader_num_workers is None:
        args.dataloader_num_workers = min(_MOST_WORKERS, max(_cores() - 1, 1)) if on_cuda else 0
    if not on_cuda:
        return
    if args.bf16 is None and not args.fp16:
        args.bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if args.tf32 is None:
        args.tf32 = torch.cuda.get_device_capability() >= (8, 0)
    if args.dataloader_pin_memory:
        args.accelerator_config = {"non_blocking": True, **(args.accelerator_config or {})}  # type: ignore[dict-item]


def described(args: TrainingArguments) -> str:
    """The same in a line, for the start of a run on a GPU, with the arguments that change it."""
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"
    return (
        f"on {args.device}: bf16={bool(args.bf16)} ({precision}), tf32={bool(args.tf32)} outside the loss, "
        f"dataloader_num_workers={args.dataloader_num_workers}, "
        f"dataloader_pin_memory={args.dataloader_pin_memory}"
    )


def _cores() -> int:
    """Cores for this process, if the launcher started several on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores // max(int(os.environ.get("LOCAL_WORLD_SIZE") or 1), 1)


def workers_that_fit(workers: int, batches_each: int, batch_bytes: int) -> int:
    """How many of the workers this machine's shared memory has room for, in which batches wait for the trainer.

    Args:
        workers: Asked for.
        batches_each: Batches that a worker makes ahead.
        batch_bytes: Of one process's part of a batch.
    """
    if not workers or not _SHARED_MEMORY.is_dir():
        return workers
    ranks = max(int(os.environ.get("LOCAL_WORLD_SIZE") or 1), 1)
    return min(workers, shutil.disk_usage(_SHARED_MEMORY).free // (ranks * batches_each * max(batch_bytes, 1)))
