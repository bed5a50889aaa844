"""Colour jitter, grayscale, blur and normalising of a batch of views, each with its own parameters.

On a GPU they run on the whole batch; on a CPU image by image, through OpenCV (Apache-2.0) where it is installed, since
one image fits into a core's cache. Both compute in float32 and agree to rounding (1e-5 of the range).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from ..models.configuration_stablerep import IMAGENET_MEAN, IMAGENET_STD

try:
    import cv2
except ImportError:  # the extra "fast"
    cv2 = None  # type: ignore[assignment]

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_NEUTRAL = np.array([1, 1, 1, 0], np.float32)
_GRAY = np.array([0.2989, 0.587, 0.114], np.float32)  # torchvision's weights
_ONE, _ONES = np.eye(3, dtype=np.float32), np.ones((3, 1), np.float32)

FloatArray = npt.NDArray[np.float32]


class ColorAugmentation(nn.Module):
    """The part of the recipe that changes colours, and normalising.

    Args:
        mean: Per channel, of images in [0, 1].
        std: Per channel.
    """

    def __init__(self, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    @torch.no_grad()
    def forward(self, pixels: Tensor, color: Tensor | FloatArray) -> Tensor:
        """Augment and normalise.

        Args:
            pixels: uint8 (N, 3, S, S).
            color: float32 (N, 10), `View.color` of each image. Best left on the CPU, which picks the images that an
                operation is for: elsewhere it is fetched, and the device waited for.

        Returns:
            float32 (N, 3, S, S), normalised, on the device of `pixels`.
        """
        color = torch.as_tensor(color).cpu()
        if pixels.device.type == "cpu" and cv2 is not None:
            return self._on_cpu(pixels, color.numpy())
        # The factors are exact in float32 only; a training run under autocast must not change its augmentation.
        with torch.autocast(pixels.device.type, enabled=False):
            images = jitter(pixels.float() / 255, color[:, :4], color[:, 4:8].long())
            gray = _rows(color[:, 8] > 0.5, images)
            images[gray] = F.rgb_to_grayscale(images[gray], num_output_channels=3)
            blurred = _rows(color[:, 9] > 0, images)
            if len(blurred):
                images[blurred] = gaussian_blur(images[blurred], color[:, 9][color[:, 9] > 0])
            # Numbers, not tensors: torchvision's `normalize` copies both to the device and waits for it twice.
            for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
                images[:, channel].sub_(mean).div_(std)
            return images

    def _on_cpu(self, pixels: Tensor, color: FloatArray) -> Tensor:
        """The same, image by image."""
        std = np.array(self.std, np.float32)
        normalise = np.column_stack([np.diag(1 / std), -np.array(self.mean, np.float32) / std])
        size = pixels.shape[-1]
        result = np.empty((len(pixels), size, size, 3), np.float32)
        image, spare = np.empty((2, size, size, 3), np.float32)
        for whole, normalised, parameters in zip(pixels.permute(0, 2, 3, 1).numpy(), result, color, strict=True):
            np.multiply(whole, np.float32(1 / 255), out=image)
            for operation in parameters[4:8].astype(int):
                if parameters[operation] != _NEUTRAL[operation]:
                    _adjust_on_cpu(image, operation, float(parameters[operation]), spare)
            if parameters[8] > 0.5:
                cv2.transform(image, _ONES * _GRAY, dst=spare)
                image, spare = spare, image
            if parameters[9] > 0:
                edge, sigma = 2 * blur_radius(float(parameters[9])) + 1, float(parameters[9])
                cv2.GaussianBlur(image, (edge, edge), sigma, dst=spare, borderType=cv2.BORDER_REPLICATE)
                image, spare = spare, image
            cv2.transform(image, normalise, dst=normalised)
        return torch.from_numpy(result).permute(0, 3, 1, 2)


def _rows(chosen: Tensor, images: Tensor) -> Tensor:
    """Indices of the chosen images, on their device; a mask there would have the CPU wait for it."""
    return chosen.nonzero().squeeze(1).to(images.device, non_blocking=True)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in each image's own order.

    Equal to torchvision's `adjust_*` applied image by image.

    Args:
        images: float (N, 3, H, W) in [0, 1], on any device.
        factors: float (N, 4), on the CPU: three factors (1 = unchanged) and the hue shift in turns (0 = unchanged).
        order: int64 (N, 4), on the CPU: which of the four comes first, second, ...; each row a permutation.

    Returns:
        float (N, 3, H, W) in [0, 1].
    """
    images = images.clone()
    on_device = factors.to(images.device, non_blocking=True)
    changes = factors != torch.from_numpy(_NEUTRAL)
    for step in range(4):
        for operation in range(4):
            chosen = _rows((order[:, step] == operation) & changes[:, operation], images)
            if len(chosen):
                images[chosen] = _adjust(images[chosen], operation, on_device[chosen, operation].view(-1, 1, 1, 1))
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


