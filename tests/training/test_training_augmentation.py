"""What a view is drawn from, beside torchvision's own draws, and its geometric part beside Pillow's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from stablerep_hf.training import ColorAugmentation
from stablerep_hf.training.augmentation import RECIPES, crop_and_flip, draw_view


def assert_same_moments(ours, theirs):
    """Means of (N, features) within four standard errors, spreads within a tenth."""
    ours, theirs = np.array(ours, float), np.array(theirs, float)
    standard_error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 4 * standard_error).all(), (ours.mean(0), theirs.mean(0))
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.1)


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
    assert_same_moments(ours, theirs)


def test_colors_and_blur_are_drawn_from_torchvision_s_distribution():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    drawn = np.stack([draw_view(rng, 64, 64, RECIPES["strong"], 224).color for _ in range(4000)])
    jittered, blurred = (drawn[:, :4] != [1, 1, 1, 0]).any(1), drawn[:, 9] > 0
    jitter, blur = v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.GaussianBlur(13, (0.1, 2.0))
    reference = [jitter.make_params([]) for _ in range(3000)]
    factors = [
        [made[f"{name}_factor"] for name in ("brightness", "contrast", "saturation", "hue")] for made in reference
    ]
    assert_same_moments(drawn[jittered, :4], factors)
    assert_same_moments(drawn[jittered, 4:8], [made["fn_idx"].tolist() for made in reference])
    assert_same_moments(drawn[blurred, 9:], [blur.make_params([])["sigma"][:1] for _ in range(3000)])


def features(views):
    """What the eye would tell apart: light, spread, colour, grayness, warmth and sharpness of (N, 3, S, S) views."""
    red, green, blue = views.unbind(1)
    chroma = (views.amax(1) - views.amin(1)).mean((1, 2))
    sharpness = views.diff(dim=-1).abs().mean((1, 2, 3))
    left = views[..., : views.shape[-1] // 2].mean((1, 2, 3))  # a picture that is brighter on one side shows flips
    columns = [
        views.mean((1, 2, 3)), views.std((1, 2, 3)), chroma, (chroma < 1e-3).float(), (red - blue).mean((1, 2)),
        (green - blue).mean((1, 2)), sharpness, left,
    ]  # fmt: skip
    return torch.stack(columns, 1).numpy()


def test_views_look_as_those_of_the_reference_chain():
    count, size = 1000, 32
    ramp = np.linspace(0, 1, 64)
    picture = np.random.default_rng(1).uniform(0.2, 0.8, (64, 64, 3)) * 0.5
    picture += 0.5 * np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 0.3)], -1)
    picture = (picture * 255).astype(np.uint8)
    chain = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
        ]
    )
    torch.manual_seed(0)
    image = torch.from_numpy(picture).permute(2, 0, 1)
    theirs = torch.stack([chain(image) for _ in range(count)])
    rng = np.random.default_rng(0)
    views = [draw_view(rng, 64, 64, RECIPES["strong"], 224) for _ in range(count)]  # blur as on a crop of 224 pixels
    pixels = torch.stack([crop_and_flip(picture, view, size) for view in views]).permute(0, 3, 1, 2)
    color = torch.from_numpy(np.stack([view.color for view in views]))
    ours = ColorAugmentation(mean=(0, 0, 0), std=(1, 1, 1))(pixels, color)
    assert_same_moments(features(ours), features(theirs))


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


def geometry(image, view, size):
    """The same by Pillow, as the release does it."""
    if view.downsample < 1:
        small = tuple(round(edge * view.downsample) for edge in image.size)
        image = image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
    image = image.crop(view.box).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else image)


def test_crop_and_flip_equals_pillow_s_to_rounding():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8))
    recipe = replace(RECIPES["strong"], downsample_probability=0.3)
    views = [draw_view(rng, 56, 40, recipe, 24) for _ in range(60)]
    assert {view.flip for view in views} == {True, False} and {view.downsample for view in views} == {0.25, 0.5, 1.0}
    for view in views:
        ours = crop_and_flip(np.array(image), view, 24)
        assert ours.dtype == torch.uint8 and ours.shape == (24, 24, 3)
        difference = np.abs(ours.numpy().astype(int) - geometry(image, view, 24))
        assert difference.max() <= (1 if view.downsample == 1 else 2)
        assert difference.mean() < 0.1


def test_downsampling_happens_at_its_rate_and_before_the_rest():
    recipe = replace(RECIPES["weak"], crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), downsample_probability=0.3)
    rng = np.random.default_rng(0)
    views = [draw_view(rng, 64, 64, recipe, 64) for _ in range(4000)]
    drawn = np.array([view.downsample for view in views])
    assert (drawn < 1).mean() == pytest.approx(0.3, abs=0.03)
    assert (drawn[drawn < 1] == 0.25).mean() == pytest.approx(0.5, abs=0.05)


def test_a_recipe_without_downsampling_draws_what_it_always_drew():
    with_it = replace(RECIPES["strong"], downsample_probability=0.5)
    one, other = (draw_view(np.random.default_rng(3), 50, 40, recipe, 32) for recipe in (RECIPES["strong"], with_it))
    assert (one.box, one.flip) == (other.box, other.flip) and np.array_equal(one.color, other.color)
