"""Fine-tuning a classifier on labelled images, in transformers' Trainer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchvision.transforms import v2
from transformers import TrainerCallback

from ..errors import InputError
from ..evaluation import Columns, EvaluationSettings, evaluate_encoder, load_classifier
from ..evaluation.classification import class_indices
from ..evaluation.columns import class_names, column_values
from ..models.export import encoder_image_processor
from .arguments import ImageTrainingArguments
from .grouped_images import GroupedBatchSampler, GroupedImages
from .groups import GroupCollator, check_dataset, check_labels
from .image_trainer import ImageTrainer, check_processes, crop_size, recipe_for
from .recipes import FineTuningRecipe

MULTI_LABEL = "multi_label_classification"

LEARNING_RATES = {"full": 5e-4, "linear": 1e-2, "lora": 2e-3, "dora": 2e-3}
"""Peak learning rates if none is given, ours: what is new or small learns faster than what was pre-trained."""


@dataclass
class FineTuningArguments(FineTuningRecipe, ImageTrainingArguments):  # type: ignore[misc]  # learning_rate=None
    """Arguments of a fine-tuning run: those of `transformers.TrainingArguments` and these.

    The defaults are those of fine-tuning a ViT after self-supervision (BEiT, Bao et al. 2021, appendix H; MAE, He et
    al. 2021, table 9), made milder where those are for a million images: the weak augmentation, no mixing.
    `label_smoothing_factor` is transformers'; 0.1 in these papers.
    """

    @property
    def groups_per_batch(self) -> int:
        """Images in a batch over all processes."""
        assert self.images_per_batch is not None  # the trainer sets it
        return self.images_per_batch


class FineTuningTrainer(ImageTrainer):
    """Trains a `StableRepForImageClassification`, whole, its classifier alone, or adapters on it, on labelled images.

    What has `requires_grad` is trained: freeze the encoder for a linear classifier, or pass the `PeftModel` of
    `lora_config`. A run that was interrupted and goes on ends with the same bits, on a CPU. Several processes train as
    one does, except for mixup and cutmix, which mix the images of each process among themselves.

    Args:
        model: Its `config.id2label` names the classes, its `config.problem_type` says whether an image has several.
        args: Arguments; the defaults if not given.
        train_dataset: Map-style, with a column `image` and the labels.
        label_column: Column with one integer or string for each image, or a list of them.
        callbacks: As for `transformers.Trainer`.
        probe: Measures the model wherever `eval_strategy` says.

    Raises:
        InputError: Labels that are missing or none of the model's classes, a class without an image, adapters under
            FSDP, or what `ImageTrainer` refuses.
    """

    args: FineTuningArguments
    model: Any

    advice_on_memory = (
        "give a smaller `images_per_batch` and as many times more `gradient_accumulation_steps`, or "
        "gradient_checkpointing=True."
    )

    def __init__(
        self,
        model: nn.Module,
        args: FineTuningArguments | None = None,
        train_dataset: datasets.Dataset | None = None,
        label_column: str = "label",
        callbacks: Sequence[TrainerCallback] | None = None,
        probe: ClassifierProbe | None = None,
    ) -> None:
        args = FineTuningArguments() if args is None else copy.copy(args)
        config: Any = getattr(model, "config", None)
        if not (hasattr(config, "id2label") and hasattr(config, "vision_config")):
            raise InputError(
                f"model is a {type(model).__name__}, and this trainer trains a StableRepForImageClassification: make "
                "one with `StableRepForImageClassification.from_encoder`."
            )
        check_dataset(train_dataset)
        if not isinstance(train_dataset, datasets.Dataset):
            raise InputError(
                "train_dataset is a stream, and fine-tuning reads labels first: load it without streaming."
            )
        if args.images_per_batch is None:
            most = min(64, len(train_dataset))
            args.images_per_batch = max(most - most % args.world_size, 1)
        check_processes(args, "images_per_batch")
        if args.learning_rate is None:
            args.learning_rate = LEARNING_RATES[_mode(model)]
        if len(train_dataset) < args.images_per_batch:
            raise InputError(
                f"images_per_batch={args.images_per_batch} cannot be filled from {len(train_dataset)} images: choose "
                f"one from 1 to {len(train_dataset)}."
            )
        classes = [config.id2label[index] for index in range(config.num_labels)]
        self.targets = targets_of(train_dataset, label_column, classes).to(args.device)
        self._several = self.targets.ndim == 2
        if self._several != (config.problem_type == MULTI_LABEL):
            raise InputError(
                f"The column {label_column!r} holds {'several labels' if self._several else 'one label'} an image, "
                f"and the model's problem_type is {config.problem_type!r}: make the model for these labels."
            )
        shown = (self.targets > 0).sum(0) if self._several else torch.bincount(self.targets, minlength=len(classes))
        if int(shown.min()) == 0:
            raise InputError(
                f"No image is of the class {classes[int(shown.argmin())]!r}, so it cannot be learned: make the model "
                "for the classes that `classes_of` finds."
            )
        groups = GroupedImages(
            train_dataset,
            images_per_caption=1,
            crops_per_image=1,
            image_size=crop_size(config.vision_config),
            recipe=recipe_for(args),
            seed=args.seed,
            positives="image",
        )
        batches = GroupedBatchSampler(len(groups), args.images_per_batch, args.seed)
        super().__init__(model, args, groups, batches, GroupCollator(), callbacks=callbacks or (), probe=probe)
        if self.is_fsdp_enabled and _mode(model) == "lora":
            raise InputError(
                "FSDP cuts weights among processes, and adapters are saved whole: start with the configuration "
                "ddp.yaml, since adapters leave little to cut."
            )
        self.class_weights = _class_weights(self.targets) if args.balance_classes else None
        chosen = [
            kind(alpha=alpha, num_classes=config.num_labels)
            for kind, alpha in ((v2.MixUp, args.mixup), (v2.CutMix, args.cutmix))
            if alpha > 0
        ]
        self.mix = v2.RandomChoice(chosen) if chosen else None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Colour and normalise the views, mix them, classify them."""
        self.seen.add(len(inputs["pixels"]), inputs["bad_images"])
        images = self.augment(inputs["pixels"], inputs["color"])
        targets = self.targets[inputs["caption_ids"]]  # here an image's row in the data set
        if self.mix is not None and len(images):
            images, targets = self.mix(images, targets)
        outputs = model(pixel_values=images)
        loss = self._loss(outputs.logits.float(), targets)
        # of this process's images alone
        self._not_a_number.watch(self.accelerator.reduce(loss.detach(), reduction="sum"))
        return (loss, outputs) if return_outputs else loss

    def kind_of_model(self) -> dict[str, Any]:
        """A classifier."""
        return {"form": "classifier"}

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over images; weighted, the mean is still over their number, so that processes agree on its scale."""
        if self._several:
            targets, weights = targets.to(logits.dtype), self.class_weights
            total = binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum")
            return total / max(targets.numel(), 1)
        smoothing = self.args.label_smoothing_factor
        losses = cross_entropy(logits, targets, weight=self.class_weights, label_smoothing=smoothing, reduction="none")
        return losses.sum() / max(len(losses), 1)


@dataclass(frozen=True)
class ClassifierProbe:
    """Accuracy, or another metric of `stablerep evaluate`, of a classifier in training.

    Do not choose a checkpoint by the images that you report on: give others.

    Attributes:
        dataset: Labelled images that are classified.
        label_column: Its labels.
        metric: As `EvaluationSettings.metric`; the name of the result.
    """

    dataset: datasets.Dataset
    label_column: str = "label"
    metric: str = "accuracy"

    def __call__(self, model: Any) -> dict[str, float]:
        """{metric: share in [0, 1]} of the model as it is.

        Raises:
            InputError: Columns are missing, or labels that are none of the model's classes.
        """
        (result,) = evaluate_encoder(
            load_classifier(model, encoder_image_processor(model.config)),
            None,
            self.dataset,
            columns=Columns(label=self.label_column),
            protocols=("classification",),
            settings=EvaluationSettings(metric=self.metric, num_resamples=1),
            progress=False,
        )
        return {self.metric: result.value}


def classes_of(dataset: datasets.Dataset, column: str) -> tuple[list[str], bool]:
    """Names of the classes that a data set shows, in order, and whether an image may have several.

    Names of a `ClassLabel` are its own, those of other labels their text. A class of a `ClassLabel` without an image
    cannot be learned and is left out.

    Raises:
        InputError: No such column, labels missing or of another type, or fewer than two classes.
    """
    names, values, several = _labels(dataset, column)
    shown: list[Any] = sorted({label for entry in values for label in (entry if several else [entry])})
    if len(shown) < 2:
        raise InputError(
            f"The column {column!r} shows {len(shown)} class{'es' if not shown else ''}, so there is nothing to tell "
            "apart: give images of two classes or more."
        )
    return [str(names[label]) if names else str(label) for label in shown], several


def _labels(dataset: datasets.Dataset, column: str) -> tuple[list[str], NDArray[Any], bool]:
    if column not in dataset.column_names:
        raise InputError(
            f"The data has the columns {dataset.column_names} but no {column!r}: name the labels with `label_column`."
        )
    labels = column_values(dataset.with_format(None), column)
    check_labels(labels.tolist(), column)
    return class_names(dataset, column), labels, any(isinstance(label, list) for label in labels)


def targets_of(dataset: datasets.Dataset, column: str, classes: Sequence[str]) -> Tensor:
    """Labels as places among the classes: int64 (N,) or, of several labels an image, float32 (N, K) of 0 and 1.

    Raises:
        InputError: No such column, labels missing, or none of the classes.
    """
    names, labels, several = _labels(dataset, column)
    targets = torch.from_numpy(class_indices(labels, names, classes, column))
    return targets.float() if several else targets


def _class_weights(targets: Tensor) -> Tensor:
    """(K,) weights: images / (classes x images of the class); of several labels, absent / present of each class."""
    if targets.ndim == 2:
        present = targets.sum(0)
        return (len(targets) - present) / present
    counts = torch.bincount(targets)
    return len(targets) / (len(counts) * counts)


def _mode(model: nn.Module) -> str:
    """What of a model is trained, as `LEARNING_RATES` calls it."""
    if hasattr(model, "peft_config"):
        return "lora"
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return "linear" if all(name.startswith("classifier.") for name in trained) else "full"
