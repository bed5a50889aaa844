"""Measure the embedded generator and write its cards: numbers, grids, curves.

    python scripts/measure_embedded_generator.py

Numbers go to `model_cards/embedded-generator/results.json`; both cards are written from that file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from embedded_generator import autoencoder, judge, pictures, report

STEPS = 12
GUIDANCE = (1.0, 2.0, 4.0, 8.0)
CONCEPTS = 120  # training concepts measured, drawn evenly from the list
SIBLINGS = 4  # images of each
BATCH = 64
TIMED_BATCHES = 3
THREADS = 2
VERY_CLOSE = 0.05  # root mean square difference at SMALL pixels, values in [0, 1]
SMALL = pictures.IMAGE_SIZE // 2
SHOWN = (
    "grinning face", "red heart", "red apple", "soccer ball", "house", "rocket", "dog face", "cactus", "cat face",
    "pizza", "automobile", "sunflower", "snowman", "mushroom", "guitar", "balloon",
)  # fmt: skip


def draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, seed: int = 0, steps: int = STEPS
) -> torch.Tensor:
    """Pictures (N, 3, 32, 32) in [-1, 1], one seed each."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(part))]
        out = pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=seeds, output_type="pt")
        parts.append(out.images * 2 - 1)
    return torch.cat(parts)


def recall(queries: torch.Tensor, query_ids: list[str], gallery: torch.Tensor, ids: list[str]) -> dict[str, float]:
    """Share of queries whose concept is the first, or among the first five, of the gallery."""
    order = (queries @ gallery.T).topk(5).indices
    hits = torch.tensor([[ids[j] == own for j in row] for own, row in zip(query_ids, order.tolist(), strict=True)])
    return {"r@1": hits[:, 0].float().mean().item(), "r@5": hits.any(1).float().mean().item()}


def spread(features: torch.Tensor, siblings: int) -> float:
    """Mean cosine distance between siblings; features (captions * siblings, D), siblings contiguous."""
    groups = features.view(-1, siblings, features.shape[1])
    similarity = groups @ groups.transpose(1, 2)
    off_diagonal = (similarity.sum((1, 2)) - siblings) / (siblings * (siblings - 1))
    return float(1 - off_diagonal.mean())


def nearest(pictures_in: torch.Tensor, training: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Root mean square distance to the nearest training picture at SMALL pixels, and which it is."""
    small = F.avg_pool2d(pictures_in, 2).flatten(1) / 2
    distance, index = torch.cdist(small, training).min(1)
    return distance / small.shape[1] ** 0.5, index


def seconds_per_image(pipeline: StableDiffusionPipeline, guidance: float) -> float:
    """The fastest of a few batches: on a shared machine the others measure the other work."""
    prompts = ["rocket, blob style"] * BATCH
    times = []
    for _ in range(TIMED_BATCHES):
        started = time.perf_counter()
        draw(pipeline, prompts, guidance)
        times.append(time.perf_counter() - started)
    return min(times) / BATCH


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
    training = F.avg_pool2d(pictures.to_small(pixels), 2).flatten(1) / 2

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
        "psnr_held_out_concepts": autoencoder.psnr(pipeline.vae, held_pixels),
        "train_concepts": len({row["concept"] for row in rows}),
        "concepts_measured": len(concepts),
        "siblings": SIBLINGS,
        "gallery": len(gallery_ids),
        "measuring": {
            "batch": BATCH,
            "timed_batches": TIMED_BATCHES,
            "threads": THREADS,
            "very_close": VERY_CLOSE,
            "small": SMALL,
        },
        "chance": {"r@1": 1 / len(gallery_ids), "r@5": 5 / len(gallery_ids)},
        "guidance": {},
    }
    chosen = [i for i, row in enumerate(rows) if row["concept"] in set(concepts)]
    real = judge.features(encoder, pictures.to_small(pixels[chosen]))
    results["real"] = recall(real, [rows[i]["concept"] for i in chosen], gallery, gallery_ids)
    by_concept: dict[str, list[int]] = {}
    for position, i in enumerate(chosen):
        by_concept.setdefault(rows[i]["concept"], []).append(position)
    several = [i for members in by_concept.values() if len(members) >= SIBLINGS for i in members[:SIBLINGS]]
    results["real"]["diversity"] = spread(real[several], SIBLINGS)
    for name, unseen in (("held_out_artist", artist_pixels), ("held_out_concepts", held_pixels)):
        close, _ = nearest(pictures.to_small(unseen), training)
        results["real"][f"very_close_{name}"] = (close < VERY_CLOSE).float().mean().item()
    for guidance in GUIDANCE:
        images = draw(pipeline, prompts, guidance)
        mine = judge.features(encoder, images)
        distance, index = nearest(images, training)
        same = [rows[i]["concept"] == own for i, own in zip(index.tolist(), ids, strict=True)]
        results["guidance"][f"{guidance:g}"] = {
            **recall(mine, ids, gallery, gallery_ids),
            "diversity": spread(mine, SIBLINGS),
            "nearest_has_same_concept": sum(same) / len(same),
            "very_close": (distance < VERY_CLOSE).float().mean().item(),
            "median_distance": distance.median().item(),
            "seconds_per_image": seconds_per_image(pipeline, guidance),
        }
        print(guidance, results["guidance"][f"{guidance:g}"], flush=True)
    held_captions = sorted({row["caption"] for row in held_rows if row["group"] in ("animals-nature", "food-drink")})
    results["grids"] = {}
    for name, captions in (("training", SHOWN), ("held_out", held_captions[:: max(1, len(held_captions) // 8)][:8])):
        grid = [t.format(caption=c) for c in captions for t in pictures.PROMPT_TEMPLATES]
        for guidance in GUIDANCE:
            path = report.CARD / f"{name}-guidance-{guidance:g}.png"
            report.save_grid(draw(pipeline, grid, guidance, seed=1), len(pictures.PROMPT_TEMPLATES), path)
        results["grids"][name] = list(captions)
    results["training"] = {
        stage: [json.loads(line) for line in (work / f"{stage}.jsonl").read_text().splitlines()]
        for stage in ("vae", "unet")
    }
    # A stage that was continued on a fresh budget starts its clock again: add up the falls.
    results["minutes"] = {
        stage: sum(
            a["seconds"] for a, b in zip(log, [*log[1:], {"seconds": 0.0}], strict=True) if b["seconds"] < a["seconds"]
        )
        / 60
        for stage, log in results["training"].items()
    }
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
