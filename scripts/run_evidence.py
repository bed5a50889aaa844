"""The committed evidence: five seeds of each encoder on the embedded world, measured on real held-out concepts.

    python scripts/run_evidence.py --output .cache/evidence

Draws one synthetic data set with the embedded generator, trains SimCLR, StableRep, StableRep+ and CLIP on it, and the
first two on the real artists' drawings of the same concepts (equal steps and views), measures all of them, untrained
twins and the bare pixels on the real pictograms of concepts that neither the generator nor any encoder saw, and writes
`model_cards/results/pictograms.json`. Killed and started again, it goes on where it was. `scripts/update_readme.py`
puts the numbers into the README.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stablerep_hf import assets
from stablerep_hf.cli import evaluate, generate, train
from stablerep_hf.evaluation import EvaluationResult, combine_seeds, load_results, pixel_encoder, save_results
from stablerep_hf.models import export_encoder

RESULTS = Path(__file__).parents[1] / "model_cards" / "results" / "pictograms.json"
PRESETS = {
    "SimCLR": "pictograms-simclr",
    "StableRep": "pictograms",
    "StableRep+": "pictograms-text",
    "CLIP": "pictograms-clip",
}
ON_REAL_ARTISTS = ("SimCLR", "StableRep")
UNTRAINED = "untrained"


def measure(folder: Path, name: str, seed: int) -> list[EvaluationResult]:
    """Score one encoder, or read the scores it got before."""
    file = folder / "results.json"
    if file.exists():
        return load_results(file)
    command = evaluate.EvaluateCommand(
        knn_neighbours=[20], probe_c_values=12, cache=evaluate.NO_CACHE, output=str(file)
    )
    return evaluate.run(folder, command, name=name, seeds=(seed,))


def run(output: Path, seeds: range, images_per_caption: int) -> list[EvaluationResult]:
    """Train and measure everything for these seeds."""
    synthetic = output / "dataset"
    generate.run(generate.GenerateCommand(images_per_caption=images_per_caption, output=str(synthetic)))
    sources = {"synthetic images": synthetic, "real artists": assets.pictograms_path()}
    results = []
    for seed in seeds:
        twin = output / f"{UNTRAINED}-{seed}"
        if not (twin / "results.json").exists():
            command, _ = train.parse(["--config", PRESETS["StableRep"]])
            export_encoder(train.build_model(command, seed)[0], twin)
        results += measure(twin, UNTRAINED, seed)
        for source, data in sources.items():
            for objective, preset in PRESETS.items():
                if data != synthetic and objective not in ON_REAL_ARTISTS:
                    continue
                folder = output / f"{objective.lower()}-{source.replace(' ', '-')}-{seed}"
                flags = ["--config", preset, "--data", str(data), "--output", str(folder), "--seed", str(seed)]
                train.run(*train.parse(flags))
                results += measure(folder, f"{objective}, {source}", seed)
    return results


def main() -> None:
    """Run it all, or the part of it that `--seeds` names (two processes share the cores well)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(".cache/evidence"))
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 5), metavar=("FIRST", "END"))
    parser.add_argument("--images-per-caption", type=int, default=4)
    parser.add_argument("--threads", type=int, default=None, help="of this process")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    results = run(arguments.output, range(*arguments.seeds), arguments.images_per_caption)
    if tuple(arguments.seeds) == (0, 5):
        pixels = evaluate.run(pixel_encoder(), evaluate.EvaluateCommand())
        save_results(RESULTS, pixels + combine_seeds(results))
        print(RESULTS)


if __name__ == "__main__":
    main()
