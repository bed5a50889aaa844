"""Train a small text-to-image generator on captioned pictures: a `StableDiffusionPipeline` folder comes out.

    python scripts/train_embedded_generator.py scripts/embedded_generator/pictograms.yaml \
        --data stablerep_hf/assets --work .cache/generator --output stablerep_hf/assets/generator
    python scripts/train_embedded_generator.py scripts/embedded_generator/photos.yaml \
        --data ../shared/data --work .cache/photos

The pictures are what `datasets.load_dataset` reads: a column `image`, and `captions` (several a picture), `caption` or
a class `label` whose names become prompts. It can be killed at any moment: the same command goes on from the last
checkpoint. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from embedded_generator import autoencoder, denoiser, export, looking
from embedded_generator.captioned import CaptionedPictures, load_held_out
from embedded_generator.pictures import Pictograms
from embedded_generator.world import World, read_world

from stablerep_hf.errors import InputError


def train(world: World, data: Path, work: Path, output: Path, minutes: float | None = None) -> bool:
    """Train all stages and write the pipeline; True when it is finished, False when the minutes ended first.

    Args:
        world: What to train.
        data: Folder that the sources of the world are relative to.
        work: Folder of checkpoints, logs, grids and judgements.
        output: Folder of the pipeline.
        minutes: Of each stage in this call; None trains to the end.
    """
    pictures = {"captioned": CaptionedPictures, "pictograms": Pictograms}[world.pictures](world, data)
    print(f"{len(pictures)} pictures, left out as look-alikes of held-out ones: {pictures.dropped}", flush=True)
    held_out = load_held_out(world, data)
    vae = autoencoder.train(world, pictures, held_out, work, minutes)
    if vae is None:
        return False
    looks = looking.Looks(world, vae, held_out, work)

    def look(models: denoiser.Models, step: int) -> None:
        looks(models, step)
        export.export(world, models, vae, output)  # so that there is something to draw with before it is finished

    models, finished = denoiser.train(world, pictures, vae, work, minutes, look)
    export.export(world, models, vae, output)
    return finished


def export_last(world: World, work: Path, output: Path) -> None:
    """Write the pipeline of the last checkpoint, also while another process trains."""
    models, vae = denoiser.load_trained(world, work), autoencoder.load_finished(world, work)
    assert vae is not None  # finished before the denoiser began
    export.export(world, models, vae, output)


def main() -> int:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path, help="YAML file: what to learn from, and how")
    parser.add_argument("--data", type=Path, default=Path(), help="folder that the sources of the world lie in")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints, loss logs, grids and judgements")
    parser.add_argument("--output", type=Path, help="folder of the pipeline (WORK/pipeline)")
    parser.add_argument("--minutes", type=float, help="stop at a checkpoint after so long; the same command goes on")
    parser.add_argument("--export-only", action="store_true", help="write the pipeline of the last checkpoint")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    output = options.output or options.work / "pipeline"
    try:
        world = read_world(options.world)
        if options.export_only:
            export_last(world, options.work, output)
        else:
            train(world, options.data, options.work, output, options.minutes)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
