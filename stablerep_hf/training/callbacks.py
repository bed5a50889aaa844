"""What happens around the steps of a training."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from .grouped_images import GroupedBatchSampler
from .objectives import MAX_LOGIT_SCALE


class FollowEpoch(TrainerCallback):
    """Keeps the batches in step with the epoch.

    Trainer's own `set_epoch` does not reach a batch sampler under several processes in a resumed epoch, where
    Accelerate wraps it twice; the resumed epoch would be served in the order of epoch 0.
    """

    def __init__(self, batches: GroupedBatchSampler) -> None:
        self.batches = batches

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose the epoch of the step that comes next."""
        self.batches.set_epoch(state.global_step // len(self.batches))


class ClampLogitScale(TrainerCallback):
    """Keeps a learned logit scale in [0, ln 100] after each step, as the release does."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clamp in place."""
        logit_scale = getattr(kwargs["model"], "logit_scale", None)
        if logit_scale is not None:
            with torch.no_grad():
                logit_scale.clamp_(0, MAX_LOGIT_SCALE)


class ImageProgress(ProgressCallback):
    """Trainer's progress bar, in images instead of steps.

    Args:
        views_per_batch: Views in a step, over all processes.
    """

    def __init__(self, views_per_batch: int) -> None:
        super().__init__()
        self.views_per_batch = views_per_batch

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        super().on_train_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]
        if self.training_bar is not None:
            self.training_bar.unit, self.training_bar.unit_scale = " images", self.views_per_batch
