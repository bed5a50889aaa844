"""`stablerep generate`: captions to a caption-grouped data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from ..synthesis import SynthesisSummary

EMBEDDED = "embedded"
RELEASE_DEFAULTS: dict[str, Any] = {
    # StableRep/README.md, data generation: --scale 2.0, 50 DDIM steps, the caption alone as the prompt
    "guidance_scale": 2.0,
    "num_inference_steps": 50,
    "prompt_templates": ("{caption}",),
}


@dataclass
class GenerateCommand:
    """Flags of `stablerep generate`."""

    captions: str = field(
        default=EMBEDDED, metadata={"help": "Text, CSV, JSONL or parquet file, a data set, or 'embedded'."}
    )
    caption_column: str | None = field(default=None, metadata={"help": "Where the source has several text columns."})
    num_captions: int | None = field(default=None, metadata={"help": "Use so many, spread evenly over the source."})
    generator: str = field(
        default=EMBEDDED,
        metadata={"help": "Text-to-image pipeline: Hub id or folder in diffusers format, or 'embedded'."},
    )
    revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the generator's repository."}
    )
    images_per_caption: int = field(default=4, metadata={"help": "Images of each caption; the release drew 10."})
    guidance_scale: float | None = field(
        default=None, metadata={"help": "Classifier-free guidance; 2.0 (the release's) unless the embedded generator."}
    )
    num_inference_steps: int | None = field(
        default=None, metadata={"help": "Denoising steps; 50 (the release's) unless the embedded generator."}
    )
    scheduler: str | None = field(
        default=None, metadata={"help": "Name of a diffusers scheduler; the pipeline's own if not given."}
    )
    negative_prompt: str | None = field(default=None, metadata={"help": "What the images should not show."})
    prompt_template: list[str] | None = field(
        default=None,
        metadata={
            "help": "Prompts with {caption} in them, one after another for siblings; '{caption}' unless embedded."
        },
    )
    height: int | None = field(default=None, metadata={"help": "Pixels; the pipeline's own if not given."})
    width: int | None = field(default=None, metadata={"help": "Pixels; the pipeline's own if not given."})
    image_format: Literal["jpeg", "png", "webp"] = field(default="jpeg", metadata={"help": "How images are stored."})
    seed: int = field(default=0, metadata={"help": "Every image's own seed follows from it."})
    license: str | None = field(
        default=None, metadata={"help": "Of the images, for the card: a Hub licence id; cc-by-4.0 if embedded."}
    )
    output: str = field(default="synthetic-images", metadata={"help": "Folder of the data set."})
    batch_size: int = field(default=64, metadata={"help": "Images drawn at once; changes no image."})
    captions_per_shard: int = field(
        default=64, metadata={"help": "Captions in one file: the unit of work and resume."}
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = field(
        default=None, metadata={"help": "float16 on a GPU, float32 elsewhere, if not given."}
    )
    device: str | None = field(default=None, metadata={"help": "cuda, mps, cpu; the fastest there is if not given."})
    max_failed_captions: int = field(
        default=0, metadata={"help": "Captions that may get no picture (skipped and counted) before the run stops."}
    )


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    from .parsing import parse_command

    (command,) = parse_command(
        [GenerateCommand], argv, name="generate", description="Draw several images of each caption into a data set."
    )
    run(command)
    print(f"The data set stands in {command.output}: datasets.load_dataset({command.output!r})")


def run(command: GenerateCommand) -> SynthesisSummary:
    """Draw what is missing and write the data set's card.

    Raises:
        InputError: The captions, the generator or the folder cannot serve.
    """
    import numpy as np

    from .. import assets
    from ..captions import read_captions
    from ..synthesis import DiffusersGenerator, SynthesisPlan, read_provenance, synthesize
    from . import facts

    if command.num_captions is not None and command.num_captions < 1:
        raise InputError(f"num_captions={command.num_captions} leaves nothing to draw: give at least 1.")
    source = assets.captions_path() if command.captions == EMBEDDED else command.captions
    captions = read_captions(source, command.caption_column)
    if command.num_captions is not None and command.num_captions < len(captions):
        captions = captions.select(np.linspace(0, len(captions) - 1, command.num_captions).round().astype(np.int64))
    embedded = command.generator == EMBEDDED
    own = assets.drawing_defaults() if embedded else RELEASE_DEFAULTS
    rank, world_size = _rank_and_world_size()
    generator = DiffusersGenerator(
        command.generator,
        command.revision,
        guidance_scale=_or(command.guidance_scale, own["guidance_scale"]),
        num_inference_steps=_or(command.num_inference_steps, own["num_inference_steps"]),
        scheduler=command.scheduler,
        negative_prompt=command.negative_prompt,
        height=command.height,
        width=command.width,
        dtype=command.dtype,
        device=command.device or _own_gpu(),
    )
    plan = SynthesisPlan(
        captions,
        generator.describe(),
        images_per_caption=command.images_per_caption,
        prompt_templates=tuple(_or(command.prompt_template, own["prompt_templates"])),
        base_seed=command.seed,
        image_format=command.image_format,
        captions_per_shard=command.captions_per_shard,
    )
    summary = synthesize(
        plan,
        generator,
        command.output,
        batch_size=command.batch_size,
        rank=rank,
        world_size=world_size,
        max_failed_captions=command.max_failed_captions,
    )
    provenance = read_provenance(command.output)
    if len(provenance.shards) == plan.num_shards:  # else others are still drawing; the last one writes the card
        license = command.license or ("cc-by-4.0" if embedded else "unknown")
        facts.write_data_card(command.output, license, embedded)
    return summary


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given


def _rank_and_world_size() -> tuple[int, int]:
    """Place among the launcher's workers: torchrun and `accelerate launch`, or a Slurm array, wherever it starts."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        task, first, count = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT"))
        return (task - first) // int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1")), count
    return 0, 1


def _own_gpu() -> str | None:
    """The GPU that is this worker's among those of its machine, or None to let the generator choose."""
    import torch

    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return None
