"""Encoders of timm, in the form that is measured here. timm is an extra and loaded only when one is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import InputError, refusing

_PREFIXES = ("timm/", "hf-hub:", "hf_hub:", "local-dir:")


def is_timm(source: str) -> bool:
    """Whether a folder or id is timm's: by its prefix, or a `config.json` that names an architecture and no type."""
    if source.startswith(_PREFIXES):
        return True
    try:
        config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "architecture" in config and "model_type" not in config


def load_timm(source: str, revision: str | None = None) -> tuple[nn.Module, TimmImageProcessor]:
    """A pretrained model without its classifier, and what prepares its images.

    Args:
        source: `timm/NAME`, `hf-hub:OWNER/NAME`, `local-dir:FOLDER`, or a folder.
        revision: of a Hub id.

    Raises:
        InputError: timm is not installed, or there are no such weights.
    """
    try:
        import timm
        from timm.data.config import resolve_model_data_config
    except ImportError as error:
        raise InputError(
            f"The encoder {source!r} is of timm, which is not installed; run `pip install stablerep_hf[timm]`."
        ) from error
    name = source
    if not source.startswith(_PREFIXES):
        name = f"local-dir:{source}"
    elif source.startswith("timm/"):
        name = f"hf-hub:{source}"
    if revision is not None:
        name = f"{name}@{revision}"
    with refusing(
        f"timm cannot load the encoder {source!r}",
        "give the id of a Hub repository that this machine can reach, or a folder that timm's save_for_hf wrote",
        (OSError, ValueError, RuntimeError, KeyError),
    ):
        model = timm.create_model(name, pretrained=True, num_classes=0)
    return _Named(model), TimmImageProcessor(resolve_model_data_config(model))  # type: ignore[no-untyped-call]


class _Named(nn.Module):
    """A timm model that takes its pixels by the name that transformers' models give them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        features: Tensor = self.model(pixel_values)
        return features


class TimmImageProcessor:
    """timm's evaluation transform, called as transformers' image processors are.

    Args:
        data_config: what `timm.data.resolve_model_data_config` gives.
    """

    def __init__(self, data_config: dict[str, Any]) -> None:
        from timm.data.transforms_factory import create_transform

        self.data_config = data_config
        self.transform: Any = create_transform(**data_config, is_training=False)

    def __call__(
        self, images: Sequence[Image.Image], return_tensors: str = "pt", do_resize: bool = True, **_: Any
    ) -> dict[str, Tensor]:
        """Pixel values (B, 3, H, W) of RGB pictures; without `do_resize` they are only normalised."""
        steps = self.transform.transforms if do_resize else self.transform.transforms[-2:]
        prepared = []
        for image in images:
            value: Any = image
            for step in steps:
                value = step(value)
            prepared.append(value)
        return {"pixel_values": torch.stack(prepared)}

    def to_json_string(self) -> str:
        """What tells this preparation from another."""
        return json.dumps({"timm": {name: str(value) for name, value in sorted(self.data_config.items())}})
