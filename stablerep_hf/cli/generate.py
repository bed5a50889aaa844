"""`stablerep generate`: captions to a caption-grouped data set."""

from __future__ import annotations

import glob
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..setting import setting
from ..synthesis.settings import GenerationSettings, ScoringSettings, SigningSettings
from ..synthesis.workers import rank_and_world_size
from .parsing import Command
from .score import print_missing_scores

if TYPE_CHECKING:
    from ..synthesis import SynthesisEstimate


@dataclass
class GenerateFlags:
    """Flags of `stablerep generate` beside the settings of the run."""

    license: str | None = setting(
        None, "Licence of the images, for their card: a Hub licence id; cc-by-4.0 if embedded."
    )
    dry_run: bool = setting(False, "Draw two batches, say what all would take, and write nothing.")
    dollars_per_hour: float | None = setting(None, "With --dry-run: price of one worker's hour, for the cost.")


COMMAND = Command(
    "generate",
    "Draw several images of each caption into a data set.",
    [GenerationSettings, GenerateFlags, ScoringSettings, SigningSettings],
    titles=("captions, generator and output", "card and dry run", "models that score", "signing"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, draw or estimate, say where the data set is."""
    settings, flags, scoring, signing = COMMAND.parse(argv)
    from ..runs.generation import GenerationRun

    run = GenerationRun(settings, None if flags.dry_run else scoring, signing, license=flags.license)
    if run.known_words is not None:
        print(
            f"{run.known_words} --generator names any text-to-image pipeline of diffusers instead, such as "
            "stable-diffusion-v1-5/stable-diffusion-v1-5."
        )
    if flags.dry_run:
        print(_estimate(run.estimate(), run.free_bytes, flags.dollars_per_hour, settings.dollars_per_image))
        return
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"stablerep generate: {message}", file=sys.stderr)
        result = run.run()
    if result.is_complete:
        print_missing_scores(settings.output, result.unscored)
    what = "The data set is" if rank_and_world_size()[1] == 1 else "This worker's part of the data set is"
    print(f"{what} in {settings.output}: {loading_line(settings.output)}")


def loading_line(folder: str) -> str:
    """The Python that loads a data set's folder; `datasets` would take brackets in its name for a pattern."""
    if glob.escape(folder) == folder:
        return f"datasets.load_dataset({folder!r})"
    return f"datasets.load_dataset('parquet', data_files={glob.escape(f'{folder}/data/') + '*.parquet'!r})"


def _estimate(
    estimate: SynthesisEstimate, free: int, dollars_per_hour: float | None, dollars_per_image: float | None
) -> str:
    images = f"images     {estimate.num_images:>14,} in {estimate.num_shards:,} shards"
    if estimate.num_images and not estimate.bytes_per_image:
        price = (
            ""
            if dollars_per_image is None
            else (
                f"\ncost       {estimate.num_images * dollars_per_image:>14,.2f} $ at {dollars_per_image} $ an image"
            )
        )
        return f"{images}; nothing was drawn to measure, as it would be billed{price}"
    batch = f"{estimate.batch_size} images, {estimate.seconds_per_batch:.2f} s each"
    lines = [
        images,
        f"batches    {estimate.num_batches:>14,} of {batch}",
        f"bytes      {estimate.num_bytes:>14,.0f} about {estimate.bytes_per_image:,.0f} an image; {free:,} are free",
        f"hours      {estimate.seconds / 3600:>14,.2f} on one worker like this one, from a warm batch",
    ]
    if dollars_per_hour is not None:
        lines.append(f"cost       {estimate.cost(dollars_per_hour):>14,.2f} $ at {dollars_per_hour} $/h")
    if estimate.num_truncated:
        lines.append(f"truncated  {estimate.num_truncated:>14,} prompts are longer than the text encoder reads")
    if estimate.num_bytes > free:
        lines.append("The disk is too small for that.")
    return "\n".join(lines)
