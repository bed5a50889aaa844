"""Measure the embedded generator and write its cards: numbers, grids, curves.

    python scripts/measure_embedded_generator.py

Numbers go to `model_cards/embedded-generator/results.json`; both cards are written from that file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from embedded_generator import autoencoder, drawing, judge, measures, pictures, report

STEPS = 12
GUIDANCE = (1.0, 2.0, 4.0, 8.0)
CONCEPTS = 120  # training concepts measured, drawn evenly from the list
SIBLINGS = 4  # images of each
THREADS = 2
VERY_CLOSE = 0.05  # root mean square difference at SMALL pixels, values in [0, 1]
SMALL = pictures.IMAGE_SIZE // 2
SHOWN = (
    "grinning face", "red heart", "red apple", "soccer ball", "house", "rocket", "dog face", "cactus", "cat face",
    "pizza", "automobile", "sunflower", "snowman", "mushroom", "guitar", "balloon",
)  # fmt: skip


def measure(assets: Path, work: Path) -> dict[str, Any]:
    """All numbers of the card."""
    pipeline = StableDiffusionPipeline.from_pretrained(assets / "generator", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pixels, rows = pictures.load_rows(assets, "train")
    artist_pixels, artist_rows = pictures.load_rows(assets, "held_out_artist")
    held_pixels, held_rows = pictures.load_rows(assets, "held_out_concepts")
    encoder = judge.train(pixels, rows, work / "judge.pt")
    gallery = judge.features(encoder, pictures.to_small(artist_pixels))
    gallery_ids = [row["concept"] for row in artist_rows]
    training = measures.halved(pictures.to_small(pixels))

    drawn = sorted(set(gallery_ids) & {row["concept"] for row in rows})
    concepts = drawn[:: max(1, len(drawn) // CONCEPTS)][:CONCEPTS]
    caption_of = {row["concept"]: row["caption"] for row in rows}
    prompts = [
        pictures.PROMPT_TEMPLATES[k % len(pictures.PROMPT_TEMPLATES)].format(caption=caption_of[concept])
        for concept in concepts
        for k in range(SIBLINGS)
    ]
    ids = [concept for concept in concepts for _ in range(SIBLINGS)]
    results: dict[str, Any] = {
        "pixels": pictures.IMAGE_SIZE,
        "steps": STEPS,
        "megabytes": sum(f.stat().st_size for f in (assets / "generator").rglob("*.safetensors")) / 1e6,
        "parameters": {
            name: sum(p.numel() for p in getattr(pipeline, name).parameters())
            for name in ("vae", "unet", "text_encoder")
        },
        "psnr_held_out_concepts": autoencoder.psnr(pipeline.vae, pictures.to_small(held_pixels)),
        "train_concepts": len({row["concept"] for row in rows}),
        "concepts_measured": len(concepts),
        "siblings": SIBLINGS,
        "gallery": len(gallery_ids),
        "measuring": {
            "batch": drawing.BATCH,
            "timed_batches": measures.TIMED_BATCHES,
            "threads": THREADS,
            "very_close": VERY_CLOSE,
            "small": SMALL,
        },
        "chance": {"r@1": 1 / len(gallery_ids), "r@5": 5 / len(gallery_ids)},
        "guidance": {},
    }
    chosen = [i for i, row in enumerate(rows) if row["concept"] in set(concepts)]
    real = judge.features(encoder, pictures.to_small(pixels[chosen]))
    results["real"] = measures.recall(real, [rows[i]["concept"] for i in chosen], gallery, gallery_ids)
    by_concept: dict[str, list[int]] = {}
    for position, i in enumerate(chosen):
        by_concept.setdefault(rows[i]["concept"], []).append(position)
    several = [i for members in by_concept.values() if len(members) >= SIBLINGS for i in members[:SIBLINGS]]
    results["real"]["diversity"] = measures.spread(real[several], SIBLINGS)
    for name, unseen in (("held_out_artist", artist_pixels), ("held_out_concepts", held_pixels)):
        close, _ = measures.nearest(pictures.to_small(unseen), training)
        results["real"][f"very_close_{name}"] = (close < VERY_CLOSE).float().mean().item()
    for guidance in GUIDANCE:
        images = drawing.draw(pipeline, prompts, guidance, STEPS)
        mine = judge.features(encoder, images)
        distance, index = measures.nearest(images, training)
        same = [rows[i]["concept"] == own for i, own in zip(index.tolist(), ids, strict=True)]
        results["guidance"][f"{guidance:g}"] = {
            **measures.recall(mine, ids, gallery, gallery_ids),
            "diversity": measures.spread(mine, SIBLINGS),
            "nearest_has_same_concept": sum(same) / len(same),
            "very_close": (distance < VERY_CLOSE).float().mean().item(),
            "median_distance": distance.median().item(),
            "seconds_per_image": measures.seconds_per_image(pipeline, "rocket, blob style", guidance, STEPS),
        }
        print(guidance, results["guidance"][f"{guidance:g}"], flush=True)
    held_captions = sorted({row["caption"] for row in held_rows if row["group"] in ("animals-nature", "food-drink")})
    results["grids"] = {}
    for name, captions in (("training", SHOWN), ("held_out", held_captions[:: max(1, len(held_captions) // 8)][:8])):
        grid = [t.format(caption=c) for c in captions for t in pictures.PROMPT_TEMPLATES]
        for guidance in GUIDANCE:
            path = report.CARD / f"{name}-guidance-{guidance:g}.png"
            images = drawing.draw(pipeline, grid, guidance, STEPS, seed=1)
            drawing.save_grid(images, len(pictures.PROMPT_TEMPLATES), path)
        results["grids"][name] = list(captions)
    results["training"] = {
        name: [json.loads(line) for line in (work / f"{stage}.jsonl").read_text().splitlines()]
        for name, stage in (("vae", "autoencoder"), ("unet", "denoiser"))
    }
    results["minutes"] = {name: lines[-1]["seconds"] / 60 for name, lines in results["training"].items()}
    return results


def main() -> None:
    """Measure, save the numbers, write both cards from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=Path("stablerep_hf/assets"))
    parser.add_argument("--work", type=Path, default=Path(".cache/generator"), help="loss logs and the judge")
    parser.add_argument("--cards-only", action="store_true", help="write the cards again from the saved numbers")
    options = parser.parse_args()
    report.CARD.mkdir(parents=True, exist_ok=True)
    saved = report.CARD / "results.json"
    if not options.cards_only:
        torch.set_num_threads(THREADS)
        saved.write_text(json.dumps(measure(options.assets, options.work), indent=1) + "\n")
    report.write_cards(json.loads(saved.read_text()), options.assets)


if __name__ == "__main__":
    main()
