"""A vision tower with random weights, from which runs start where a recipe names no size of ViT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError


def write_untrained(config: Mapping[str, Any], folder: str | Path, *, image_size: int, seed: int) -> None:
    """Write an untrained encoder of transformers, from which a training run starts by `init_from`.

    Args:
        config: Fields of a vision configuration, with its `model_type`.
        folder: Where `AutoModel.from_pretrained` finds it; made if it is not there.
        image_size: Of its image processor, pixels.
        seed: Of the weights.

    Raises:
        InputError: transformers or this package knows no such type, or a value does not fit it.
    """
    import transformers

    from ..models import StableRepConfig, StableRepModel
    from ..models.export import encoder_image_processor, export_encoder

    try:
        transformers.set_seed(seed)
        model = StableRepModel(StableRepConfig(vision_config=dict(config)))
        processor = encoder_image_processor(model.config)
        processor.size = {"height": image_size, "width": image_size}
        export_encoder(model, folder, processor)
    except (ValueError, TypeError) as error:
        raise InputError(f"encoder={dict(config)} cannot be made: {error}") from error
