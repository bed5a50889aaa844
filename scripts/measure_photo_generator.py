"""Measure a generator of photos beside real ones, and write its card: numbers and drawn grids, no photo.

    python scripts/measure_photo_generator.py scripts/embedded_generator/photos.yaml \
        --data ../shared/data --work .cache/photos --card model_cards/photo-generator

Drawn for the captions of the first held-out set of the world, several siblings each, at several guidance scales, and
judged by an ImageNet classifier. Numbers go to CARD/results.json; the card is written from that file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from embedded_generator import drawing, looking, measures, photo_card
from embedded_generator.captioned import CaptionedPictures, HeldOut, load_held_out
from embedded_generator.world import World, read_world

from stablerep_hf.errors import InputError

SIBLINGS = 4  # pictures of each caption
VERY_CLOSE = 0.05  # root mean square difference at half the size, values in [0, 1]


def measure(world: World, data: Path, work: Path, guidances: list[float], captions: int) -> dict[str, Any]:
    """All numbers of the card.

    Args:
        world: What was trained.
        data: Folder that the sources of the world are relative to.
        work: Folder of the training, with the pipeline in `pipeline`.
        guidances: Guidance scales to draw with.
        captions: Drawn for, evenly over those of the held-out set.
    """
    held_out = load_held_out(world, data)
    if held_out is None:
        raise InputError("Drawn photos are compared with real ones: name a set in `held_out` of the world.")
    pipeline = StableDiffusionPipeline.from_pretrained(work / "pipeline", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    judge = looking.Judge(held_out)
    learned = CaptionedPictures(world, data)
    training = torch.cat([measures.halved(x) for x in _both_ways(learned)])

    siblings = _siblings(held_out, captions)
    prompts = [held_out.prompts[group[0]] for group in siblings for _ in range(SIBLINGS)]
    rows = [index for group in siblings for index in group]
    steps = world.drawing.num_inference_steps
    results: dict[str, Any] = {
        "pixels": world.image_size,
        "steps": steps,
        "siblings": SIBLINGS,
        "captions": len(siblings),
        "judged_against": f"{world.held_out[0].data}, {world.held_out[0].split}",
        "held_out": len(held_out.prompts),
        "learned": len(learned),
        "dropped": learned.dropped,
        "very_close_below": VERY_CLOSE,
        "parameters": {
            name: sum(p.numel() for p in getattr(pipeline, name).parameters())
            for name in ("vae", "unet", "text_encoder")
        },
        "training": {
            stage: [json.loads(line) for line in (work / f"{stage}.jsonl").read_text().splitlines()]
            for stage in ("autoencoder", "denoiser")
        },
        "judgements": _lines(work / "judgements.jsonl"),
        "threads": torch.get_num_threads(),
        "guidance": {},
    }
    # Real photos that were learned from, as many as are drawn, are what a perfect generator would score.
    every = max(1, len(learned) // len(prompts))
    seen = learned.plain(learned.pixels[::every][: len(prompts)])
    vae = pipeline.vae
    with torch.inference_mode():
        rebuilt = torch.cat([vae.decode(vae.encode(x).latent_dist.mean).sample for x in seen.split(64)])
    for name, photos in (("real", seen), ("rebuilt", rebuilt)):
        kid, deviation = measures.kernel_distance(judge.eye.look(photos)[0], judge.real_features)
        results[name] = {"kid": kid, "kid_deviation": deviation}
    distance, _ = measures.nearest(held_out.pictures[rows], training)
    results["real"] |= {
        "diversity": measures.spread(_unit(judge.real_features[rows]), SIBLINGS),
        "median_distance": distance.median().item(),
        "very_close": (distance < VERY_CLOSE).float().mean().item(),
    }
    for guidance in guidances:
        images = drawing.draw(pipeline, prompts, guidance, steps)
        features, logits = judge.eye.look(images)
        kid, deviation = measures.kernel_distance(features, judge.real_features)
        distance, _ = measures.nearest(images, training)
        shares = judge.recognised(rows, logits)
        results["real"] |= {k.removesuffix("_real"): v for k, v in shares.items() if k.endswith("_real")}
        results["guidance"][f"{guidance:g}"] = {
            "kid": kid,
            "kid_deviation": deviation,
            **{k.removesuffix("_drawn"): v for k, v in shares.items() if k.endswith("_drawn")},
            "diversity": measures.spread(_unit(features), SIBLINGS),
            "median_distance": distance.median().item(),
            "very_close": (distance < VERY_CLOSE).float().mean().item(),
            "seconds_per_image": measures.seconds_per_image(pipeline, prompts[0], guidance, steps),
        }
        print(guidance, results["guidance"][f"{guidance:g}"], flush=True)
    return results


def _both_ways(learned: CaptionedPictures) -> list[torch.Tensor]:
    """The training photos and their mirror images, both of which the generator saw."""
    photos = learned.plain(learned.pixels)
    return [photos, photos.flip(3)]


def _siblings(held_out: HeldOut, captions: int) -> list[list[int]]:
    """For each caption the rows of `SIBLINGS` real photos that share its class; without classes the row itself."""
    if held_out.labels is None:
        return [[i] * SIBLINGS for i in held_out.evenly(captions)]
    members: dict[str, list[int]] = {}
    for index, label in enumerate(held_out.labels):
        members.setdefault(label, []).append(index)
    groups = [group[:SIBLINGS] for group in members.values() if len(group) >= SIBLINGS]
    return [groups[i * len(groups) // captions] for i in range(captions)] if captions < len(groups) else groups


def _unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features, dim=1)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def draw_grids(world: World, work: Path, card: Path, guidances: list[float]) -> None:
    """Grids of the prompts that the world shows, one file a guidance scale."""
    pipeline = StableDiffusionPipeline.from_pretrained(work / "pipeline", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [prompt for prompt in world.shown for _ in range(2 * SIBLINGS)]
    for guidance in guidances:
        images = drawing.draw(pipeline, prompts, guidance, world.drawing.num_inference_steps, seed=1)
        drawing.save_grid(images, 2 * SIBLINGS, card / f"guidance-{guidance:g}.png")


def main() -> int:
    """Measure, save the numbers, write the card from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path, help="YAML file that the generator was trained by")
    parser.add_argument("--data", type=Path, default=Path(), help="folder that the sources of the world lie in")
    parser.add_argument("--work", type=Path, required=True, help="folder of the training, with its pipeline")
    parser.add_argument("--card", type=Path, required=True, help="folder of the card")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0])
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--card-only", action="store_true", help="write the card again from the saved numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    saved = options.card / "results.json"
    try:
        world = read_world(options.world)
        if not options.card_only:
            options.card.mkdir(parents=True, exist_ok=True)
            results = measure(world, options.data, options.work, options.guidance, options.captions)
            saved.write_text(json.dumps(results, indent=1) + "\n")
            draw_grids(world, options.work, options.card, options.guidance)
        photo_card.write(json.loads(saved.read_text()), world, options.card)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
