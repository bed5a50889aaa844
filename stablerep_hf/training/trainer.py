"""Pre-training: siblings as positives, in transformers' Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from torch import Tensor, nn
from transformers import TrainerCallback

from ..errors import InputError
from ..losses import similarity_statistics
from ..models import StableRepModel
from ..models.backbones import can_checkpoint, has_batch_norm
from ..models.text_towers import max_text_tokens
from .arguments import StableRepTrainingArguments
from .callbacks import ClampLogitScale
from .grouped_images import GroupedBatchSampler, GroupedImages
from .groups import GroupCollator, GroupDataset
from .image_trainer import ImageTrainer, check_processes, crop_size, recipe_for
from .model_settings import load_model
from .objectives import OBJECTIVES, ObjectiveLoss, freeze_unreached
from .probe import Probe
from .sources import TrainingImages, by_name
from .streamed_images import StreamedBatchSampler, StreamedImages
from .teachers import Teacher


class StableRepTrainer(ImageTrainer):
    """Trains a `StableRepModel` on caption-grouped images.

    The batch is global: one process and several see the same captions, the same images and the same views, and reach
    the same weights. A run that was interrupted at a checkpoint and goes on from it ends with the same bits, on a CPU.

    Args:
        model: A `StableRepModel`, with a text tower if the objective has a text side; or the name of one: a size such
            as "small", or a folder or Hub id of a StableRep model or a Vision Transformer (see `load_model`).
        args: Arguments; the defaults if not given.
        train_dataset: Columns `image` and `caption_id` or `caption`; in a stream, siblings one after another. Several
            data sets, or several streams, by name are joined by caption (see `load_caption_groups`).
        processing_class: Tokenizer of the text tower, if the objective has a text side.
        callbacks: As for `transformers.Trainer`.
        probe: Measures the encoder wherever `eval_strategy` says, as "eval_knn_accuracy"; `load_best_model_at_end`
            goes by it.
        train_keys: Of a stream, its column of keys alone, to be counted sooner; see `StreamedImages`. Of several, by
            name.
        teacher: Adds the loss between its features and the model's, whose `config.teacher_dim` is `teacher.dim`, to
            any objective, or is the whole of it (`objective` distill).

    Logged with the loss: its parts by name, the logit scale, and of the last batch the mean similarity of positives
    and of negatives and the number of positives an image has.

    Raises:
        InputError: Model, data and objective do not fit; the sentence says how. In `train`: see `ImageTrainer`.
    """

    args: StableRepTrainingArguments
    model: StableRepModel

    advice_on_memory = (
        "give `forward_chunk_size` (or a smaller one), which takes the same batch through the backbone in parts and "
        "learns the same, or gradient_checkpointing=True."
    )

    def __init__(
        self,
        model: StableRepModel | str,
        args: StableRepTrainingArguments | None = None,
        train_dataset: TrainingImages | None = None,
        processing_class: Any | None = None,
        callbacks: list[TrainerCallback] | None = None,
        probe: Probe | None = None,
        train_keys: datasets.IterableDataset | Mapping[str, datasets.IterableDataset] | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        args = StableRepTrainingArguments() if args is None else args
        named = by_name(train_dataset)
        objective = OBJECTIVES[args.objective]
        if isinstance(model, str):
            model = load_model(model, args.seed, processing_class if objective.text else None)
        _check_fit(model, args, processing_class, teacher)
        freeze_unreached(model, objective, teacher=teacher is not None)
        settings: dict[str, Any] = {
            "images_per_caption": args.images_per_caption if objective.positives == "caption" else 1,
            "crops_per_image": args.crops_per_image,
            "image_size": crop_size(model.config.vision_config),
            "recipe": recipe_for(args),
            "seed": args.seed,
            "source_weights": args.source_weights,
            "positives": objective.positives,
            "label_column": args.label_column,
            "text": objective.text,
        }
        # Checked here, before a model is moved or a file written.
        groups: GroupDataset
        batches: GroupedBatchSampler
        if isinstance(next(iter(named.values())), datasets.IterableDataset):
            groups = stream = StreamedImages(named, train_keys, **settings)
            args = args.for_data(len(groups), groups.images_per_caption)
            check_processes(args, "captions_per_batch")
            batches = StreamedBatchSampler(
                stream,
                args.groups_per_batch,
                args.seed,
                shuffle_buffer=args.shuffle_buffer,
                process_index=args.process_index,
                num_processes=args.world_size,
            )
        else:
            groups = GroupedImages(named, **settings)
            args = args.for_data(len(groups), groups.images_per_caption)
            check_processes(args, "captions_per_batch")
            batches = GroupedBatchSampler(len(groups), args.groups_per_batch, args.seed)
        if (
            objective.positives == "label"
            and args.crops_per_image < 2
            and len(np.unique(groups.group_ids)) == len(groups)
        ):
            raise InputError(
                f"Each of the {len(groups)} images has a {args.label_column!r} of its own, so none has a positive and "
                "the loss is 0 whatever the model does: name a `label_column` in which images are alike, or give "
                "crops_per_image=2."
            )
        collator = GroupCollator()
        if objective.text:
            collator = GroupCollator(processing_class, max_text_tokens(model.config.text_config))
        super().__init__(
            model,
            args,
            groups,
            batches,
            collator,
            processing_class=processing_class,
            callbacks=[ClampLogitScale(), *(callbacks or [])],
            probe=probe,
        )
        self.teacher = None if teacher is None else teacher.to(args.device)
        self.criterion = ObjectiveLoss(
            args.objective, args.temperature, args.distill_feature_weight, args.distill_similarity_weight
        )
        self._not_a_number.zero_means = (
            "the features are the teacher's already, so nothing is learned from it"
            if args.objective == "distill"
            else "no image of the batch has another one of its "
            f"{'label' if objective.positives == 'label' else 'caption'} beside it, so nothing is learned from it"
            if objective.image
            else "the batch has a single caption, so nothing is learned from it"
        )
        self._last_images: tuple[Tensor, Tensor] | None = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Colour and normalise the views, run the model, add up the objective."""
        self.seen.add(len(inputs["pixels"]), inputs["bad_images"])
        size = self.args.forward_chunk_size
        images = self._color(inputs["pixels"], inputs["color"], size or max(len(inputs["pixels"]), 1))
        outputs = model(
            pixel_values=images,
            forward_chunk_size=size,
            input_ids=inputs.get("input_ids"),
            attention_mask=inputs.get("attention_mask"),
            sibling_index=inputs["sibling_index"],
        )
        taught = None if self.teacher is None else self.teacher(images, self.augment.mean, self.augment.std, size)
        parts = self.criterion(outputs, inputs["caption_ids"], inputs["text_caption_ids"], taught)
        self._not_a_number.watch(parts["loss"])
        for name, value in parts.items():
            if name != "loss":
                self._parts[name].append(value.detach())
        if self.criterion.objective.image:
            self._last_images = outputs.image_embeds.detach(), inputs["caption_ids"]
        return (parts["loss"], outputs) if return_outputs else parts["loss"]

    def _color(self, pixels: Tensor, color: Tensor, size: int) -> Tensor:
        """Augment `size` views at a time, each part into its place: the batch is never held twice as floats."""
        first: Tensor = self.augment(pixels[:size], color[:size])
        if len(pixels) <= size:
            return first
        views = first.new_empty(pixels.shape)
        views[:size] = first
        for start in range(size, len(pixels), size):
            views[start : start + size] = self.augment(pixels[start : start + size], color[start : start + size])
        return views

    def kind_of_model(self) -> dict[str, Any]:
        """The pre-training model, head included."""
        return {"form": "pretraining", "objective": self.args.objective}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add similarities of the last batch."""
        if "loss" in logs and self._last_images is not None:
            logs.update(similarity_statistics(*self._last_images))
        super().log(logs, start_time)


def _check_fit(
    model: StableRepModel, args: StableRepTrainingArguments, tokenizer: Any | None, teacher: Teacher | None
) -> None:
    parts = ("config", "vision_model", "projection_head")  # of a StableRepModel, also where it is remote code
    if lacking := [name for name in parts if not hasattr(model, name)]:
        raise InputError(
            f"model is a {type(model).__name__} without {lacking[0]!r}, and this trainer trains a StableRepModel: "
            "pass one, or the name of a size or of a Vision Transformer; for a network of your own, use "
            "`MultiPositiveContrastiveLoss` in your own loop."
        )
    if args.forward_chunk_size is not None and has_batch_norm(model.vision_model):
        raise InputError(
            f"The backbone {type(model.vision_model).__name__} has batch normalisation, whose statistics would be "
            f"those of a chunk and not of the batch with forward_chunk_size={args.forward_chunk_size}: leave it out, "
            "or choose a backbone without batch norm."
        )
    if args.objective == "distill" and teacher is None:
        raise InputError("objective=distill learns nothing but a teacher's features: name a `teacher`.")
    if teacher is not None and model.config.teacher_dim != teacher.dim:
        raise InputError(
            f"The teacher gives {teacher.dim} features, and the model has teacher_dim={model.config.teacher_dim}: "
            f"make the model with `teacher_dim` {teacher.dim}."
        )
    if args.gradient_checkpointing and not can_checkpoint(model.vision_model):
        raise InputError(
            f"transformers has no gradient checkpointing for a {type(model.vision_model).__name__}: leave "
            "gradient_checkpointing=True out, and give `forward_chunk_size`, which holds less in memory still."
        )
    if OBJECTIVES[args.objective].text and (model.config.text_config is None or tokenizer is None):
        raise InputError(
            f"objective={args.objective} learns from captions, but the model has no text tower or no tokenizer was "
            "given: build the model with a `text_config` and pass its tokenizer as `processing_class`, or choose "
            "`objective` stablerep."
        )
    if OBJECTIVES[args.objective].text and getattr(tokenizer, "pad_token", "") is None:
        raise InputError("The tokenizer has no padding token, so captions make no batch: set tokenizer.pad_token.")
