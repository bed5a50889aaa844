"""Checkpoints that survive `kill -9` and from which a training goes on bit for bit, and a loss log."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stablerep_hf.errors import refuse_other_settings


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
    """The last whole checkpoint, on the CPU, or None."""
    return torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None


class Run:
    """One stage of training: its parts, its step, its checkpoint and its loss log.

    What is random comes from `rng` and from torch's generator on the CPU, also where the model is on a GPU; both are
    in the checkpoint.

    Args:
        path: The checkpoint; the log lies beside it as `.jsonl`.
        parts: What has a `state_dict` and goes into the checkpoint.
        shaping: Settings that a checkpoint must have been begun with.
        steps: To train.
        save_seconds: Between two checkpoints.
        minutes: Stop at a checkpoint after so long in this call; None trains to the end.
        seed: Of `rng` in a training that begins; torch's generator is the caller's to seed.
    """

    def __init__(
        self,
        path: Path,
        parts: Mapping[str, Any],
        shaping: dict[str, Any],
        *,
        steps: int,
        save_seconds: float,
        minutes: float | None,
        seed: int,
    ) -> None:
        self.path, self.journal, self.parts, self.shaping = path, path.with_suffix(".jsonl"), parts, shaping
        self.steps, self.save_seconds = steps, save_seconds
        self.rng = random.Random(seed)
        self.step, spent = 0, 0.0
        state = load(path)
        if state is not None:
            remedy = "give the settings that it was begun with, or another work folder."
            refuse_other_settings(f"{path} holds a training", state["shaping"], shaping, remedy)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, spent = state["step"], state["seconds"]
            version, internal, gauss = state["python_rng"]
            self.rng.setstate((version, tuple(internal), gauss))
            torch.set_rng_state(state["torch_rng"])
        self._forget_later_lines()
        now = time.monotonic()
        self.started, self.saved = now - spent, now
        self.deadline = math.inf if minutes is None else now + 60 * minutes
        self.expired = now >= self.deadline
        self.losses: list[torch.Tensor] = []

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over restarts."""
        return time.monotonic() - self.started

    @property
    def goes_on(self) -> bool:
        """Whether there are steps left, and time in this call."""
        return self.step < self.steps and not self.expired

    def advance(self, loss: torch.Tensor) -> bool:
        """Count a step; say whether it is time for a log line and a checkpoint."""
        self.step += 1
        self.losses.append(loss.detach())
        self.expired = time.monotonic() >= self.deadline
        return not self.goes_on or time.monotonic() - self.saved > self.save_seconds

    def save(self, **values: float | int | str) -> None:
        """Write a log line with the mean loss since the last one, then the checkpoint."""
        seconds = self.seconds
        if self.losses:
            values["loss"] = torch.stack(self.losses).double().mean().item()
            self.losses.clear()
        log(self.journal, step=self.step, seconds=seconds, **values)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        rngs = {"python_rng": self.rng.getstate(), "torch_rng": torch.get_rng_state()}
        save(self.path, {**state, **rngs, "shaping": self.shaping, "step": self.step, "seconds": seconds})
        self.saved = time.monotonic()

    def _forget_later_lines(self) -> None:
        """Drop log lines of steps that a kill lost: they are trained again."""
        if self.journal.exists():
            lines = self.journal.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
            if kept != lines:
                self.journal.write_text("".join(kept))


class Average:
    """Exponential moving average of parameters, with a short memory at the start."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.values = [p.detach().clone() for p in parameters]
        self.decay = decay

    def update(self, parameters: Iterable[nn.Parameter], step: int) -> None:
        """Move towards the parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """For a checkpoint."""
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """From a checkpoint."""
        for mine, theirs in zip(self.values, state["values"], strict=True):
            mine.copy_(theirs)


def learning_rate(peak: float, step: int, steps: int, hold: float = 0.0, warmup: int = 200) -> float:
    """Linear warm-up, `peak` for the share `hold` of the steps, then half a cosine to zero."""
    decay = max(0.0, (step / steps - hold) / (1 - hold)) if hold < 1 else 0.0
    return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * decay))


def log(path: Path, **values: float | int | str) -> None:
    """Append one JSON line and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()})
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
