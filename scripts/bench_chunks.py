"""A large contrastive batch through the backbone in chunks: its cost, its memory, and that it is the same step.

    python scripts/bench_chunks.py                     # cost against a plain step at equal N
    python scripts/bench_chunks.py --paper             # the paper's 8,256 images, ViT-S/16 at 96 pixels

`--paper` takes the step in processes of their own: by the model's `forward_chunk_size`, and assembled by hand
(features by chunk without gradient; head and loss on the whole batch; the backbone again by chunk, driven by the
gradients of the features); then once by `StableRepTrainer`, from encoded images to updated weights. It prints the time
and memory of each and the largest difference of the gradients of the first two.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from benching import Report, measure, pictures
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import set_seed

from stablerep_hf.losses import MultiPositiveContrastiveLoss
from stablerep_hf.models import StableRepConfig, StableRepModel, encode_images
from stablerep_hf.training import StableRepTrainer, StableRepTrainingArguments


def batch(captions: int, siblings: int, edge: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels whose siblings resemble each other, caption ids, sibling indices."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(captions * siblings, 3, edge, edge, generator=generator)
    pixels += torch.randn(captions, 3, 1, 1, generator=generator).repeat_interleave(siblings, 0)
    return pixels, torch.arange(captions).repeat_interleave(siblings), torch.arange(siblings).repeat(captions)


def step(model: StableRepModel, pixels: Tensor, ids: Tensor, siblings: Tensor, chunk: int | None) -> float:
    """Loss and gradients by the model's own chunks; None: the plain step."""
    outputs = model(pixels, sibling_index=siblings, forward_chunk_size=chunk)
    loss = MultiPositiveContrastiveLoss()(outputs.image_embeds, ids)
    loss.backward()
    return loss.item()


def step_by_hand(model: StableRepModel, pixels: Tensor, ids: Tensor, siblings: Tensor, chunk: int) -> float:
    """The same, with nothing of the model but its parts."""
    with torch.no_grad():
        features = torch.cat([encode_images(model.vision_model, part).pooler_output for part in pixels.split(chunk)])
    features.requires_grad_()
    loss = MultiPositiveContrastiveLoss()(model.project(features, siblings), ids)
    loss.backward()
    assert features.grad is not None
    for part, gradient in zip(pixels.split(chunk), features.grad.split(chunk), strict=True):
        encode_images(model.vision_model, part).pooler_output.backward(gradient)
    return loss.item()


def compare_cost(options: argparse.Namespace) -> None:
    """Seconds a step, plain and in chunks."""
    model = new_model(options)
    data = batch(options.captions, options.siblings, options.image_size)
    seconds: dict[int | None, list[float]] = {None: [], options.chunk: []}
    for _ in range(options.repeats + 1):
        for chunk, times in seconds.items():
            model.zero_grad()
            start = time.perf_counter()
            step(model, *data, chunk)
            times.append(time.perf_counter() - start)
    plain, chunked = (min(times[1:]) for times in seconds.values())
    print(
        f"N = {len(data[0])}: plain {plain:.2f} s, chunks of {options.chunk} {chunked:.2f} s: {chunked / plain:.2f} x"
    )


def new_model(options: argparse.Namespace) -> StableRepModel:
    """The same weights each time."""
    set_seed(0)
    return StableRepModel(StableRepConfig.from_size(options.size, image_size=options.image_size)).train()


def one(way: str, options: argparse.Namespace, gradients: Path, report: Report) -> None:
    """One large step; gradients go to a file."""
    torch.set_num_threads(options.threads)
    model = new_model(options)
    data = batch(options.captions, options.siblings, options.image_size)
    start = time.perf_counter()
    loss = (step if way == "chunked" else step_by_hand)(model, *data, options.chunk)
    report(loss=loss, seconds=time.perf_counter() - start)
    save_file({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, gradients)


def one_by_trainer(options: argparse.Namespace, report: Report) -> None:
    """One step of a training run: reading, augmenting, optimiser and all."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        arguments = StableRepTrainingArguments(
            folder, captions_per_batch=options.captions, images_per_caption=options.siblings, max_steps=1,
            forward_chunk_size=options.chunk, save_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        data = pictures(options.captions, options.siblings, options.image_size)
        result = StableRepTrainer(new_model(options), arguments, data).train()
    report(loss=result.training_loss, seconds=result.metrics["train_runtime"])


def paper_step(options: argparse.Namespace) -> None:
    """The paper's batch, all ways."""
    gradients = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ("chunked", "by hand", "trainer"):
            file = Path(folder) / f"{way}.safetensors"
            found = measure(one_by_trainer, options) if way == "trainer" else measure(one, way, options, file)
            seconds, peak = found["seconds"], found["peak_gib"]
            print(f"{way}: {seconds:.0f} s, peak of the process {peak:.2f} GiB, loss {found['loss']:.6f}", flush=True)
            if way != "trainer":
                gradients[way] = load_file(file)
    ours, hand = gradients["chunked"], gradients["by hand"]
    whole = max(float(gradient.norm()) for gradient in hand.values())
    # biases before a batch norm and of keys have no gradient: what is left there is rounding
    largest = max(
        float((ours[name] - gradient).norm() / gradient.norm())
        for name, gradient in hand.items()
        if gradient.norm() > 1e-5 * whole
    )
    print(f"largest difference of a gradient: {largest:.1e} of its norm")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--siblings", type=int, default=6)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--paper", action="store_true", help="1,376 captions x 6 images, each way")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.paper:
        options.captions = options.captions if options.captions != 64 else 1376
        paper_step(options)
    else:
        compare_cost(options)


if __name__ == "__main__":
    main()
