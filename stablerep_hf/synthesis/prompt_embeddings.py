"""Prompts encoded once, not once an image."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

# What `encode_prompt` of the pipelines that are known here returns, in order (StableDiffusion; SDXL and SD 3).
_NAMES = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_KEPT = 256  # prompts. Siblings are drawn one after another; at SDXL's 330 kB a prompt these are 85 MB.


class PromptEmbeddings:
    """Embeddings of prompts for one pipeline, each encoded when it is first met and kept while its siblings are drawn.

    The empty or negative prompt is encoded once.
    """

    def __init__(self, pipeline: Any, guidance_scale: float | None, negative_prompt: str | None) -> None:
        """Bind a loaded pipeline.

        Args:
            pipeline: One that `supports` says yes to.
            guidance_scale: What it will be called with; None for its own default.
            negative_prompt: What it would be called with.
        """
        self._pipeline, self._negative_prompt = pipeline, negative_prompt
        if guidance_scale is None:
            guidance_scale = inspect.signature(pipeline.__call__).parameters["guidance_scale"].default
        # As the pipelines decide it: distilled networks that take the guidance as an input are not called twice.
        config = getattr(getattr(pipeline, "unet", None), "config", None)
        self._guided = float(guidance_scale) > 1 and getattr(config, "time_cond_proj_dim", None) is None
        self._known: OrderedDict[str, tuple[Any, ...]] = OrderedDict()
        self._negative: tuple[Any, ...] | None = None

    @staticmethod
    def supports(pipeline: Any) -> bool:
        """Whether the pipeline encodes prompts, and takes them encoded, in the way of Stable Diffusion, XL or 3."""
        if not hasattr(pipeline, "encode_prompt"):
            return False
        takes = inspect.signature(pipeline.__call__).parameters
        encodes = inspect.signature(pipeline.encode_prompt).parameters
        return (
            {"prompt_embeds", "negative_prompt_embeds", "guidance_scale"} <= takes.keys()
            and {"prompt", "do_classifier_free_guidance", "negative_prompt"} <= encodes.keys()
            and not any("attention_mask" in name for name in takes)
            and type(pipeline).__name__.startswith("StableDiffusion")
        )

    def __call__(self, prompts: Sequence[str]) -> dict[str, Any]:
        """The arguments that stand for `prompt` and `negative_prompt` in a call of the pipeline.

        Args:
            prompts: B prompts.

        Returns:
            Tensors of B rows each, keyed by argument.
        """
        import torch

        with torch.no_grad():
            if self._guided and self._negative is None:
                embeds, negative, *pooled = self._encode(prompts[:1], guided=True)
                self._negative = (negative, *pooled[1:])
                self._known[prompts[0]] = (embeds, *pooled[:1])
            if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]:
                embeds, _, *pooled = self._encode(new, guided=False)
                for row, prompt in enumerate(new):
                    self._known[prompt] = tuple(part[row : row + 1] for part in (embeds, *pooled[:1]))
            rows = [self._known[prompt] for prompt in prompts]
            positive = [torch.cat(part) for part in zip(*rows, strict=True)]
            arguments = dict(zip(_NAMES[::2], positive, strict=False))
            if self._guided and self._negative is not None:
                negatives = [part.expand(len(prompts), *part.shape[1:]) for part in self._negative]
                arguments |= dict(zip(_NAMES[1::2], negatives, strict=False))
        for prompt in prompts:
            self._known.move_to_end(prompt)
        while len(self._known) > max(_KEPT, len(set(prompts))):
            self._known.popitem(last=False)
        return arguments

    def _encode(self, prompts: Sequence[str], *, guided: bool) -> tuple[Any, ...]:
        arguments = {
            "prompt": list(prompts),
            "prompt_2": None,
            "prompt_3": None,
            "device": self._pipeline._execution_device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": guided,
            "negative_prompt": None if self._negative_prompt is None else [self._negative_prompt] * len(prompts),
        }
        known = inspect.signature(self._pipeline.encode_prompt).parameters
        result: tuple[Any, ...] = self._pipeline.encode_prompt(
            **{name: value for name, value in arguments.items() if name in known}
        )
        return result
