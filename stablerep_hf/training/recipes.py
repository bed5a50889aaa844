"""The settings that training adds to those of transformers' `Trainer`.

They are apart from `TrainingArguments`, so that `stablerep train --help` lists them without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..setting import setting


@dataclass
class ImageRecipe:
    """What pre-training and fine-tuning share: the views, and how a batch is shared out among processes."""

    augmentation: Literal["strong", "weak"] = setting("strong", "The release's recipe, or its --weak_aug.")
    min_crop_area: float | None = setting(
        None, "Smallest crop as a share of the image; the recipe's own (0.08 strong, 0.5 weak) if not set."
    )
    downsample_probability: float = setting(
        0.0, "Share of images seen through a quarter or half of their resolution; 0.05 in the release."
    )
    layer_decay: float = setting(
        1.0,
        "Learning rate of a layer of the encoder as a share of the next one's, counted from the head; 1 = the same "
        "for all.",
    )
    ema_decay: float | None = setting(
        None, "Keep an exponential average of the weights and export it; say 0.999. None in the release."
    )
    max_bad_images: int = setting(
        0, "Stop after more images than these fail to decode; those are skipped, counted and named."
    )
    logging_nan_inf_filter: bool = setting(False, "Stays off: a loss that is not a number stops the training run.")
    lr_scheduler_type: str = setting("cosine", "Learning rate schedule.")
    hub_strategy: str = setting(
        "checkpoint",
        "What --push_to_hub sends at each save; transformers' every_save would push the model alone, and no training "
        "run could go on from it.",
    )
    disable_tqdm: bool | None = setting(False, "Show no progress and no logs.")
    remove_unused_columns: bool = setting(False, "Must stay off: the images are columns the model does not name.")
    dataloader_drop_last: bool = setting(True, "Must stay on: a batch that is topped up repeats images.")
    ddp_find_unused_parameters: bool | None = setting(
        False, "Off: parameters the objective does not reach are frozen instead."
    )


@dataclass
class PretrainingRecipe(ImageRecipe):
    """The objective, the batch and the optimizer of a StableRep training run."""

    objective: Literal["stablerep", "stablerep+", "simclr", "supcon", "clip", "distill"] = setting(
        "stablerep",
        "What is learned: siblings as positives, the same with text, two crops of an image as positives, images of a "
        "label, text alone, or nothing but the features of --teacher.",
    )
    distill_feature_weight: float = setting(
        1.0, "With a teacher: weight of the cosine loss between its features and a linear map of ours."
    )
    distill_similarity_weight: float = setting(
        1.0, "With a teacher: weight of the loss between similarities within the batch."
    )
    label_column: str = setting("label", "Column that supcon takes its positives from.")
    captions_per_batch: int | None = setting(
        None,
        "Captions (n), under simclr, supcon and distill images, in a batch over all processes; 1,376 in the release. "
        "If not given, 128, or all that the data has if those are fewer.",
    )
    images_per_caption: int | None = setting(
        None,
        "Images (m) of each caption in a batch. If not given, the 6 of the paper, or as many as half of the captions "
        "have if those are fewer.",
    )
    source_weights: list[float] | None = setting(
        None,
        "With several data sets, how images_per_caption is shared among them, in their order: 1 1 draws evenly, 4 2 "
        "four and two of six. If not given, all images of a caption are drawn alike.",
    )
    crops_per_image: int = setting(1, "Views of each image in a batch; 1 in the paper, 2 for simclr.")
    temperature: float = setting(0.1, "Temperature of the loss among images; 0.1 in the release.")
    forward_chunk_size: int | None = setting(
        None,
        "Images (and texts) that the backbone of a process takes at once; any batch then fits, for one more forward. "
        "All at once if not set.",
    )
    base_learning_rate: float | None = setting(
        None,
        "Sets learning_rate to this x views in a batch / 512, the release's rule. Its own value, 2e-4, if neither is "
        "given.",
    )
    learning_rate: float | None = setting(
        None, "Peak learning rate; follows base_learning_rate if not given, goes before it if so."
    )
    warmup_epochs: float | None = setting(
        None,
        "Sets warmup_steps to this many of num_train_epochs; half an epoch of 15 in the release, no warm-up if "
        "neither is given.",
    )
    shuffle_buffer: int = setting(
        4096, "Captions, over all processes, among which a streamed data set is shuffled at a time."
    )

    adam_beta2: float = setting(0.98, "AdamW's second beta; 0.98 in the release.")
    weight_decay: float = setting(0.1, "Weight decay of weights and position and class tokens.")
    max_grad_norm: float = setting(0.0, "Gradient clipping; 0 = none, as the release.")


@dataclass
class FineTuningRecipe(ImageRecipe):
    """The batch, the learning rates and the regularisation of a fine-tuning run."""

    images_per_batch: int | None = setting(
        None, "Images in a batch over all processes; 64, or all if those are fewer, if not given."
    )
    layer_decay: float = setting(
        0.75,
        "Learning rate of a layer as a share of the next one's, counted from the classifier; 1 = the same for all. "
        "Adapters learn at the full rate. 0.75 for ViT-L in MAE.",
    )
    mixup: float = setting(0.0, "Mix pairs of images: alpha of mixup, 0.8 in MAE; 0 = never.")
    cutmix: float = setting(0.0, "Paste parts of images: alpha of cutmix, 1.0 in MAE; 0 = never.")
    balance_classes: bool = setting(False, "Weigh rare classes up, so that each counts as much as any other.")

    augmentation: Literal["strong", "weak"] = setting("weak", "Augmentation of the images, as in training.")
    learning_rate: float | None = setting(
        None,
        "Peak learning rate of the classifier, for the layers see layer_decay. If not given, 5e-4 to train "
        "everything, 1e-2 for the classifier alone, 2e-3 for adapters.",
    )
    weight_decay: float = setting(0.05, "Weight decay; 0.05 in BEiT and MAE.")
    warmup_steps: float = setting(0.1, "Steps of warm-up, or below 1 a share of all steps.")
