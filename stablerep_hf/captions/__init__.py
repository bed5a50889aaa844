"""Caption text in, a `CaptionSet` out: identity, normalising, exact duplicates. Needs no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .caption_set import CaptionSet as CaptionSet
    from .identity import caption_id as caption_id
    from .identity import normalize_caption as normalize_caption
    from .reading import read_captions as read_captions

_EXPORTS = {
    "CaptionSet": ".caption_set",
    "caption_id": ".identity",
    "normalize_caption": ".identity",
    "read_captions": ".reading",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
