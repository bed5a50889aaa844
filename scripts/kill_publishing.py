"""Kill `stablerep publish` at random moments, go on, and look at what is on the Hub after each kill.

    python scripts/kill_publishing.py --trials 10

Half of the trials upload by Git LFS, half by Xet with the real Rust client, to `tests/hub_double` on loopback. After
each SIGKILL the repository must be as it was made or hold everything: never a part. In the end every file must be
there byte for byte, by one commit. By LFS no file may have arrived twice; over Xet the script says how much is stored,
for what a kill interrupts within a session (50 MB here) is sent again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1] / "tests" / "hub")]

from hub_double import HubDouble, running_hub  # noqa: E402
from publishable import contents, published, write  # noqa: E402

PUBLISH = """
import sys
import stablerep_hf.hub.publishing
from stablerep_hf.cli import main
stablerep_hf.hub.publishing._SESSION_BYTES = 50_000_000
sys.exit(main(["publish", *sys.argv[1:]]))
"""
REPOSITORY = "alice/thing"


def start(hub: HubDouble, folder: Path, home: Path) -> subprocess.Popen[bytes]:
    """The command, in a process of its own."""
    environment = hub.environment(home, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISH, str(folder), REPOSITORY], env=environment, stdout=subprocess.DEVNULL
    )


def state(hub: HubDouble, expected: dict[str, bytes]) -> str:
    """What is on the Hub: "nothing", "an empty repository" or "everything"; anything else is an error."""
    if ("datasets", REPOSITORY) not in hub.store.repositories:
        return "nothing"
    found = hub.files(REPOSITORY, "datasets")
    assert found in ({}, expected), f"half-published: {sorted(found)}"
    return "everything" if found else "an empty repository"


def trial(root: Path, rng: random.Random, xet: bool, longest: float, how: dict[str, int]) -> Counter[str]:
    """Kill until a run is not killed in time, then compare."""
    folder = write(root / "data", contents("dataset", **how))
    expected = published("dataset", REPOSITORY, **how)
    large = sum(len(content) for name, content in expected.items() if name.endswith(".parquet"))
    seen: Counter[str] = Counter()
    with running_hub(root / "hub", xet=xet) as hub:
        while True:
            process = start(hub, folder, root / "home")
            asked = len(hub.requests())
            while process.poll() is None and len(hub.requests()) == asked:
                time.sleep(0.01)  # the import takes longer than the upload, and killing it proves nothing
            try:
                code = process.wait(rng.uniform(0, longest))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                seen[f"killed with {state(hub, expected)} there"] += 1
                continue
            assert code == 0, f"the command failed with {code}"
            break
        assert state(hub, expected) == "everything"
        assert len(hub.repository(REPOSITORY, "datasets").commits) == 2, "the first commit and ours"
        if hub.xet:
            seen["per cent of the bytes stored"] = round(100 * hub.xet.stored_bytes() / large)
        else:
            assert len(hub.large.uploads) == len(set(hub.large.uploads)), "a file arrived twice"
    return seen


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=2, help="seconds after the first request until a kill")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    how = {"shards": 8, "size": 25_000_000}  # several Xet blocks of 64 MiB
    for number in range(arguments.trials):
        xet = bool(number % 2)
        with tempfile.TemporaryDirectory() as root:
            seen = trial(Path(root), rng, xet, arguments.longest, how)
        told = ", ".join(f"{count} {what}" for what, count in sorted(seen.items()))
        print(f"trial {number}, {'Xet' if xet else 'LFS'}: {told}", flush=True)


if __name__ == "__main__":
    main()
