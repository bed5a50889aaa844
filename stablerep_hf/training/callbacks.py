"""What happens around the steps of a training."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState, ProgressCallback

from ..errors import InputError
from .checkpoints import latest_checkpoint
from .grouped_images import GroupedBatchSampler
from .objectives import MAX_LOGIT_SCALE
from .sharding import copy_whole, local, whole

_LOGGER = logging.getLogger(__name__)


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
        """Choose the epoch of the step that comes next, and say what of it Trainer is going to drop."""
        accumulated = args.gradient_accumulation_steps
        epoch, done = divmod(state.global_step, -(-len(self.batches) // accumulated))
        self.batches.set_epoch(epoch)
        self.batches.skipped = 0 if args.ignore_data_skip else done * accumulated


class StopAtNotANumber(TrainerCallback):
    """Stops before a loss that is not a number reaches the weights.

    The losses of a step are looked at only before the optimiser's step. Asked for after the forward pass, they would
    have a GPU idle until the backward pass is launched.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []  # since the last step: several if gradients are accumulated
        self._arrived: torch.cuda.Event | None = None

    def watch(self, loss: Tensor) -> None:
        """Fetch a loss that is the same on all ranks, so that all stop, without waiting for it."""
        self._losses.append(loss.detach().to("cpu", non_blocking=True))
        if loss.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise `InputError` if a loss is not a number."""
        if self._arrived is not None:
            self._arrived.synchronize()
        losses, self._losses = self._losses, []
        bad = [loss for loss in losses if not torch.isfinite(loss)]
        if bad:
            good = latest_checkpoint(str(args.output_dir), finite=True)
            raise InputError(
                f"The loss is {bad[0].item()} at step {state.global_step + 1}: lower the learning rate or train "
                f"in bf16, not fp16; {f'{good} is the last good checkpoint' if good else 'there is no checkpoint'}."
            )


class SeenImages(TrainerCallback, ExportableState):
    """Counts views, and images that are skipped since they cannot be decoded; in the checkpoints, for a resumed run.

    Args:
        limit: More skipped images than these stop the training.

    Attributes:
        views: Seen so far, of all processes after `gather` and at the end.
        skipped: What the skipped images are called, in order; likewise.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.views = 0
        self.skipped: list[str] = []
        self._new = 0  # views since the last gathering, of this process

    def add(self, views: int, skipped: Iterable[str]) -> None:
        """Count a batch of this process, or raise `InputError` if too many images are skipped."""
        self._new += views
        new = set(skipped).difference(self.skipped)
        self.skipped = sorted({*self.skipped, *new})
        if new and len(self.skipped) > self.limit:
            raise InputError(
                f"{len(self.skipped)} images cannot be decoded, the last at {max(new)}, and "
                f"max_bad_images={self.limit}: repair the data or raise the limit."
            )

    def gather(self) -> None:
        """Learn what the other processes saw; every process calls it."""
        for views, skipped in gather_object([(self._new, self.skipped)]):
            self.views += views
            self.skipped = sorted({*self.skipped, *skipped})
        self._new = 0

    def state(self) -> dict[str, Any]:
        """What `Trainer` writes into a checkpoint."""
        return {"args": {"limit": self.limit}, "attributes": {"views": self.views, "skipped": self.skipped}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on from what the resumed run had seen."""
        callbacks: Any = state.stateful_callbacks  # a dictionary by now
        for name, value in callbacks.setdefault(type(self).__name__, self.state())["attributes"].items():
            setattr(self, name, value)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell what was skipped."""
        self.gather()
        if self.skipped and PartialState().is_main_process:
            names = "; ".join(self.skipped)
            _LOGGER.warning("%d images could not be decoded and were skipped: %s", len(self.skipped), names)


class ClampLogitScale(TrainerCallback):
    """Keeps a learned logit scale in [0, ln 100] after each step, as the release does."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clamp in place."""
        logit_scale = getattr(kwargs["model"], "logit_scale", None)
        if logit_scale is not None:
            with torch.no_grad():
                local(logit_scale).clamp_(0, MAX_LOGIT_SCALE)


class AverageWeights(TrainerCallback):
    """An exponential moving average of the trained weights, saved with each checkpoint and resumed from it.

    After step t the average is decay x average + (1 - decay) x weights, with min(decay, (1 + t) / (10 + t)) for decay,
    so that the first steps do not stay in it. With `load_best_model_at_end` it is in the end that of the best step.

    Args:
        decay: In [0, 1).
    """

    FILE = "ema.safetensors"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start from the weights, or from the checkpoint that is resumed."""
        trained = _trained(kwargs["model"])
        self.average = {name: parameter.detach().clone() for name, parameter in trained.items()}
        if state.global_step:
            self._read(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go back to the best step, as the weights did."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._read(Path(state.best_model_checkpoint))

    def _read(self, checkpoint: Path) -> None:
        file = checkpoint / self.FILE
        if not file.is_file():
            raise InputError(
                f"{file} is missing, so the average of the weights cannot go on: resume from a checkpoint that "
                "was trained with ema_decay, or leave it out."
            )
        for name, tensor in load_file(file).items():
            copy_whole(self.average[name], tensor)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the step's weights in."""
        share = 1 - min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        trained = _trained(kwargs["model"])
        with torch.no_grad():
            average = [local(tensor) for tensor in self.average.values()]
            torch._foreach_lerp_(average, [local(trained[name]) for name in self.average], share)

    def save(self, folder: Path, *, write: bool) -> None:
        """Write the average beside a checkpoint's weights. Every process calls it, one of them with `write`."""
        average = {name: whole(tensor).contiguous() for name, tensor in self.average.items()}
        if write:
            save_file(average, folder / self.FILE)

    def load_into(self, model: nn.Module) -> None:
        """Replace a model's weights by their average; every process calls it."""
        trained = _trained(model)
        for name, tensor in self.average.items():
            copy_whole(trained[name], whole(tensor))

    @contextmanager
    def standing_in(self, model: nn.Module) -> Iterator[None]:
        """Within, a model has the average for its weights; every process calls it."""
        trained = _trained(model)
        kept = {name: local(trained[name]).detach().clone() for name in self.average}
        self.load_into(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in kept.items():
                    local(trained[name]).copy_(tensor)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


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
