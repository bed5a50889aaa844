"""Hostile captions, data sets, models, places and settings, for what reads them: a sentence each, in time and memory.

    python scripts/break_inputs.py

Numbers beyond their ranges are tried on every flag of every command in `tests/cli/test_flags.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from breaking import GENERATE, TRAIN, Tally, command, fault_of, make_world

SECONDS = 300.0
GIGABYTES = 8


def hostile_captions() -> dict[str, str]:
    """Contents of caption files."""
    return {
        "10 MB in one line": "a dog " * 1_700_000,
        "zero-width spaces": "\u200b\u200b\u2060\ufeff",
        "nothing": "",
        "nulls": "\0\0\0",
        "a template of JavaScript": "${alert(document.domain)}",
        "control characters": "a dog \x1b]0;owned\x07\x1b[2J\x9b31m",
    }


def hostile_data(root: Path) -> Iterator[tuple[str, Path]]:
    """Data sets that name what is not theirs, or are no data sets."""
    secret = root / "secret.png"
    secret.write_bytes(b"x")
    for what, name in {"a path": str(secret), "an address": "http://127.0.0.1:9/x.png"}.items():
        rows = [{"image": {"bytes": None, "path": name}, "caption": f"a {number % 2}"} for number in range(16)]
        for kind, changed in {"structs": {}, "texts": {"image": name}}.items():
            folder = root / f"{what} in {kind}"
            folder.mkdir()
            (folder / "train.jsonl").write_text("".join(json.dumps(row | changed) + "\n" for row in rows))
            yield folder.name, folder
    cards = {
        "a card that names a file": f"configs:\n- config_name: default\n  data_files: {secret}",
        "a card that names an address": "configs:\n- config_name: default\n  data_files: http://127.0.0.1:9/x.parquet",
        "a bomb of aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
        + "configs: [*i]",
        "a card of numbers": "configs: 7\nlicense: 9",
        "a card of a wrong size": "dataset_info:\n  splits:\n  - name: train\n    num_examples: -7",
    }
    for what, card in cards.items():
        folder = root / what
        folder.mkdir()
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
        yield what, folder
    (root / "script").mkdir()
    (root / "script" / "script.py").write_text("raise SystemExit('this ran')\n")
    yield "a script", root / "script"
    (root / "tar").mkdir()
    with tarfile.open(root / "tar" / "train.tar", "w") as tar:
        for number in range(16):
            entry = tarfile.TarInfo(f"{number}.pyd")
            entry.size = len(PICKLE)
            tar.addfile(entry, io.BytesIO(PICKLE))
    yield "pickles in a tar", root / "tar"
    yield from hostile_places(root)


PICKLE = b"cos\nsystem\n(S'touch this-ran'\ntR."


def hostile_places(root: Path) -> Iterator[tuple[str, Path]]:
    """Places where nothing can be read or written."""
    (root / "loop").symlink_to(root / "loop")
    yield "a loop of links", root / "loop"
    yield "below a loop of links", root / "loop" / "x"
    yield "a name of 300 letters", root / ("x" * 300)
    (root / "file").write_text("x")
    yield "below a file", root / "file" / "x"


def hostile_models(root: Path, encoder: Path) -> Iterator[tuple[str, Path]]:
    """Encoders that cannot be, or that run code."""
    config = json.loads((encoder / "config.json").read_text())
    for what, wrong in {
        "no heads": config | {"num_attention_heads": 0},
        "a patch of no pixels": config | {"patch_size": 0},
        "an image of a billion pixels": config | {"image_size": 10**9},
        "an unknown type": config | {"model_type": "nope"},
        "a list": [config],
    }.items():
        shutil.copytree(encoder, root / what, ignore=shutil.ignore_patterns("checkpoints"))
        (root / what / "config.json").write_text(json.dumps(wrong))
        yield what, root / what
    shutil.copytree(encoder, root / "pickle", ignore=shutil.ignore_patterns("checkpoints"))
    (root / "pickle" / "model.safetensors").unlink()
    (root / "pickle" / "pytorch_model.bin").write_bytes(PICKLE)
    yield "pickled weights", root / "pickle"
    yield from hostile_places(root)


def main() -> None:
    """Try all of it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world = make_world(root)
        resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES * 2**30, GIGABYTES * 2**30))
        out = root / "out"
        for what, text in hostile_captions().items():
            (root / "hostile.txt").write_text(text)
            shutil.rmtree(out, ignore_errors=True)
            for words in (
                ["generate", "--captions", root / "hostile.txt", "--output", out, *GENERATE],
                ["captions", root / "hostile.txt", "--output", root / "clean.parquet", "--no-repair"],
                ["show", out],
            ):
                ended = command(*words, longest=SECONDS)
                steered = "steered the terminal" if set(ended.said) & {"\x1b", "\x07", "\x9b"} else None
                tally.note("captions", f"{what}, {words[0]}", fault_of(ended) or steered)
        data = root / "data"
        data.mkdir()
        for what, source in hostile_data(data):
            for words in (
                ["train", "--data", source, "--output", out, *TRAIN],
                ["train", "--data", source, "--output", out, "--streaming", *TRAIN],
                ["index", source, world["encoder"], "--output", out],
                ["evaluate", world["encoder"], "--data", source, "--split", "train"],
                ["finetune", world["encoder"], "--data", source, "--output", out, "--max_steps", 1, "--use_cpu"],
            ):
                shutil.rmtree(out, ignore_errors=True)
                tally.note("data", f"{what}, {words[0]}", fault_of(command(*words, longest=SECONDS), 2))
        (root / "models").mkdir()
        images = world["images"]
        for what, model in hostile_models(root / "models", world["encoder"]):
            for words in (
                ["train", "--data", images, "--output", out, *TRAIN[2:], "--init-from", model],
                ["evaluate", model, "--data", images, "--split", "train", "--protocols", "sibling_retrieval"],
                ["index", images, model, "--output", out],
                ["finetune", model, "--data", images, "--label-column", "caption", "--output", out, "--use_cpu"],
                ["convert", model, out],
                ["embed", model, "--data", images, "--output", root / "features.parquet"],
            ):
                shutil.rmtree(out, ignore_errors=True)
                tally.note("models", f"{what}, {words[0]}", fault_of(command(*words, longest=SECONDS), 2))
        (root / "places").mkdir()
        for what, place in [*hostile_places(root / "places"), ("within the data", images / "data" / "x.parquet")]:
            encoder = world["encoder"]
            for words in (
                ["train", "--data", images, *TRAIN, "--output"],
                ["index", images, encoder, "--output"],
                ["finetune", encoder, "--data", images, "--label-column", "caption", "--use_cpu", "--output"],
                ["embed", encoder, "--data", images, "--output"],
                ["export", images, "--output"],
                ["evaluate", encoder, "--data", images, "--split", "train", "--output"],
            ):
                codes = (
                    (0, 2) if words[0] in ("embed", "evaluate") and "loop" in what else (2,)
                )  # a file replaces a link
                tally.note("places", f"{what}, {words[0]}", fault_of(command(*words, place, longest=SECONDS), *codes))
        yamls = {
            "aliases": "a: &a [x]\nb: [*a, *a]",
            "nan": "learning_rate: .nan",
            "inf": "learning_rate: .inf",
            "a list": "- 1",
            "binary": "\x00\x01",
            "an unknown key": "nope: 1",
            "a key twice": "seed: 1\nseed: 2",
            "a flag in a list": "image_column: --output",
            "deep": "[" * 5000,
        }
        for what, text in yamls.items():
            (root / "config.yaml").write_text(text)
            words = ["train", "--config", root / "config.yaml", "--data", world["images"], "--output", out, *TRAIN]
            tally.note("settings", what, fault_of(command(*words, longest=SECONDS), 2))
        tally.note("code", "of pickles", "a pickle ran" if list(Path.cwd().glob("this-ran")) else None)
    tally.finish()


if __name__ == "__main__":
    main()
