"""How much of the time the networks work, and how that compares with calling the pipeline caption by caption.

    python scripts/bench_synthesis.py --captions 64 --images-per-caption 4

Draws the same captions three ways with one generator: by `synthesize`; by a plain loop that calls the pipeline once a
caption and saves the files, as tutorials do; and by two workers at once. Reports images/s, and for the first the share
of wall time inside denoiser, decoder and text encoder. With --loaded the result says that the machine was busy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from stablerep_hf import CaptionSet, DiffusersGenerator, SynthesisPlan, assets, read_captions, synthesize


def make_generator(arguments: argparse.Namespace) -> DiffusersGenerator:
    """The generator under test, with its own settings if it is the embedded one."""
    own: dict[str, Any] = {"num_inference_steps": arguments.num_inference_steps}
    if arguments.generator == "embedded":
        own["guidance_scale"] = assets.drawing_defaults()["guidance_scale"]
    return DiffusersGenerator(arguments.generator, **own)


def make_plan(arguments: argparse.Namespace, generator: DiffusersGenerator) -> SynthesisPlan:
    """Some captions that come with the package."""
    captions: CaptionSet = read_captions(assets.captions_path()).head(arguments.captions)
    return SynthesisPlan(
        captions, generator.describe(), images_per_caption=arguments.images_per_caption, captions_per_shard=16
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


def draw(arguments: argparse.Namespace, folder: Path, rank: int = 0, world_size: int = 1) -> dict[str, float]:
    """By `synthesize`, after a warm-up; images/s and the share of time inside the networks."""
    generator = make_generator(arguments)
    plan = make_plan(arguments, generator)
    generator(["warm"] * arguments.batch_size, list(range(arguments.batch_size)))
    parts = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    clock = Clock([part for name in parts if (part := getattr(generator.pipeline, name, None)) is not None])
    begin = time.perf_counter()
    summary = synthesize(
        plan, generator, folder, batch_size=arguments.batch_size, rank=rank, world_size=world_size, progress=False
    )
    seconds = time.perf_counter() - begin
    return {"images_per_second": summary.num_drawn / seconds, "share_in_networks": clock.seconds / seconds}


def loop(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """By a plain loop of pipeline calls, one caption at a time."""
    import torch

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


def _worker(queue: Any, arguments: argparse.Namespace, folder: Path, rank: int) -> None:
    queue.put(draw(arguments, folder, rank, 2))


def two_workers(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Two processes on the same folder; the sum of their images/s."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_worker, args=(queue, arguments, folder, rank)) for rank in range(2)]
    for worker in workers:
        worker.start()
    results = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    return {"images_per_second": sum(result["images_per_second"] for result in results)}


def main() -> None:
    """Measure the three ways and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", default="embedded")
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--images-per-caption", type=int, default=4)
    parser.add_argument("--num-inference-steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--loaded", action="store_true", help="say in the result that other work ran beside")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / name for name in ("one", "loop", "two")]
        folders[1].mkdir()
        result: dict[str, Any] = {
            "settings": vars(arguments),
            "synthesize": draw(arguments, folders[0]),
            "plain loop": loop(arguments, folders[1]),
            "two workers": two_workers(arguments, folders[2]),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
