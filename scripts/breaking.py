"""What the `break_*` scripts share: work in a process of its own, what became of it, and the figures by kind."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "model_cards" / "results" / "breaking.json"


class Outcome(NamedTuple):
    """How a process ended: its exit code (negative: the signal), its output, and the seconds that it took."""

    code: int
    said: str
    seconds: float


def fork(work: Callable[[], object], kill_after: float | None = None, longest: float = 300) -> Outcome:
    """Do something in a process of its own, which ends with it or is killed.

    A fork of this process, so that what is imported here is imported once. It must not have used torch or Arrow.

    Args:
        work: What to do; an integer that it returns is the exit code.
        kill_after: Seconds until SIGKILL; nothing is killed if not given.
        longest: Seconds that it may take; it is killed then, with "took too long" in its output.
    """
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            code = 70
            try:
                code = int(work() or 0)  # type: ignore[call-overload]
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        end = begin + (longest if kill_after is None else kill_after)
        ended, status = os.waitpid(child, os.WNOHANG)
        while not ended and time.monotonic() < end:
            time.sleep(0.002)
            ended, status = os.waitpid(child, os.WNOHANG)
        late = b""
        if not ended:
            process = psutil.Process(child)
            process.suspend()  # so that it starts no other while they are counted
            for below in [*process.children(recursive=True), process]:  # ranks of torchrun have sessions of their own
                with suppress(psutil.NoSuchProcess):
                    below.kill()
            _, status = os.waitpid(child, 0)
            late = b"" if kill_after is not None else b"took too long"
        output.seek(0)
        said = (output.read() + late).decode(errors="replace")
    return Outcome(os.waitstatus_to_exitcode(status), said, time.monotonic() - begin)


def preload() -> None:
    """Import, once for all forks, what most commands import; they are offline and have one thread."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    import datasets  # noqa: F401
    import diffusers  # noqa: F401
    import transformers.trainer  # noqa: F401

    import stablerep_hf.cli.flags
    import stablerep_hf.evaluation.features
    import stablerep_hf.runs.generation
    import stablerep_hf.training.trainer  # noqa: F401


def command(*words: object, longest: float = 300) -> Outcome:
    """Run a command of `stablerep`."""

    def work() -> int:
        from stablerep_hf.cli import main

        return main([str(word) for word in words])

    return fork(work, longest=longest)


def fault_of(outcome: Outcome, *codes: int) -> str | None:
    """What is wrong with how a command ended; None if it is done or refused in one sentence.

    Args:
        outcome: Of a command.
        codes: That it may end with; 0 and 2 if not given.
    """
    lines = [line for line in outcome.said.strip().splitlines() if line]
    last = lines[-1] if lines else ""
    if outcome.code not in (codes or (0, 2)):
        return f"ended with {outcome.code}: {last[:200]}"
    if re.search(r"^Traceback", outcome.said, re.MULTILINE):
        return f"printed a traceback: {last[:200]}"
    if outcome.code == 2 and not last.startswith("stablerep"):
        return f"gave no sentence: {last[:200]}"
    return None


class Tally:
    """How often something of a kind was tried, and survived."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()

    def note(self, kind: str, name: str, fault: str | None) -> None:
        """Count one, and say what went wrong."""
        self.tried[kind] += 1
        self.survived[kind] += fault is None
        if fault is not None:
            print(f"NOT SURVIVED  {kind}, {name}: {fault}", flush=True)

    def finish(self) -> None:
        """Print the figures, keep them for the docs, and end with 1 if something was not survived."""
        for kind, number in self.tried.items():
            print(f"{kind}: {self.survived[kind]} of {number} survived")
        print(f"{self.survived.total()} of {self.tried.total()} survived")
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        script = Path(sys.argv[0]).name
        kept[script] = {
            "command": " ".join(["python", f"scripts/{script}", *sys.argv[1:]]),
            "versions": {name: version(name) for name in ("torch", "transformers", "datasets", "diffusers", "gradio")},
            "kinds": {kind: {"tried": tried, "survived": self.survived[kind]} for kind, tried in self.tried.items()},
        }
        RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")
        sys.exit(self.survived != self.tried)


def make_world(root: Path) -> dict[str, Path]:
    """The inputs of all commands, made by them: captions, images drawn of them, an encoder and a classifier's data."""
    preload()
    captions, images, encoder = root / "captions.txt", root / "images", root / "encoder"
    captions.write_text("".join(f"a red ball number {number}\n" for number in range(24)))
    for words in (
        ["generate", "--captions", captions, "--output", images, *GENERATE],
        ["train", "--data", images, "--output", encoder, *TRAIN],
    ):
        made = command(*words)
        if made.code:
            raise SystemExit(f"{words[0]} failed:\n{made.said}")
    return {"captions": captions, "images": images, "encoder": encoder}


GENERATE = "--images-per-caption 4 --num-inference-steps 1 --captions-per-shard 4".split()  # noqa: SIM905
TRAIN = (  # noqa: SIM905
    "--size micro --image_size 16 --patch_size 8 --projection_hidden_dim 16 --projection_dim 8 --captions_per_batch 8 "
    "--images_per_caption 3 --max_steps 6 --save_steps 2 --logging_steps 1 --use_cpu"
).split()
