"""Settings of an adaptation, apart from what trains it, so that its help is there without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..assets import EMBEDDED
from ..errors import InputError


@dataclass(frozen=True)
class AdaptationSettings:
    """Settings of an adaptation; the recipe is the one of diffusers' examples (`train_text_to_image_lora.py`).

    Attributes:
        steps: Of the optimiser.
        batch_size: Images a step, over all processes.
        learning_rate: Constant, of AdamW.
        rank: Of the adapters; alpha is the same, so that `lora_scale` 1 is what was trained.
        caption_dropout: Share of empty prompts, which keeps guidance meaningful.
        snr_gamma: Cap of the weights by signal-to-noise ratio (min-SNR, Hang et al. 2023); None for none. Flow models
            have none.
        flip: Whether images are also seen mirrored.
        seed: Of noise, timesteps and the order of images, each a function of it and the step alone.
        save_every: Steps between two states that an interrupted adaptation goes on from.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them: less memory,
            about a third more time, the same numbers.
    """

    steps: int = field(default=500, metadata={"help": "Steps of the optimiser."})
    batch_size: int = field(default=8, metadata={"help": "Images a step, over all processes."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate, constant."})
    rank: int = field(default=16, metadata={"help": "Rank of the adapters."})
    caption_dropout: float = field(default=0.1, metadata={"help": "Share of empty prompts, for guidance."})
    snr_gamma: float | None = field(
        default=5.0, metadata={"help": "Cap of the weights by signal-to-noise ratio (min-SNR); not for flow models."}
    )
    flip: bool = field(default=False, metadata={"help": "See images mirrored too."})
    seed: int = field(default=0, metadata={"help": "Seed of noise, noise levels and the order of images."})
    save_every: int = field(default=100, metadata={"help": "Steps between two states to go on from."})
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Take less memory and a third more time, for the same numbers."}
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "rank", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} adapts nothing: give at least 1.")
        if not self.learning_rate > 0 or not 0 <= self.caption_dropout < 1:
            raise InputError(
                f"learning_rate={self.learning_rate} and caption_dropout={self.caption_dropout} cannot both work: the "
                "first is above 0, the second a share in [0, 1)."
            )
        if self.snr_gamma is not None and not self.snr_gamma > 0:
            raise InputError(f"snr_gamma={self.snr_gamma} weighs every step 0: give a number above 0, say 5, or none.")


@dataclass
class AdaptationInputs:
    """What a generator is adapted to, and where the LoRA goes."""

    data: str = field(default="captioned-images", metadata={"help": "Captioned images: a folder or a Hub id."})
    split: str = field(default="train", metadata={"help": "Split of the data set."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    caption_column: str = field(default="caption", metadata={"help": "Column of the captions, one an image."})
    prompt_template: str = field(
        default="{caption}",
        metadata={"help": "What is asked for an image, such as '{caption}, my style'; ask so afterwards."},
    )
    generator: str = field(
        default=EMBEDDED, metadata={"help": "Hub id or folder of a Stable Diffusion pipeline (1, 2, XL, 3)."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a generator on the Hub."})
    size: int | None = field(default=None, metadata={"help": "Edge of the images in pixels; the pipeline's own."})
    mixed_precision: Literal["no", "fp16", "bf16"] = field(
        default="no", metadata={"help": "Precision of the frozen weights and the forward pass; bf16 for a GPU."}
    )
    output: str = field(default="lora", metadata={"help": "Folder of the LoRA; the same command goes on with it."})
    license: str = field(default="unknown", metadata={"help": "Licence of the LoRA, for its card: a Hub licence id."})
