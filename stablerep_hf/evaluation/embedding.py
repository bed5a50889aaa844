"""Features of pictures outside a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import nn

from ..errors import InputError
from .decoding import decode_image, to_rgb
from .encoder import ImageProcessor, VisionEncoder, inference, load_encoder
from .features import Precision, autocast


def embed_images(
    encoder: str | Path | nn.Module | VisionEncoder,
    images: Sequence[PILImage.Image | str | Path | bytes],
    *,
    image_processor: ImageProcessor | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
) -> NDArray[np.float32]:
    """Encode pictures that are not in a data set.

    Args:
        encoder: anything `load_encoder` takes.
        images: pictures of any mode, paths of files, or their bytes.
        image_processor: required when `encoder` is a bare model.
        batch_size: images a forward pass.
        device: as for `extract_features`.
        precision: as for `extract_features`.

    Returns:
        (N, D) float32, the features that `extract_features` gives of the same pictures; not normalised.

    Raises:
        InputError: no images, or one of them cannot be decoded.
    """
    if not images:
        raise InputError("There are 0 images, so there is nothing to encode; give one or more.")
    vision = load_encoder(encoder, image_processor, device=device)
    parts = []
    with inference(vision.whole, device):
        for start in range(0, len(images), batch_size):
            pictures = [
                _as_rgb(image, start + place) for place, image in enumerate(images[start : start + batch_size])
            ]
            pixel_values = vision.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
            with autocast(vision, precision):
                parts.append(vision.encode(pixel_values)[0].float().cpu().numpy())
    return np.concatenate(parts)


def _as_rgb(image: PILImage.Image | str | Path | bytes, place: int) -> PILImage.Image:
    try:
        if isinstance(image, PILImage.Image):
            return to_rgb(image)
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        return decode_image({"bytes": content, "path": None})
    except Exception as error:  # as in `_Prepare`
        raise InputError(
            f"Image {place} cannot be decoded ({type(error).__name__}: {error}); leave it out."
        ) from error
