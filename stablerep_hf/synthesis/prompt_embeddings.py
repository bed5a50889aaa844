"""Prompts encoded once, not once an image."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

# What `encode_prompt` returns, in order, by the beginning of the pipeline's name: the arguments of a
# call that take the values; what follows them is not asked for.
_RETURNED = {
    "StableDiffusion": (  # XL and 3 too; 1 and 2 return the first two
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
    "LatentConsistencyModel": ("prompt_embeds",),
    "PixArt": (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    ),
    "Flux": ("prompt_embeds", "pooled_prompt_embeds"),
}
# Bytes of embeddings that are kept on the device. Siblings are drawn one after another, so few prompts serve: of SDXL,
# at 330 kB each, these are 400, of FLUX.1, at 4 MB, 32.
_KEPT_BYTES = 128 * 2**20


class PromptEmbeddings:
    """Embeddings of prompts for one pipeline, each encoded when it is first met and kept while its siblings are drawn.

    The empty or negative prompt is encoded once.
    """

    def __init__(self, pipeline: Any, guidance_scale: float | None, negative_prompt: str | None) -> None:
        """Bind a loaded pipeline that `supports` says yes to; a guidance scale of None is its own."""
        self._pipeline, self._negative_prompt = pipeline, negative_prompt
        self._returned = _returned(pipeline)
        takes = inspect.signature(pipeline.__call__).parameters
        if guidance_scale is None:
            guidance_scale = takes["guidance_scale"].default
        # As the pipelines decide it: distilled networks that take the guidance as an input are not called twice.
        config = getattr(getattr(pipeline, "unet", None), "config", None)
        self._guided = (
            any(name.startswith("negative_") for name in self._returned)
            and float(guidance_scale) > 1
            and getattr(config, "time_cond_proj_dim", None) is None
        )
        # PixArt's own default is a text, which would be given beside its embedding.
        self._settings = {"negative_prompt": None} if "negative_prompt" in takes else {}
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._negative: dict[str, Any] = {}

    @staticmethod
    def supports(pipeline: Any) -> bool:
        """Whether it is known how the pipeline encodes prompts, and takes them encoded."""
        if not hasattr(pipeline, "encode_prompt"):
            return False
        takes = inspect.signature(pipeline.__call__).parameters
        return "guidance_scale" in takes and "prompt_embeds" in _returned(pipeline)

    def __call__(self, prompts: Sequence[str]) -> dict[str, Any]:
        """The arguments that replace `prompt` and `negative_prompt` of B prompts in a call: tensors of B rows."""
        import torch

        with torch.no_grad():
            if self._guided and not self._negative:
                encoded = self._encode(prompts[:1], guided=True)
                self._negative = {name: part for name, part in encoded.items() if name.startswith("negative_")}
                self._known[prompts[0]] = {name: encoded[name] for name in encoded.keys() - self._negative.keys()}
            if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]:
                encoded = self._encode(new, guided=False)
                for row, prompt in enumerate(new):
                    self._known[prompt] = {
                        name: part[row : row + 1] for name, part in encoded.items() if not name.startswith("negative_")
                    }
            rows = [self._known[prompt] for prompt in prompts]
            arguments = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
            arguments |= {name: part.expand(len(prompts), *part.shape[1:]) for name, part in self._negative.items()}
        for prompt in prompts:
            self._known.move_to_end(prompt)
        while len(self._known) > len(set(prompts)) and self._num_bytes() > _KEPT_BYTES:
            self._known.popitem(last=False)
        return {**self._settings, **arguments}

    def _num_bytes(self) -> int:
        """Of what is kept; all prompts take the same."""
        one = next(iter(self._known.values()), {})
        return len(self._known) * int(sum(part.numel() * part.element_size() for part in one.values()))

    def _encode(self, prompts: Sequence[str], *, guided: bool) -> dict[str, Any]:
        arguments = {
            "prompt": list(prompts),
            "prompt_2": None,
            "prompt_3": None,
            "device": self._pipeline._execution_device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": guided,
        }
        if self._negative_prompt is not None:
            arguments["negative_prompt"] = [self._negative_prompt] * len(prompts)
        known = inspect.signature(self._pipeline.encode_prompt).parameters
        values = self._pipeline.encode_prompt(**{name: value for name, value in arguments.items() if name in known})
        named = zip(self._returned, values, strict=False)
        return {name: value for name, value in named if value is not None}


def _returned(pipeline: Any) -> tuple[str, ...]:
    """Of what `encode_prompt` returns, the arguments of a call; () where that is not known."""
    takes = inspect.signature(pipeline.__call__).parameters
    for beginning, names in _RETURNED.items():
        if type(pipeline).__name__.startswith(beginning):
            # Of SD 1 and 2, which take no pooled embeddings, the first two.
            return tuple(name for name in names if name in takes)
    return ()
