"""The recipe's augmentation, split where it is cheap to split.

Workers draw every random number of a view, then decode, crop and flip in uint8 (`draw_view`, `crop_and_flip`). Colour,
grayscale, blur and normalising run on the whole batch, on the model's device, with one set of parameters an image
(`ColorAugmentation`). A view is a pure function of its seed, so it does not depend on the number of workers, of
processes, or on where a run was interrupted.

Source: `StableRep/data.py` of the release, transform "strong" and `--weak_aug`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The release blurs a 224 pixel crop; a radius in pixels means something else on a smaller one.
_REFERENCE_IMAGE_SIZE = 224

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


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
    box = _draw_crop(rng, width, height, recipe)
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


def _draw_crop(
    rng: np.random.Generator, width: int, height: int, recipe: AugmentationRecipe
) -> tuple[int, int, int, int]:
    """Inception-style crop: ten tries, then the largest centred crop within the ratio range (as torchvision)."""
    low, high = (math.log(ratio) for ratio in recipe.crop_ratio)
    for _ in range(10):
        area = width * height * rng.uniform(*recipe.crop_scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, upper, left + w, upper + h
    ratio = min(max(width / height, recipe.crop_ratio[0]), recipe.crop_ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def crop_and_flip(image: Image.Image, view: View, image_size: int) -> Tensor:
    """Apply the geometric part.

    Args:
        image: Any mode; converted to RGB.
        view: As drawn for this image's size.
        image_size: Edge of the result in pixels.

    Returns:
        uint8 (3, image_size, image_size) in [0, 255].
    """
    image = image.convert("RGB")
    if view.downsample < 1:
        width, height = (max(1, round(edge * view.downsample)) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
    # Crop, then resize, as torchvision does: `resize(box=...)` in one go would blend in pixels from outside the box.
    crop = image.crop(view.box).resize((image_size, image_size), Image.Resampling.BILINEAR)
    if view.flip:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous()


class ColorAugmentation(nn.Module):
    """Colour jitter, grayscale, blur and normalising of a batch, each image with its own parameters.

    Args:
        mean: Per channel, of images in [0, 1].
        std: Per channel.
    """

    def __init__(
        self, mean: tuple[float, float, float] = IMAGENET_MEAN, std: tuple[float, float, float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    @torch.no_grad()
    def forward(self, pixels: Tensor, color: Tensor) -> Tensor:
        """Augment and normalise.

        Args:
            pixels: uint8 (N, 3, S, S).
            color: float32 (N, 10), `View.color` of each image.

        Returns:
            float32 (N, 3, S, S), normalised.
        """
        # The factors are exact in float32 only; a training under autocast must not change its augmentation.
        with torch.autocast(pixels.device.type, enabled=False):
            images = jitter(pixels.float() / 255, color[:, :4], color[:, 4:8].long())
            gray = color[:, 8] > 0.5
            images[gray] = F.rgb_to_grayscale(images[gray], num_output_channels=3)
            blurred = color[:, 9] > 0
            images[blurred] = gaussian_blur(images[blurred], color[blurred, 9])
            normalised: Tensor = F.normalize(images, list(self.mean), list(self.std), inplace=True)
            return normalised


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in each image's own order.

    Equal to torchvision's `adjust_*` applied image by image.

    Args:
        images: float (N, 3, H, W) in [0, 1].
        factors: float (N, 4): three factors (1 = unchanged) and the hue shift in turns (0 = unchanged).
        order: int64 (N, 4): which of the four comes first, second, ...; each row a permutation.

    Returns:
        float (N, 3, H, W) in [0, 1].
    """
    images = images.clone()
    neutral = factors.new_tensor([1.0, 1.0, 1.0, 0.0])
    for step in range(4):
        for operation in range(4):
            chosen = (order[:, step] == operation) & (factors[:, operation] != neutral[operation])
            images[chosen] = _adjust(images[chosen], operation, factors[chosen, operation].view(-1, 1, 1, 1))
    return images


def _adjust(images: Tensor, operation: int, factor: Tensor) -> Tensor:
    if operation == _HUE:
        return _shift_hue(images, factor.view(-1, 1, 1))
    if operation == _BRIGHTNESS:
        return (images * factor).clamp(0, 1)
    toward = F.rgb_to_grayscale(images, num_output_channels=1)
    if operation == _CONTRAST:
        toward = toward.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(toward, images, factor).clamp(0, 1)


def _shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of float (N, 3, H, W) in [0, 1] by `shift` (N, 1, 1) turns."""
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = torch.where(chroma == 0, torch.zeros_like(hue), hue / 6) + shift
    # Each channel is the value less a share of the chroma: one formula for the six sectors of the colour circle.
    offset = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    k = (offset + 6 * hue.unsqueeze(1)) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own standard deviation.

    A blur along one axis is a matrix product, so a batch of different blurs is two batched products; edge pixels are
    repeated outwards, as PIL does.

    Args:
        images: float (N, C, S, S).
        sigma: float (N,), in pixels, > 0.

    Returns:
        float (N, C, S, S).
    """
    if not len(images):
        return images
    size = images.shape[-1]
    radius = math.ceil(3 * float(sigma.max()))
    taps = torch.arange(-radius, size + radius, device=images.device)
    distance = (taps[None, :] - torch.arange(size, device=images.device)[:, None]).to(images.dtype)
    weights = torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1)) ** 2)
    weights = weights / weights.sum(-1, keepdim=True)
    kernel = weights.new_zeros(len(images), size, size).index_add_(2, taps.clamp(0, size - 1), weights)
    return kernel.unsqueeze(1) @ images @ kernel.transpose(1, 2).unsqueeze(1)
