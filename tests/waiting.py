"""Waiting for what another process or thread does, however slow the machine."""

import subprocess
import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 300, why: str = ""
) -> None:
    """Return once `condition()` holds; fail after `seconds`, or once `process` ends before that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why or "it never happened"
        assert process is None or process.poll() is None, why or "the process ended before it happened"
        time.sleep(0.005)
