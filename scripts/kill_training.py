"""Kill trainings at random moments, go on, and compare the weights with those of a training left alone.

    python scripts/kill_training.py --trials 20

Half of the trials train in one process, half in two (gloo). Each is killed with SIGKILL, up to three times, and the
same command started again; in the end the weights must be equal bit for bit, and so must the course of the loss.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
from PIL import Image

STEPS = 60
FLAGS = (
    "--size micro --image_size 16 --patch_size 8 --projection_hidden_dim 64 --projection_dim 32 "
    f"--captions_per_batch 8 --images_per_caption 3 --max_steps {STEPS} "
    "--save_steps 5 --logging_steps 5 --save_total_limit 3 --use_cpu"
).split()


def make_data(folder: Path) -> None:
    """40 captions x 4 coloured noises."""
    rng, rows = np.random.default_rng(0), []
    for caption in range(40):
        for _ in range(4):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(stream, "PNG")
            rows.append({"image": {"bytes": stream.getvalue(), "path": None}, "caption": f"noise {caption}"})
    datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).to_parquet(folder / "train.parquet")


def command(data: Path, output: Path, processes: int) -> list[str]:
    """The training, as a user types it."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    return [*launcher, "stablerep_hf.cli", "train", "--data", str(data), "--output", str(output), *FLAGS]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """In the background."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(words, env=environment, stdout=log.open("ab"), stderr=subprocess.STDOUT)


def kill(running: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a launcher and all of its ranks; torchrun starts each in a session of its own, so a group is too few.

    A rank left alive would go on and write into the folder of the training that comes next.
    """
    launcher = psutil.Process(running.pid)
    launcher.suspend()  # so that it starts no rank while they are counted
    for process in [*launcher.children(recursive=True), launcher]:
        process.kill()
    running.wait()


def train(words: list[str], log: Path) -> None:
    """Run to the end."""
    if start(words, log).wait() != 0:
        raise SystemExit(f"the training failed:\n{log.read_text()}")


def what_came_out(output: Path) -> tuple[bytes, list[float]]:
    """Bytes of the whole model's weights and the logged losses."""
    record = json.loads((output / "training.json").read_text())
    losses = [entry["loss"] for entry in record["log"] if "loss" in entry]
    return (output / "pretraining" / "model.safetensors").read_bytes(), losses


def main() -> None:
    """Train alone, then kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data, log = root / "data", root / "log"
        data.mkdir()
        make_data(data)
        alone, seconds = {}, {}
        for processes in (1, 2):
            begun = time.monotonic()
            train(command(data, root / f"alone-{processes}", processes), log)
            alone[processes], seconds[processes] = what_came_out(root / f"alone-{processes}"), time.monotonic() - begun
        kills = equal = 0
        for trial in range(options.trials):
            processes = 1 + trial % 2
            output = root / f"trial-{trial}"
            words = command(data, output, processes)
            for _ in range(rng.randint(1, 3)):
                running = start(words, log)
                try:
                    running.wait(timeout=rng.uniform(0.3, 1.0) * seconds[processes])
                except subprocess.TimeoutExpired:
                    kill(running)
                    kills += 1
            train(words, log)
            same = what_came_out(output) == alone[processes]
            equal += same
            print(
                f"trial {trial}: {processes} process(es), {kills} kills so far, {'equal' if same else 'DIFFERENT'}",
                flush=True,
            )
        print(f"{kills} kills in {options.trials} trials; {equal} ended with weights and losses of the one left alone")
        if equal != options.trials:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
