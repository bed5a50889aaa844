"""What the store asks of whatever draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from PIL import Image


class ImageGenerator(Protocol):
    """Anything that draws an image from a prompt and a seed.

    An image may depend on its own prompt and seed alone, not on the others of its batch (up to rounding): the store
    relies on it when it draws a missing shard again.
    """

    def describe(self) -> Mapping[str, object]:
        """Say everything that changes an image, as JSON values: it becomes part of the plan and of its hash.

        Rows take these keys, each null if absent: `name` and `revision` (strings), `scheduler` (string),
        `guidance_scale` (float), `num_inference_steps` (int), `license` (string). Another licence makes no other plan:
        a folder that was begun keeps its own. This is called before anything is drawn, so it should be cheap.
        """
        ...

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image | None]:
        """Draw one image a prompt.

        Args:
            prompts: B prompts.
            seeds: B seeds in [0, 2**63).

        Returns:
            B images in order; None where there is no picture, for instance because a safety checker withheld it.
        """
        ...


@runtime_checkable
class TokenizingGenerator(ImageGenerator, Protocol):
    """A generator whose text encoder reads the beginning of a prompt only."""

    @property
    def max_prompt_tokens(self) -> int | None:
        """Most tokens of a prompt that are read, with those that mark its ends; None if nothing is cut."""
        ...

    def too_long(self, prompts: Sequence[str]) -> Sequence[bool]:
        """Say of each prompt whether its end would be cut."""
        ...
