"""How much a training run will write, and whether it fits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files.places import free_bytes

if TYPE_CHECKING:
    from ..training.image_trainer import ImageTrainer


@dataclass(frozen=True)
class Room:
    """What a training run writes, in bytes.

    Attributes:
        checkpoint: A checkpoint: weights, two moments of each trained weight (AdamW), an average if one is kept.
        checkpoints: The most checkpoints that are there at once.
        models: What is exported at the end.
        there: What is there already.
        free: What the disk has left.
    """

    checkpoint: int
    checkpoints: int
    models: int
    there: int
    free: int

    @property
    def wanted(self) -> int:
        """Bytes that are still to be written."""
        return max(self.checkpoint * self.checkpoints + self.models - self.there, 0)


def room_of(trainer: ImageTrainer, output: Path) -> Room:
    """Estimate what a training run writes below `output`."""
    args = trainer.args
    weights = sum(tensor.numel() * tensor.element_size() for tensor in trainer.model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
    steps = num_steps(trainer)
    each = {"no": math.inf, "epoch": steps / max(args.num_train_epochs, 1), "best": args.eval_steps}
    every = each.get(str(getattr(args.save_strategy, "value", args.save_strategy)), args.save_steps) or math.inf
    saves = math.ceil(steps / (every if every >= 1 else every * steps))
    limit = trainer.save_total_limit
    kept = min(saves, limit + 1) if limit and limit > 0 else saves  # one more is there before an old one goes
    there = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Room(
        checkpoint=weights + trained * (2 if args.ema_decay is None else 3),
        checkpoints=kept,
        models=2 * weights,
        there=there,
        free=free_bytes(output),
    )


def num_steps(trainer: ImageTrainer) -> int:
    """Optimiser steps of the whole run."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    steps_per_epoch = -(-len(trainer.batches) // args.gradient_accumulation_steps)
    return max(math.ceil(args.num_train_epochs * steps_per_epoch), 1)


def check_room(room: Room, output: Path) -> None:
    """Refuse a run that the disk has no room for.

    Raises:
        InputError: It has not.
    """
    if room.wanted > room.free:
        raise InputError(
            f"The run writes about {size(room.wanted)} to {output} ({room.checkpoints} checkpoints of "
            f"{size(room.checkpoint)} and the model), and {size(room.free)} are free: keep fewer checkpoints with "
            "`save_total_limit`, save less often with `save_steps`, or free some room."
        )


def size(num_bytes: float) -> str:
    """Bytes in words, such as "1.2 GB"."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"
