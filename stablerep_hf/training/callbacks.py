"""What happens around the steps of a training run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..errors import InputError
from ..progress import Progress, readable, say
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

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Choose the epoch of the step that comes next, what of it Trainer is going to drop, and where it ends.

        Batches after the last step are not served: a run that goes on from its last step would take one more.
        """
        accumulated = args.gradient_accumulation_steps
        steps = -(-len(self.batches) // accumulated)
        epoch, done = divmod(state.global_step, steps)
        self.batches.set_epoch(epoch)
        self.batches.stop = max(0, state.max_steps - epoch * steps) * accumulated
        self.batches.skipped = 0 if args.ignore_data_skip else done * accumulated


class StopAtNotANumber(TrainerCallback):
    """Stops before a loss that is not finite reaches the weights, and before weights that are not finite are saved.

    The losses of a step are looked at only before the optimiser's step. Asked for after the forward pass, they would
    have a GPU idle until the backward pass is launched.

    Attributes:
        loss: Of the last step, as the weights had it before the step; NaN before the first.
        zero_means: Why a loss of exactly 0 teaches nothing, for a warning; "" where it may be right.
        others: Further tensors that must be finite when something is saved, such as the average of the weights.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []  # since the last step: several if gradients are accumulated
        self._arrived: torch.cuda.Event | None = None
        self.loss = float("nan")
        self.zero_means = ""
        self.others: Callable[[], Iterable[Tensor]] = tuple

    def watch(self, loss: Tensor) -> None:
        """Fetch a loss that is the same on all ranks, so that all stop, without waiting for it."""
        self._losses.append(loss.detach().to("cpu", non_blocking=True))
        if loss.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Raise `InputError` if a loss is not finite; warn once if it is 0 for want of positives."""
        if self._arrived is not None:
            self._arrived.synchronize()
        losses, self._losses = self._losses, []
        self.loss = sum(loss.item() for loss in losses) / max(len(losses), 1)
        if not math.isfinite(self.loss):
            raise InputError(f"The loss is {self.loss} at step {state.global_step + 1}: {_remedy(args)}")
        if self.loss == 0 and self.zero_means and state.is_world_process_zero:
            _LOGGER.warning("The loss of step %d is 0: %s.", state.global_step + 1, self.zero_means)
            self.zero_means = ""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Raise `InputError` if a weight is not finite; what was saved then never counts as a checkpoint."""
        tensors = [*kwargs["model"].state_dict().values(), *self.others()]
        finite = torch.stack([local(tensor).isfinite().all() for tensor in tensors if tensor.is_floating_point()])
        if not all(gather_object([bool(finite.all())])):
            raise InputError(f"Step {state.global_step} left weights that are not finite numbers: {_remedy(args)}")

    on_train_end = on_save  # the last step too, whether or not it is saved


def _remedy(args: TrainingArguments) -> str:
    good = latest_checkpoint(str(args.output_dir))
    return "lower the learning rate or train in bf16, not fp16; " + (
        f"{good} is the last good checkpoint." if good else "there is no checkpoint."
    )


class SeenImages(TrainerCallback, ExportableState):
    """Counts views, and images that are skipped since they cannot be decoded; a resumed run goes on counting.

    Args:
        limit: More skipped images than these stop the training run.

    Attributes:
        views: Views seen so far, of all processes after `gather` and at the end.
        views_before: Views that an interrupted run had seen when this process went on with it.
        skipped: Names of the skipped images, in order, of all processes after `gather` and at the end.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.views = self.views_before = 0
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

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Go on from what the resumed run had seen."""
        callbacks: Any = state.stateful_callbacks  # a dictionary by now
        for name, value in callbacks.setdefault(type(self).__name__, self.state())["attributes"].items():
            setattr(self, name, value)
        self.views_before = self.views

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Say what was skipped."""
        self.gather()
        if self.skipped and PartialState().is_main_process:
            names = "; ".join(self.skipped)
            _LOGGER.warning("%d images could not be decoded and were skipped: %s", len(self.skipped), names)


class ClampLogitScale(TrainerCallback):
    """Keeps a learned logit scale in [0, ln 100] after each step, as the release does."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Clamp in place."""
        logit_scale = getattr(kwargs["model"], "logit_scale", None)
        if logit_scale is not None:
            with torch.no_grad():
                local(logit_scale).clamp_(0, MAX_LOGIT_SCALE)


class AverageWeights(TrainerCallback):
    """An exponential moving average of the trained weights and of the statistics of batch norms.

    It is saved with each checkpoint and resumed from it; one that was saved without statistics takes those of the
    model.

    After step t the average is decay x average + (1 - decay) x weights, with min(decay, (1 + t) / (10 + t)) for decay,
    so that the first steps do not stay in it. With `load_best_model_at_end` it is in the end that of the best step.

    Args:
        decay: In [0, 1).

    Attributes:
        average: The average by the weights' names; empty before training begins.
        resumed_from: Folder of the checkpoint that training goes on from, if it does.
    """

    FILE = "ema.safetensors"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._weights: set[str] = set()  # the trained ones, without statistics
        self.resumed_from: str | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start from the weights, or from the checkpoint that is resumed."""
        trained = _averaged(kwargs["model"])
        self.average = {name: tensor.detach().clone() for name, tensor in trained.items()}
        self._weights = {name for name, tensor in trained.items() if isinstance(tensor, nn.Parameter)}
        if self.resumed_from is not None:
            self._read(Path(self.resumed_from))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
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
        kept = load_file(file)
        if not self._weights <= kept.keys() <= self.average.keys():
            raise InputError(f"{file} averages other weights than those that are trained: resume with the same model.")
        for name, tensor in kept.items():
            copy_whole(self.average[name], tensor)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take the step's weights in."""
        share = 1 - min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        trained = _averaged(kwargs["model"])
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
        trained = _averaged(model)
        for name, tensor in self.average.items():
            copy_whole(trained[name], whole(tensor))

    @contextmanager
    def replacing(self, model: nn.Module) -> Iterator[None]:
        """Within, a model has the average for its weights; every process calls it."""
        trained = _averaged(model)
        kept = {name: local(trained[name]).detach().clone() for name in self.average}
        self.load_into(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in kept.items():
                    local(trained[name]).copy_(tensor)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    kept = model.state_dict()
    return trained | {
        name: buffer for name, buffer in model.named_buffers() if name in kept and buffer.is_floating_point()
    }


class ImageProgress(TrainerCallback):
    """Shows the progress of training in images, with the loss, and each log as a readable line.

    Args:
        views_per_batch: Views in a step, over all processes.
        watcher: Knows the loss of the last step.
    """

    def __init__(self, views_per_batch: int, watcher: StopAtNotANumber) -> None:
        self.views_per_batch, self.watcher = views_per_batch, watcher
        self._progress: Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start at the step that the run goes on from."""
        views = self.views_per_batch
        shown = state.is_world_process_zero and not args.disable_tqdm
        self._progress = Progress("training", state.max_steps * views, done=state.global_step * views, shown=shown)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        if self._progress is not None:
            self._progress.advance(self.views_per_batch, loss=self.watcher.loss)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Write a log as one line."""
        if state.is_world_process_zero and not args.disable_tqdm:
            values = {name: value for name, value in kwargs["logs"].items() if name != "total_flos"}
            line = ", ".join(f"{name} {readable(value)}" for name, value in values.items())
            say(f"step {state.global_step} of {state.max_steps}: {line}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Show the end."""
        self.close()

    def close(self) -> None:
        """Show nothing more, also when training stopped with an error."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None
