"""What a training step costs beyond the model: `StableRepTrainer` beside a bare loop over a batch in memory.

    python scripts/bench_trainer.py

The bare loop does what any training must: forward, loss, backward, optimiser step, on pixels that are ready. The
trainer decodes, augments, logs and schedules besides. On a CPU the process's own time is taken, so that what else runs
on the machine counts little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import torch
from benching import pictures
from transformers import TrainerCallback, set_seed

from stablerep_hf import StableRepConfig, StableRepModel, StableRepTrainer, StableRepTrainingArguments
from stablerep_hf.losses import MultiPositiveContrastiveLoss

CAPTIONS, IMAGES = 16, 4


clock = time.perf_counter if torch.cuda.is_available() else time.process_time


class BareLoop(TrainerCallback):
    """A step of the bare loop after each of the trainer's, and the seconds of both: they share the machine's moods."""

    def __init__(self, config: StableRepConfig, device: torch.device) -> None:
        self.model = StableRepModel(config).train().to(device)
        edge = config.vision_config.image_size
        self.pixels = torch.randn(CAPTIONS * IMAGES, 3, edge, edge, device=device)
        self.ids = torch.arange(CAPTIONS, device=device).repeat_interleave(IMAGES)
        self.siblings = torch.arange(IMAGES, device=device).repeat(CAPTIONS)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
        self.criterion = MultiPositiveContrastiveLoss()
        self.trainer: list[float] = []
        self.bare: list[float] = []
        self.begun = clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the trainer's time, then that of the same step by hand."""
        self.trainer.append(clock() - self.begun)
        begun = clock()
        self.optimizer.zero_grad()
        embeds = self.model(self.pixels, sibling_index=self.siblings).image_embeds
        loss = self.criterion(embeds, self.ids)
        loss.backward()
        self.optimizer.step()
        loss.item()
        self.bare.append(clock() - begun)
        self.begun = clock()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    set_seed(0)
    config = StableRepConfig.from_size(options.size, image_size=options.image_size)
    with tempfile.TemporaryDirectory() as folder:
        arguments = StableRepTrainingArguments(
            folder, captions_per_batch=CAPTIONS, images_per_caption=IMAGES, max_steps=options.steps,
            save_strategy="no", logging_steps=5, disable_tqdm=True, augmentation="strong",
        )  # fmt: skip
        times = BareLoop(config, arguments.device)
        trainer = StableRepTrainer(
            StableRepModel(config),
            arguments,
            pictures(4 * CAPTIONS, IMAGES, 2 * options.image_size),
            callbacks=[times],
        )
        trainer.train()
    loop, step = float(np.median(times.bare[2:])), float(np.median(times.trainer[2:]))
    print(f"bare loop {loop:.3f} s a step, trainer {step:.3f} s a step: {loop / step:.3f} of the loop's speed")


if __name__ == "__main__":
    main()
