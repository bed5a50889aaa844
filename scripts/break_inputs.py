"""Hostile captions, data sets and settings, for what reads them: one sentence each, in time and memory.

    python scripts/break_inputs.py

Numbers beyond their ranges are tried on every flag of every command in `tests/cli/test_flags.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
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
    }
    for what, card in cards.items():
        folder = root / what
        folder.mkdir()
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
        yield what, folder
    (root / "script").mkdir()
    (root / "script" / "script.py").write_text("raise SystemExit('this ran')\n")
    yield "a script", root / "script"
    yield "a name of 300 letters", root / ("x" * 300)


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
            words = ["generate", "--captions", root / "hostile.txt", "--output", out, *GENERATE]
            tally.note("captions", what, fault_of(command(*words, longest=SECONDS)))
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
        yamls = {
            "aliases": "a: &a [x]\nb: [*a, *a]",
            "nan": "learning_rate: .nan",
            "inf": "learning_rate: .inf",
            "a list": "- 1",
            "binary": "\x00\x01",
            "an unknown key": "nope: 1",
            "deep": "[" * 5000,
        }
        for what, text in yamls.items():
            (root / "config.yaml").write_text(text)
            words = ["train", "--config", root / "config.yaml", "--data", world["images"], "--output", out, *TRAIN]
            tally.note("settings", what, fault_of(command(*words, longest=SECONDS), 2))
    tally.finish()


if __name__ == "__main__":
    main()
