"""Adapt an encoder of photos to pictograms, from captions and drawings alone: what it gains there and loses elsewhere.

    python scripts/adapt_without_forgetting.py --photos PHOTOS --drawings DRAWINGS --work .cache/adaptation

PHOTOS holds the folders `tiny_imagenet_32`, on which the encoder to start from is trained (SupCon; or give one by
`--start`), and `cifar10`, which says what is forgotten. DRAWINGS is a data set of `stablerep generate`. The domain is
scored on real pictograms of concepts that neither generator nor encoder saw. Of each setting and seed the course of
sibling gap, RankMe and LiDAR on held-out captions is kept, by which a setting can be chosen without labels.

Killed and started again, it goes on. Numbers go to `model_cards/results/adaptation.json` and `adaptation_probes.json`,
from which `scripts/update_tables.py` makes the tables; weights and pictures stay in the working folder.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.stats import spearmanr

from stablerep_hf import assets
from stablerep_hf.evaluation import EvaluationResult, EvaluationSettings, Subject, combine_seeds, evaluate_encoder
from stablerep_hf.evaluation.results import load_results, save_results
from stablerep_hf.runs.blending import BlendingSettings, blend
from stablerep_hf.runs.record import write_record
from stablerep_hf.runs.training import TrainingRun, TrainingSettings
from stablerep_hf.training import StableRepTrainingArguments

RESULTS = Path(__file__).parents[1] / "model_cards" / "results"
MODEL = {"size": "micro", "image_size": 32, "patch_size": 8, "projection_hidden_dim": 512, "projection_dim": 128}
HEAD = {name: MODEL[name] for name in ("projection_hidden_dim", "projection_dim")}
PROBES = ("sibling_gap", "rankme", "lidar")
# name -> settings of the run, arguments of its trainer; "START" is the encoder to start from
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "from scratch": (MODEL, {"learning_rate": 3e-3}),
    "full": ({**HEAD, "init_from": "START"}, {"learning_rate": 1e-3}),
    "full, anchored": ({**HEAD, "init_from": "START", "teacher": "START"}, {"learning_rate": 1e-3}),
    "LoRA": ({**HEAD, "init_from": "START", "lora_rank": 8, "adapter_targets": "all"}, {"learning_rate": 3e-3}),
    "LoRA, anchored": (
        {**HEAD, "init_from": "START", "teacher": "START", "lora_rank": 8, "adapter_targets": "all"},
        {"learning_rate": 3e-3},
    ),
}
ANCHOR = {"distill_feature_weight": 2.0, "distill_similarity_weight": 20.0}


def train_start(photos: Path, output: Path, epochs: int) -> Path:
    """The encoder of photos."""
    arguments = StableRepTrainingArguments(
        objective="supcon",
        captions_per_batch=512,
        num_train_epochs=epochs,
        learning_rate=3e-3,
        warmup_steps=0.05,
        min_crop_area=0.2,
        save_strategy="epoch",
        save_total_limit=1,
        use_cpu=True,
    )
    TrainingRun(output, TrainingSettings(data=str(photos / "tiny_imagenet_32"), **MODEL), arguments).run()
    return output


def adapt(options: argparse.Namespace, start: Path, name: str, seed: int) -> Path:
    """One run; killed, it goes on."""
    output = options.work / "runs" / f"{name.replace(', ', '-').replace(' ', '-').lower()}-{seed}"
    settings, arguments = SETTINGS[name]
    settings = {key: str(start) if value == "START" else value for key, value in settings.items()}
    TrainingRun(
        output,
        TrainingSettings(data=str(options.drawings), held_out_captions=options.held_out, **settings),
        StableRepTrainingArguments(
            captions_per_batch=64,
            images_per_caption=4,
            augmentation="weak",
            max_steps=options.steps,
            warmup_steps=0.1,
            seed=seed,
            eval_strategy="steps",
            eval_steps=max(options.steps // 2, 1),
            save_steps=max(options.steps // 2, 1),
            save_total_limit=1,
            use_cpu=True,
            **arguments,
            **ANCHOR,
        ),
    ).run()
    return output


def general(options: argparse.Namespace) -> dict[str, datasets.Dataset]:
    """As many photos of CIFAR-10 as were asked for, to vote and to be classified."""
    photos = datasets.load_dataset("parquet", data_dir=str(options.photos / "cifar10"))
    return {split: photos[split].shuffle(seed=0).select(range(options.general_images)) for split in ("train", "test")}


def score(options: argparse.Namespace, name: str, encoder: Path, seed: int | None) -> list[EvaluationResult]:
    """KNN on the domain and in general; kept beside the encoders."""
    kept = options.work / "scores" / f"{name}-{seed}.json"
    if kept.exists():
        return load_results(kept)
    pictograms = datasets.load_dataset(str(assets.pictograms_path()))
    few = general(options).values()
    seeds = () if seed is None else (seed,)
    results: list[EvaluationResult] = []
    for data, split, train, test, columns in (
        ("embedded pictograms", "held_out_concepts", pictograms["train"], pictograms["held_out_concepts"],
         {"label": "group", "group": "concept"}),
        ("cifar10", f"{options.general_images} of test", *few, {"label": "label"}),
    ):  # fmt: skip
        results += evaluate_encoder(
            str(encoder),
            train,
            test,
            columns=columns,
            protocols=["knn"],
            subject=Subject(encoder=name, dataset=data, split=split, seeds=seeds),
            settings=EvaluationSettings(knn_neighbours=[20]),
            train_split=f"{len(train)} images of train",
            progress=False,
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_results(kept, results)
    return results


def blended(options: argparse.Namespace, start: Path, adapted: Path, seed: int) -> tuple[Path, float]:
    """Between start and full fine-tuning, the share chosen on parts of the training splits."""
    output = options.work / "blends" / str(seed)
    file = output / "blend.json"
    if not file.exists():
        few = options.work / "general"
        if not (few / "test.parquet").exists():
            few.mkdir(parents=True, exist_ok=True)
            photos = datasets.load_dataset("parquet", data_dir=str(options.photos / "cifar10"))
            for split in ("train", "test"):
                photos[split].shuffle(seed=0).select(range(options.general_images)).to_parquet(
                    few / f"{split}.parquet"
                )
        blend(str(start), str(adapted), output, BlendingSettings(general_data=str(few), weights=[0.25, 0.5, 0.75]))
    return output, float(json.loads(file.read_text("utf-8"))["chosen"])


def probes_of(run: Path) -> dict[str, float]:
    """What was measured without labels at the end."""
    log = json.loads((run / "training.json").read_text("utf-8"))["log"]
    last = [entry for entry in log if "eval_rankme" in entry][-1]
    return {name: last[f"eval_{name}"] for name in PROBES}


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--drawings", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/adaptation"))
    parser.add_argument("--start", type=Path, help="encoder of photos; trained if not given")
    parser.add_argument("--start-epochs", type=int, default=10)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--held-out", type=int, default=60, help="captions held out for the probes without labels")
    parser.add_argument("--general-images", type=int, default=10000, help="of CIFAR-10, in the bank and in the test")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    for folder in (options.photos / "cifar10", options.drawings):
        if not folder.is_dir():
            parser.error(
                f"{folder} is no folder: the photos are not part of this project, the drawings are yours to make"
            )
    os.nice(15)
    start = options.start or train_start(options.photos, options.work / "start", options.start_epochs)
    results = score(options, "frozen start", start, None)
    rows: list[dict[str, Any]] = []
    for name in options.settings:
        of_seeds: list[EvaluationResult] = []
        of_blends: list[EvaluationResult] = []
        shares = []
        for seed in options.seeds:
            run = adapt(options, start, name, seed)
            domain, rest = score(options, name, run, seed)
            of_seeds += [domain, rest]
            rows.append(
                {"setting": name, "seed": seed, "domain": domain.value, "general": rest.value, **probes_of(run)}
            )
            print(rows[-1], flush=True)
            if name == "full":
                folder, share = blended(options, start, run, seed)
                shares.append(share)
                of_blends += score(options, "full, blended", folder, seed)
        results += combine_seeds(of_seeds) if len(options.seeds) > 1 else of_seeds
        if of_blends:
            combined = combine_seeds(of_blends) if len(options.seeds) > 1 else of_blends
            results += [replace(result, settings={**result.settings, "shares": shares}) for result in combined]
    correlations = {
        probe: {
            side: float(spearmanr([row[probe] for row in rows], [row[side] for row in rows]).statistic)
            for side in ("domain", "general")
        }
        for probe in PROBES
    }
    means = {
        probe: {name: np.mean([row[probe] for row in rows if row["setting"] == name]) for name in options.settings}
        for probe in PROBES
    }
    told = {
        "steps": options.steps,
        "captions": len(datasets.load_dataset(str(options.drawings), split="train").unique("caption")),
        "general_images": options.general_images,
        "chosen": {probe: max(of, key=lambda name: float(of[name])) for probe, of in means.items()},
        "rank_correlations": correlations,
        "runs": rows,
    }
    save_results(options.output / "adaptation.json", results)
    write_record(options.output / "adaptation_probes.json", told)


if __name__ == "__main__":
    main()
