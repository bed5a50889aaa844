"""Settings of an adaptation, apart from what trains it, so that its help is there without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field

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
