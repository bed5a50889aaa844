"""The split augmentation against torchvision's, operation by operation, and in distribution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stablerep_hf.training.augmentation import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RECIPES,
    ColorAugmentation,
    crop_and_flip,
    draw_view,
    gaussian_blur,
    jitter,
)


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
    reference = F.gaussian_blur(images, kernel_size=[2 * 12 + 1] * 2, sigma=[sigma] * 2)
    torch.testing.assert_close(ours[..., 12:-12, 12:-12], reference[..., 12:-12, 12:-12], atol=1e-5, rtol=0)


def test_blur_keeps_brightness_and_repeats_the_edge():
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    blurred = gaussian_blur(ramp, torch.tensor([1.5]))
    torch.testing.assert_close(
        gaussian_blur(torch.full_like(ramp, 0.7), torch.tensor([1.5])), torch.full_like(ramp, 0.7)
    )
    torch.testing.assert_close(blurred.mean(), ramp.mean(), atol=1e-4, rtol=0)
    assert blurred[0, 0, 0, 0] > ramp[0, 0, 0, 0]


def test_neutral_color_only_normalises():
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    color = torch.zeros(3, 10)
    color[:, :3] = 1
    color[:, 4:8] = torch.arange(4)
    expected = F.normalize(pixels.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(ColorAugmentation()(pixels, color), expected)


def test_color_of_one_image_does_not_depend_on_its_batch():
    rng = np.random.default_rng(3)
    pixels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8)
    color = torch.tensor(np.stack([draw_view(rng, 32, 32, RECIPES["strong"], 16).color for _ in range(9)]))
    together = ColorAugmentation()(pixels, color)
    alone = torch.cat([ColorAugmentation()(pixels[i : i + 1], color[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_color_is_exact_under_autocast():
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    color = torch.tensor(
        np.stack([draw_view(np.random.default_rng(i), 32, 32, RECIPES["strong"], 16).color for i in (5, 6)])
    )
    plain = ColorAugmentation()(pixels, color)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = ColorAugmentation()(pixels, color)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(plain, under_autocast, atol=0, rtol=0)


def test_crops_have_torchvision_s_distribution():
    ours, theirs = [], []
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(32, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    blank = torch.zeros(3, 60, 90)
    for _ in range(4000):
        left, upper, right, lower = draw_view(rng, 90, 60, RECIPES["strong"], 32).box
        assert 0 <= left < right <= 90
        assert 0 <= upper < lower <= 60
        ours.append(((right - left) * (lower - upper) / 5400, (right - left) / (lower - upper), left, upper))
        drawn = reference.make_params([blank])
        theirs.append(
            (drawn["height"] * drawn["width"] / 5400, drawn["width"] / drawn["height"], drawn["left"], drawn["top"])
        )
    ours, theirs = np.array(ours), np.array(theirs)
    standard_error = np.sqrt((ours.var(0) + theirs.var(0)) / 4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * standard_error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.06)


def test_rates_and_ranges_of_the_strong_recipe():
    rng = np.random.default_rng(0)
    views = [draw_view(rng, 64, 64, RECIPES["strong"], 224) for _ in range(4000)]
    color = np.stack([view.color for view in views])
    jittered = (color[:, :4] != [1, 1, 1, 0]).any(1)
    for rate, expected in [
        (jittered.mean(), 0.8),
        (color[:, 8].mean(), 0.2),
        ((color[:, 9] > 0).mean(), 0.5),
        (np.mean([view.flip for view in views]), 0.5),
    ]:
        assert abs(rate - expected) < 0.03
    assert color[jittered, :3].min() >= 0.6
    assert color[jittered, :3].max() <= 1.4
    assert np.abs(color[:, 3]).max() <= 0.1
    blurred = color[color[:, 9] > 0, 9]
    assert blurred.min() >= 0.1
    assert blurred.max() <= 2.0
    assert abs(blurred.mean() - 1.05) < 0.05


def test_weak_recipe_only_crops():
    views = [draw_view(np.random.default_rng(i), 64, 64, RECIPES["weak"], 32) for i in range(200)]
    assert not any(view.flip for view in views)
    assert all((view.color[[0, 1, 2, 3, 8, 9]] == [1, 1, 1, 0, 0, 0]).all() for view in views)
    assert min((v.box[2] - v.box[0]) * (v.box[3] - v.box[1]) for v in views) >= 0.47 * 64 * 64


def test_crop_and_flip_shows_the_box():
    image = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    view = draw_view(np.random.default_rng(0), 16, 16, RECIPES["weak"], 8)
    expected = np.array(image.crop(view.box).resize((8, 8), Image.Resampling.BILINEAR))
    plain = crop_and_flip(image, view, 8)
    assert plain.dtype == torch.uint8
    np.testing.assert_array_equal(plain.permute(1, 2, 0).numpy(), expected)
    mirrored = crop_and_flip(image, type(view)(view.box, True, view.color), 8)
    np.testing.assert_array_equal(mirrored.numpy(), plain.flip(2).numpy())


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_any_image_mode_becomes_rgb(mode):
    image = Image.new("RGB", (16, 16), (200, 10, 10)).convert(mode)
    view = draw_view(np.random.default_rng(0), 16, 16, RECIPES["weak"], 8)
    assert crop_and_flip(image, view, 8).shape == (3, 8, 8)


def test_downsampling_happens_at_its_rate_and_before_the_rest():
    recipe = replace(RECIPES["weak"], crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), downsample_probability=0.3)
    rng = np.random.default_rng(0)
    views = [draw_view(rng, 64, 64, recipe, 64) for _ in range(4000)]
    drawn = np.array([view.downsample for view in views])
    assert (drawn < 1).mean() == pytest.approx(0.3, abs=0.03)
    assert (drawn[drawn < 1] == 0.25).mean() == pytest.approx(0.5, abs=0.05)
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
    for share in (0.25, 0.5):
        view = next(view for view in views if view.downsample == share)
        edge = round(64 * share)
        expected = noise.resize((edge, edge), Image.Resampling.BILINEAR).resize((64, 64), Image.Resampling.BILINEAR)
        assert np.array_equal(crop_and_flip(noise, view, 64).permute(1, 2, 0).numpy(), np.asarray(expected))


def test_a_recipe_without_downsampling_draws_what_it_always_drew():
    with_it = replace(RECIPES["strong"], downsample_probability=0.5)
    one, other = (draw_view(np.random.default_rng(3), 50, 40, recipe, 32) for recipe in (RECIPES["strong"], with_it))
    assert (one.box, one.flip) == (other.box, other.flip) and np.array_equal(one.color, other.color)
