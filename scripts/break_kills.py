"""Kill runs at random moments and go on: what comes out must be an undisturbed run's, byte by byte.

    python scripts/break_kills.py --trials 5 --kinds draw export convert train finetune publish

Every trial kills a run with SIGKILL up to three times, starts it again, and lets it finish; then the same run is
started twice at once, of which one may be refused. Between the kills of
`draw` files of the data set are damaged too. Trainings run in one process and in two (gloo). `publish` uploads to
`tests/hub_double` on loopback, half by Git LFS and half by Xet; after each kill the repository must be as it was made
or hold everything, never a part.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from breaking import ROOT, TRAIN, Outcome, Tally, fault_of, fork, make_world
from PIL import Image

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "hub")]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]


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


def draw(folder: Path) -> None:
    """Twelve shards of twenty images."""
    from stablerep_hf.captions import CaptionSet
    from stablerep_hf.synthesis import SynthesisPlan, synthesize

    captions = CaptionSet.from_texts(f"thing {number}" for number in range(60))
    plan = SynthesisPlan(captions, Painter(), images_per_caption=4, captions_per_shard=5)
    synthesize(plan, Painter(), folder, batch_size=8, progress=False)


def damage(folder: Path, rng: random.Random) -> None:
    """Do something bad to a random file of a drawn folder, or nothing."""
    names = ("data/*.parquet", "provenance/shard-*.json", "provenance/captions.parquet")
    paths = sorted(path for name in names for path in folder.glob(name))
    what = rng.choice(["nothing", "truncate", "empty", "delete", "flip"])
    if not paths or what == "nothing":
        return
    path = rng.choice(paths)
    content = path.read_bytes()
    if what == "delete":
        path.unlink()
    elif what == "flip" and content:
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        path.write_bytes(content[: rng.randrange(len(content) or 1)] if what == "truncate" else b"")


def run_command(*words: object) -> Callable[[], int]:
    """A command, to be forked."""

    def work() -> int:
        from stablerep_hf.cli import main

        return main([str(word) for word in words])

    return work


def launch(words: list[object]) -> Callable[[], int]:
    """A command on two processes, to be forked."""
    return lambda: subprocess.run([*LAUNCH, "stablerep_hf.cli", *map(str, words)], check=False).returncode


def content(folder: Path) -> dict[str, object]:
    """What a run leaves, as far as it does not tell the time: bytes by name; of a training the log of its losses."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(("checkpoints/", "provenance/shard-")) or path.suffix == ".md":
            continue
        if name in ("training.json", "finetuning.json"):
            found[name] = [entry["loss"] for entry in json.loads(path.read_text())["log"] if "loss" in entry]
        else:
            found[name] = path.read_bytes()
    return found


def kill_and_go_on(
    work: Callable[[Path], Callable[[], object]],
    whole: dict[str, object],
    seconds: float,
    folder: Path,
    rng: random.Random,
    between: Callable[[Path, random.Random], None] | None = None,
) -> str | None:
    """One trial; what is wrong with what came out, if anything."""
    kills = rng.randint(1, 3)
    while kills:
        ended: Outcome = fork(work(folder), kill_after=rng.uniform(0.2, 1.0) * seconds)
        if ended.code not in (0, -9):
            return f"after a kill it {fault_of(ended, 0)}"
        kills -= 1
        if between is not None:
            between(folder, rng)
        elif ended.code == 0:  # before the kill, and some commands refuse to write over what is finished
            break
    else:
        ended = fork(work(folder))
    return fault_of(ended, 0) or different(folder, whole)


def two_at_once(work: Callable[[Path], Callable[[], object]], whole: dict[str, object], folder: Path) -> str | None:
    """Start the same run twice at once on one folder; what is wrong with what came out, if anything."""
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: fork(work(folder)), range(2)))
    refused = [ended for ended in both if "Another process is writing" in ended.said]  # a launcher ends with 1 then
    faults = [fault_of(ended) for ended in both if ended not in refused]
    return next(filter(None, faults), "both were refused" if len(refused) == 2 else different(folder, whole))


