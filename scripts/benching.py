"""What the measuring scripts share: a new process for each measurement, its clocks and memory, made-up pictures."""

from __future__ import annotations

import io
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Report = Callable[..., None]
"""What a measured step calls with the facts that it found; clocks and memory are added."""


def peak_bytes() -> int:
    """The most memory that this process ever took."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def best_seconds(
    function: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The least seconds of a few calls, after one that warms up."""
    function()
    taken = []
    for _ in range(repeats):
        start = clock()
        function()
        taken.append(clock() - start)
    return min(taken)


def measure(step: Callable[..., None], *arguments: Any) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of a step in a new process, and what it reports (its last argument).

    Of several reports the clocks of the first count.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, step, arguments))
    process.start()
    process.join()
    if process.exitcode or not receiver.poll():
        sys.exit(f"{step.__name__} failed")
    result: dict[str, float] = {}
    while receiver.poll():
        result = {**receiver.recv(), **result}
    return result


def _measured(sender: Any, step: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    begin, cpu = time.perf_counter(), time.process_time()

    def report(**facts: float) -> None:
        seconds = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        rounded = {name: round(value, 1) for name, value in seconds.items()}
        sender.send({**rounded, "peak_gib": round(peak_bytes() / 2**30, 3), **facts})

    step(*arguments, report)


def pictures(captions: int, images: int, edge: int) -> Any:
    """A data set of smooth random JPEGs of `edge` pixels, so many of each caption."""
    import datasets
    import numpy as np
    from PIL import Image

    rng, rows = np.random.default_rng(0), []
    for caption in range(captions):
        for _ in range(images):
            stream = io.BytesIO()
            coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
            coarse.resize((edge, edge), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
            rows.append({"image": {"bytes": stream.getvalue(), "path": None}, "caption": f"picture {caption}"})
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
