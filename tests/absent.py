"""What a laptop may lack, and a machine that checks changes may not."""

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """On somebody's laptop a reason to skip, in CI an error."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
