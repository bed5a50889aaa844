"""Looks at a generator while it trains: grids and judgements from the averaged weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from stablerep_hf.errors import InputError

from . import checkpoint, drawing, export, measures
from .captioned import HeldOut
from .world import World

if TYPE_CHECKING:
    from .denoiser import Models

SIBLINGS = 4  # of each prompt in a grid


class Looks:
    """Draws `world.shown` and lets the judge of the world judge, each time it is called.

    It draws with seeds of its own, so that a training that is looked at gives the same weights.

    Raises:
        InputError: The judge has nothing to compare with, or its package is missing.
    """

    def __init__(self, world: World, vae: AutoencoderKL, held_out: HeldOut | None, work: Path) -> None:
        self.world, self.vae, self.work = world, vae, work
        self.judge = None
        if world.judge == "imagenet":
            if held_out is None:
                raise InputError("judge=imagenet compares with real photos: name a set in `held_out`, or judge=none.")
            with torch.random.fork_rng():
                self.judge = Judge(held_out.spread(3 * world.judged))

    def __call__(self, models: Models, step: int) -> None:
        """Look once: WORK/grids/STEP.png and a line in WORK/judgements.jsonl."""
        pipeline = export.averaged_pipeline(self.world, models, self.vae)
        asked = self.world.drawing
        if self.world.shown:
            prompts = [prompt for prompt in self.world.shown for _ in range(SIBLINGS)]
            images = drawing.draw(pipeline, prompts, asked.guidance_scale, asked.num_inference_steps)
            drawing.save_grid(images, SIBLINGS, self.work / "grids" / f"{step:07d}.png")
        if self.judge is not None:
            started = time.monotonic()
            values = self.judge(pipeline, self.world.judged, asked.guidance_scale, asked.num_inference_steps)
            checkpoint.log(
                self.work / "judgements.jsonl", step=step, **values, judging_seconds=time.monotonic() - started
            )


class Judge:
    """Compares drawn photos with the held-out ones whose prompts they were drawn from, by an ImageNet classifier.

    Args:
        held_out: Real photos.
    """

    def __init__(self, held_out: HeldOut) -> None:
        from .imagenet_judge import ImageNetJudge

        self.eye = ImageNetJudge()
        self.held_out = held_out
        self.real_features, self.real_logits = self.eye.look(held_out.pictures)
        self.classes = self.eye.classes(sorted(set(held_out.labels or ())))

    def __call__(self, pipeline: StableDiffusionPipeline, count: int, guidance: float, steps: int) -> dict[str, Any]:
        """Judge `count` pictures, drawn for prompts spread evenly over the held-out set.

        Returns:
            `kid` and its standard deviation over subsets, and the share of recognised classes, `recognised`, beside
            that of the real photos of the same prompts, `recognised_real`.
        """
        chosen = self.held_out.evenly(count)
        images = drawing.draw(pipeline, [self.held_out.prompts[i] for i in chosen], guidance, steps)
        features, logits = self.eye.look(images)
        kid, deviation = measures.kernel_distance(features, self.real_features)
        return {"kid": kid, "kid_deviation": deviation, **self.recognised(chosen, logits)}

    def recognised(self, chosen: list[int], logits: torch.Tensor) -> dict[str, float]:
        """Share of drawn and of real photos whose class is the judge's first guess, or among its first five."""
        from .imagenet_judge import recognised

        if not self.classes or self.held_out.labels is None:
            return {}
        labels = [self.held_out.labels[i] for i in chosen]
        real = self.real_logits[chosen]
        return {
            f"recognised{suffix}_{kind}": recognised(values, labels, self.classes, top)
            for kind, values in (("drawn", logits), ("real", real))
            for suffix, top in (("", 1), ("_in_5", 5))
        }
