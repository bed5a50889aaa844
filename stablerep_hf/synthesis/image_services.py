"""Services that draw: a server with OpenAI's images endpoint, or an inference provider of the Hub."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any, Protocol

from PIL import Image

from ..errors import InputError, one_line
from ..files.hub_client import client_error
from ..services import FailedRequest, Patience, RefusedRequest, Service, error_of, is_address

INFERENCE = "inference:"


class ImageService(Protocol):
    """Draws one image at a time, in many threads at once.

    Attributes:
        name: Of the model.
        kind: Of the service, for plans: "openai", or "inference:PROVIDER". Never an address.
        patience: How requests are sent again.
    """

    name: str
    kind: str
    patience: Patience

    def draw(self, prompt: str, seed: int | None, settings: dict[str, Any]) -> bytes:
        """The file of one image, which was decoded to see that it is whole; b"" if the service withholds it.

        Args:
            prompt: The prompt.
            seed: In [0, 2**31), which every service takes; None sends none.
            settings: Of `height`, `width`, `guidance_scale`, `num_inference_steps`, `negative_prompt` what was given.

        Raises:
            FailedRequest: It may go well another time.
            InputError: It would not.
        """
        ...


def find_service(generator: str, model: str | None) -> ImageService:
    """The service that a generator's name means.

    Args:
        generator: "https://host/v1" or "inference:PROVIDER/MODEL".
        model: What the server calls the model; by default the only one that it serves.

    Raises:
        InputError: It names none.
    """
    if is_address(generator):
        return OpenAIImages(generator, model)
    provider, _, name = generator.removeprefix(INFERENCE).partition("/")
    if not provider or not name:
        raise InputError(
            f"The generator {generator!r} names no provider and model: write inference:PROVIDER/MODEL, such as "
            "inference:fal-ai/black-forest-labs/FLUX.1-dev."
        )
    return InferenceProvider(provider, name)


class OpenAIImages:
    """The images endpoint of OpenAI, as vLLM-Omni and SGLang serve it too; see `ImageService`.

    `seed`, `num_inference_steps`, `guidance_scale` and `negative_prompt` are names that these two take.
    """

    kind = "openai"

    def __init__(self, address: str, model: str | None = None, *, patience: Patience | None = None) -> None:
        """Look who serves, which asks the server if no `model` is named.

        Raises:
            InputError: It is no address, or the server cannot be reached or serves several models.
        """
        self.patience = patience or Patience()
        self._service = Service(address, patience=self.patience)
        self.name = model or self._service.only_model()
        self._wants_format = True

    def draw(self, prompt: str, seed: int | None, settings: dict[str, Any]) -> bytes:
        """See `ImageService.draw`."""
        content = {"model": self.name, "prompt": prompt, "n": 1, **settings}
        if "height" in content:
            content["size"] = f"{content.pop('width')}x{content.pop('height')}"
        if seed is not None:
            content["seed"] = seed
        if self._wants_format:
            content["response_format"] = "b64_json"
        try:
            answer = self._service.send("POST", "images/generations", content)
        except RefusedRequest as error:
            if error.is_withheld:
                return b""
            if self._wants_format and "response_format" in str(error):  # newer models of OpenAI know no other
                self._wants_format = False
                return self.draw(prompt, seed, settings)
            if seed is not None and "seed" in str(error):
                raise RefusedRequest(f"{str(error).partition(':')[0]} a seed: give send_seeds=False.") from error
            raise
        match answer:
            case {"data": [{"b64_json": str(encoded)}, *_]}:
                try:
                    return check_image(base64.b64decode(encoded, validate=True), self._service.address)
                except ValueError as error:
                    raise FailedRequest(f"{self._service.address} answered no base64", may_be_billed=True) from error
            case {"data": [{"url": str()}, *_]}:
                raise InputError(
                    f"{self._service.address} answers the address of an image in place of the image, and no address "
                    "that a server chooses is opened: have it answer b64_json."
                )
        raise FailedRequest(f"{self._service.address} answered no image", may_be_billed=True)


class InferenceProvider:
    """A model at an inference provider, by `huggingface_hub.InferenceClient`; see `ImageService`.

    The token is the Hub's (HF_TOKEN), and so is the bill.
    """

    def __init__(self, provider: str, model: str, *, patience: Patience | None = None) -> None:
        """Make the client; nothing is sent."""
        from huggingface_hub import InferenceClient

        self.name, self.kind, self.patience = model, f"{INFERENCE}{provider}", patience or Patience()
        self._client = InferenceClient(provider=provider, timeout=600)  # type: ignore[arg-type]

    def draw(self, prompt: str, seed: int | None, settings: dict[str, Any]) -> bytes:
        """See `ImageService.draw`."""
        from huggingface_hub import errors, get_token

        try:
            image = self._client.text_to_image(prompt, model=self.name, seed=seed, **settings)
            buffer = BytesIO()
            image.save(buffer, "PNG")  # decodes it
            return buffer.getvalue()
        except errors.HfHubHTTPError as error:
            raise error_of(error.response, self.kind, "HF_TOKEN", hide=get_token() or "") from error
        except client_error() as error:
            was_sent = type(error).__name__ not in ("ConnectError", "ConnectTimeout")
            raise FailedRequest(f"{self.kind}: {one_line(error)}", may_be_billed=was_sent) from error
        except (OSError, ValueError, SyntaxError, LookupError, TypeError, Image.DecompressionBombError) as error:
            # No token, provider, model or setting of that name, or no network wanted: nothing was sent.
            is_ours = isinstance(error, ValueError | errors.OfflineModeIsEnabled)
            if is_ours and not isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
                said = one_line(error)[:200]
                raise InputError(f"{self.kind}/{self.name} cannot draw ({said}): change that.") from error
            raise FailedRequest(f"{self.kind} answered what is not an image", may_be_billed=True) from error


def check_image(content: bytes, service: str) -> bytes:
    """The file of an image, once it was decoded to its end; `FailedRequest` if it is none, or cut off."""
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FailedRequest(f"{service} answered what is not an image", may_be_billed=True) from error
    return content
