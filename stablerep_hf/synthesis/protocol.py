"""What the store asks of whatever draws."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from PIL import Image

from ..errors import InputError, refusing


@runtime_checkable
class ImageGenerator(Protocol):
    """Anything that draws an image from a prompt and a seed.

    An image may depend on its own prompt and seed alone, not on the others of its batch (up to rounding): the store
    relies on it when it draws a missing shard again.
    """

    def describe(self) -> Mapping[str, object]:
        """Say everything that changes an image, as JSON values: it becomes part of the plan and of its hash.

        Rows take these keys, each null if absent: `name` and `revision` (strings), `scheduler` (string),
        `guidance_scale` (float), `num_inference_steps` (int), `license` (string), `redrawable` (whether a prompt and a
        seed give the same image again; yes if absent). Another licence makes no other plan:
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
class KeepingGenerator(ImageGenerator, Protocol):
    """A generator each of whose images costs something: it keeps every one until its shard is written.

    Then a run that was killed asks for none again, `generate --dry-run` draws nothing, and no two processes draw one
    shard.
    """

    def keep_in(self, folder: Path) -> None:
        """Called before the images of a shard are drawn: where to keep them, and where they may lie already.

        The folder exists, is this shard's alone, and is removed once the shard is written.
        """
        ...


PlainGenerator: TypeAlias = Callable[[Sequence[str], Sequence[int]], Sequence[Image.Image | None]]
"""Any callable of prompts and seeds, see `describe_generator`."""


def describe_generator(generator: ImageGenerator | PlainGenerator | Mapping[str, object]) -> dict[str, Any]:
    """What a plan records of whatever draws, as JSON values.

    Args:
        generator: An `ImageGenerator`; the mapping that its `describe` gave; or any callable of prompts and seeds,
            which is known by its name and, as its revision, a digest of its source. What such a callable reads
            besides, such as weights or settings, is not part of that: give it a `describe` method that says it.

    Raises:
        InputError: It is none of these, or describes itself by what is not JSON.
    """
    described: Any = generator
    if isinstance(generator, ImageGenerator):
        described = generator.describe()
    elif not isinstance(generator, Mapping):
        if not callable(generator):
            raise InputError(
                f"The generator is a {type(generator).__name__}, which cannot be called: give a DiffusersGenerator or "
                "a function of prompts and seeds that returns images."
            )
        described = _describe_callable(generator)
    with refusing(
        "What the generator's `describe` says is not JSON", "say it in plain values", (TypeError, ValueError)
    ):
        found: dict[str, Any] = json.loads(json.dumps(dict(described), allow_nan=False))
    return found


def _describe_callable(generator: Callable[..., Any]) -> dict[str, str | None]:
    named: Any = generator if inspect.isroutine(generator) or inspect.isclass(generator) else type(generator)
    try:
        revision = blake2b(inspect.getsource(named).encode(), digest_size=16).hexdigest()
    except (OSError, TypeError):  # typed into an interpreter, or written in another language
        revision = None
    return {"name": getattr(named, "__qualname__", type(generator).__name__), "revision": revision}


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
