"""The recipe's augmentation, split where it is cheap to split.

Workers draw every random number of a view, then decode, crop and flip in uint8 (`draw_view`, `crop_and_flip`). Colour,
grayscale, blur and normalising run on the whole batch, on the model's device, with one set of parameters an image
(`color.ColorAugmentation`). A view is a pure function of its seed, so it does not depend on the number of workers, of
processes, or on where a run was interrupted.

Source: `StableRep/data.py` of the release, transform "strong" and `--weak_aug`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..evaluation.image_transforms import random_crop

# The release blurs a 224 pixel crop; a radius in pixels means something else on a smaller one.
_REFERENCE_IMAGE_SIZE = 224


@dataclass(frozen=True)
class AugmentationRecipe:
    """Distribution of one view of an image.

    Attributes:
        crop_scale: Range of the crop's area as a share of the image's, each in (0, 1].
        crop_ratio: Range of the crop's width / height.
        flip_probability: Of a horizontal flip.
        jitter: Largest change of brightness, contrast, saturation (factor in [1 - x, 1 + x]) and hue (turns, [-x, x]).
        jitter_probability: Of jittering an image at all.
        grayscale_probability: Of dropping colour.
        blur_probability: Of a Gaussian blur.
        blur_sigma: Range of its standard deviation, in pixels of a 224 pixel crop; scaled to the crop's real size
            (ours, because on a 32 pixel crop two pixels of blur leave nothing).
        downsample_probability: Of seeing the image through a lower resolution, before anything else.
        downsample_scales: Which resolutions, as shares of the image's edges, with equal odds. The release shrinks its
            256 pixel images to 64 or 128 pixels and enlarges them again (`--downsample --down_res 64 128`).
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    downsample_probability: float = 0.0
    downsample_scales: tuple[float, ...] = (0.25, 0.5)


RECIPES = {
    "strong": AugmentationRecipe(),
    "weak": AugmentationRecipe(
        crop_scale=(0.5, 1.0),
        flip_probability=0.0,
        jitter_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
    ),
}


@dataclass(frozen=True)
class View:
    """Everything random about one view.

    Attributes:
        box: Crop in pixels of the source image: left, upper, right, lower.
        flip: Whether to mirror it.
        color: float32 (10,): brightness, contrast, saturation factors, hue shift, the order of those four (4 values,
            a permutation of 0..3), grayscale (0 or 1), blur sigma in output pixels (0 = none). One flat row, so that
            a batch of views is one tensor.
        downsample: Share of the image's edges that it is shrunk to and enlarged from first; 1 = not at all.
    """

    box: tuple[int, int, int, int]
    flip: bool
    color: np.ndarray
    downsample: float = 1.0


def draw_view(rng: np.random.Generator, width: int, height: int, recipe: AugmentationRecipe, image_size: int) -> View:
    """Draw one view of a `width` x `height` image, to be resized to `image_size`."""
    box = random_crop(rng, width, height, recipe.crop_scale, recipe.crop_ratio)
    flip = bool(rng.random() < recipe.flip_probability)
    color = np.zeros(10, dtype=np.float32)
    color[:3] = 1.0
    color[4:8] = rng.permutation(4)
    if rng.random() < recipe.jitter_probability:
        brightness, contrast, saturation, hue = recipe.jitter
        color[:4] = rng.uniform(
            [1 - brightness, 1 - contrast, 1 - saturation, -hue], [1 + brightness, 1 + contrast, 1 + saturation, hue]
        )
    color[8] = rng.random() < recipe.grayscale_probability
    if rng.random() < recipe.blur_probability:
        color[9] = rng.uniform(*recipe.blur_sigma) * image_size / _REFERENCE_IMAGE_SIZE
    downsample = 1.0
    if recipe.downsample_probability and rng.random() < recipe.downsample_probability:
        downsample = float(rng.choice(recipe.downsample_scales))
    return View(box, flip, color, downsample)


def crop_and_flip(image: npt.NDArray[np.uint8], view: View, image_size: int) -> Tensor:
    """Apply the geometric part.

    Args:
        image: uint8 (H, W, 3), writable.
        view: As drawn for this image's size.
        image_size: Edge of the result in pixels.

    Returns:
        uint8 (image_size, image_size, 3) in [0, 255]. Resized by PyTorch's antialiased bilinear kernel, which differs
        from Pillow's by at most 1.
    """
    pixels = torch.from_numpy(image).unsqueeze(0).permute(0, 3, 1, 2)
    if view.downsample < 1:
        height, width = image.shape[:2]
        small = (max(1, round(height * view.downsample)), max(1, round(width * view.downsample)))
        pixels = _resize(_resize(pixels, small), (height, width))
    left, upper, right, lower = view.box
    # Crop, then resize, as torchvision does: no pixel from outside the box is blended in.
    crop = _resize(pixels[..., upper:lower, left:right], (image_size, image_size))[0].permute(1, 2, 0)
    return crop.flip(1) if view.flip else crop


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(images, size, mode="bilinear", antialias=True)
