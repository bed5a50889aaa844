"""What pre-training and fine-tuning share: batches of views, a probe, checkpoints, and checks of what goes wrong."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import HubStrategy, TrainOutput

from ..errors import InputError, one_line, refusing
from ..models.backbones import image_shape
from ..progress import say
from .arguments import ImageTrainingArguments
from .augmentation import RECIPES, AugmentationRecipe
from .callbacks import AverageWeights, FollowEpoch, ImageProgress, SeenImages, StopAtNotANumber
from .checkpoints import KeepCheckpoints, checkpoint_to_resume, damage
from .color import ColorAugmentation
from .device_defaults import described, workers_that_fit
from .grouped_images import GroupedBatchSampler
from .groups import GroupCollator, GroupDataset
from .hub_push import HubPushTrainer, PushCheckpoints
from .layers import layers_of
from .probe import Probe
from .sharding import gathered

_LOGGER = logging.getLogger(__name__)


class ImageTrainer(HubPushTrainer):
    """transformers' Trainer for batches of augmented views; `StableRepTrainer` and `FineTuningTrainer` add the loss.

    The batch is global: one process and several see the same images and the same views.

    Args:
        model: A model that the subclass knows a loss for.
        args: Arguments of the subclass; a copy is kept, so they can serve another trainer.
        groups: The images.
        batches: Which of them come together.
        collator: Makes batches of them.
        processing_class: Tokenizer; saved with the model.
        callbacks: As for `transformers.Trainer`.
        probe: Measures the model wherever `eval_strategy` says, as "eval_..."; `load_best_model_at_end` goes by it.

    Raises:
        InputError: The batch does not fit the data or the processes, or the probe does not measure
            `metric_for_best_model`. In `train`: a step does not fit the device's memory, the loss or a weight is not
            finite, more images than `max_bad_images` cannot be decoded, or a checkpoint is damaged.
    """

    loss_is_scaled_for_ga = False  # the losses are means over the global batch
    advice_on_memory = "give a smaller batch, or gradient_checkpointing=True, which is slower."
    args: ImageTrainingArguments

    def __init__(
        self,
        model: nn.Module,
        args: ImageTrainingArguments,
        groups: GroupDataset,
        batches: GroupedBatchSampler,
        collator: GroupCollator,
        processing_class: Any | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        probe: Probe | None = None,
    ) -> None:
        self._groups = groups
        self.batches = batches
        args = copy.copy(args)
        args.per_device_train_batch_size = args.groups_per_batch // args.world_size
        choose_best_metric(args, probe)
        self.get_optimizer_cls_and_kwargs(args)  # refuses one that is not installed, before a folder is made
        self._not_a_number = StopAtNotANumber()
        self.seen = SeenImages(args.max_bad_images)
        # Our callbacks remove old checkpoints and push, so Trainer must not.
        self.save_total_limit = args.save_total_limit
        keep = KeepCheckpoints(self, args.save_total_limit)
        self.pushing = PushCheckpoints(self, HubStrategy(args.hub_strategy))
        args.save_total_limit, args.hub_strategy = None, HubStrategy.END
        super().__init__(
            model=model,
            args=args,
            train_dataset=groups,
            eval_dataset=probe,
            data_collator=collator,
            processing_class=processing_class,
            callbacks=[FollowEpoch(batches), self._not_a_number, self.seen],
        )
        if self.is_fsdp_enabled and self.accelerator.is_fsdp2:
            # Autocast computes in half precision, as under DDP. FSDP2's own policy would also hold logit_scale in it,
            # in steps of 0.03 above 4, and add up the gradients of the processes in it.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
        for theirs in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
            self.pop_callback(theirs)
        self._progress = ImageProgress(self.views_per_batch, self._not_a_number)
        for callback in (keep, self.pushing, self._progress, *callbacks):
            self.add_callback(callback)
        self.average: AverageWeights | None = None
        if args.ema_decay is not None:
            average = self.average = AverageWeights(args.ema_decay)
            self._not_a_number.others = lambda: average.average.values()
            self.add_callback(average)
        self.probe = probe
        config: Any = model.config
        self.augment = ColorAugmentation(tuple(config.image_mean), tuple(config.image_std))
        self._parts: defaultdict[str, list[Tensor]] = defaultdict(list)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train from the beginning or from a checkpoint.

        Args:
            resume_from_checkpoint: Folder of a checkpoint; True for the newest whole one in `output_dir` or, with
                `push_to_hub`, on the Hub, and the beginning if there is none.
            trial: As for `transformers.Trainer`.
            ignore_keys_for_eval: As for `transformers.Trainer`.

        Raises:
            InputError: The checkpoint is damaged or of another training run, or see the class.
        """
        checkpoint = checkpoint_to_resume(self) if resume_from_checkpoint is True else resume_from_checkpoint or None
        if checkpoint is not None and resume_from_checkpoint is not True and (fault := damage(Path(str(checkpoint)))):
            raise InputError(f"resume_from_checkpoint={checkpoint} cannot be used: {fault}. Name an older checkpoint.")
        if self.average is not None:
            self.average.resumed_from = None if checkpoint is None else str(checkpoint)
        if self.args.device.type == "cuda" and self.is_world_process_zero():
            say(described(self.args))
        try:
            return super().train(checkpoint, trial, ignore_keys_for_eval)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"A step of {self.views_per_batch // self.args.world_size:,} images does not fit {self.args.device} "
                f"({one_line(error)}): {self.advice_on_memory}"
            ) from error
        finally:
            self._progress.close()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer; with `layer_decay` each layer of the encoder has a learning rate of its own."""
        if self.optimizer is not None or self.args.layer_decay == 1:
            return super().create_optimizer(*([] if model is None else [model]))
        assert self.args.learning_rate is not None
        trained: Any = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(trained))
        layers, blocks = layers_of(trained)
        groups: defaultdict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                scale = self.args.layer_decay ** (blocks + 1 - layers[name]) if name in layers else 1.0
                groups[scale, self.args.weight_decay if name in decayed else 0.0].append(parameter)
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, trained)
        self.optimizer = kind(
            [
                {"params": parameters, "lr": scale * self.args.learning_rate, "weight_decay": weight_decay}
                for (scale, weight_decay), parameters in groups.items()
            ],
            **settings,
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the learning rate schedule.

        Raises:
            InputError: It lacks arguments, or they cannot work.
        """
        with refusing(
            f"lr_scheduler_type={_value(self.args.lr_scheduler_type)} cannot be made",
            "give what it needs in `lr_scheduler_kwargs`, or choose another",
            (TypeError, ValueError, KeyError),
        ):
            return super().create_scheduler(num_training_steps, optimizer)

    @property
    def views_per_batch(self) -> int:
        """Views in a global batch, if no caption has fewer images than asked for."""
        return self.args.groups_per_batch * self._groups.views_per_group

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of groups; each process gets its slice of every global batch."""
        asked = self.args.dataloader_num_workers or 0
        views = self.views_per_batch // self.args.world_size
        workers = workers_that_fit(
            asked, self.args.dataloader_prefetch_factor or 2, views * 3 * self._groups.image_size**2
        )
        if workers < asked:
            _LOGGER.warning(
                "dataloader_num_workers=%d would keep more batches than /dev/shm has room for, so %d are used: give "
                "the container more shared memory (--shm-size), or ask for fewer.",
                asked,
                workers,
            )
        loader = DataLoader(
            self._groups,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the encoder with the probe; with `ema_decay`, the average of its weights, which is what is exported.

        Every process measures: what follows from the numbers, such as the best checkpoint, must be the same on all.

        Args:
            eval_dataset: Not used.
            ignore_keys: Not used.
            metric_key_prefix: What the names of the numbers begin with.

        Raises:
            InputError: The trainer was made without a probe, or it does not measure `metric_for_best_model`.
        """
        if self.probe is None:
            raise InputError("There is nothing to evaluate on: give the trainer a `probe` (`probe_data`).")
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        averaged = nullcontext() if self.average is None else self.average.replacing(self.model)
        with averaged, gathered(model):
            measured = self.probe(model)
        if self.args.load_best_model_at_end:
            _check_metric(self.args, list(measured))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, averaged since the last log, and the number of skipped images if there are any.

        At the end of training, `train_samples_per_second` counts views, whatever the objective.
        """
        if "train_runtime" in logs:
            self.seen.gather()
            views = self.seen.views - self.seen.views_before
            logs["train_samples_per_second"] = round(views / logs["train_runtime"], 3)
        if "loss" in logs:
            self.seen.gather()
            if self.seen.skipped:
                logs["bad_images"] = len(self.seen.skipped)
            logs.update({name: torch.stack(values).mean().item() for name, values in self._parts.items()})
            self._parts.clear()
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights and, with `ema_decay`, their average beside them."""
        self.seen.gather()  # for the state that is written next, by one process
        super().save_model(output_dir, _internal_call)
        if self.average is not None and self.average.average:
            self.average.save(Path(output_dir or str(self.args.output_dir)), write=self.args.should_save)

    def whole_model(self) -> nn.Module:
        """The trained model, nothing wrapped around it and no weight cut; every process calls it.

        Under FSDP2 it is a new model, on the first process with the weights of all, elsewhere with none that count.
        """
        model: nn.Module = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not self.is_fsdp_enabled:
            return model
        weights = self.accelerator.get_state_dict(self.model)
        kind: Any = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
        model = kind(model.config)
        if self.is_world_process_zero():
            model.load_state_dict(weights, assign=True)  # in the precision that they were trained in
        return model

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All but biases, norms and scalars; class and position tokens are decayed, as in the release."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint whose keys differ; Trainer would warn and train on with part of the model lost.

        A private hook, because no public one sees what `load_state_dict` reported (transformers #43701).
        """
        if load_result.missing_keys or load_result.unexpected_keys:
            raise InputError(
                f"The checkpoint is of another architecture: it lacks {_named(load_result.missing_keys)} and also has "
                f"{_named(load_result.unexpected_keys)}: resume with the model that it was saved from."
            )


def choose_best_metric(args: ImageTrainingArguments, probe: Probe | None) -> None:
    """Let `load_best_model_at_end` and `save_strategy="best"` go by what the probe measures unless asked otherwise.

    Raises:
        InputError: There is no probe, or it does not measure `metric_for_best_model`.
    """
    if not (args.load_best_model_at_end or _value(args.save_strategy) == "best"):
        return
    if probe is None:
        raise InputError(
            "load_best_model_at_end=True and save_strategy=best need something to measure the model on: give the "
            "trainer a `probe` (`probe_data`), or leave them out."
        )
    metric = getattr(probe, "metric", None)
    if args.metric_for_best_model is None and metric is None:
        raise InputError(
            "The probe does not say by its attribute `metric` which of its numbers is the one to go by: name it with "
            "`metric_for_best_model`."
        )
    if args.metric_for_best_model is None:
        args.metric_for_best_model, args.greater_is_better = metric, True
    if metric is not None:
        _check_metric(args, list(getattr(probe, "measures", [metric])))


def _check_metric(args: ImageTrainingArguments, measured: list[str]) -> None:
    if str(args.metric_for_best_model).removeprefix("eval_") not in measured:
        raise InputError(
            f"metric_for_best_model={args.metric_for_best_model} is not measured in training: choose "
            f"{' or '.join(measured)}, or leave it out."
        )


def _value(setting: Any) -> Any:
    """What a user writes for a setting that transformers may have made an enumeration of."""
    return getattr(setting, "value", setting)


def recipe_for(args: ImageTrainingArguments) -> AugmentationRecipe:
    """The distribution of views that the arguments ask for."""
    recipe = replace(RECIPES[args.augmentation], downsample_probability=args.downsample_probability)
    return recipe if args.min_crop_area is None else replace(recipe, crop_scale=(args.min_crop_area, 1.0))


def crop_size(config: Any) -> int:
    """Edge of a view for an encoder.

    Args:
        config: The vision configuration.

    Raises:
        InputError: It looks at other than square colour images.
    """
    channels, height, width = image_shape(config)
    if height != width or channels != 3:
        raise InputError(
            f"The encoder looks at images of {height} x {width} pixels in {channels} channels, and views are square "
            "and in three colours: give an encoder of those."
        )
    return height


def check_processes(args: ImageTrainingArguments, name: str) -> None:
    """Refuse a batch that the processes cannot share; `name` is what the user calls its size."""
    if args.n_gpu > 1:
        raise InputError(
            f"One process sees {args.n_gpu} GPUs, and DataParallel would cut the batch into parts that do not see "
            "each other: start with `accelerate launch` (or torchrun), or make one GPU visible."
        )
    if args.groups_per_batch % args.world_size:
        raise InputError(
            f"{name}={args.groups_per_batch} cannot be divided among {args.world_size} processes: "
            f"choose a multiple of {args.world_size}."
        )


def _named(keys: list[str]) -> str:
    return f"{len(keys)} keys ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else "no keys"
