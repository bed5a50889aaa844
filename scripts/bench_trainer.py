"""What a training step costs beyond the model: `StableRepTrainer` beside a bare loop over a batch in memory.

    python scripts/bench_trainer.py

The bare loop does what any training must: forward, loss, backward, optimiser step, on pixels that are ready. The
trainer decodes, augments, logs and schedules besides.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from transformers import TrainerCallback, set_seed

from stablerep_hf import StableRepConfig, StableRepModel, StableRepTrainer, StableRepTrainingArguments
from stablerep_hf.losses import MultiPositiveContrastiveLoss

CAPTIONS, IMAGES = 16, 4


class StepTimes(TrainerCallback):
    """Seconds from the end of a step to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time."""
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


def pictures(edge: int) -> datasets.Dataset:
    """CAPTIONS x IMAGES smooth random JPEGs."""
    rng, rows = np.random.default_rng(0), []
    for caption in range(CAPTIONS * 4):
        for _ in range(IMAGES):
            stream = io.BytesIO()
            coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
            coarse.resize((edge, edge), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
            rows.append({"image": {"bytes": stream.getvalue(), "path": None}, "caption": f"picture {caption}"})
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    set_seed(0)
    config = StableRepConfig.from_size(options.size, image_size=options.image_size)
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = StableRepTrainingArguments(
            folder, captions_per_batch=CAPTIONS, images_per_caption=IMAGES, max_steps=options.steps,
            save_strategy="no", logging_steps=5, disable_tqdm=True, augmentation="strong",
        )  # fmt: skip
        trainer = StableRepTrainer(
            StableRepModel(config), arguments, pictures(2 * options.image_size), callbacks=[times]
        )
        trainer.train()
    model = StableRepModel(config).train().to(arguments.device)
    pixels = torch.randn(CAPTIONS * IMAGES, 3, options.image_size, options.image_size, device=arguments.device)
    ids = torch.arange(CAPTIONS, device=arguments.device).repeat_interleave(IMAGES)
    siblings = torch.arange(IMAGES, device=arguments.device).repeat(CAPTIONS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    criterion, bare = MultiPositiveContrastiveLoss(), []
    for _ in range(options.steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = criterion(model(pixels, sibling_index=siblings).image_embeds, ids)
        loss.backward()
        optimizer.step()
        loss.item()
        bare.append(time.perf_counter() - start)
    loop, step = float(np.median(bare[2:])), float(np.median(times.seconds[2:]))
    print(f"bare loop {loop:.3f} s a step, trainer {step:.3f} s a step: {loop / step:.3f} of the loop's speed")


if __name__ == "__main__":
    main()
