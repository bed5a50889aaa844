"""What preparing many captions costs on one machine: CPU seconds and peak memory of each step, each in a new process.

    python scripts/bench_captions.py --captions 100000 1000000

Captions are made up: ten words drawn by Zipf's law from a vocabulary of 50,000, one in ten the same as another and one
in ten with a word exchanged. "read" reads them and merges equal ones; "clean" applies all rules that need no model;
"near" merges near duplicates too (MinHash, similarity 0.8); "balance" caps 2,000 concepts and audits before and after.
Each step contains those before it, but "balance" leaves near duplicates. Figures of other sizes and steps are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benching import Report, measure

RESULTS = Path(__file__).parents[1] / "model_cards" / "results" / "captions.json"
STEPS = ("read", "clean", "near", "balance")


def write_captions(path: Path, number: int) -> None:
    """So many captions."""
    rng = np.random.default_rng(0)
    words = np.array([f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in range(715)])[:50_000]
    with path.open("w") as file:
        for start in range(0, number, 100_000):
            size = min(100_000, number - start)
            drawn = np.minimum(rng.zipf(1.3, (size, 10)), len(words)) - 1
            drawn[: size // 5] = drawn[size // 5 : 2 * (size // 5)]
            drawn[: size // 10, 9] = rng.integers(0, len(words), size // 10)
            file.writelines(" ".join(words[row]) + "\n" for row in drawn)


def prepare(source: Path, settings: dict[str, Any] | None, report: Report) -> None:
    """One step; only reading without settings."""
    from stablerep_hf.captions import CaptionSettings, prepare_captions, read_captions

    if settings is None:
        report(left=len(read_captions(source)))
    else:
        report(left=len(prepare_captions(source, CaptionSettings(**settings)).captions))


def main() -> None:
    """Measure every step at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, nargs="+", default=[100_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    kept = json.loads(options.output.read_text()) if options.output.exists() else []
    results = {(of["captions"], of["step"]): of for of in kept}
    with tempfile.TemporaryDirectory() as folder:
        source, concepts = Path(folder) / "captions.txt", Path(folder) / "concepts.txt"
        concepts.write_text("".join(f"b{vowel}{number}\n" for vowel in "aeiou" for number in range(400)))
        steps: dict[str, dict[str, Any] | None] = {
            "read": None,
            "clean": {"near_duplicates": 0},
            "near": {"near_duplicates": 0.8},
            "balance": {"concepts": str(concepts), "cap": 200, "keep_unmatched": True, "near_duplicates": 0},
        }
        for number in options.captions:
            write_captions(source, number)
            for name in options.steps:
                found = {"captions": number, "step": name, **measure(prepare, source, steps[name])}
                results[number, name] = found
                print(json.dumps(found), flush=True)
                ordered = sorted(results.values(), key=lambda of: (of["captions"], STEPS.index(of["step"])))
                options.output.write_text(json.dumps(ordered, indent=2) + "\n")


if __name__ == "__main__":
    main()
