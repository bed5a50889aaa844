"""Tests on the fake GPU have a process of their own, for it becomes torch's accelerator: `make test-fake-gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out unless they alone are asked for."""
    here = Path(__file__).parent
    asked = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    return None if all(path == here or here in path.parents for path in asked) else True
