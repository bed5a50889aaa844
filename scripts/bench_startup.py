"""How long commands take to reach their first own action: the refusal of data that is not there.

    python scripts/bench_startup.py

Prints processor seconds (user and system, the least of three runs), which hardly depend on what else runs, and beside
them what importing the libraries alone takes.
"""

import os
import resource
import subprocess
import sys
import tempfile

LIBRARIES = ("torch", "datasets", "transformers.modeling_utils", "transformers.trainer", "diffusers.models")
COMMANDS = {
    "generate": ["generate", "--captions", "missing.txt"],
    "train": ["train", "--data", "missing/"],
    "evaluate": ["evaluate", "embedded", "--data", "missing/"],
    "index": ["index", "missing/", "embedded"],
    "train --help": ["train", "--help"],
}


def seconds(arguments: list[str], folder: str) -> float:
    """Processor seconds of a Python process, the least of three."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        for name in LIBRARIES:
            print(f"import {name:<28} {seconds(['-c', f'import {name}'], folder):5.2f} s", flush=True)
        for name, words in COMMANDS.items():
            print(f"stablerep {name:<25} {seconds(['-m', 'stablerep_hf', *words], folder):5.2f} s", flush=True)


if __name__ == "__main__":
    main()
