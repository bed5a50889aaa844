"""Classifier-free guidance at middle noise levels only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import InputError

# Their loops, which were read, give the denoiser one batch of two halves, the unguided one first, and add
# `guidance_scale` times the difference of the halves of its output.
_KINDS = ("StableDiffusion", "PixArt")


class GuidanceInterval:
    """Turns guidance off outside an interval of noise levels (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Outside it the denoiser is run on the half of the batch that sees the caption, and its output is taken for both
    halves: they do not differ, so the pipeline adds nothing, whatever its guidance. That is exact (`text + w * 0`),
    and such a step costs half of a guided one.

    Noise levels are standard deviations of the noise over an image of unit scale, sqrt((1 - a) / a) where a is
    `alphas_cumprod`, or s / (1 - s) at time s of flow matching: one unit for all pipelines. Stable Diffusion begins at
    about 14.6, flow matching at infinity; the paper takes (0.28, 5.42] for SDXL.

    Attributes:
        low: Levels up to this one are not guided.
        high: Levels above this one are not guided.
    """

    def __init__(self, interval: Sequence[float]) -> None:
        """Take `low` and `high`, 0 <= low < high; `InputError` if these are not two such numbers."""
        shown = " ".join(map(str, interval))
        if len(interval) != 2 or not 0 <= float(interval[0]) < float(interval[1]):
            raise InputError(
                f"guidance_interval={shown} holds no noise level: give two numbers of 0 or more, the lower one first, "
                "such as 0.28 5.42."
            )
        self.low, self.high = map(float, interval)

    def check(self, name: str, kind: str, guidance_scale: float | None, compiled: bool) -> None:
        """Refuse (`InputError`) a pipeline whose guidance cannot be turned off exactly, or that has none."""
        if not kind.startswith(_KINDS):
            raise InputError(
                f"guidance_interval={self} was given for {name!r}, a {kind}, whose guidance cannot be turned off for "
                f"single steps: leave it out, or give a pipeline of {' or '.join(_KINDS)}."
            )
        if guidance_scale is None or guidance_scale <= 1:
            raise InputError(
                f"guidance_interval={self} has no effect at guidance_scale={guidance_scale}: leave it out, or raise "
                "the guidance above 1."
            )
        if compiled:
            raise InputError(
                f"guidance_interval={self} and compile=True do not go together, as batches change their size from "
                "step to step: leave one out."
            )

    def __str__(self) -> str:
        return f"{self.low:g} {self.high:g}"

    def attach(self, pipeline: Any, name: str) -> None:
        """Let a loaded pipeline, of a kind that `check` let pass, guide within the interval only."""
        self._pipeline, self._name = pipeline, name
        self._begin(0)
        denoiser = pipeline.unet if getattr(pipeline, "unet", None) is not None else pipeline.transformer
        denoiser.register_forward_pre_hook(self._before, with_kwargs=True)
        denoiser.register_forward_hook(self._after)

    def call(self, number: int, **settings: Any) -> Any:
        """Call the pipeline, which is to draw so many images.

        Raises:
            InputError: None of its steps is in the interval, or the pipeline does not guide.
        """
        self._begin(number)
        output = self._pipeline(**settings)
        if not any(self._is_guided(level) for level in self._levels):
            raise InputError(
                f"guidance_interval={self} holds none of the {len(self._levels)} noise levels that {self._name!r} "
                f"goes through, from {max(self._levels):.3g} to {min(self._levels):.3g}: give another interval, or "
                "leave it out and set guidance_scale=1."
            )
        return output

    def _begin(self, number: int) -> None:
        self._number = number
        self._levels: list[float] = []

    def _is_guided(self, level: float) -> bool:
        return self.low < level <= self.high

    def _before(self, denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the denoiser the half that sees the caption, where nothing is guided."""
        import torch
        from torch.utils._pytree import tree_map_only

        sample = args[0] if args else kwargs["hidden_states"]
        if len(sample) != 2 * self._number:
            raise InputError(
                f"guidance_interval={self} was given for {self._name!r}, which does not guide by a batch of two "
                f"halves ({len(sample)} rows for {self._number} images): leave it out."
            )
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        self._levels.append(noise_level(self._pipeline.scheduler, float(torch.as_tensor(timestep).flatten()[0])))
        if self._is_guided(self._levels[-1]):
            return None
        return tree_map_only(
            torch.Tensor,
            lambda part: part[self._number :] if part.ndim and len(part) == len(sample) else part,
            (args, kwargs),
        )

    def _after(self, denoiser: Any, args: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        """Take its output for both."""
        import torch

        if self._is_guided(self._levels[-1]):
            return None
        return (torch.cat([output[0], output[0]]), *output[1:])


def noise_level(scheduler: Any, timestep: float) -> float:
    """The noise level at a timestep of a scheduler of diffusers; see `GuidanceInterval` for its unit.

    Args:
        scheduler: Of a variance-preserving process, whatever its network predicts, or of flow matching.
        timestep: As the denoiser is given it, perhaps between two whole numbers.

    Raises:
        InputError: The scheduler has another process.
    """
    import numpy as np

    config = scheduler.config
    if "FlowMatch" in type(scheduler).__name__ or config.get("prediction_type") == "flow_prediction":
        part = timestep / config.num_train_timesteps
        return part / (1 - part) if part < 1 else math.inf
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"`guidance_interval` was given with a {type(scheduler).__name__}, which has no noise levels: leave it "
            "out, or give another scheduler."
        )
    alphas = np.clip(scheduler.alphas_cumprod.double().cpu().numpy(), 2.0**-24, None)
    # Between whole timesteps the schedulers interpolate the logarithm too.
    return float(np.exp(np.interp(timestep, np.arange(len(alphas)), 0.5 * np.log((1 - alphas) / alphas))))
