"""Full fine-tuning, LoRA and a linear classifier with few labels: accuracy, parameters, time, memory; five seeds.

    python scripts/compare_fine_tuning.py --output .cache/fine-tuning

The shipped encoder learns the eight groups of the real pictograms from a few drawings of each, and is scored on real
drawings of concepts that neither it nor the generator saw. Each mode's learning rate is chosen once, by another seed,
on a fifth of the training concepts that no run learns from. Writes `model_cards/results/fine_tuning.json`; killed and
started again, it goes on. `scripts/update_tables.py` makes the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from stablerep_hf import assets
from stablerep_hf.evaluation import combine_seeds, load_results, save_results
from stablerep_hf.evaluation.results import EvaluationResult
from stablerep_hf.files.atomic import write_file

RESULTS = Path(__file__).parents[1] / "model_cards" / "results" / "fine_tuning.json"
MODES = {
    "linear": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "lora": (1e-3, 3e-3, 1e-2),
    "full": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
SHOTS = (5, 20)
SEEDS = range(5)
CHOOSING_SEED = 100
COMMON = [
    "--label_column",
    "group",
    "--max_steps",
    "200",
    "--images_per_batch",
    "32",
    "--save_steps",
    "200",
    "--logging_steps",
    "50",
    "--use_cpu",
    "--disable_tqdm",
    "True",
    "--license",
    "cc-by-4.0",
]


def make_data(folder: Path) -> None:
    """Splits by concept: four fifths of the training concepts to learn from, a fifth to choose by; and what scores."""
    if (folder / "test.parquet").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    pictograms = datasets.load_dataset(str(assets.pictograms_path()))
    train = pictograms["train"]
    concepts = np.asarray(train["concept"][:])
    names = np.unique(concepts)
    held_out = set(np.random.default_rng(0).permutation(names)[: len(names) // 5])
    chosen_by = np.array([name in held_out for name in concepts])
    train.select(np.flatnonzero(~chosen_by)).to_parquet(folder / "train.parquet")
    train.select(np.flatnonzero(chosen_by)).to_parquet(folder / "validation.parquet")
    pictograms["held_out_concepts"].to_parquet(folder / "test.parquet")


def finetune(data: Path, output: Path, mode: str, shots: int, rate: float, seed: int, split: str) -> dict[str, Any]:
    """One run in a process of its own, so that its memory is its own; its record."""
    file = output / "finetuning.json"
    if not (file.exists() and json.loads(file.read_text("utf-8"))["finished"]):
        flags = ["--data", str(data), "--output", str(output), "--mode", mode, "--shots", str(shots)]
        flags += ["--seed", str(seed), "--learning_rate", str(rate), "--test_split", split, *COMMON]
        command = [sys.executable, "-m", "stablerep_hf.cli", "finetune", str(assets.encoder_path()), *flags]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    record: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return record


def accuracy(output: Path) -> float:
    """What the run scored."""
    return load_results(output / "results.json")[0].value


def choose_rate(root: Path, data: Path, mode: str, shots: int) -> float:
    """The learning rate that does best on the concepts set apart."""
    scores = {}
    for rate in MODES[mode]:
        output = root / f"choosing-{mode}-{shots}-{rate}"
        finetune(data, output, mode, shots, rate, CHOOSING_SEED, "validation")
        scores[rate] = accuracy(output)
    return max(scores, key=lambda rate: scores[rate])


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(".cache/fine-tuning"))
    options = parser.parse_args()
    data = options.output / "data"
    make_data(data)
    results: list[EvaluationResult] = []
    costs: list[dict[str, Any]] = []
    for shots in SHOTS:
        for mode in MODES:
            rate = choose_rate(options.output, data, mode, shots)
            runs, records = [], []
            for seed in SEEDS:
                output = options.output / f"{mode}-{shots}-{rate}-{seed}"
                records.append(finetune(data, output, mode, shots, rate, seed, "test"))
                (result,) = load_results(output / "results.json")
                runs.append(result)
            name = f"{mode}, {shots} images a class"
            shared = {"encoder": name, "dataset": "embedded pictograms", "split": "held_out_concepts"}
            results += combine_seeds([EvaluationResult(**{**run.to_dict(), **shared}) for run in runs])
            costs.append(
                {
                    "mode": mode,
                    "shots": shots,
                    "learning_rate": rate,
                    "trained_parameters": records[0]["trained_parameters"],
                    # the fastest, since what else the machine does only adds to it
                    "seconds": min(record["seconds"] for record in records if record["seconds"]),
                    "peak_memory": int(np.mean([record["peak_memory"] for record in records])),
                    "device": records[0]["device"],
                }
            )
            print(name, rate, results[-1].value, flush=True)
    save_results(RESULTS, results)
    write_file(RESULTS.with_name("fine_tuning_costs.json"), (json.dumps(costs, indent=2) + "\n").encode())
    print(RESULTS)


if __name__ == "__main__":
    main()
