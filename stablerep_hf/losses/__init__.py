"""Objectives: functions of embeddings and ids, exact on one rank and on many. Imports nothing else of this project."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .image_text import ImageTextContrastiveLoss as ImageTextContrastiveLoss
    from .image_text import image_text_loss as image_text_loss
    from .multi_positive import MultiPositiveContrastiveLoss as MultiPositiveContrastiveLoss
    from .multi_positive import multi_positive_loss as multi_positive_loss
    from .multi_positive import similarity_statistics as similarity_statistics

_EXPORTS = {
    "ImageTextContrastiveLoss": ".image_text",
    "MultiPositiveContrastiveLoss": ".multi_positive",
    "image_text_loss": ".image_text",
    "multi_positive_loss": ".multi_positive",
    "similarity_statistics": ".multi_positive",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)
