"""The card of a generator of photos, from its measured numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .world import World

BODY = """# A generator of photos, {pixels} x {pixels} pixels

A `StableDiffusionPipeline` of {total:.1f} M parameters (autoencoder {vae:.2f} M, UNet {unet:.2f} M, text encoder
{text_encoder:.2f} M), trained from nothing on {learned:,} captioned photos: {sources}. Photos that look like one of a
held-out set were left out: {dropped}. **Its weights and the photos are not published**: the photos are for research
only. This page holds numbers and drawn pictures; `scripts/train_embedded_generator.py` trains it again.

## Measured

{captions} captions, {siblings} pictures each, {steps} steps of DPM-Solver++, compared with {held_out:,} real photos
({judged_against}) by EfficientNet-Lite0, which was trained on ImageNet's labels and judges only.

| | KID x 1000 | class recognised | among five | diversity | nearest training photo | very close | seconds an image |
|---|---:|---:|---:|---:|---:|---:|---:|
{rows}

- **KID**: kernel inception distance in the judge's features, mean ± standard deviation over subsets; smaller is nearer
  to real photos. The row "real" are training photos, the row "rebuilt" the same through the autoencoder: no
  generator on it can do better.
- **Recognised**: the judge's first guess, or one of its first five, among the classes that can occur.
- **Diversity**: mean cosine distance between pictures of one caption; of real photos, between those of one class.
- **Nearest**: median root mean square difference at half the size to a training photo or its mirror image, values in
  [0, 1]; **very close**: below {very_close_below}, the measure of copying. The row "real" are held-out photos.
- **Seconds** by {threads} thread(s) of a shared machine, the fastest of a few batches.

## While it trained

| step | samples | KID x 1000 | class recognised |
|---:|---:|---:|---:|
{history}

Autoencoder: {vae_steps:,} steps, {psnr:.1f} dB on held-out photos. UNet and text encoder: {unet_steps:,} steps,
{unet_samples:,} samples in {unet_hours:.1f} hours of one thread that other work was put before, {rate:.0f} a second.
{objective}, averaged weights, {dropout:.0%} empty captions.

## Drawn

Row by row, left half then right: {shown}.

{grids}
"""


def write(results: dict[str, Any], world: World, folder: Path) -> None:
    """Write `README.md`."""
    (folder / "README.md").write_text(render(results, world), encoding="utf-8")


def render(results: dict[str, Any], world: World) -> str:
    """The card, all of whose numbers are measured or of the world."""
    autoencoder, denoiser = results["training"]["autoencoder"], results["training"]["denoiser"]
    seconds, samples = denoiser[-1]["seconds"], denoiser[-1]["samples"]
    rows = [_row(f"drawn, guidance {g}", row) for g, row in results["guidance"].items()]
    per_step = world.denoiser.batch_size
    history = [
        f"| {line['step']:,} | {line['step'] * per_step:,} | {1000 * line['kid']:.1f} "
        f"| {_share(line.get('recognised_drawn'))} |"
        for line in results["judgements"]
    ]
    return BODY.format(
        **{
            k: results[k] for k in ("pixels", "learned", "captions", "siblings", "steps", "held_out", "judged_against")
        },
        **{name: count / 1e6 for name, count in results["parameters"].items()},
        total=sum(results["parameters"].values()) / 1e6,
        sources=", ".join(f"{source.data} ({source.share:g} of a batch)" for source in world.sources),
        dropped=", ".join(f"{count} of {name}" for name, count in results["dropped"].items()),
        rows="\n".join([*rows, _row("real", results["real"]), _row("rebuilt", results["rebuilt"])]),
        very_close_below=results["very_close_below"],
        threads=results["threads"],
        history="\n".join(history),
        vae_steps=autoencoder[-1]["step"],
        psnr=autoencoder[-1]["psnr_held_out"],
        unet_steps=denoiser[-1]["step"],
        unet_samples=samples,
        unet_hours=seconds / 3600,
        rate=samples / seconds,
        objective={"flow": "Flow matching", "v_prediction": "v-prediction"}[world.denoiser.objective],
        dropout=world.denoiser.caption_dropout,
        shown="; ".join(world.shown),
        grids="\n".join(f"Guidance {g}\n\n![](guidance-{g}.png)\n" for g in results["guidance"]).rstrip(),
    )


def _row(name: str, values: dict[str, float]) -> str:
    cells = [
        f"{1000 * values['kid']:.1f} ± {1000 * values['kid_deviation']:.1f}",
        _share(values.get("recognised")),
        _share(values.get("recognised_in_5")),
        *(
            f"{values[key]:.{digits}f}" if key in values else ""
            for key, digits in (("diversity", 2), ("median_distance", 3))
        ),
        _share(values.get("very_close")),
        f"{values['seconds_per_image']:.3f}" if "seconds_per_image" in values else "",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
