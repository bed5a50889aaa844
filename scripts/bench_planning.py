"""What planning and resuming a large caption set costs: seconds and peak memory of each step, each in a new process.

    python scripts/bench_planning.py --captions 10000000

Captions are made up, about 50 bytes each, and one in ten stands there twice. Images are painted from their seeds by a
generator that needs no time to speak of. "plan" is all that a first run does before it draws; "draw" goes on from
there and is killed after some shards; "resume" is all that the next run does before it draws, with those shards
checked by their hash; "reopen" reads plan and captions back from the folder, as verifying does. Checking grows with
the finished shards, so the result also says what it would take if all of them stood.

With --tokenizer every caption is tokenized too, to look for those that are too long. (Of Stable Diffusion's prompts
only those of more than 74 bytes need it.) It brings torch and diffusers into memory, 1 GiB by themselves: "imports"
says how much.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benching import Report, measure

CAPTIONS_PER_SHARD = 256


def write_captions(path: Path, number: int) -> None:
    """So many distinct sentences of about 50 bytes, and every tenth a second time."""
    places = ("in a forest", "on a table", "by the sea", "at night", "in the snow", "on a wall", "in a street")
    with path.open("w") as file:
        for i in range(number):
            line = f"a photo of thing {i * 2654435761 % 2**32} and another one {places[i % 7]}\n"
            file.write(line if i % 10 else line * 2)


class Painter:
    """Paints the seed."""

    def __init__(self, report: Report, num_images: int) -> None:
        self._report, self._left = report, num_images

    def describe(self) -> dict[str, object]:
        """See `ImageGenerator`."""
        return {"name": "painter", "revision": "1"}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Any]:
        """See `ImageGenerator`; after so many images the process reports and dies as if it were killed."""
        from PIL import Image

        if self._left <= 0:
            self._report()
            os._exit(0)
        self._left -= len(seeds)
        return [Image.frombytes("RGB", (2, 1), (seed | 1).to_bytes(8, "little")[:6]) for seed in seeds]


class ReadingPainter(Painter):
    """A painter with the tokenizer of the embedded pipeline, which takes 16 tokens: no caption is short enough."""

    def __init__(self, report: Report, num_images: int) -> None:
        from stablerep_hf import DiffusersGenerator

        super().__init__(report, num_images)
        self.too_long = DiffusersGenerator("embedded").too_long
        self.too_long(["warm"])


def imports(report: Report) -> None:
    """What the libraries of a generator take."""
    ReadingPainter(report, 0)
    report()


def run(text: Path, folder: Path, kind: type[Painter], num_images: int, report: Report) -> None:
    """A run that is killed when it has drawn so many images."""
    from stablerep_hf.captions import read_captions
    from stablerep_hf.synthesis import SynthesisPlan, synthesize

    painter = kind(report, num_images)
    plan = SynthesisPlan(read_captions(text), painter, images_per_caption=1, captions_per_shard=CAPTIONS_PER_SHARD)
    synthesize(plan, painter, folder, batch_size=CAPTIONS_PER_SHARD, progress=False)


def reopen(folder: Path, report: Report) -> None:
    """Read the plan back, and check the finished shards once more."""
    from stablerep_hf.synthesis import open_store

    store = open_store(folder)
    report()
    begin, cpu = time.perf_counter(), time.process_time()
    standing = sum(store.find_record(shard) is not None for shard in range(store.plan.num_shards))
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    report(
        shards=store.plan.num_shards,
        shards_that_stand=standing,
        seconds_of_checking=round(seconds, 2),
        cpu_seconds_of_checking=round(cpu_seconds, 2),
    )


def main() -> None:
    """Measure every step and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=400, help="shards to draw before the kill")
    parser.add_argument("--tokenizer", action="store_true", help="look for prompts that are too long")
    arguments = parser.parse_args()
    kind = ReadingPainter if arguments.tokenizer else Painter
    with tempfile.TemporaryDirectory() as root:
        text, folder = Path(root) / "captions.txt", Path(root) / "store"
        write_captions(text, arguments.captions)
        result: dict[str, Any] = {
            "captions": arguments.captions,
            "load_average": os.getloadavg()[0],  # of the minute before: other work beside makes seconds long
            "text_bytes": text.stat().st_size,
            **({"imports": measure(imports)} if arguments.tokenizer else {}),
            "plan": measure(run, text, folder, kind, 0),
            "draw": measure(run, text, folder, kind, arguments.shards * CAPTIONS_PER_SHARD),
            "resume": measure(run, text, folder, kind, 0),
            "reopen": measure(reopen, folder),
        }
    found = result["reopen"]
    missing = found["shards"] - found["shards_that_stand"]
    for clock in ("seconds", "cpu_seconds"):
        rest = missing * found[f"{clock}_of_checking"] / max(1, found["shards_that_stand"])
        result["resume"][f"{clock}_if_all_shards_stood"] = round(result["resume"][clock] + rest, 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
