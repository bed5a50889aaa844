"""What planning and resuming a large caption set costs: seconds and peak memory of each step, each in a new process.

    python scripts/bench_planning.py --captions 10000000

Captions are made up, about 50 bytes each; memory grows with their length. "plan" is what a first run does before it
draws: read the text, make the plan and its hash, look for shards, write plan and captions. "resume" is the same again
in a folder where that stands, "reopen" reads the plan and its captions back from the folder, as verifying does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_captions(path: Path, number: int) -> None:
    """Distinct sentences of about 50 bytes."""
    places = ("in a forest", "on a table", "by the sea", "at night", "in the snow", "on a wall", "in a street")
    with path.open("w") as file:
        for i in range(number):
            file.write(f"a photo of thing {i * 2654435761 % 2**32} and another one {places[i % 7]}\n")


def plan(text: Path, folder: Path) -> None:
    """Read, plan, look for shards, claim."""
    from stablerep_hf.captions import read_captions
    from stablerep_hf.synthesis import SynthesisPlan
    from stablerep_hf.synthesis.store import ShardStore

    made = SynthesisPlan(read_captions(text), {"name": "none", "revision": "0"}, captions_per_shard=256)
    store = ShardStore(folder, made)
    missing = [shard for shard in range(made.num_shards) if store.find_record(shard) is None]
    assert len(missing) == made.num_shards
    store.claim()


def reopen(text: Path, folder: Path) -> None:
    """Read the plan back."""
    from stablerep_hf.synthesis import open_store

    open_store(folder)


def measure(step: Callable[..., None], *arguments: Any) -> dict[str, float]:
    """Seconds and peak memory of a step in a new process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measured, args=(queue, step, arguments))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{step.__name__} failed")
    result: dict[str, float] = queue.get()
    return result


def _measured(queue: Any, step: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    begin, cpu = time.perf_counter(), time.process_time()
    step(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    seconds = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
    queue.put({**{name: round(value, 1) for name, value in seconds.items()}, "peak_gib": round(peak, 3)})


def main() -> None:
    """Measure every step and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=10_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        text, folder = Path(root) / "captions.txt", Path(root) / "store"
        write_captions(text, arguments.captions)
        result: dict[str, Any] = {"captions": arguments.captions, "text_bytes": text.stat().st_size}
        for name, step in (("plan", plan), ("resume", plan), ("reopen", reopen)):
            result[name] = measure(step, text, folder)
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
