"""Kill a worker at random moments and damage its files in between: the outcome must be an undisturbed run's.

    python scripts/kill_test.py --kills 100

Each round starts a worker on the same folder, ends it with SIGKILL after a random time, and now and then truncates,
empties or deletes a shard, a record or the captions. In the end a worker is let finish; then every (caption_id,
image_index) must be there exactly once, every file must equal the undisturbed run's byte by byte, and `verify_store`
must find nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from stablerep_hf.captions import CaptionSet
from stablerep_hf.synthesis import SynthesisPlan, synthesize, verify_store


class Painter:
    """Paints noise of the seed, in some time; every seventh frame carries no picture."""

    def describe(self) -> dict[str, object]:
        """See `ImageGenerator`."""
        return {"name": "painter", "revision": "1"}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        """See `ImageGenerator`."""
        time.sleep(0.01)
        return [self._paint(seed) for seed in seeds]

    def _paint(self, seed: int) -> Image.Image | None:
        if seed % 7 == 0:
            return None
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8))


def make_plan() -> SynthesisPlan:
    """Twelve shards of twenty images."""
    captions = CaptionSet.from_texts(f"thing {i}" for i in range(60))
    return SynthesisPlan(captions, Painter(), images_per_caption=4, captions_per_shard=5)


def work(folder: Path) -> None:
    """What a worker does."""
    synthesize(make_plan(), Painter(), folder, batch_size=8, progress=False)


def files(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of the shards."""
    return {path.name: path.read_bytes() for path in sorted((folder / "data").glob("*.parquet"))}


def damage(folder: Path, rng: random.Random) -> str:
    """Do something bad to a random file, or nothing."""
    names = ("data/*.parquet", "provenance/shard-*.json", "provenance/captions.parquet")
    paths = sorted(path for name in names for path in folder.glob(name))
    what = rng.choice(["nothing", "truncate", "empty", "delete", "flip"])
    if not paths or what == "nothing":
        return "nothing"
    path = rng.choice(paths)
    content = path.read_bytes()
    if what == "delete":
        path.unlink()
    elif what == "flip" and content:
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        path.write_bytes(content[: rng.randrange(len(content) or 1)] if what == "truncate" else b"")
    return what


def main() -> None:
    """Run the rounds and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stablerep_hf.synthesis.run", "scipy.fft"])
    with tempfile.TemporaryDirectory() as root:
        whole, folder = Path(root) / "whole", Path(root) / "killed"
        begin = time.perf_counter()
        work(whole)
        longest = time.perf_counter() - begin
        done: Counter[str] = Counter()
        while done["kills"] < arguments.kills:
            worker = context.Process(target=work, args=(folder,))
            worker.start()
            worker.join(rng.uniform(0, longest))
            worker.kill()  # SIGKILL
            worker.join()
            assert worker.exitcode in (0, -signal.SIGKILL), f"a worker failed with {worker.exitcode}"
            killed = worker.exitcode != 0
            done["kills" if killed else "finished first"] += 1
            longest *= 1.05 if killed else 0.9  # workers that find much to do take longer than others
            done[f"then: {damage(folder, rng)}"] += 1
        work(folder)
        rows = [row for path in sorted(folder.glob("data/*.parquet")) for row in _keys(path)]
        assert len(rows) == len(set(rows)) == make_plan().num_images, "a row is missing or there twice"
        assert files(folder) == files(whole), "the files differ from those of an undisturbed run"
        report = verify_store(folder, progress=False)
        assert not report.problems, report.problems
        print(", ".join(f"{number} {what}" for what, number in sorted(done.items())))
        print(f"{len(rows)} rows, each once; {report.num_shards} shards equal to an undisturbed run's.")


def _keys(path: Path) -> list[tuple[int, int]]:
    table = pq.read_table(path, columns=["caption_id", "image_index"])
    return list(zip(table["caption_id"].to_pylist(), table["image_index"].to_pylist(), strict=True))


if __name__ == "__main__":
    main()
