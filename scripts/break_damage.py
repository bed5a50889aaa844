"""Damage data sets, encoders, checkpoints and generators: what reads them must refuse, or pass them over, in words.

    python scripts/break_damage.py

Every kind of damage is done to a file of every kind, and every command that reads it is tried on it. A command
survives if it refuses in one sentence; one that goes on must have been right to do so: training from an older
checkpoint must end with the very weights of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from breaking import GENERATE, TRAIN, Tally, command, fault_of, make_world

Damage = Callable[[Path, Path], object]


def flip(path: Path, other: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchange(path: Path, other: Path) -> None:
    """Put another file of the same kind in its place."""
    path.write_bytes(other.read_bytes())


def as_folder(path: Path, other: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


def as_loop(path: Path, other: Path) -> None:
    """Put a link to itself in its place."""
    path.unlink()
    path.symlink_to(path)


DAMAGES: dict[str, Damage] = {
    "deleted": lambda path, other: path.unlink(),
    "emptied": lambda path, other: path.write_bytes(b""),
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
    "exchanged": exchange,
    "a list": lambda path, other: path.write_bytes(b"[]"),
    "a folder": as_folder,
    "a loop": as_loop,
}


def damaged(tree: Path, place: Path, *patterns: str) -> Iterator[tuple[str, Path]]:
    """Copies of a tree, each with one file damaged: (what was done, the copy)."""
    for pattern in patterns:
        files = sorted(path.relative_to(tree) for path in tree.glob(pattern))
        for what, harm in DAMAGES.items():
            if what == "exchanged" and len(files) < 2:
                continue
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(tree, place, symlinks=True)
            harm(place / files[0], place / files[-1])
            yield f"{files[0]} {what}", place


def main() -> None:
    """Damage, and look."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world, place, out = make_world(root), root / "damaged", root / "out"
        images, encoder = world["images"], world["encoder"]
        readers: dict[str, Callable[[Path], list[object]]] = {
            "train": lambda data: ["train", "--data", data, "--output", out, *TRAIN],
            "train --streaming": lambda data: ["train", "--data", data, "--output", out, "--streaming", *TRAIN],
            "evaluate": lambda data: [
                "evaluate", encoder, "--data", data, "--split", "train", "--protocols", "sibling_retrieval",
                "--cache", "none", "--output", root / "results.json",
            ],
            "index": lambda data: ["index", data, encoder, "--output", out],
            "export": lambda data: ["export", data, "--output", out],
            "score": lambda data: ["score", data, "--diversity-encoder", "embedded"],
        }  # fmt: skip
        for what, data in damaged(images, place, "data/*.parquet", "provenance/shard-*.json", "provenance/plan.json"):
            for name, words in readers.items():
                shutil.rmtree(out, ignore_errors=True)
                tally.note(f"images, {name}", what, fault_of(command(*words(data)), 2))
            again = command("generate", "--captions", world["captions"], "--output", data, *GENERATE)
            fault = fault_of(again)
            if again.code == 0:
                fault = fault_of(command("verify", data), 0)
            tally.note("images, generate again", what, fault)
        for what, model in damaged(encoder, place, "config.json", "model.safetensors"):
            shutil.rmtree(out, ignore_errors=True)
            words = ["index", images, model, "--output", out, "--cache", "none"]
            # a flipped weight is another weight: nothing says what it was
            tally.note("encoder", what, fault_of(command(*words), *([0, 2] if "flipped" in what else [2])))
        weights = (encoder / "model.safetensors").read_bytes()
        last = sorted((encoder / "checkpoints").glob("checkpoint-*"))[-1].name
        record = json.loads((encoder / "training.json").read_text())  # as if it had been killed at its end
        (encoder / "training.json").write_text(json.dumps(record | {"finished": False}))
        (encoder / "model.safetensors").unlink()
        parts = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "manifest.json")
        for what, run in damaged(encoder, place, *(f"checkpoints/{last}/{part}" for part in parts)):
            ended = command("train", "--data", images, "--output", run, *TRAIN)
            fault = fault_of(ended, 0)
            if fault is None and (run / "model.safetensors").read_bytes() != weights:
                fault = "ended with other weights"
            tally.note("checkpoint", what, fault)
        generator = root / "generator"
        from stablerep_hf.assets import generator_path

        shutil.copytree(generator_path(), generator)
        files = ("model_index.json", "*/config.json", "*/*.safetensors", "tokenizer/tokenizer*.json")
        for what, own in damaged(generator, place, *files):
            shutil.rmtree(out, ignore_errors=True)
            words = ["generate", "--captions", world["captions"], "--generator", own, "--output", out, *GENERATE]
            codes = [0, 2] if "flipped" in what else [2]
            tally.note("generator", what, fault_of(command(*words), *codes))
    tally.finish()


if __name__ == "__main__":
    main()
