"""The search page: Gradio over `stablerep_hf.retrieval`; a Space in `spaces/retrieval`, here `stablerep demo-app`."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Gradio reads it when it is imported: no call home, neither of the page nor of its server.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

if TYPE_CHECKING:
    from .launching import launch as launch
    from .page import build_demo as build_demo
    from .settings import SpaceSettings as SpaceSettings
    from .settings import read_settings as read_settings

_EXPORTS = {
    "SpaceSettings": ".settings",
    "build_demo": ".page",
    "launch": ".launching",
    "read_settings": ".settings",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