def _adjust_on_cpu(image: FloatArray, operation: int, factor: float, spare: FloatArray) -> None:
    """Change float32 (H, W, 3) in place; all but the hue are a matrix and a constant."""
    if operation == _HUE:
        cv2.cvtColor(image, cv2.COLOR_RGB2HSV, dst=spare)
        spare[..., 0] += 360 * (factor % 1)  # OpenCV 5 turns an angle above 360 back, but not one below 0
        cv2.cvtColor(spare, cv2.COLOR_HSV2RGB, dst=image)
        return
    matrix = np.zeros((3, 4), np.float32)
    matrix[:, :3] = factor * _ONE
    if operation == _SATURATION:
        matrix[:, :3] += (1 - factor) * _GRAY
    elif operation == _CONTRAST:
        matrix[:, 3] = (1 - factor) * float(_GRAY @ cv2.mean(image)[:3])
    cv2.transform(image, matrix, dst=spare)
    np.clip(spare, 0, 1, out=image)


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
    offset = torch.tensor([5.0, 3.0, 1.0], dtype=images.dtype).to(images.device, non_blocking=True).view(1, 3, 1, 1)
    k = (offset + 6 * hue.unsqueeze(1)) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)


def blur_radius(sigma: float) -> int:
    """Pixels that a blur reaches: three standard deviations."""
    return math.ceil(3 * sigma)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own standard deviation.

    A blur along one axis is a matrix product, so a batch of different blurs is two batched products; edge pixels are
    repeated outwards, as PIL does. The matrices are built on the device, from one number an image.

    Args:
        images: float (N, C, S, S), N at least 1.
        sigma: float (N,), on the CPU, in pixels, > 0.

    Returns:
        float (N, C, S, S).
    """
    size, device = images.shape[-1], images.device
    reach = torch.tensor([blur_radius(value) for value in sigma.tolist()])
    radius = int(reach.max())
    sigma, reach = (values.to(device, non_blocking=True).unsqueeze(1) for values in (sigma, reach))
    # One tap more at either end, which weighs nothing and stands for all that is further away.
    distance = torch.arange(-radius - 1, radius + 2, device=device)
    # Its own reach, not the widest's: what an image looks like must not depend on its batch.
    taps = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= reach)
    taps = taps / taps.sum(-1, keepdim=True)
    place = torch.arange(size, device=device)
    kernel = taps[:, (place - place.unsqueeze(1)).clamp(-radius - 1, radius + 1) + radius + 1]
    beyond_the_edge = taps.cumsum(-1)[:, (radius - place).clamp(min=0)]
    kernel[..., 0] += beyond_the_edge
    kernel[..., -1] += beyond_the_edge.flip(-1)
    kernel = kernel.to(images.dtype)
    return kernel.unsqueeze(1) @ images @ kernel.transpose(1, 2).unsqueeze(1)
