"""Which libraries drew."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache

_RECORDED_PACKAGES = ("stablerep_hf", "torch", "diffusers", "transformers", "datasets", "pyarrow", "pillow")


@cache
def library_versions() -> dict[str, str]:
    """Versions of what may change a pixel or a byte; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
