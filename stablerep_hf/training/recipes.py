"""The settings that training adds to those of transformers' `Trainer`.

They stand apart from `TrainingArguments`, so that `stablerep train --help` lists them without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class ImageRecipe:
    """What pre-training and fine-tuning share: the views, and how a batch is shared out among processes."""

    augmentation: Literal["strong", "weak"] = field(
        default="strong", metadata={"help": "The release's recipe, or its --weak_aug."}
    )
    min_crop_area: float | None = field(
        default=None,
        metadata={
            "help": "Smallest crop as a share of the image; the recipe's own (0.08 strong, 0.5 weak) if not set."
        },
    )
    downsample_probability: float = field(
        default=0.0,
        metadata={"help": "Share of images seen through a quarter or half of their resolution; 0.05 in the release."},
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Learning rate of a layer of the encoder as a share of the next one's, counted from the head; 1 = "
            "the same for all."
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Keep an exponential average of the weights and export it; say 0.999. None in the release."},
    )
    max_bad_images: int = field(
        default=0,
        metadata={"help": "Stop after more images than these fail to decode; those are skipped, counted and named."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Stays off: a loss that is not a number stops the training run."}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    hub_strategy: str = field(
        default="checkpoint",
        metadata={
            "help": "What --push_to_hub sends at each save; transformers' every_save would push the model alone, and "
            "no training run could go on from it."
        },
    )
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Show no progress and no logs."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the images are columns the model does not name."}
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Must stay on: a batch that is topped up repeats images."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Off: parameters the objective does not reach are frozen instead."}
    )


@dataclass
class PretrainingRecipe(ImageRecipe):
    """The objective, the batch and the optimizer of a StableRep training run."""

    objective: Literal["stablerep", "stablerep+", "simclr", "supcon", "clip"] = field(
        default="stablerep",
        metadata={
            "help": "What is learned: siblings as positives, the same with text, two crops of an image as positives, "
            "images of a label, or text alone."
        },
    )
    label_column: str = field(default="label", metadata={"help": "Column that supcon takes its positives from."})
    captions_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Captions (n), under simclr and supcon images, in a batch over all processes; 1,376 in the "
            "release. If not given, 128, or all that the data has if those are fewer."
        },
    )
    images_per_caption: int | None = field(
        default=None,
        metadata={
            "help": "Images (m) of each caption in a batch. If not given, the 6 of the paper, or as many as half of "
            "the captions have if those are fewer."
        },
    )
    source_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "With several data sets, how images_per_caption is shared among them, in their order: 1 1 draws "
            "evenly, 4 2 four and two of six. If not given, all images of a caption are drawn alike."
        },
    )
    crops_per_image: int = field(
        default=1, metadata={"help": "Views of each image in a batch; 1 in the paper, 2 for simclr."}
    )
    temperature: float = field(
        default=0.1, metadata={"help": "Temperature of the loss among images; 0.1 in the release."}
    )
    forward_chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Images (and texts) that the backbone of a process takes at once; any batch then fits, for "
            "one more forward. All at once if not set."
        },
    )
    base_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Sets learning_rate to this x views in a batch / 512, the release's rule. Its own value, 2e-4, if "
            "neither is given."
        },
    )
    learning_rate: float | None = field(  # a number once the arguments are made
        default=None,
        metadata={"help": "Peak learning rate; follows base_learning_rate if not given, goes before it if so."},
    )
    warmup_epochs: float | None = field(
        default=None,
        metadata={
            "help": "Sets warmup_steps to this many of num_train_epochs; half an epoch of 15 in the release, no "
            "warm-up if neither is given."
        },
    )
    shuffle_buffer: int = field(
        default=4096,
        metadata={"help": "Captions, over all processes, among which a streamed data set is shuffled at a time."},
    )

    adam_beta2: float = field(default=0.98, metadata={"help": "AdamW's second beta; 0.98 in the release."})
    weight_decay: float = field(
        default=0.1, metadata={"help": "Weight decay of weights and position and class tokens."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 = none, as the release."})


@dataclass
class FineTuningRecipe(ImageRecipe):
    """The batch, the learning rates and the regularisation of a fine-tuning run."""

    images_per_batch: int | None = field(
        default=None,
        metadata={"help": "Images in a batch over all processes; 64, or all if those are fewer, if not given."},
    )
    layer_decay: float = field(
        default=0.75,
        metadata={
            "help": "Learning rate of a layer as a share of the next one's, counted from the classifier; 1 = the same "
            "for all. Adapters learn at the full rate. 0.75 for ViT-L in MAE."
        },
    )
    mixup: float = field(default=0.0, metadata={"help": "Mix pairs of images: alpha of mixup, 0.8 in MAE; 0 = never."})
    cutmix: float = field(
        default=0.0, metadata={"help": "Paste parts of images: alpha of cutmix, 1.0 in MAE; 0 = never."}
    )
    balance_classes: bool = field(
        default=False, metadata={"help": "Weigh rare classes up, so that each counts as much as any other."}
    )

    augmentation: Literal["strong", "weak"] = field(
        default="weak", metadata={"help": "Augmentation of the images, as in training."}
    )
    learning_rate: float | None = field(  # the trainer puts a number there
        default=None,
        metadata={
            "help": "Peak learning rate of the classifier, for the layers see layer_decay. If not given, 5e-4 to "
            "train everything, 1e-2 for the classifier alone, 2e-3 for adapters."
        },
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay; 0.05 in BEiT and MAE."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up, or below 1 a share of all steps."})
