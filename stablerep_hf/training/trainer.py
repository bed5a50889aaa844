"""transformers' Trainer for groups of siblings."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from ..errors import InputError
from ..losses import similarity_statistics
from ..models import StableRepModel
from .arguments import StableRepTrainingArguments
from .augmentation import RECIPES
from .callbacks import AverageWeights, ClampLogitScale, FollowEpoch, ImageProgress, StopAtNotANumber
from .color import ColorAugmentation
from .grouped_images import GroupedBatchSampler, GroupedImages
from .groups import GroupCollator, GroupDataset
from .hub_push import HubPushTrainer
from .objectives import OBJECTIVES, ObjectiveLoss, freeze_unreached
from .probe import KnnProbe
from .streamed_images import StreamedBatchSampler, StreamedImages


class StableRepTrainer(HubPushTrainer):
    """Trains a `StableRepModel` on caption-grouped images.

    The batch is global: one process and several see the same captions, the same images and the same views, and reach
    the same weights. A run interrupted at any checkpoint and resumed goes on bit for bit.

    Args:
        model: With a text tower if the objective has a text side.
        args: As `StableRepTrainingArguments`.
        train_dataset: Columns `image` and `caption_id` or `caption`; of a stream, siblings one after another.
        tokenizer: Of the text tower, if the objective has a text side.
        callbacks: As for `transformers.Trainer`.
        probe: Measures the encoder wherever `eval_strategy` says, as "eval_knn_accuracy"; `load_best_model_at_end`
            can go by it.
        train_keys: Of a stream, its column of keys alone, to be counted sooner; see `StreamedImages`.

    Logged with the loss: its parts by name, the logit scale, and of the last batch the mean similarity of positives
    and of negatives and the number of positives an image has.

    Raises:
        InputError: Model, data and objective do not fit; the sentence says how. In `train`: the loss is not a number,
            or more images than `max_bad_images` cannot be decoded.
    """

    loss_is_scaled_for_ga = False  # the losses are means over the global batch
    args: StableRepTrainingArguments
    model: StableRepModel

    def __init__(
        self,
        model: StableRepModel,
        args: StableRepTrainingArguments,
        train_dataset: datasets.Dataset | datasets.IterableDataset,
        tokenizer: Any | None = None,
        callbacks: list[TrainerCallback] | None = None,
        probe: KnnProbe | None = None,
        train_keys: datasets.IterableDataset | None = None,
    ) -> None:
        objective = OBJECTIVES[args.objective]
        _check_fit(model, args, tokenizer)
        freeze_unreached(model, objective)
        recipe = replace(RECIPES[args.augmentation], downsample_probability=args.downsample_probability)
        if args.min_crop_area is not None:
            recipe = replace(recipe, crop_scale=(args.min_crop_area, 1.0))
        settings: dict[str, Any] = {
            "images_per_caption": args.images_per_caption if objective.positives == "caption" else 1,
            "crops_per_image": args.crops_per_image,
            "image_size": model.config.vision_config.image_size,
            "recipe": recipe,
            "seed": args.seed,
            "positives": objective.positives,
            "label_column": args.label_column,
        }
        # Checked here, before a model is moved or a file written.
        if isinstance(train_dataset, datasets.IterableDataset):
            stream = StreamedImages(train_dataset, train_keys, **settings)
            self._groups: GroupDataset = stream
            self._batches: GroupedBatchSampler = StreamedBatchSampler(
                stream,
                args.captions_per_batch,
                args.seed,
                shuffle_buffer=args.shuffle_buffer,
                process_index=args.process_index,
                num_processes=args.world_size,
            )
        else:
            self._groups = GroupedImages(train_dataset, **settings)
            self._batches = GroupedBatchSampler(len(self._groups), args.captions_per_batch, args.seed)
        args.per_device_train_batch_size = args.captions_per_batch // args.world_size
        collator = GroupCollator()
        if objective.text:
            collator = GroupCollator(tokenizer, model.config.text_config.max_position_embeddings)
        self._not_a_number = StopAtNotANumber()
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._groups,
            eval_dataset=probe,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[FollowEpoch(self._batches), self._not_a_number, ClampLogitScale(), *(callbacks or [])],
        )
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ImageProgress(self.views_per_batch))
        self.average: AverageWeights | None = None
        if args.ema_decay is not None:
            self.average = AverageWeights(args.ema_decay)
            self.add_callback(self.average)
        self.probe = probe
        self.criterion = ObjectiveLoss(args.objective, args.temperature)
        self.augment = ColorAugmentation()
        self._bad_images: set[str] = set()
        self._parts: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._last_images: tuple[Tensor, Tensor] | None = None

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
        size = self.args.forward_chunk_size
        pixels, color = inputs["pixels"], inputs["color"]
        width = size or max(len(pixels), 1)
        chunks = [slice(start, start + width) for start in range(0, max(len(pixels), 1), width)]
        outputs = model(
            pixel_values=torch.cat([self.augment(pixels[rows], color[rows]) for rows in chunks]),
            forward_chunk_size=size,
            input_ids=inputs.get("input_ids"),
            attention_mask=inputs.get("attention_mask"),
            sibling_index=inputs["sibling_index"],
        )
        parts = self.criterion(outputs, inputs["caption_ids"], inputs["text_caption_ids"])
        self._not_a_number.watch(parts["loss"])
        for name, value in parts.items():
            if name != "loss":
                self._parts[name].append(value.detach())
        if self.criterion.objective.image:
            self._last_images = outputs.image_embeds.detach(), inputs["caption_ids"]
        return (parts["loss"], outputs) if return_outputs else parts["loss"]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the encoder with the probe; the arguments are Trainer's, and of them the prefix alone matters.

        Every process does so: what follows from the numbers, such as the best checkpoint, must be the same on all.

        Raises:
            InputError: The trainer was made without a probe.
        """
        if self.probe is None:
            raise InputError("There is nothing to evaluate on: give the trainer a probe (--probe_data).")
        measured = self.probe(self.accelerator.unwrap_model(self.model))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, averaged since the last log, and similarities of the last batch."""
        if "loss" in logs:
            logs.update({name: torch.stack(values).mean().item() for name, values in self._parts.items()})
            self._parts.clear()
            if self._last_images is not None:
                logs.update(similarity_statistics(*self._last_images))
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights and, with `ema_decay`, their average beside them."""
        super().save_model(output_dir, _internal_call)
        if self.average is not None and self.average.average and self.args.should_save:
            self.average.save(Path(output_dir or str(self.args.output_dir)))

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
