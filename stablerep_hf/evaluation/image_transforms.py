"""What a protocol does to a picture before the encoder's own preparation. Each is a pure function of seed and row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageChops


class ImageTransform(Protocol):
    """A picture and its row number to a picture."""

    @property
    def processor_options(self) -> Mapping[str, Any]:
        """Further arguments of the image processor."""
        ...

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        """RGB to RGB."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON values that tell this transform from every other."""
        ...


@dataclass(frozen=True)
class Placement:
    """The whole picture, made smaller and put somewhere on light paper of a random colour.

    Pictograms come cropped to their ink on white, so two drawings of one thing cover the same places, and bare pixels
    match them. Each picture gets a size, a place and a paper that are fixed for its row, so that only what it shows
    can match. This is our own protocol: no published one tests it.

    Attributes:
        scale: Range of the remaining edge length, as a share; uniform.
        darkest: Of the paper, of 255; each channel is uniform from it to 255. Ink is multiplied with it.
        seed: Of the draws.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    darkest: int = 192
    seed: int = 0
    processor_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        """The picture, in its own size, placed as row `row` is."""
        generator = np.random.default_rng((self.seed, row))
        scale, across, down = generator.uniform(*self.scale), *generator.uniform(size=2)
        paper = tuple(int(value) for value in generator.integers(self.darkest, 256, size=3))
        width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        canvas = Image.new("RGB", image.size, "white")
        place = (round(across * (image.width - width)), round(down * (image.height - height)))
        canvas.paste(image.resize((width, height), Image.Resampling.LANCZOS), place)
        return ImageChops.multiply(canvas, Image.new("RGB", image.size, paper))

    def describe(self) -> dict[str, Any]:
        """Kind, scale, paper and seed."""
        return {"placement": list(self.scale), "darkest paper": self.darkest, "seed": self.seed}


@dataclass(frozen=True)
class CropAndFlip:
    """A random crop of 8 to 100 % of the area, resized to the encoder's input, flipped half the time.

    The training augmentation of the release's probe (StableRep/main_linear.py: `RandomResizedCrop(224)` and
    `RandomHorizontalFlip()` of torchvision with their defaults).

    Attributes:
        height: of the encoder's input, pixels.
        width: of it.
        epoch: another epoch, another crop.
        seed: of the draws.
    """

    height: int
    width: int
    epoch: int = 0
    seed: int = 0
    # the crop has the input's size already: a processor that cuts its middle out would zoom in twice
    processor_options: Mapping[str, Any] = field(
        default_factory=lambda: {"do_resize": False, "do_center_crop": False}, repr=False
    )

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        """One crop of the picture, (width, height)."""
        generator = np.random.default_rng((self.seed, self.epoch, row))
        box = random_crop(generator, image.width, image.height, (0.08, 1.0), (3 / 4, 4 / 3))
        crop = image.resize((self.width, self.height), Image.Resampling.BILINEAR, box=box)
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.uniform() < 0.5 else crop

    def describe(self) -> dict[str, Any]:
        """Kind, size, epoch and seed."""
        own = {name: value for name, value in asdict(self).items() if name != "processor_options"}
        return {"crop and flip": own}


def random_crop(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Inception-style crop: ten tries, then the largest centred crop within the ratio range (as torchvision).

    Args:
        rng: Of the draws.
        width: Of the image, pixels.
        height: Of the image, pixels.
        scale: Range of the crop's area as a share of the image's.
        ratio: Range of the crop's width / height.

    Returns:
        Left, upper, right, lower.
    """
    low, high = (math.log(end) for end in ratio)
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        drawn = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * drawn)), round(math.sqrt(area / drawn))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, upper, left + w, upper + h
    nearest = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * nearest)), min(height, round(width / nearest))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h
