"""The loss curve and the two cards of the embedded generator, from its measured numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stablerep_hf import assets

from . import pictures
from .world import read_world

WORLD = Path(__file__).with_name("pictograms.yaml")
CARD = Path("model_cards/embedded-generator")

FRONT = """---
library_name: diffusers
pipeline_tag: text-to-image
license: [apache-2.0, mit, cc-by-4.0]
language: [en]
tags: [stable-diffusion, text-to-image, pictograms, stablerep]
---
"""

BODY = """
# The embedded generator

A `StableDiffusionPipeline` of {total:.1f} M parameters ({megabytes:.1f} MB in half precision) that draws pictograms of
{pixels} x {pixels} pixels from a caption. It stands in for Stable Diffusion where no Hub can be reached, and runs the
same code. It draws emoji-like pictures of the {train_concepts:,} concepts it learned; anything else is a guess.

    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained("path/to/this/folder", dtype=torch.float32)
    image = pipeline("rocket, blob style", guidance_scale={guidance}, num_inference_steps={steps}).images[0]

Style words name the hand: {styles}.
A caption without one works too. Best asked with guidance {guidance} and {steps} steps of DPM-Solver++
(in the folder's `drawing.json`).

{grids}
## Measured

| | |
|---|---|
| autoencoder, PSNR on held-out concepts | {psnr:.2f} dB |
| parameters: autoencoder, UNet, text encoder | {vae:.2f} M, {unet:.2f} M, {text_encoder:.2f} M |

{concepts_measured} training concepts, {siblings} images each, every one in another style; {steps} steps.

| | R@1 | R@5 | diversity | nearest training drawing: same concept | very close to it | seconds an image |
|---|---:|---:|---:|---:|---:|---:|
{rows}

- **R@1, R@5**: how often the real drawing of the same concept, by an artist the generator never saw (Twemoji,
  {gallery:,} drawings), is the nearest, or among the five nearest, in the features of a small encoder trained on the
  real training drawings. The row "real training drawings" flatters: that encoder was trained on them.
- **Diversity**: mean cosine distance between images of one caption in those features.
- **Very close**: root mean square difference below {very_close} at {small} x {small} pixels to some training drawing,
  the measure of copying. Unseen real drawings: {close_artist:.1%} (held-out artist), {close_concepts:.1%} (held-out
  concepts).
- **Seconds** by {threads} threads, the fastest of {timed_batches} batches of {batch}. Other work shared the machine
  and is in them, so rows do not compare: above guidance 1 the UNet runs twice a step whatever the value, at 1 once.
- {drawn} images a row: the standard error of R@1 is about {error:.1%}; closer rows do not differ in it.

## Training

On the split `train` of the pictograms that ship beside it: six styles, training concepts only, no drawing by the
held-out artist. Autoencoder {vae_minutes:.0f} minutes, PSNR {psnr:.1f} dB; then UNet and text encoder together
{unet_minutes:.0f} minutes ({unet_samples:,} samples) by {unet_threads} threads of a shared machine. v-prediction with
zero terminal signal-to-noise ratio, cosine noise schedule, {empty:.0%} empty captions, averaged weights, AdamW. Clock
faces, keycaps and lettered buttons were drawn less often in training: they cannot be told apart at this size. The
autoencoder was annealed after {annealed} steps, with batches of {vae_batches} pictures. Another machine or number of
threads gives a like generator, not the same bytes.
`scripts/train_embedded_generator.py` trains it again, `scripts/measure_embedded_generator.py` writes this card.

{curve}
## Licences

The weights were trained on artwork under Apache-2.0 (Noto Emoji and Noto Emoji 1, Google), MIT (Fluent Emoji,
Microsoft) and CC BY 4.0 (FxEmojis, Mozilla; EmojiTwo, its contributors), with names and tags of emojibase (MIT). They
carry that attribution: keep the file NOTICE with them.

## Weak points

- Small pictures on white; lettering, clock hands and thin lines are lost.
- Concepts it never learned come out as guesses from their words: use it for training captions.
- High guidance ({highest}) saturates colours and makes siblings alike.
- **Too little training time**: the loss was still falling when it ended. Hearts, faces and cats can be recognised;
  most other captions give a blob of about the right colour. R@1 is far above chance and far below the real drawings.
- It repeats the choices of emoji artists, of people above all: hair, clothes and skin are theirs, not the world's.
"""


def save_curve(training: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Loss of the UNet and held-out PSNR of the autoencoder over training time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained")
    vae = [line for line in training["vae"] if "loss" in line]
    left.plot([line["step"] for line in vae], [line["psnr_held_out"] for line in vae])
    left.set(xlabel="step", ylabel="PSNR on held-out concepts (dB)", title="autoencoder")
    unet = training["unet"]
    right.plot([line["samples"] / 1000 for line in unet], [line["loss"] for line in unet])
    right.set(xlabel="thousand samples", ylabel="loss", title="UNet and text encoder", yscale="log")
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def table(results: dict[str, Any]) -> str:
    """The rows of the measured table."""
    lines = []
    for guidance, row in results["guidance"].items():
        lines.append(
            f"| generated, guidance {guidance} | {row['r@1']:.1%} | {row['r@5']:.1%} | {row['diversity']:.2f} | "
            f"{row['nearest_has_same_concept']:.1%} | {row['very_close']:.1%} | {row['seconds_per_image']:.3f} |"
        )
    real, chance = results["real"], results["chance"]
    lines.append(f"| real training drawings | {real['r@1']:.1%} | {real['r@5']:.1%} | {real['diversity']:.2f} | | | |")
    lines.append(f"| chance | {chance['r@1']:.2%} | {chance['r@5']:.2%} | | | | |")
    return "\n".join(lines)


def write_cards(results: dict[str, Any], folder: Path) -> None:
    """The full card in `model_cards/`, and the same without pictures beside the weights."""
    save_curve(results["training"], CARD / "training.png")
    (CARD / "README.md").write_text(render_card(results, with_pictures=True), encoding="utf-8")
    (folder / "generator" / "README.md").write_text(render_card(results, with_pictures=False), encoding="utf-8")


def render_card(results: dict[str, Any], *, with_pictures: bool) -> str:
    """The card, all of whose numbers are measured or of the code that trained and measured."""
    names = {"training": "Captions it learned", "held_out": "Captions it never saw"}
    grids = ""
    for split, title in names.items():
        grids += f"### {title}\n\nRow by row, left half then right: {', '.join(results['grids'][split])}.\n"
        grids += f"Columns: {', '.join(pictures.STYLE_WORDS.values())}.\n\n"
        grids += "".join(f"Guidance {g}\n\n![]({split}-guidance-{g}.png)\n\n" for g in results["guidance"])
    vae, unet = results["training"]["vae"], results["training"]["unet"]
    drawn = results["concepts_measured"] * results["siblings"]
    share = max(row["r@1"] for row in results["guidance"].values())
    facts = {
        "total": sum(results["parameters"].values()) / 1e6,
        "megabytes": results["megabytes"],
        "pixels": results["pixels"],
        "train_concepts": results["train_concepts"],
        "guidance": assets.drawing_defaults()["guidance_scale"],
        "steps": results["steps"],
        "styles": ", ".join(f"{word} ({style})" for style, word in pictures.STYLE_WORDS.items()),
        "psnr": results["psnr_held_out_concepts"],
        **{name: count / 1e6 for name, count in results["parameters"].items()},
        "concepts_measured": results["concepts_measured"],
        "siblings": results["siblings"],
        "rows": table(results),
        "drawn": drawn,
        "error": (share * (1 - share) / drawn) ** 0.5,
        "gallery": results["gallery"],
        "close_artist": results["real"]["very_close_held_out_artist"],
        "close_concepts": results["real"]["very_close_held_out_concepts"],
        "vae_minutes": results["minutes"]["vae"],
        "unet_minutes": results["minutes"]["unet"],
        "unet_samples": unet[-1]["samples"],
        "unet_threads": unet[-1]["threads"],
        "annealed": " and ".join(f"{line['step']:,}" for line in vae if line.get("split") == "whole"),
        "vae_batches": ", then ".join(
            dict.fromkeys(str(line["samples"] // line["step"]) for line in vae if "samples" in line)
        ),
        "empty": read_world(WORLD).denoiser.caption_dropout,
        "highest": list(results["guidance"])[-1],
        **results["measuring"],
    }
    if with_pictures:
        return FRONT + BODY.format(**facts, grids=grids, curve="![](training.png)\n")
    curve = "Sample grids and the curve: `model_cards/embedded-generator/`.\n"
    return FRONT + BODY.format(**facts, grids="", curve=curve)
