"""Does it help an encoder if the generator learns the hand that it is going to be used on? Five seeds.

    python scripts/adapt_to_artist.py --output .cache/artist

Neither the embedded generator nor any encoder knows the artist of the split `held_out_artist` (Twemoji). The generator
is adapted by a LoRA to a few of this artist's drawings (`stablerep adapt-generator`), the same captions are drawn
without and with it, StableRep learns from either and from half of each (equal captions, images and steps), and all are
measured on this artist's drawings of concepts that neither saw: kNN and linear probe among this artist's own drawings,
and retrieval of the same concept by other hands. Writes `model_cards/results/artist.json`, which
`scripts/update_tables.py` puts into the README; killed and started again, it goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch

from stablerep_hf import assets
from stablerep_hf.evaluation import (
    Columns,
    EvaluationResult,
    EvaluationSettings,
    Subject,
    VisionEncoder,
    combine_seeds,
    evaluate_encoder,
    image_grid,
    load_results,
    save_results,
)
from stablerep_hf.evaluation.images import load_images
from stablerep_hf.models.export import encoder_image_processor
from stablerep_hf.runs.adaptation import adapt as adapt_pipeline
from stablerep_hf.runs.generation import GenerationRun
from stablerep_hf.synthesis import GenerationSettings
from stablerep_hf.synthesis.adaptation_settings import AdaptationInputs, AdaptationSettings
from stablerep_hf.synthesis.pipeline_folder import content_digest
from stablerep_hf.training import ModelSettings, StableRepTrainer, StableRepTrainingArguments, build_model

CARDS = Path(__file__).parents[1] / "model_cards"
RESULTS, PICTURE = CARDS / "results" / "artist.json", CARDS / "images" / "artist.png"
ARTIST = "twemoji"
TEMPLATE = "{caption}, new style"
EXAMPLES = 64
CAPTIONS, SIBLINGS = 656, 4
STEPS, CAPTIONS_PER_BATCH = 125, 64
SEEDS = range(5)
WITHOUT, WITH, BOTH = "known hands", "the new hand", "half and half"
DIFFERENCES = {WITH: "the new hand, gain", BOTH: "half and half, gain"}


def adapt(output: Path) -> Path:
    """The LoRA of a few drawings, chosen by chance among those of training concepts."""
    data, lora = output / "examples", output / "lora"
    if not data.exists():
        drawings = datasets.load_dataset(str(assets.pictograms_path()), split="held_out_artist")
        chosen = np.random.default_rng(0).permutation(len(drawings))[:EXAMPLES]
        drawings.select(chosen).to_parquet(data / "train.parquet")
    adapt_pipeline(
        AdaptationInputs(data=str(data), prompt_template=TEMPLATE, output=str(lora)),
        AdaptationSettings(learning_rate=1e-3),  # the default is for networks a hundred times as large
    )
    return lora


def draw(output: Path, lora: Path) -> dict[str, datasets.Dataset]:
    """The same captions by the hands that the generator knows, by the new one, and two siblings by each."""
    shared = {"num_captions": CAPTIONS, "images_per_caption": SIBLINGS}
    drawn = {}
    for name, options in ((WITHOUT, {}), (WITH, {"lora": str(lora), "prompt_templates": [TEMPLATE]})):
        folder = output / name.replace(" ", "-")
        GenerationRun(GenerationSettings(**shared, **options, output=str(folder))).run()
        drawn[name] = load_images(folder, "train")
    halves = [images.select(np.flatnonzero(_rank(images) % 2 == part)) for part, images in enumerate(drawn.values())]
    return {**drawn, BOTH: datasets.concatenate_datasets(halves)}


def _rank(images: datasets.Dataset) -> np.ndarray:
    """(N,) The place of an image among those of its caption: indices have gaps where a frame was drawn anew."""
    ids, indices = (np.asarray(images[name][:]) for name in ("caption_id", "image_index"))
    order = np.lexsort((indices, ids))
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(len(ids)) - np.searchsorted(ids[order], ids[order])
    return ranks


def show(sets: dict[str, datasets.Dataset]) -> None:
    """A few captions: two drawings by hands that the generator knows, three by the new one, one by the artist."""
    artist = datasets.load_dataset(str(assets.pictograms_path()), split="held_out_artist")
    rows = {}
    for caption in list(dict.fromkeys(sets[WITHOUT]["caption"]))[::55]:
        if theirs := [n for n, other in enumerate(artist["caption"]) if other == caption]:
            found = [
                [n for n, other in enumerate(sets[name]["caption"]) if other == caption] for name in (WITHOUT, WITH)
            ]
            ours = [sets[WITHOUT][n]["image"] for n in found[0][:2]] + [sets[WITH][n]["image"] for n in found[1][:3]]
            rows[caption] = [*ours, artist[theirs[0]]["image"]]
    image_grid(rows, cell_size=64, caption_width=180).save(PICTURE, optimize=True)


def measure(images: datasets.Dataset, name: str, seed: int, folder: Path) -> list[EvaluationResult]:
    """Train on the images and score the encoder, or read what it scored before."""
    file = folder / "results.json"
    if file.exists():
        return load_results(file)
    arguments = StableRepTrainingArguments.from_preset(
        "pictograms",
        output_dir=str(folder / "checkpoints"),
        seed=seed,
        save_strategy="no",
        max_steps=STEPS,
        captions_per_batch=CAPTIONS_PER_BATCH,
    )
    model, _ = build_model(ModelSettings.from_preset("pictograms"), seed)
    StableRepTrainer(model, arguments, images).train()
    vision = VisionEncoder(model.vision_model, encoder_image_processor(model.config), name)
    pictograms = str(assets.pictograms_path())
    known, new = (datasets.load_dataset(pictograms, split=split) for split in ("held_out_artist", "held_out_concepts"))
    own = new.select(np.flatnonzero(np.asarray(new["artist"][:]) == ARTIST))
    shared = {
        "columns": Columns(label="group", group="concept", artist="artist", slices=("artist",)),
        "settings": EvaluationSettings(knn_neighbours=[20], probe_c_values=12),
        "subject": Subject(
            dataset="embedded pictograms", revision=content_digest(assets.pictograms_path()),
            split="held_out_concepts", seeds=(seed,),
        ),
        "progress": False,
    }  # fmt: skip
    among_own = evaluate_encoder(vision, known, own, protocols=("knn", "linear_probe"), **shared)
    by_others = evaluate_encoder(vision, None, new, protocols=("retrieval",), **shared)
    results = [
        replace(result, variant="")
        for result in (*among_own, *by_others)
        if result.variant == f"artist = {ARTIST}" and result.metric in ("accuracy", "recall@1")
    ]
    save_results(file, results)
    return results


def gains(runs: dict[str, list[EvaluationResult]]) -> list[EvaluationResult]:
    """Seed by seed, what the adapted images add to the score; as results, so that they get their interval."""
    before = {(result.protocol, result.metric, result.seeds): result for result in runs[WITHOUT]}
    differences = [
        replace(result, encoder=label, value=value, low=value, high=value, chance=None)
        for name, label in DIFFERENCES.items()
        for result in runs[name]
        for value in [result.value - before[result.protocol, result.metric, result.seeds].value]
    ]
    return combine_seeds(differences)


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(".cache/artist"))
    parser.add_argument("--threads", type=int, default=None, help="of this process")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    sets = draw(options.output, adapt(options.output))
    show(sets)
    runs: dict[str, list[EvaluationResult]] = {name: [] for name in sets}
    for seed in SEEDS:
        for name, images in sets.items():
            runs[name] += measure(images, name, seed, options.output / f"{name.replace(' ', '-')}-{seed}")
            print(name, seed, [f"{result.value:.3f}" for result in runs[name][-3:]], flush=True)
    save_results(RESULTS, [*combine_seeds([result for results in runs.values() for result in results]), *gains(runs)])
    print(RESULTS)


if __name__ == "__main__":
    main()
