"""A Python that has all the libraries and not this package: what people who never heard of it run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_as_stranger(program: str, *arguments: str | Path, folder: Path) -> str:
    """Run a program in a folder; it fails where the program does, and where the package can be imported after all.

    Returns what it said on standard error.
    """
    script = folder / "stranger.py"
    script.write_text(_CHECK + program, "utf-8")
    # an editable install reaches the package through site-packages, which -S leaves out; the libraries come by path
    sites = [path for path in sys.path if path.endswith("site-packages")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sites),
        "HF_HOME": str(folder / "home_of_stranger"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-S", str(script), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


_CHECK = """
try:
    import stablerep_hf
    raise SystemExit("stablerep_hf is importable here")
except ModuleNotFoundError:
    pass
"""
