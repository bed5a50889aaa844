"""Finding images: an index of their vectors, exact or a graph, built of any encoder and data set."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .image_index import ImageIndex as ImageIndex
    from .image_index import embed_image as embed_image
    from .image_index import index_images as index_images
    from .image_index import open_image_index as open_image_index
    from .vector_index import EXACT_BELOW as EXACT_BELOW
    from .vector_index import RECALL_AT as RECALL_AT
    from .vector_index import IndexFacts as IndexFacts
    from .vector_index import VectorIndex as VectorIndex
    from .vector_index import build_index as build_index
    from .vector_index import open_index as open_index
    from .vector_index import recall_of as recall_of

_EXPORTS = {
    "EXACT_BELOW": ".vector_index",
    "ImageIndex": ".image_index",
    "IndexFacts": ".vector_index",
    "RECALL_AT": ".vector_index",
    "VectorIndex": ".vector_index",
    "build_index": ".vector_index",
    "embed_image": ".image_index",
    "index_images": ".image_index",
    "open_image_index": ".image_index",
    "open_index": ".vector_index",
    "recall_of": ".vector_index",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
