"""Settings of an adaptation, apart from what trains it, so that its help is there without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..assets import EMBEDDED
from ..errors import InputError
from ..setting import setting


@dataclass(frozen=True)
class AdaptationSettings:
    """Settings of an adaptation; the recipe is the one of diffusers' examples (`train_text_to_image_lora.py`).

    The fields' help says what each one means.
    """

    steps: int = setting(500, "Steps of the optimiser.")
    batch_size: int = setting(8, "Images a step, over all processes.")
    learning_rate: float = setting(1e-4, "Learning rate of AdamW, constant.")
    rank: int = setting(16, "Rank of the adapters; alpha is the same, so `lora_scale` 1 is what was trained.")
    caption_dropout: float = setting(0.1, "Share of empty prompts, for guidance.")
    snr_gamma: float | None = setting(
        5.0, "Cap of the weights by signal-to-noise ratio (min-SNR, Hang et al. 2023); flow models have none."
    )
    flip: bool = setting(False, "See images mirrored too.")
    seed: int = setting(0, "Seed of noise, noise levels and the order of images, each a function of it and the step.")
    save_every: int = setting(100, "Steps between two states to go on from.")
    gradient_checkpointing: bool = setting(False, "Take less memory and a third more time, for the same numbers.")

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

    data: str = setting("captioned-images", "Captioned images: a folder or a Hub id.")
    split: str = setting("train", "Split of the data set.")
    image_column: str = setting("image", "Column of the images.")
    caption_column: str = setting("caption", "Column of the captions, one an image.")
    prompt_template: str = setting(
        "{caption}", "What is asked for an image, such as '{caption}, my style'; ask so afterwards."
    )
    generator: str = setting(EMBEDDED, "Hub id or folder of a Stable Diffusion pipeline (1, 2, XL, 3).")
    revision: str | None = setting(None, "Branch, tag or commit of a generator on the Hub.")
    size: int | None = setting(None, "Edge of the images in pixels; the pipeline's own.")
    mixed_precision: Literal["no", "fp16", "bf16"] = setting(
        "no", "Precision of the frozen weights and the forward pass; bf16 for a GPU."
    )
    output: str = setting("lora", "Folder of the LoRA; the same command goes on with it.")
    license: str = setting("unknown", "Licence of the LoRA, for its card: a Hub licence id.")
