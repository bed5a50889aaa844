"""A generator that is not here: a server or a provider, asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..errors import InputError
from ..services import FailedRequest, RefusedRequest, at_once, is_address
from .answers import AnswerFolder
from .image_services import INFERENCE, ImageService, find_service
from .settings import GeneratorSettings, ServiceSettings

# The settings that a service is sent; it decides the others itself.
SENT = ("guidance_scale", "num_inference_steps", "negative_prompt", "height", "width")
_OURS = ("generator", "generator_license", "device")


def is_service(generator: str) -> bool:
    """Whether a generator's name means a service: an address, or "inference:PROVIDER/MODEL"."""
    return is_address(generator) or generator.startswith(INFERENCE)


@dataclass(eq=False)
class ServiceGenerator(ServiceSettings, GeneratorSettings):
    """Draws by asking a service; a `KeepingGenerator`. Its arguments are the fields of its two settings.

    A request is sent again after failures that may pass; images come in any order and are returned in that of the
    prompts. Whatever was answered is kept before anything else happens, so that no run asks for it again.

    The plan names the model and not the address: who serves it may change. Settings that are not given are the
    service's own.

    Attributes:
        name: Of the model.
        service: What is asked.
        num_asked: Requests of this object that were sent and may be billed.

    Raises:
        InputError: There is no such service, it was given a setting that it does not take, or a limit is impossible.
    """

    name: str = field(init=False)
    service: ImageService = field(init=False, repr=False)
    num_asked: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        for entry in fields(GeneratorSettings):
            value = getattr(self, entry.name)
            if entry.name not in (*SENT, *_OURS) and value != entry.default:
                raise InputError(
                    f"{entry.name}={value} was given for {self.generator!r}, but a service decides that itself: leave "
                    "it out."
                )
        if (self.height is None) != (self.width is None):
            raise InputError(
                f"Of the size only {self.height or self.width} pixels one way are given: give `height` and `width`."
            )
        if self.concurrency < 1:
            raise InputError(f"concurrency={self.concurrency} asks for nothing: give 1 or more.")
        self._most = self._most_images()
        self.service = find_service(str(self.generator), self.served_model)
        self.name = self.service.name
        self._answers: AnswerFolder | None = None

    def _most_images(self) -> int | None:
        limits = [] if self.max_images is None else [self.max_images]
        if self.max_dollars is not None:
            if not self.dollars_per_image:
                raise InputError(
                    f"max_dollars={self.max_dollars} says nothing without a price: give `dollars_per_image` too, from "
                    "the service's price list."
                )
            limits.append(int(self.max_dollars / self.dollars_per_image + 1e-9))
        if limits and min(limits) < 1:
            raise InputError(
                f"max_images={self.max_images} and max_dollars={self.max_dollars} allow no image: raise them."
            )
        return min(limits, default=None)

    def describe(self) -> dict[str, object]:
        """Everything that changes an image, as far as it is known; see `ImageGenerator.describe`."""
        return {
            "name": self.name,
            "revision": None,
            "service": self.service.kind,
            **{name: getattr(self, name) for name in SENT},
            "redrawable": self.send_seeds,
            "license": self.generator_license,
        }

    @property
    def default_batch_size(self) -> int:
        """Images that are waited for together: some for each request that is under way."""
        return 8 * self.concurrency

    def keep_in(self, folder: Path) -> None:
        """Keep answers in a folder from now on; see `KeepingGenerator`."""
        self._answers = AnswerFolder(folder)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        """Ask for one image a prompt, `concurrency` at a time; see `ImageGenerator`.

        Raises:
            BudgetSpent: `max_images` or `max_dollars` is reached; what was answered is kept.
            InputError: The service refuses, or failed too often.
        """
        files = at_once(self._draw, list(zip(prompts, seeds, strict=True)), self.concurrency)
        return [Image.open(BytesIO(content)) if content else None for content in files]

    def _draw(self, request: tuple[str, int]) -> bytes:
        """The file of an image, from the folder or from the service."""
        prompt, seed = request
        described = {name: value for name, value in self.describe().items() if name != "license"}
        key = blake2b(json.dumps([described, prompt, seed]).encode(), digest_size=16).hexdigest()
        content = None if self._answers is None else self._answers.find(key)
        if content is None:
            content = self._ask(key, prompt, seed % 2**31 if self.send_seeds else None)
            if self._answers is not None:
                self._answers.keep(key, content)
        return content

    def _ask(self, key: str, prompt: str, seed: int | None) -> bytes:
        settings = {name: value for name in SENT if (value := getattr(self, name)) is not None}

        def send() -> bytes:
            self._count(key)
            try:
                return self.service.draw(prompt, seed, settings)
            except (FailedRequest, RefusedRequest) as error:
                if not error.may_be_billed:
                    self._take_back(key)
                raise

        return self.service.patience.call(send)

    def _count(self, key: str) -> None:
        if self._answers is not None:
            self._answers.count(key, self._most)
        self.num_asked += 1

    def _take_back(self, key: str) -> None:
        if self._answers is not None:
            self._answers.take_back(key)
        self.num_asked -= 1
