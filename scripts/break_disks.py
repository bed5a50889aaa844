"""Fill the disk under every command that writes: one sentence, nothing lost, and the same command goes on afterwards.

    python scripts/break_disks.py --sizes 8

Each command writes to a file system in memory of a few sizes up to what it needs, in a mount namespace of its own
(`unshare`, which needs no root on most Linux machines). Where it is full the command must end with one sentence and
exit code 2; with room the same command must then finish.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from breaking import GENERATE, TRAIN, Tally, command, fault_of, make_world


def commands(world: dict[str, Path], disk: Path) -> dict[str, list[object]]:
    """Every command that writes, with its output on the disk."""
    images, encoder, out = world["images"], world["encoder"], disk / "out"
    return {
        "captions": ["captions", world["captions"], "--output", disk / "captions.parquet"],
        "generate": ["generate", "--captions", world["captions"], "--output", out, *GENERATE],
        "export": ["export", images, "--output", out, "--shard-megabytes", 1],
        "train": ["train", "--data", images, "--output", out, *TRAIN],
        "finetune": [
            "finetune", encoder, "--data", world["images"], "--label-column", "caption", "--test-split", "none",
            "--output", out, "--max_steps", 2, "--use_cpu",
        ],
        "convert": ["convert", encoder, out, "--format", "timm"],
        "evaluate": [
            "evaluate", encoder, "--data", images, "--split", "train", "--protocols", "sibling_retrieval",
            "--cache", disk / "cache", "--output", disk / "results.json",
        ],
        "embed": [
            "embed", encoder, "--data", images, "--cache", disk / "cache", "--output", disk / "features.parquet",
        ],
        "index": ["index", images, encoder, "--cache", disk / "cache", "--output", out],
    }  # fmt: skip


def mount(disk: Path, size: int) -> None:
    """An empty disk of so many bytes, in place of the last one."""
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)


def main() -> None:
    """Measure what each command needs, and give it less."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, default=6, help="sizes of the disk that each command is tried on")
    parser.add_argument("--commands", nargs="*", help="some of them; all if not given")
    options = parser.parse_args()
    if "BREAK_DISKS" not in os.environ:
        os.environ["BREAK_DISKS"] = "1"
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv])
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        root, disk = Path(folder), Path(folder) / "disk"
        disk.mkdir()
        world = make_world(root)
        for name, words in commands(world, disk).items():
            if options.commands and name not in options.commands:
                continue
            mount(disk, 2**30)
            whole = command(*words)
            tally.note(name, "with room", fault_of(whole, 0))
            need = shutil.disk_usage(disk).used
            for number in range(options.sizes):
                size = max(int(need * (number + 0.5) / options.sizes) // 4096 * 4096, 4096)
                mount(disk, size)
                outcome = command(*words)
                fault = fault_of(outcome)
                if fault is None and outcome.code == 2 and "room" not in outcome.said and "free" not in outcome.said:
                    fault = f"says nothing of the room: {outcome.said.strip()[-200:]}"
                tally.note(name, f"a disk of {size:,} of {need:,} bytes", fault)
                if outcome.code:
                    subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
                    tally.note(name, f"again after {size:,} bytes, with room", fault_of(command(*words), 0))
        subprocess.run(["umount", disk], check=True)
    tally.finish()


if __name__ == "__main__":
    main()
