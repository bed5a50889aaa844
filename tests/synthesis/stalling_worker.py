"""A worker for the kill tests: `python stalling_worker.py FOLDER RANK WORLD_SIZE [fsync|draw N]`.

At the N-th fsync or batch it says so on stdout and sleeps until it is killed: no test needs to guess a moment.
"""

from __future__ import annotations

import os
import sys
import time

from painters import Painter

from stablerep_hf.captions import CaptionSet
from stablerep_hf.synthesis import SynthesisPlan, synthesize


def flaky(prompt: str, seed: int) -> bool:
    return seed % 7 == 0


def make_painter() -> Painter:
    return Painter(flag=flaky)


def make_plan() -> SynthesisPlan:
    captions = CaptionSet.from_texts(f"thing {i}" for i in range(20))
    return SynthesisPlan(captions, Painter().describe(), images_per_caption=3, captions_per_shard=5)


def stall_at(what: str, number: int, painter: Painter) -> Painter:
    def counted(function, state={"calls": 0}):  # noqa: B006, one counter is meant
        def call(*args):
            state["calls"] += 1
            if state["calls"] == number:
                print("stalled", flush=True)
                time.sleep(600)
            return function(*args)

        return call

    if what == "fsync":
        os.fsync = counted(os.fsync)
        return painter

    class Stalling(Painter):
        __call__ = counted(Painter.__call__)

    return Stalling(flag=flaky)


if __name__ == "__main__":
    folder, rank, world_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    worker = make_painter()
    if len(sys.argv) > 4:
        worker = stall_at(sys.argv[4], int(sys.argv[5]), worker)
    synthesize(make_plan(), worker, folder, batch_size=4, rank=rank, world_size=world_size, progress=False)