def different(folder: Path, whole: dict[str, object]) -> str | None:
    """What a folder holds that an undisturbed run does not leave."""
    found = content(folder)
    names = sorted(name for name in {*whole, *found} if whole.get(name) != found.get(name))
    return f"other files than an undisturbed run: {names[:5]}" if names else None


def publish(root: Path, rng: random.Random, xet: bool) -> str | None:
    """One trial of `stablerep publish`."""
    from hub_double import running_hub
    from publishable import contents, published, write

    how = {"shards": 8, "size": 25_000_000}  # several Xet blocks of 64 MiB
    folder, expected = write(root / "data", contents("dataset", **how)), published("dataset", "alice/thing", **how)
    code = (
        "import sys, stablerep_hf.hub.publishing as p; p._SESSION_BYTES = 50_000_000; "
        "from stablerep_hf.cli import main; sys.exit(main(['publish', *sys.argv[1:]]))"
    )
    with running_hub(root / "hub", xet=xet) as hub:
        while True:
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(folder), "alice/thing"],
                env=hub.environment(root / "home", PYTHONPATH=str(ROOT)),
                stdout=subprocess.DEVNULL,
            )
            asked = len(hub.requests())
            while process.poll() is None and len(hub.requests()) == asked:
                time.sleep(0.01)  # the import takes longer than the upload, and killing it proves nothing
            try:
                ended = process.wait(rng.uniform(0, 2))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                ended = None
            there = {}
            if ("datasets", "alice/thing") in hub.store.repositories:
                there = hub.files("alice/thing", "datasets")
            if there not in ({}, expected):
                return f"half-published: {sorted(there)}"
            if ended is not None:
                break
        if ended or not there:
            return f"ended with {ended}"
        if len(hub.repository("alice/thing", "datasets").commits) != 2:
            return "several commits"
        if not hub.xet and len(hub.large.uploads) != len(set(hub.large.uploads)):
            return "a file arrived twice"
    return None


def main() -> None:
    """Run an undisturbed one of each kind, then kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=["draw", "export", "convert", "train", "finetune", "publish"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, tally = random.Random(options.seed), Tally()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        world = make_world(root) if {"export", "convert", "train", "finetune"} & set(options.kinds) else {}
        data, encoder = world.get("images"), world.get("encoder")
        steps = [*TRAIN, "--max_steps", "40", "--save_steps", "5", "--save_total_limit", "3"]
        classes = ["--label-column", "caption", "--test-split", "none", *steps[-6:], "--use_cpu"]
        kinds: dict[str, Callable[[Path], Callable[[], object]]] = {
            "draw": lambda out: lambda: draw(out),
            "export": lambda out: run_command("export", data, "--output", out, "--shard-megabytes", 1),
            "convert": lambda out: run_command("convert", encoder, out, "--format", "timm"),
            "train": lambda out: run_command("train", "--data", data, "--output", out, *steps),
            "finetune": lambda out: run_command("finetune", encoder, "--data", data, "--output", out, *classes),
            "train on two": lambda out: launch(["train", "--data", data, "--output", out, *steps]),
        }
        for kind, work in kinds.items():
            if kind.split()[0] not in options.kinds:
                continue
            alone = fork(work(root / f"alone {kind}"))
            if fault := fault_of(alone, 0):
                raise SystemExit(f"the undisturbed {kind} {fault}")
            whole = content(root / f"alone {kind}")
            for trial in range(options.trials):
                # in a folder of the same name, which cards and records hold
                place = root / f"{kind} {trial}" / f"alone {kind}"
                place.parent.mkdir()
                harm = damage if kind == "draw" else None
                fault = kill_and_go_on(work, whole, alone.seconds, place, rng, harm)
                tally.note(kind, f"trial {trial}", fault)
                place = root / f"{kind} {trial} twice" / f"alone {kind}"
                place.parent.mkdir()
                tally.note(f"{kind}, two at once", f"trial {trial}", two_at_once(work, whole, place))
        for trial in range(options.trials if "publish" in options.kinds else 0):
            with tempfile.TemporaryDirectory() as place:
                tally.note("publish", f"trial {trial}", publish(Path(place), rng, bool(trial % 2)))
    tally.finish()


if __name__ == "__main__":
    main()
