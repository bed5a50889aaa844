"""`stablerep generate`: captions to a caption-grouped data set."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..assets import EMBEDDED
from ..errors import InputError
from .scoring import ScoringModels, load_scorers, say_unscored

if TYPE_CHECKING:
    from ..synthesis import ContentSigner, DiffusersGenerator, SynthesisPlan, SynthesisSummary


RELEASE_DEFAULTS: dict[str, Any] = {
    # StableRep/README.md, data generation: --scale 2.0, 50 DDIM steps, the caption alone as the prompt. The generator
    # itself falls back on that scale, unless it is a model without guidance.
    "guidance_scale": None,
    "num_inference_steps": 50,
    "prompt_templates": ("{caption}",),
}


@dataclass
class GenerateCommand:
    """Flags of `stablerep generate`."""

    captions: str = field(
        default=EMBEDDED, metadata={"help": "Text, CSV, JSONL or parquet file, a data set, or 'embedded'."}
    )
    caption_column: str | None = field(
        default=None, metadata={"help": "Column of the captions, where the source has several text columns."}
    )
    num_captions: int | None = field(
        default=None, metadata={"help": "Use so many captions, spread evenly over the source."}
    )
    generator: str = field(
        default=EMBEDDED,
        metadata={"help": "Text-to-image pipeline: Hub id or folder in diffusers format, or 'embedded'."},
    )
    revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the generator's repository."}
    )
    images_per_caption: int = field(
        default=4,
        metadata={"help": "Images of each caption whose set does not say how many; the release drew 10."},
    )
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
    lora: str | None = field(
        default=None, metadata={"help": "LoRA to merge in: safetensors file, folder, Hub id or ID@REVISION."}
    )
    lora_scale: float = field(default=1.0, metadata={"help": "Weight of the LoRA."})
    image_format: Literal["jpeg", "png", "webp"] = field(default="jpeg", metadata={"help": "How images are stored."})
    stored_size: int | None = field(
        default=None, metadata={"help": "Pixels of a stored image's shorter side; the release drew 512, stored 256."}
    )
    truncate_prompts: bool = field(
        default=False,
        metadata={"help": "Draw prompts that are too long from their beginning; else they are refused."},
    )
    seed: int = field(default=0, metadata={"help": "Every image's own seed follows from it."})
    license: str | None = field(
        default=None,
        metadata={"help": "Licence of the images, for their card: a Hub licence id; cc-by-4.0 if embedded."},
    )
    generator_license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the generator, for the rows; what its card says if not given. A folder keeps its own."
        },
    )
    output: str = field(default="synthetic-images", metadata={"help": "Folder of the data set."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Images drawn at once; changes no image. What should fit if not given."}
    )
    captions_per_shard: int | None = field(
        default=None,
        metadata={"help": "Captions in one file, the unit of work and resume; 64, or more from 6.4 million captions."},
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = field(
        default=None, metadata={"help": "float16 on a GPU, float32 elsewhere, if not given."}
    )
    device: str | None = field(
        default=None,
        metadata={
            "help": "cuda, mps, cpu; the fastest there is if not given. Of several GPUs each worker takes its own."
        },
    )
    attention: str | None = field(
        default=None, metadata={"help": "'slicing' saves memory; or a backend of diffusers, such as native or flash."}
    )
    autoencoder: list[str] | None = field(
        default=None,
        metadata={"help": "'slicing' decodes image by image, 'tiling' tile by tile; slicing on a GPU if not given."},
    )
    offload: bool = field(default=False, metadata={"help": "Keep on the GPU only the part that is at work."})
    compile: bool = field(default=False, metadata={"help": "Compile the denoiser: slow to start, then faster."})
    max_failed_captions: int = field(
        default=0, metadata={"help": "Captions that may get no picture (skipped and counted) before the run stops."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Draw two batches, say what all would take, and write nothing."}
    )
    dollars_per_hour: float | None = field(
        default=None, metadata={"help": "With --dry-run: price of one worker's hour, for the cost."}
    )


@dataclass
class SigningFlags:
    """Flags that say with what image files are signed (C2PA): of `stablerep generate` and of `stablerep verify`."""

    certificate: str | None = field(
        default=None,
        metadata={"help": "Sign image files (C2PA): PEM file of the signer's certificate and its issuers'."},
    )
    private_key: str | None = field(default=None, metadata={"help": "PEM file of the certificate's key."})
    timestamp_url: str | None = field(
        default=None, metadata={"help": "Time-stamping authority (RFC 3161) for the signatures, asked once an image."}
    )


def run(
    command: GenerateCommand, models: ScoringModels | None = None, signing: SigningFlags | None = None
) -> SynthesisSummary:
    """Draw what is missing and write the data set's card.

    Args:
        command: What to draw, and with what.
        models: What measures the images as they are drawn; nothing if not given.
        signing: What signs them; nothing if not given.

    Raises:
        InputError: The captions, the generator, a model, the certificate or the folder cannot serve.
    """
    from ..files.places import check_owned
    from ..files.shards import PROVENANCE
    from ..synthesis import read_provenance, synthesize
    from ..synthesis.store import ShardStore
    from . import cards

    check_owned(command.output, PROVENANCE)
    if command.license is not None:
        cards.check_license(command.license)
    signer = open_signer(signing)
    plan, generator = plan_and_generator(command, signer)
    scorers = load_scorers(models, generator.device) if models is not None else []
    rank, world_size = _rank_and_world_size()
    scored = ShardStore(command.output, plan).scored_columns()
    summary = synthesize(
        plan,
        generator,
        command.output,
        batch_size=_or(command.batch_size, generator.default_batch_size),
        rank=rank,
        world_size=world_size,
        max_failed_captions=command.max_failed_captions,
        truncate_prompts=command.truncate_prompts,
        scorers=scorers,
        signer=signer,
    )
    provenance = read_provenance(command.output)
    if len(provenance.shards) == plan.num_shards:  # else others are still drawing; the last one writes the card
        cards.write_data_card(command.output, command.license)
        say_unscored(command.output, scored)
    return summary


def open_signer(signing: SigningFlags | None) -> ContentSigner | None:
    """What the flags sign with; None if they say nothing.

    Raises:
        InputError: One of certificate and key is missing, or they sign nothing.
    """
    if signing is None or not (signing.certificate or signing.private_key or signing.timestamp_url):
        return None
    if not signing.certificate or not signing.private_key:
        raise InputError("--certificate and --private-key go together: images are signed with both.")
    from ..synthesis import ContentSigner

    return ContentSigner(signing.certificate, signing.private_key, signing.timestamp_url)


def dry_run(command: GenerateCommand, signing: SigningFlags | None = None) -> str:
    """Say what is missing and what it would take, from a measured batch.

    Raises:
        InputError: The captions, the generator or the folder cannot serve.
    """
    import shutil

    from ..files.places import check_owned
    from ..files.shards import PROVENANCE
    from ..synthesis import estimate_synthesis

    check_owned(command.output, PROVENANCE)
    signer = open_signer(signing)
    plan, generator = plan_and_generator(command, signer)
    batch_size = _or(command.batch_size, generator.default_batch_size)
    estimate = estimate_synthesis(
        plan,
        generator,
        command.output,
        batch_size=batch_size,
        truncate_prompts=command.truncate_prompts,
        signer=signer,
    )
    place = Path(command.output).resolve()
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    lines = [
        f"images     {estimate.num_images:>14,} in {estimate.num_shards:,} shards",
        f"batches    {estimate.num_batches:>14,} of {batch_size} images, {estimate.seconds_per_batch:.2f} s each",
        f"bytes      {estimate.num_bytes:>14,.0f} about {estimate.bytes_per_image:,.0f} an image; {free:,} are free",
        f"hours      {estimate.seconds / 3600:>14,.2f} on one worker like this one, from a warm batch",
    ]
    if command.dollars_per_hour is not None:
        lines.append(
            f"cost       {estimate.cost(command.dollars_per_hour):>14,.2f} $ at {command.dollars_per_hour} $/h"
        )
    if estimate.num_bytes > free:
        lines.append("The disk is too small for that.")
    return "\n".join(lines)


def plan_and_generator(
    command: GenerateCommand, signer: ContentSigner | None = None
) -> tuple[SynthesisPlan, DiffusersGenerator]:
    """Read the captions and find the generator.

    Raises:
        InputError: Either cannot serve.
    """
    import numpy as np

    from .. import assets
    from ..captions import read_captions
    from ..synthesis import DiffusersGenerator, SynthesisPlan
    from ..synthesis.plan import MOST_SHARDS

    if command.guidance_scale is not None and not 0 <= command.guidance_scale < math.inf:
        raise InputError(
            f"--guidance-scale {command.guidance_scale} would drive images away from their captions: give 0 or more."
        )
    if command.num_captions is not None and command.num_captions < 1:
        raise InputError(f"num_captions={command.num_captions} leaves nothing to draw: give at least 1.")
    source = assets.captions_path() if command.captions == EMBEDDED else command.captions
    captions = read_captions(source, command.caption_column)
    if command.num_captions is not None:
        if command.num_captions > len(captions):
            raise InputError(
                f"--num-captions {command.num_captions} asks for more than the {len(captions)} different captions of "
                f"{command.captions}: give fewer, or leave it out to use them all."
            )
        captions = captions.select(np.linspace(0, len(captions) - 1, command.num_captions).round().astype(np.int64))
    own = assets.drawing_defaults() if command.generator == EMBEDDED else RELEASE_DEFAULTS
    generator = DiffusersGenerator(
        command.generator,
        command.revision,
        guidance_scale=_or(command.guidance_scale, own["guidance_scale"]),
        num_inference_steps=_or(command.num_inference_steps, own["num_inference_steps"]),
        scheduler=command.scheduler,
        negative_prompt=command.negative_prompt,
        height=command.height,
        width=command.width,
        lora=command.lora,
        lora_scale=command.lora_scale,
        dtype=command.dtype,
        device=_own_device(command.device),
        attention=command.attention,
        autoencoder=command.autoencoder,
        offload=command.offload,
        compile=command.compile,
        license=command.generator_license,
    )
    plan = SynthesisPlan(
        captions,
        generator.describe(),
        images_per_caption=command.images_per_caption,
        prompt_templates=tuple(_or(command.prompt_template, own["prompt_templates"])),
        base_seed=command.seed,
        image_format=command.image_format,
        stored_size=command.stored_size,
        captions_per_shard=_or(command.captions_per_shard, max(64, -(-len(captions) // MOST_SHARDS))),
        signature=None if signer is None else signer.describe(),
    )
    return plan, generator


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given


def _rank_and_world_size() -> tuple[int, int]:
    """Place among the launcher's workers: torchrun and `accelerate launch` (or RANK and WORLD_SIZE by hand), or Slurm.

    In Slurm a worker is a task of `srun`, a task of an array (wherever its numbers start), or both.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _number("RANK"), _number("WORLD_SIZE")
    rank, world_size = 0, 1
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        task, first, world_size = (_number(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "COUNT"))
        rank = (task - first) // (_number("SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in os.environ else 1)
        if rank >= world_size:
            raise InputError(
                f"Task {task} of a Slurm array of {world_size} that begins at {first} has a gap before it, so its "
                f"place among the workers cannot be told: use an array without gaps, as --array=0-{world_size - 1}."
            )
    if "SLURM_STEP_NUM_TASKS" in os.environ:  # srun's; a batch script alone has none, though it may ask for many tasks
        tasks = _number("SLURM_STEP_NUM_TASKS")
        rank, world_size = rank * tasks + _number("SLURM_PROCID"), world_size * tasks
    return rank, world_size


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise InputError(
            f"The environment has {name}={os.environ[name]!r}, which is no whole number: leave it to the launcher, or "
            "unset it."
        ) from error


def _own_device(device: str | None) -> str | None:
    """The device that was asked for, a GPU without a number being this worker's among those of its machine."""
    import torch

    if device in (None, "cuda") and torch.cuda.is_available():
        for name in ("LOCAL_RANK", "SLURM_LOCALID"):
            if os.environ.get(name):
                return f"cuda:{_number(name) % torch.cuda.device_count()}"
    return device
