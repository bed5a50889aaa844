"""Images a second and core through the recipe's augmentation: the release's PIL chain beside ours.

    python scripts/bench_input.py

- "PIL chain": decode, then every transform on PIL images, as `StableRep/data.py` of the release does it.
- "ours, workers' part": decode, crop and flip in uint8; the rest is left to the model's device.
- "ours, all on the CPU": the same, and colour, grayscale, blur and normalising of the batch on this core too.
- "without the extra": what an installation without `stablerep_hf[fast]` (simplejpeg, OpenCV) does.

256 pixel JPEGs (as the release stores them) of smooth noise, views of 224 pixels, one thread.
"""

from __future__ import annotations

import argparse
import io
import random
import time

import numpy as np
import torch
from benching import best_seconds
from PIL import Image, ImageFilter
from torchvision import transforms

from stablerep_hf.training import color as colors, decoding
from stablerep_hf.training.augmentation import RECIPES, crop_and_flip, draw_view
from stablerep_hf.training.color import IMAGENET_MEAN, IMAGENET_STD, ColorAugmentation
from stablerep_hf.training.decoding import decode_rgb

SIZE = 224


def jpegs(count: int) -> list[bytes]:
    """Encoded pictures that compress like photographs do."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).resize(
            (256, 256), Image.Resampling.BICUBIC
        )
        fine = rng.normal(0, 12, (256, 256, 3))
        stream = io.BytesIO()
        Image.fromarray((np.asarray(coarse) + fine).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=95)
        files.append(stream.getvalue())
    return files


def pil_blur(image: Image.Image) -> Image.Image:
    """The release's blur."""
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


PIL_CHAIN = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, scale=(0.08, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([pil_blur], p=0.5),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)


def release(files: list[bytes]) -> None:
    """The PIL chain."""
    torch.stack([PIL_CHAIN(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def workers_part(files: list[bytes], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """What a worker hands over: uint8 crops and the parameters of their colours."""
    pixels, color = [], []
    for file in files:
        image = decode_rgb({"bytes": file, "path": None})
        height, width = image.shape[:2]
        view = draw_view(rng, width, height, RECIPES["strong"], SIZE)
        pixels.append(crop_and_flip(image, view, SIZE))
        color.append(torch.from_numpy(view.color))
    return torch.stack(pixels).permute(0, 3, 1, 2), torch.stack(color)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if colors.cv2 is None or decoding.simplejpeg is None:
        raise SystemExit("pip install 'stablerep_hf[fast]' first")
    colors.cv2.setNumThreads(1)
    files, rng, augment = jpegs(options.images), np.random.default_rng(0), ColorAugmentation()
    ways = {
        "PIL chain": lambda: release(files),
        "ours, workers' part": lambda: workers_part(files, rng),
        "ours, all on the CPU": lambda: augment(*workers_part(files, rng)),
    }
    ways["decoding alone"] = lambda: [decode_rgb({"bytes": file, "path": None}) for file in files]
    # the core's own time: what else runs on it counts little
    taken = {name: best_seconds(way, options.repeats, time.process_time) for name, way in ways.items()}
    colors.cv2 = decoding.simplejpeg = None
    for name in list(ways)[1:]:
        taken[f"{name}, without the extra"] = best_seconds(ways[name], options.repeats, time.process_time)
    print("| | images/s on one core | x PIL chain |\n| :--- | ---: | ---: |")
    for name, seconds in taken.items():
        print(f"| {name} | {options.images / seconds:,.0f} | {taken['PIL chain'] / seconds:.1f} |")


if __name__ == "__main__":
    main()
