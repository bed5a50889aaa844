"""transformers' Trainer for groups of siblings."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import InputError
from ..models import StableRepModel
from .arguments import StableRepTrainingArguments
from .augmentation import RECIPES, ColorAugmentation
from .grouped_images import GroupCollator, GroupedBatchSampler, GroupedImages
from .hub_push import HubPushTrainer
from .objectives import MAX_LOGIT_SCALE, OBJECTIVES, ObjectiveLoss, freeze_unreached


class StableRepTrainer(HubPushTrainer):
    """Trains a `StableRepModel` on caption-grouped images.

    The batch is global: one process and several see the same captions, the same images and the same views, and reach
    the same weights. A run interrupted at any checkpoint and resumed goes on bit for bit.

    Args:
        model: With a text tower if the objective has a text side.
        args: As `StableRepTrainingArguments`.
        train_dataset: Map-style, columns `image` and `caption_id` or `caption`.
        tokenizer: Of the text tower, if the objective has a text side.
        callbacks: As for `transformers.Trainer`.

    Raises:
        InputError: Model, data and objective do not fit; the sentence says how.
    """

    loss_is_scaled_for_ga = False  # the losses are means over the global batch
    args: StableRepTrainingArguments
    model: StableRepModel

    def __init__(
        self,
        model: StableRepModel,
        args: StableRepTrainingArguments,
        train_dataset: datasets.Dataset,
        tokenizer: Any | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        objective = OBJECTIVES[args.objective]
        _check_fit(model, args, tokenizer)
        freeze_unreached(model, objective)
        recipe = RECIPES[args.augmentation]
        if args.min_crop_area is not None:
            recipe = replace(recipe, crop_scale=(args.min_crop_area, 1.0))
        groups = GroupedImages(
            train_dataset,
            images_per_caption=1 if objective.one_group_per_image else args.images_per_caption,
            crops_per_image=args.crops_per_image,
            image_size=model.config.vision_config.image_size,
            recipe=recipe,
            seed=args.seed,
            one_group_per_image=objective.one_group_per_image,
        )
        self._groups = groups
        # Checked here, before a model is moved or a file written.
        self._batches = GroupedBatchSampler(len(groups), args.captions_per_batch, args.seed)
        args.per_device_train_batch_size = args.captions_per_batch // args.world_size
        collator = GroupCollator()
        if objective.text:
            collator = GroupCollator(tokenizer, model.config.text_config.max_position_embeddings)
        super().__init__(
            model=model,
            args=args,
            train_dataset=groups,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[_FollowEpoch(self._batches), *(callbacks or [])],
        )
        self.criterion = ObjectiveLoss(args.objective, args.temperature)
        self.augment = ColorAugmentation()
        self._bad_images: set[str] = set()
        self._parts: defaultdict[str, list[Tensor]] = defaultdict(list)

    @property
    def views_per_batch(self) -> int:
        """Views in a global batch, if no caption has fewer images than asked for."""
        return self.args.captions_per_batch * self._groups.views_per_group

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of groups; each process gets its slice of every global batch."""
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self._groups,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Colour and normalise the views, run the model, add up the objective."""
        self._count_bad_images(inputs["bad_images"])
        outputs = model(
            pixel_values=self.augment(inputs["pixels"], inputs["color"]),
            input_ids=inputs.get("input_ids"),
            attention_mask=inputs.get("attention_mask"),
            sibling_index=inputs["sibling_index"],
        )
        parts = self.criterion(outputs, inputs["caption_ids"], inputs["text_caption_ids"])
        for name, value in parts.items():
            if name != "loss":
                self._parts[name].append(value.detach())
        return (parts["loss"], outputs) if return_outputs else parts["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, averaged since the last log, to what Trainer logs."""
        if "loss" in logs:
            logs.update({name: torch.stack(values).mean().item() for name, values in self._parts.items()})
            self._parts.clear()
        super().log(logs, start_time)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All but biases, norms and scalars; class and position tokens are decayed, as in the release."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    def _count_bad_images(self, keys: list[str]) -> None:
        self._bad_images.update(keys)
        if len(self._bad_images) > self.args.max_bad_images:
            raise InputError(
                f"{len(self._bad_images)} images cannot be decoded, the last at {keys[-1]}, and max_bad_images="
                f"{self.args.max_bad_images}: repair the data or raise the limit."
            )

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint whose keys differ; Trainer would warn and train on with part of the model lost.

        A private hook, because no public one sees what `load_state_dict` reported (transformers #43701).
        """
        if load_result.missing_keys or load_result.unexpected_keys:
            raise InputError(
                f"The checkpoint is of another architecture: it lacks {_named(load_result.missing_keys)} and has "
                f"{_named(load_result.unexpected_keys)} besides; resume with the model it was made by."
            )


class _FollowEpoch(TrainerCallback):
    """Keeps what Trainer and Accelerate leave behind in step with a training.

    Trainer's own `set_epoch` does not reach a batch sampler under several processes in a resumed epoch, where
    Accelerate wraps it twice; the resumed epoch would be served in the order of epoch 0.
    """

    def __init__(self, batches: GroupedBatchSampler) -> None:
        self.batches = batches

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.batches.set_epoch(state.global_step // len(self.batches))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logit_scale = getattr(kwargs["model"], "logit_scale", None)
        if logit_scale is not None:
            with torch.no_grad():
                logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def _check_fit(model: StableRepModel, args: StableRepTrainingArguments, tokenizer: Any | None) -> None:
    if OBJECTIVES[args.objective].text and (model.config.text_config is None or tokenizer is None):
        raise InputError(
            f"objective={args.objective} learns from captions, but the model has no text tower or no tokenizer was "
            "given: build the model with a text_config and pass its tokenizer, or choose --objective stablerep."
        )
    if OBJECTIVES[args.objective].text and getattr(tokenizer, "pad_token", "") is None:
        raise InputError("The tokenizer has no padding token, so captions make no batch: set tokenizer.pad_token.")
    if args.n_gpu > 1:
        raise InputError(
            f"One process sees {args.n_gpu} GPUs, and DataParallel would cut the batch into parts that do not see "
            "each other: start with `accelerate launch` (or torchrun), or make one GPU visible."
        )
    if args.captions_per_batch % args.world_size:
        raise InputError(
            f"captions_per_batch={args.captions_per_batch} cannot be divided among {args.world_size} processes: "
            f"choose a multiple of {args.world_size}."
        )


def _named(keys: list[str]) -> str:
    return f"{len(keys)} keys ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else "no keys"
