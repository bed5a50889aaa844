"""Arguments of a training run: those of transformers' Trainer and a few of our own."""

from __future__ import annotations

import copy
import math
import re
import sys
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Self

import torch
from transformers import TrainingArguments

from ..errors import InputError
from ..setting import refuse_unknown
from .device_defaults import suit_the_device
from .presets import read_config
from .recipes import ImageRecipe, PretrainingRecipe

# Where a run writes and what it reports change nothing that it learns, so a resumed run may differ in these. None of
# them is recorded: the record and the card are published, and `hub_token` is a secret.
_FREE = re.compile(
    "output_dir|logging_.*|save_.*|report_to|run_name|project|disable_tqdm|dataloader_.*|per_device_.*|ddp_.*"
    "|accelerator_config|remove_unused_columns|max_bad_images|local_rank|use_cpu|push_to_hub|hub_.*"
)
# Recorded of every training run, also where the value is transformers' default.
_ALWAYS = ("learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "seed")

RELEASE_BASE_LEARNING_RATE = 2e-4
"""For 512 views in a batch (`--blr` in the README's commands; main_stablerep.py itself defaults to 1e-3)."""

_FROM_0 = (0.0, sys.float_info.max, "a number from 0 on")
_COUNT = (1, 2**31 - 1, "an integer from 1 on")
_PROBABILITY = (0.0, 1.0, "a probability, in [0, 1]")
_STEPS = (math.nextafter(0, 1), 2**31 - 1, "a number of steps above 0, or a share of all steps below 1")
_RANGES = {
    # first, since the learning rate follows from them
    "captions_per_batch": _COUNT,
    "images_per_caption": _COUNT,
    "crops_per_image": _COUNT,
    "images_per_batch": _COUNT,
    "base_learning_rate": _FROM_0,
    "learning_rate": _FROM_0,
    "distill_feature_weight": _FROM_0,
    "distill_similarity_weight": _FROM_0,
    "weight_decay": _FROM_0,
    "temperature": (math.nextafter(0, 1), sys.float_info.max, "a number above 0, such as 0.1"),
    "forward_chunk_size": _COUNT,
    "min_crop_area": (math.nextafter(0, 1), 1.0, "a share of the image, in (0, 1]"),
    "layer_decay": (math.nextafter(0, 1), 1.0, "a share from layer to layer, in (0, 1]"),
    "downsample_probability": _PROBABILITY,
    "ema_decay": (0.0, math.nextafter(1, 0), "the share that the average keeps, in [0, 1)"),
    "mixup": (0.0, sys.float_info.max, "the alpha of a Beta distribution, 0 or more"),
    "cutmix": (0.0, sys.float_info.max, "the alpha of a Beta distribution, 0 or more"),
    "adam_beta1": (0.0, math.nextafter(1, 0), "a number in [0, 1)"),
    "adam_beta2": (0.0, math.nextafter(1, 0), "a number in [0, 1)"),
    "adam_epsilon": _FROM_0,
    "max_grad_norm": _FROM_0,
    "label_smoothing_factor": (0.0, 1.0, "a share in [0, 1]"),
    "dataloader_num_workers": (0, 2**16, "an integer from 0 on"),
    "gradient_accumulation_steps": _COUNT,
    "logging_steps": _STEPS,
    "save_steps": _STEPS,
    "eval_steps": _STEPS,
    "warmup_steps": (0.0, 2**31 - 1, "a number of steps from 0 on, or a share of all steps below 1"),
    "max_steps": (-sys.float_info.max, 2**31 - 1, "an integer"),
    "num_train_epochs": (-sys.float_info.max, 2**31 - 1, "a number"),
    "max_bad_images": (0, 2**63 - 1, "an integer from 0 on"),
    "seed": (0, 2**32 - 1, "an integer from 0 to 2**32 - 1"),
}
"""Lowest, highest, and in words."""

# Arguments of transformers that have no effect on batches of groups, or break what a training run promises.
_UNUSED = {
    "per_device_train_batch_size": "the batch is counted over all processes: give `captions_per_batch`, or "
    "`images_per_batch` in fine-tuning",
    "auto_find_batch_size": "a batch has the size that is asked for: give a smaller one, or `forward_chunk_size`",
    "train_sampling_strategy": "the order follows from the seed",
    "data_seed": "`seed` is that of the data too",
    "dataloader_drop_last": "an incomplete batch is always dropped",
    "remove_unused_columns": "the images are columns that the model does not name",
    "save_only_model": "training cannot go on exactly from weights alone: limit how many checkpoints are kept with "
    "`save_total_limit`",
    "resume_from_checkpoint": "the same command goes on from the newest checkpoint, and `train` takes one",
}


@dataclass
class ImageTrainingArguments(ImageRecipe, TrainingArguments):
    """What pre-training and fine-tuning share: the views, and how a batch is shared out among processes."""

    bf16: bool | None = field(  # type: ignore[assignment]  # not given is decided by the device
        default=None,
        metadata={"help": "Compute in bfloat16; on by default on a CUDA GPU that has it, unless fp16 is asked for."},
    )
    dataloader_num_workers: int | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Processes that decode images; on a CUDA GPU by default as many as cores, else 0."},
    )

    def __post_init__(self) -> None:
        """Check the values and fix what a batch of views cannot do without.

        Raises:
            InputError: A value cannot work; the sentence says why.
        """
        kinds = {field.name: field for field in fields(self)}
        for name, reason in _UNUSED.items():
            if getattr(self, name) != kinds[name].default:
                raise InputError(f"{name}={getattr(self, name)} is not supported: {reason}.")
        for name, (lowest, highest, words) in _RANGES.items():
            value = getattr(self, name, None)
            if value is not None and not lowest <= value <= highest:
                raise InputError(f"{name}={value} cannot work: give {words}.")
        if self.max_steps == 0 or (self.max_steps < 0 and not self.num_train_epochs > 0):
            raise InputError(
                f"num_train_epochs={self.num_train_epochs} with max_steps={self.max_steps} trains nothing: give more "
                "than 0 of either."
            )
        # Every process must get a slice of one global batch, or the batch would grow with the number of processes.
        config = self.accelerator_config if isinstance(self.accelerator_config, dict) else {}
        self.accelerator_config = {**config, "split_batches": True}
        if not torch.accelerator.is_available():
            # Unless it is said, processes of a launcher each take themselves for the only one, and bf16 is refused.
            self.use_cpu = True
        if self.bf16:  # over a preset's fp16
            self.fp16 = False
        suit_the_device(self)
        best = self.metric_for_best_model, self.greater_is_better
        super().__post_init__()  # type: ignore[no-untyped-call]
        if best[0] is None:  # transformers would take "loss", which no probe measures; the trainer asks its probe
            self.metric_for_best_model, self.greater_is_better = best
        if self.fp16 and self.device.type == "cpu":
            raise InputError(
                "fp16=True does nothing on a CPU, where Accelerate trains in float32 without a word: give `bf16`, or "
                "set `fp16` to false where a preset asks for it."
            )

    @classmethod
    def from_preset(cls, preset: str, **arguments: Any) -> Self:
        """Arguments of a preset that ships, or of a YAML file.

        Args:
            preset: Name of a preset, see `presets`, or path of a YAML file. What it says of the model is passed over.
            arguments: Fields of this class that replace the preset's.

        Raises:
            InputError: There is no such preset or argument, or a value cannot work.
        """
        known = [entry.name for entry in fields(cls) if entry.init]
        refuse_unknown(arguments, known, "a training run")
        values = {name: value for name, value in read_config(preset).items() if name in known}
        return cls(**{**values, **arguments})

    @property
    def groups_per_batch(self) -> int:
        """Captions, or single images, in a batch over all processes."""
        raise AttributeError(f"{type(self).__name__} does not say what a batch is made of")


