"""Checkpoints that survive `kill -9`, a training clock that survives a restart, and a loss log."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write to a temporary name, sync, rename: a reader sees the old or the new file, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The last whole checkpoint, or None."""
    return torch.load(path, weights_only=True) if path.exists() else None


class Clock:
    """Seconds trained so far, over restarts, as a share of the budget; the learning rate follows it.

    The budget is wall-clock time because that is what is scarce: a slower machine trains fewer steps, but the
    learning rate still ends at zero.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.budget = minutes * 60
        self.started = time.monotonic() - spent

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the budget in [0, 1]."""
        return min(1.0, self.seconds / self.budget)

    def learning_rate(self, peak: float, step: int, hold: float = 0.0, warmup: int = 200) -> float:
        """Linear warm-up, `peak` for the share `hold` of the budget, then half a cosine to zero."""
        decay = max(0.0, (self.progress - hold) / (1 - hold))
        return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * decay))


class Pace:
    """Uses as many threads as help right now.

    Two threads wait for each other: on a machine shared with other work they can be slower than one. Now and then a
    few steps are timed with each count, and the faster one is kept until the next look.
    """

    def __init__(self, threads: int, steps: int = 5, every: int = 100) -> None:
        self.counts = range(1, threads + 1)
        self.steps, self.every, self.position = steps, every, 0
        self.times = dict.fromkeys(self.counts, 0.0)
        self.last = time.monotonic()

    def step(self) -> None:
        """Call after each training step."""
        now = time.monotonic()
        trial, within = divmod(self.position, self.steps)
        if trial < len(self.counts):
            if within > 0:  # the first step after a change pays for it
                self.times[self.counts[trial]] += now - self.last
            if within == 0:
                self.times[self.counts[trial]] = 0.0
        self.position = (self.position + 1) % self.every
        trial, within = divmod(self.position, self.steps)
        if trial < len(self.counts) and within == 0:
            torch.set_num_threads(self.counts[trial])
        elif self.position == self.steps * len(self.counts):
            torch.set_num_threads(min(self.times, key=lambda count: self.times[count]))
        self.last = time.monotonic()


def log(path: Path, **values: float | int | str) -> None:
    """Append one JSON line and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()})
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
