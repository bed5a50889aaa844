"""How much of the time the networks work, how that compares with a plain loop, and what a second worker adds.

    python scripts/bench_synthesis.py --captions 64 --images-per-caption 4

Draws the same captions three ways with one generator: by `synthesize`; by a plain loop that calls the pipeline once a
caption and saves the files, as tutorials do; and by two workers at once that start together. Each process has the same
number of threads (--threads, one a core as a rule), so the second worker has a core of its own. Prints images/s, and
the ratios: share of wall time inside denoiser, decoder and text encoder; over the plain loop; two workers over one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from stablerep_hf import CaptionSet, DiffusersGenerator, SynthesisPlan, assets, read_captions, synthesize


def make_generator(arguments: argparse.Namespace) -> DiffusersGenerator:
    """The generator under test."""
    return DiffusersGenerator(arguments.generator, num_inference_steps=arguments.num_inference_steps)


def make_plan(arguments: argparse.Namespace, generator: DiffusersGenerator) -> SynthesisPlan:
    """Some captions that come with the package."""
    captions: CaptionSet = read_captions(assets.captions_path()).head(arguments.captions)
    return SynthesisPlan(
        captions,
        generator,
        images_per_caption=arguments.images_per_caption,
        prompt_templates=["{caption}"],
        captions_per_shard=16,
    )


class Clock:
    """Adds up the wall time inside modules; calls within calls are counted once."""

    def __init__(self, modules: list[Any]) -> None:
        import torch

        self.seconds, self._depth, self._begin = 0.0, 0, 0.0
        self._synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        for module in modules:
            for name in ("forward", "decode", "encode"):
                if hasattr(module, name):
                    setattr(module, name, self._timed(getattr(module, name)))

    def _timed(self, function: Any) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            if self._depth == 0:
                self._synchronize()
                self._begin = time.perf_counter()
            self._depth += 1
            try:
                return function(*arguments, **settings)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._synchronize()
                    self.seconds += time.perf_counter() - self._begin

        return call


def draw(
    arguments: argparse.Namespace, folder: Path, rank: int = 0, world_size: int = 1, start: Any = None
) -> dict[str, float]:
    """By `synthesize`, after a warm-up and when `start` lets all workers go; images, times, share inside networks."""
    import torch

    torch.set_num_threads(arguments.threads)
    generator = make_generator(arguments)
    plan = make_plan(arguments, generator)
    generator(["warm"] * arguments.batch_size, list(range(arguments.batch_size)))
    parts = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    clock = Clock([part for name in parts if (part := getattr(generator.pipeline, name, None)) is not None])
    if start is not None:
        start.wait()
    begin = time.time()
    summary = synthesize(
        plan, generator, folder, batch_size=arguments.batch_size, rank=rank, world_size=world_size, progress=False
    )
    end = time.time()
    return {"images": summary.num_drawn, "begin": begin, "end": end, "share": clock.seconds / (end - begin)}


def loop(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """By a plain loop of pipeline calls, one caption at a time."""
    import torch

    torch.set_num_threads(arguments.threads)
    generator = make_generator(arguments)
    plan, pipeline, m = make_plan(arguments, generator), generator.pipeline, arguments.images_per_caption
    settings = {"num_inference_steps": generator.num_inference_steps, "guidance_scale": generator.guidance_scale}
    pipeline("warm", num_images_per_prompt=m, **settings)
    begin = time.perf_counter()
    for number, caption in enumerate(plan.captions):
        seeds = [torch.Generator().manual_seed(number * m + k) for k in range(m)]
        images = pipeline(caption, num_images_per_prompt=m, generator=seeds, **settings).images
        for k, image in enumerate(images):
            image.save(folder / f"{number}-{k}.jpg", quality=95)
    return {"images_per_second": plan.num_images / (time.perf_counter() - begin)}


def _worker(queue: Any, arguments: argparse.Namespace, folder: Path, rank: int, workers: int, start: Any) -> None:
    queue.put(draw(arguments, folder, rank, workers, start))


def by_workers(arguments: argparse.Namespace, folder: Path, number: int) -> dict[str, float]:
    """So many processes on one folder: images/s of all, from the first one's start to the last one's end."""
    context = multiprocessing.get_context("spawn")
    queue, start = context.Queue(), context.Barrier(number)
    workers = [
        context.Process(target=_worker, args=(queue, arguments, folder, rank, number, start)) for rank in range(number)
    ]
    for worker in workers:
        worker.start()
    found = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    seconds = max(result["end"] for result in found) - min(result["begin"] for result in found)
    return {
        "images_per_second": sum(result["images"] for result in found) / seconds,
        "share_in_networks": sum(result["share"] for result in found) / number,
    }


def main() -> None:
    """Measure the three ways and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", default="embedded")
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--images-per-caption", type=int, default=4)
    parser.add_argument("--num-inference-steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / name for name in ("one", "loop", "two")]
        folders[1].mkdir()
        one, plain = by_workers(arguments, folders[0], 1), loop(arguments, folders[1])
        two = by_workers(arguments, folders[2], 2)
    result = {
        "settings": vars(arguments),
        "load_average": os.getloadavg()[0],  # above the processes' own number: other work ran beside
        "images_per_second": {
            "synthesize": one["images_per_second"],
            "plain loop": plain["images_per_second"],
            "two workers": two["images_per_second"],
        },
        "share_in_networks": one["share_in_networks"],
        "over_plain_loop": one["images_per_second"] / plain["images_per_second"],
        "two_workers_over_one": two["images_per_second"] / one["images_per_second"],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
