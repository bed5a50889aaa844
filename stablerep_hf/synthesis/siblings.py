"""Which images are too near to a sibling: by their perceptual hash, or by the features of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..assets import ENCODERS, find_encoder
from ..errors import InputError, refusing
from .frames import perceptual_hash, shrink

if TYPE_CHECKING:
    from ..evaluation import VisionEncoder


class Siblings:
    """The images of one caption that were taken so far.

    Args:
        stored_size: Of the images that are compared; see `SynthesisPlan`, as for the others.
        min_distance: `min_sibling_distance`.
        max_similarity: `max_sibling_similarity`.
        encoder: `sibling_encoder`.
    """

    def __init__(
        self,
        stored_size: int | None,
        min_distance: int | None,
        max_similarity: float | None,
        encoder: Mapping[str, str | None] | None,
    ) -> None:
        self._stored_size, self._encoder = stored_size, encoder
        self._min_distance, self._max_similarity = min_distance or 0, max_similarity
        self._seen: list[tuple[int, Any]] = []

    def resemble(self, image: Any) -> bool:
        """Whether an image is nearer to one before it than the plan allows; if not, it joins them."""
        if not self._min_distance and self._max_similarity is None:
            return False
        stored = shrink(image.convert("RGB"), self._stored_size)
        bits = perceptual_hash(stored) if self._min_distance else 0
        feature = None if self._encoder is None else _feature(stored, self._encoder)
        for other_bits, other in self._seen:
            if ((bits ^ other_bits) % 2**64).bit_count() < self._min_distance:
                return True
            if self._max_similarity is not None and feature @ other > self._max_similarity:
                return True
        self._seen.append((bits, feature))
        return False


def describe_encoder(name: str) -> Mapping[str, str | None]:
    """What a plan says of the encoder of `max_sibling_similarity`.

    Returns:
        Its name, and as revision the digest of the embedded one's content, or the commit that the Hub has today.

    Raises:
        InputError: It is a folder, which another machine does not have, or cannot be found.
    """
    from huggingface_hub import hf_hub_download

    from .pipeline_folder import content_digest

    folder = Path(find_encoder(name))
    if name in ENCODERS:
        return {"name": name, "revision": content_digest(folder)}
    if folder.is_dir():
        raise InputError(
            f"sibling_encoder={name} is a folder, and a plan names what every machine finds: give a Hub id, or one of "
            f"{', '.join(ENCODERS)}."
        )
    remedy = "give the id of a Hub repository that this machine can reach, or an embedded encoder"
    with refusing(f"sibling_encoder={name} cannot be found", remedy, (OSError, ValueError)):
        return {
            "name": name,
            "revision": Path(hf_hub_download(name.removeprefix("hf-hub:"), "config.json")).parent.name,
        }


@lru_cache(1)
def _encoder(name: str, revision: str | None) -> VisionEncoder:
    from ..evaluation import load_encoder

    if name not in ENCODERS:
        return load_encoder(name, revision=revision, device="cpu")
    if describe_encoder(name)["revision"] != revision:
        raise InputError(f"The encoder {name} is not the one of the plan any more: draw into another folder.")
    return load_encoder(name, device="cpu")


def _feature(image: Image.Image, described: Mapping[str, str | None]) -> np.ndarray[Any, Any]:
    """Unit vector (D,) of an image, encoded alone and on the CPU, so that it depends on no other."""
    from ..evaluation.encoder import inference

    encoder = _encoder(str(described["name"]), described["revision"])
    with inference(encoder.model):
        pixels = encoder.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        feature = encoder.encode(pixels)[0][0].double().numpy()
    found: np.ndarray[Any, Any] = feature / np.linalg.norm(feature)
    return found
