"""The colours of a batch against torchvision's, operation by operation, on the way of a GPU and on that of a CPU."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from stablerep_hf.training import color as colors
from stablerep_hf.training.augmentation import RECIPES, draw_view
from stablerep_hf.training.color import IMAGENET_MEAN, IMAGENET_STD, ColorAugmentation, gaussian_blur, jitter


@pytest.fixture(params=["batched", "opencv"])
def way(request, monkeypatch):
    """Both ways to the same colours; the batched one is what a GPU takes."""
    if request.param == "batched":
        monkeypatch.setattr(colors, "cv2", None)
    return request.param


@pytest.fixture
def images():
    return torch.rand(6, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def neutral(count):
    factors = torch.zeros(count, 4)
    factors[:, :3] = 1
    return factors


@pytest.mark.parametrize(
    ("operation", "factor", "reference"),
    [
        (0, 1.4, F.adjust_brightness),
        (0, 0.6, F.adjust_brightness),
        (1, 1.4, F.adjust_contrast),
        (1, 0.6, F.adjust_contrast),
        (2, 1.4, F.adjust_saturation),
        (2, 0.6, F.adjust_saturation),
        (3, 0.1, F.adjust_hue),
        (3, -0.1, F.adjust_hue),
        (3, 0.5, F.adjust_hue),
    ],
)
def test_each_jitter_equals_torchvision(images, operation, factor, reference):
    factors = neutral(len(images))
    factors[:, operation] = factor
    ours = jitter(images, factors, torch.arange(4).repeat(len(images), 1))
    torch.testing.assert_close(ours, reference(images, factor), atol=2e-6, rtol=1e-5)


def test_jitter_uses_each_image_s_own_factors_and_order(images):
    rng = np.random.default_rng(0)
    factors = torch.tensor(rng.uniform([0.6, 0.6, 0.6, -0.1], [1.4, 1.4, 1.4, 0.1], (len(images), 4)).astype("f4"))
    order = torch.tensor(np.stack([rng.permutation(4) for _ in images]))
    operations = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    expected = []
    for image, factor, sequence in zip(images, factors, order, strict=True):
        for operation in sequence:
            image = operations[operation](image, float(factor[operation]))
        expected.append(image)
    torch.testing.assert_close(jitter(images, factors, order), torch.stack(expected), atol=5e-6, rtol=1e-4)
    reversed_order = jitter(images, factors, order.flip(1))
    assert (reversed_order - torch.stack(expected)).abs().max() > 1e-3, "the order of operations must matter"


def test_hue_of_gray_black_and_white_stays():
    flat = torch.tensor([0.0, 0.3, 1.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    factors = neutral(3)
    factors[:, 3] = 0.07
    torch.testing.assert_close(jitter(flat, factors, torch.arange(4).repeat(3, 1)), flat)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.9])
def test_blur_equals_torchvision_inside_the_border(sigma):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ours = gaussian_blur(images, torch.full((2,), sigma))
    reference = F.gaussian_blur(images, kernel_size=[2 * math.ceil(3 * sigma) + 1] * 2, sigma=[sigma] * 2)
    torch.testing.assert_close(ours[..., 12:-12, 12:-12], reference[..., 12:-12, 12:-12], atol=1e-5, rtol=0)


def test_blur_keeps_brightness_and_repeats_the_edge():
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    blurred = gaussian_blur(ramp, torch.tensor([1.5]))
    torch.testing.assert_close(
        gaussian_blur(torch.full_like(ramp, 0.7), torch.tensor([1.5])), torch.full_like(ramp, 0.7)
    )
    torch.testing.assert_close(blurred.mean(), ramp.mean(), atol=1e-4, rtol=0)
    assert blurred[0, 0, 0, 0] > ramp[0, 0, 0, 0]


def test_neutral_color_only_normalises(way):
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    color = torch.zeros(3, 10)
    color[:, :3] = 1
    color[:, 4:8] = torch.arange(4)
    expected = F.normalize(pixels.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(ColorAugmentation()(pixels, color), expected)


def drawn_colors(count, seed=3):
    """Parameters as on a crop of 224 pixels, so that blurs are wide."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([draw_view(rng, 32, 32, RECIPES["strong"], 224).color for _ in range(count)]))


def test_color_of_one_image_does_not_depend_on_its_batch(way):
    pixels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8)
    color = drawn_colors(9)
    assert len(set(color[:, 9].ceil().tolist())) == 3, "no blur, narrow ones and wide ones"
    together = ColorAugmentation()(pixels, color)
    alone = torch.cat([ColorAugmentation()(pixels[i : i + 1], color[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(together, alone, atol=3e-6, rtol=1e-5)


def test_color_is_exact_under_autocast(way):
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    color = drawn_colors(4)
    plain = ColorAugmentation()(pixels, color)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = ColorAugmentation()(pixels, color)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(plain, under_autocast, atol=0, rtol=0)


def test_both_ways_agree_to_rounding(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator)
    pixels[0], pixels[1], pixels[2, :, :16] = 0, 255, 90  # black, white and gray have no hue
    color = drawn_colors(64)
    color[:40, 3] = torch.linspace(-0.5, 0.5, 40)
    ours = ColorAugmentation(mean=(0, 0, 0), std=(1, 1, 1))
    by_opencv = ours(pixels, color)
    monkeypatch.setattr(colors, "cv2", None)
    torch.testing.assert_close(by_opencv, ours(pixels, color), atol=1e-5, rtol=0)
