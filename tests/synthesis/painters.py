"""Image generators that paint their seed: fast, exact, without a network. The kill test runs one in a subprocess."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image


class Painter:
    """Paints noise of the seed, 8 px. `flag(prompt, seed)` says which frames come back as None, or black."""

    def __init__(
        self,
        flag: Callable[[str, int], bool] = lambda prompt, seed: False,
        black: Callable[[str, int], bool] = lambda prompt, seed: False,
        seconds: float = 0.0,
        guidance_scale: float = 2.0,
    ) -> None:
        self.flag, self.black, self.seconds, self.guidance_scale = flag, black, seconds, guidance_scale
        self.calls: list[tuple[tuple[str, ...], tuple[int, ...]]] = []

    def describe(self) -> dict[str, object]:
        return {
            "name": "painter",
            "revision": "r1",
            "scheduler": "Brush",
            "num_inference_steps": 3,
            "guidance_scale": self.guidance_scale,
        }

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        self.calls.append((tuple(prompts), tuple(seeds)))
        time.sleep(self.seconds)
        return [self._paint(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _paint(self, prompt: str, seed: int) -> Image.Image | None:
        if self.flag(prompt, seed):
            return None
        if self.black(prompt, seed):
            return Image.new("RGB", (8, 8))
        return Image.fromarray(picture(seed))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