@dataclass
class StableRepTrainingArguments(PretrainingRecipe, ImageTrainingArguments):  # type: ignore[misc]  # learning_rate=None
    """Arguments of a StableRep training run: those of `transformers.TrainingArguments` and these.

    The batch is described by captions instead of by `per_device_train_batch_size`. Defaults that differ from
    transformers' are the release's: the learning rate by batch size, AdamW betas (0.9, 0.98), weight decay 0.1, cosine
    schedule, no gradient clipping (`StableRep/main_stablerep.py` and the README's commands). Some depart from the
    recipe, which the presets follow: the batch suits one device and the data (`for_data`), `num_train_epochs` is 3 and
    there is no warm-up, as in transformers.
    """

    def __post_init__(self) -> None:
        """Check the values and set what contrastive training depends on.

        Raises:
            InputError: A value cannot work; the sentence says why.
        """
        if self.label_smoothing_factor:
            raise InputError(
                f"label_smoothing_factor={self.label_smoothing_factor} smooths the labels of a classifier, and there "
                "is none here: leave it out."
            )
        self._check_positives()
        weights = self.source_weights
        if weights is not None and not all(0 < weight < math.inf for weight in weights):
            raise InputError(f"source_weights={weights} cannot share images: give each data set a number above 0.")
        if weights is not None and self.single_images:
            raise InputError(
                f"source_weights={weights} shares the images of a caption, and under {self.objective} each image "
                "is a group by itself: leave it out."
            )
        if self.objective == "simclr" and self.crops_per_image < 2:
            raise InputError(
                f"crops_per_image={self.crops_per_image} gives no view a positive under simclr: give at least 2."
            )
        if self.distill_feature_weight + self.distill_similarity_weight == 0 and self.objective == "distill":
            raise InputError(
                "objective=distill with distill_feature_weight=0 and distill_similarity_weight=0 learns nothing: give "
                "either a weight above 0."
            )
        if self.warmup_epochs is not None:
            if self.max_steps > 0 or not 0 <= self.warmup_epochs < self.num_train_epochs:
                raise InputError(
                    f"warmup_epochs={self.warmup_epochs} is a part of num_train_epochs={self.num_train_epochs}: give "
                    "fewer epochs of warm-up than of training, and no `max_steps`; or give `warmup_steps`."
                )
            self.warmup_steps = self.warmup_epochs / self.num_train_epochs
        if self.captions_per_batch is not None and self.images_per_caption is not None:
            self._set_learning_rate()
        if self.gradient_accumulation_steps > 1:
            raise InputError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} does not make a contrastive batch "
                "larger, since each part would see only its own negatives: leave it at 1 and give "
                "`forward_chunk_size`, which takes a batch of any size through the backbone in parts."
            )
        super().__post_init__()

    @property
    def groups_per_batch(self) -> int:
        """Captions, under simclr and supcon images, in a batch over all processes."""
        assert self.captions_per_batch is not None  # `for_data` sets it
        return self.captions_per_batch

    @property
    def single_images(self) -> bool:
        """Whether a group of the batch is one image, as under simclr and supcon."""
        return self.objective in ("simclr", "supcon", "distill")

    def for_data(self, num_groups: int, images_per_caption: int) -> Self:
        """A copy in which the batch, and the learning rate by its size, suit the data where they were not given.

        Args:
            num_groups: Captions, under simclr and supcon images, that the data has.
            images_per_caption: Images of a caption that a batch can have.

        Raises:
            InputError: No image has a positive.
        """
        chosen = copy.copy(self)
        chosen.images_per_caption = self.images_per_caption or images_per_caption
        if chosen.captions_per_batch is None:
            most = min(128, num_groups)
            chosen.captions_per_batch = max(most - most % self.world_size, 1)
        chosen._check_positives()
        chosen._set_learning_rate()
        return chosen

    def _check_positives(self) -> None:
        if self.objective in ("stablerep", "stablerep+") and self.images_per_caption == self.crops_per_image == 1:
            raise InputError(
                "images_per_caption=1 with crops_per_image=1 gives no image a positive, so the loss is 0 whatever the "
                "model does: raise either, or choose `objective` simclr or clip."
            )

    def _set_learning_rate(self) -> None:
        """Follow the release's rule (main_stablerep.py: `lr`, `--blr`) unless a learning rate was given."""
        if self.learning_rate is None:
            base = RELEASE_BASE_LEARNING_RATE if self.base_learning_rate is None else self.base_learning_rate
            assert self.images_per_caption is not None
            images = 1 if self.single_images else self.images_per_caption
            self.learning_rate = base * self.groups_per_batch * images * self.crops_per_image / 512


def recipe_of(arguments: ImageTrainingArguments) -> dict[str, Any]:
    """What was chosen and what the recipe is made of, as JSON values, for a record or a card."""
    ours = [kind for kind in type(arguments).__mro__ if issubclass(kind, ImageRecipe)]
    own = set(_ALWAYS).union(*(kind.__annotations__ for kind in ours))
    chosen = {
        field.name: getattr(arguments, field.name)
        for field in fields(arguments)
        if field.init
        and not _FREE.fullmatch(field.name)
        and (field.name in own or getattr(arguments, field.name) != field.default)
    }
    return {name: value.value if isinstance(value, Enum) else value for name, value in chosen.items()}
