"""Captions to images on disk: plan, seeds, generators, the resumable shard store, the `datasets` builder over it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .caption_grouped_images import CaptionGroupedImages as CaptionGroupedImages
    from .caption_grouped_images import CaptionGroupedImagesConfig as CaptionGroupedImagesConfig
    from .diffusers_generator import DiffusersGenerator as DiffusersGenerator
    from .grouping import CaptionGroups as CaptionGroups
    from .grouping import group_rows as group_rows
    from .plan import SynthesisPlan as SynthesisPlan
    from .protocol import ImageGenerator as ImageGenerator
    from .provenance import Provenance as Provenance
    from .provenance import read_provenance as read_provenance
    from .run import SynthesisSummary as SynthesisSummary
    from .run import synthesize as synthesize
    from .schema import image_features as image_features
    from .seeds import image_seed as image_seed

_EXPORTS = {
    "CaptionGroupedImages": ".caption_grouped_images",
    "CaptionGroupedImagesConfig": ".caption_grouped_images",
    "CaptionGroups": ".grouping",
    "DiffusersGenerator": ".diffusers_generator",
    "ImageGenerator": ".protocol",
    "Provenance": ".provenance",
    "SynthesisPlan": ".plan",
    "SynthesisSummary": ".run",
    "group_rows": ".grouping",
    "image_features": ".schema",
    "image_seed": ".seeds",
    "read_provenance": ".provenance",
    "synthesize": ".run",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
