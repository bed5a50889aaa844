"""Adapt an encoder of photos to pictograms, from captions and drawings alone: what it gains there and loses elsewhere.

    stablerep generate --images-per-caption 4 --output DRAWINGS
    python scripts/adapt_without_forgetting.py --photos PHOTOS --drawings DRAWINGS --work .cache/adaptation

PHOTOS holds the folders `tiny_imagenet_32`, on which the encoder to start from is trained (SupCon), and `cifar10`,
which says what is forgotten. The domain is scored on real pictograms, at random sizes and places, of concepts that
neither generator nor encoder saw. By sibling gap, RankMe and LiDAR on captions that are held out of the drawings a
setting is chosen without labels; "blended" is half start, half adapted (WiSE-FT's share where none can be chosen).

Killed and started again, it goes on. Numbers go to `model_cards/results/adaptation.json` and `adaptation_probes.json`,
from which `scripts/update_tables.py` makes the tables; weights and pictures stay in the working folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from scipy.stats import spearmanr

from stablerep_hf.evaluation import (
    EvaluationResult,
    EvaluationSettings,
    VisionEncoder,
    combine_seeds,
    evaluate_encoder,
    extract_features,
    label_free_metrics,
    load_encoder,
)
from stablerep_hf.evaluation.comparison import with_differences
from stablerep_hf.evaluation.results import save_results
from stablerep_hf.runs.blending import interpolation
from stablerep_hf.runs.evaluation import MeasuringSettings, load_sides
from stablerep_hf.runs.record import write_record
from stablerep_hf.runs.training import TrainingRun, TrainingSettings
from stablerep_hf.training import StableRepTrainingArguments

RESULTS = Path(__file__).parents[1] / "model_cards" / "results"
HEAD = {"projection_hidden_dim": 512, "projection_dim": 128}
MODEL = {"size": "micro", "image_size": 32, "patch_size": 8, **HEAD}
FROZEN, SCRATCH = "frozen start", "from scratch"
LORA = {"lora_rank": 8, "adapter_targets": "all"}
# name -> settings of the run, arguments of its trainer; "START" is the encoder to start from
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    SCRATCH: (MODEL, {"learning_rate": 3e-3}),
    "full": ({**HEAD, "init_from": "START"}, {"learning_rate": 1e-3}),
    "full, anchored": ({**HEAD, "init_from": "START", "teacher": "START"}, {"learning_rate": 1e-3}),
    "LoRA": ({**HEAD, "init_from": "START", **LORA}, {"learning_rate": 3e-3}),
    "LoRA, anchored": ({**HEAD, "init_from": "START", "teacher": "START", **LORA}, {"learning_rate": 3e-3}),
}
BLENDED = ("full", "full, anchored")
ANCHOR = {"distill_feature_weight": 2.0, "distill_similarity_weight": 20.0}


def train_start(options: argparse.Namespace) -> Path:
    """The encoder of photos."""
    output: Path = options.work / "start"
    arguments = StableRepTrainingArguments(
        objective="supcon",
        captions_per_batch=512,  # images, each seen twice
        num_train_epochs=options.start_epochs,
        learning_rate=3e-3,
        warmup_steps=0.05,
        min_crop_area=0.2,
        save_strategy="epoch",
        save_total_limit=1,
        use_cpu=True,
    )
    TrainingRun(output, TrainingSettings(data=str(options.photos / "tiny_imagenet_32"), **MODEL), arguments).run()
    return output


def hold_out(options: argparse.Namespace) -> tuple[Path, datasets.Dataset]:
    """Drawings to learn from, and those of captions that are held out for what is measured without labels."""
    drawings = datasets.load_dataset(str(options.drawings), split="train")
    ids = np.asarray(drawings["caption_id"][:])
    held = np.isin(ids, np.unique(ids)[: options.held_out])  # ids are hashes: the first are as good as random
    folder: Path = options.work / "drawings"
    if not (folder / "train.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        drawings.select(np.flatnonzero(~held)).to_parquet(folder / "partial")
        (folder / "partial").rename(folder / "train.parquet")
    return folder, drawings.select(np.flatnonzero(held))


def adapt(options: argparse.Namespace, start: Path, drawings: Path, name: str, seed: int) -> Path:
    """One run; killed, it goes on."""
    output: Path = options.work / "runs" / f"{name.replace(', ', '-').replace(' ', '-').lower()}-{seed}"
    settings, arguments = SETTINGS[name]
    settings = {key: str(start) if value == "START" else value for key, value in settings.items()}
    TrainingRun(
        output,
        TrainingSettings(data=str(drawings), **settings),
        StableRepTrainingArguments(
            captions_per_batch=64,
            images_per_caption=4,
            augmentation="weak",
            max_steps=options.steps,
            warmup_steps=0.1,
            seed=seed,
            save_steps=options.steps // 2 or 1,
            save_total_limit=1,
            use_cpu=True,
            **arguments,
            **ANCHOR,
        ),
    ).run()
    return output


def encoders(options: argparse.Namespace, start: Path, drawings: Path) -> Iterator[tuple[str, int, VisionEncoder]]:
    """Every adapted encoder by setting and seed."""
    for seed in options.seeds:
        for name in SETTINGS:
            run = adapt(options, start, drawings, name, seed)
            yield name, seed, load_encoder(run)
            if name in BLENDED:
                yield f"{name}, blended", seed, interpolation(str(start), str(run))(0.5)


def ranked(rows: list[dict[str, Any]], key: str, side: str) -> float:
    """Rank correlation of a measure without labels with a score."""
    return float(spearmanr([row[key] for row in rows], [row[side] for row in rows]).statistic)


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/adaptation"))
    parser.add_argument("--start-epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--held-out", type=int, default=100, help="captions for the measures without labels")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    for folder in (options.photos / "cifar10", options.drawings):
        if not folder.is_dir():
            parser.error(
                f"{folder} is no folder: the photos are not part of this project, the drawings are yours to make"
            )
    torch.set_num_threads(1)
    start = train_start(options)
    drawings, held = hold_out(options)
    measured = {
        "domain": MeasuringSettings(data="embedded", protocols=["knn"]),
        "general": MeasuringSettings(data=str(options.photos / "cifar10"), protocols=["knn"]),
    }
    loaded = {side: load_sides(measuring) for side, measuring in measured.items()}

    def score(name: str, seed: int | None, vision: VisionEncoder) -> list[EvaluationResult]:
        found = []
        for side, sides in loaded.items():
            about = {"encoder": name, "seeds": () if seed is None else (seed,)}
            subject = replace(sides.subject, dataset=Path(sides.subject.dataset).name, **about)
            found += evaluate_encoder(
                vision,
                sides.train,
                sides.test,
                columns=sides.columns,
                protocols=["knn"],
                subject=subject,
                settings=EvaluationSettings(knn_neighbours=[20]),
                transform=measured[side].transform,
                progress=False,
            )
        return found

    def probe(vision: VisionEncoder) -> dict[str, float]:
        return label_free_metrics(extract_features(vision, held, progress=False).features, held["caption_id"][:])

    frozen = load_encoder(start)
    of_seeds: list[EvaluationResult] = []
    rows: list[dict[str, Any]] = []
    for name, seed, vision in encoders(options, start, drawings):
        scores = score(name, seed, vision)
        of_seeds += scores
        values = {side: one.value for side, one in zip(measured, scores, strict=True)}
        rows.append({"setting": name, "seed": seed, **values, **probe(vision)})
        print(rows[-1], flush=True)
    adapted = combine_seeds(of_seeds) if len(options.seeds) > 1 else of_seeds
    results = with_differences([*adapted, *score(FROZEN, None, frozen)])
    probes = list(probe(frozen))
    means = {
        name: {key: float(np.mean([row[key] for row in rows if row["setting"] == name])) for key in probes}
        for name in dict.fromkeys(row["setting"] for row in rows)
    }
    facts = {
        "start_epochs": options.start_epochs,
        "steps": options.steps,
        "captions": len(datasets.load_dataset(str(drawings), split="train").unique("caption_id")),
        "frozen": probe(frozen),
        "chosen": {key: max(means, key=lambda name: means[name][key]) for key in probes},
        "rank_correlations": {key: {side: ranked(rows, key, side) for side in measured} for key in probes},
        "runs": rows,
    }
    save_results(options.output / "adaptation.json", results)
    write_record(options.output / "adaptation_probes.json", facts)


if __name__ == "__main__":
    main()
