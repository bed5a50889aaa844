from __future__ import annotations

import math

import pytest
import torch
from slow_losses import slow_image_text
from torch.nn.functional import cross_entropy, normalize

from stablerep_hf.losses import ImageTextContrastiveLoss, image_text_loss

IMAGE_IDS = torch.tensor([4, 4, 8, 4, 15, 8, 2**62, 15, 15])  # 15 has no text
TEXT_IDS = torch.tensor([8, 4, 23, 2**62])  # 23 has no image


@pytest.fixture
def batch(generator):
    """Images, texts and logit scale, float64, with gradients."""
    images = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    texts = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    scale = torch.tensor(2.0, dtype=torch.float64)
    return [tensor.requires_grad_() for tensor in (images, texts, scale)]


@pytest.mark.parametrize("tile", [1, 3, None])
def test_equals_the_double_loop(batch, tile):
    images, texts, scale = batch
    expected = slow_image_text(images, texts, IMAGE_IDS, TEXT_IDS, scale)
    loss = image_text_loss(images, texts, IMAGE_IDS, TEXT_IDS, scale, tile=tile)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, batch), torch.autograd.grad(expected, batch))
    torch.testing.assert_close(ImageTextContrastiveLoss()(images, texts, IMAGE_IDS, TEXT_IDS, scale), expected)


def test_gradient_is_the_numerical_one(batch):
    assert torch.autograd.gradcheck(lambda i, t, s: image_text_loss(i, t, IMAGE_IDS, TEXT_IDS, s, tile=2), batch)


def test_one_image_a_caption_gives_clip(generator):
    images, texts = torch.randn(2, 8, 6, generator=generator, dtype=torch.float64)
    ids, scale = torch.arange(8), torch.tensor(math.log(1 / 0.07), dtype=torch.float64)
    logits = scale.exp() * normalize(images, dim=1) @ normalize(texts, dim=1).T
    clip = (cross_entropy(logits, ids) + cross_entropy(logits.T, ids)) / 2
    torch.testing.assert_close(image_text_loss(images, texts, ids, ids, scale), clip)


def test_several_images_a_caption_give_the_release_s_targets(generator):
    """n captions x m images: image to text has one positive, text to image is uniform over the m images."""
    n, m = 4, 3
    images = torch.randn(n * m, 6, generator=generator, dtype=torch.float64)
    texts = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    ids, scale = torch.arange(n), torch.tensor(1.0, dtype=torch.float64)
    logits = scale.exp() * normalize(images, dim=1) @ normalize(texts, dim=1).T
    target = torch.eye(n, dtype=torch.float64).repeat_interleave(m, dim=0)
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target.T / m)) / 2
    torch.testing.assert_close(image_text_loss(images, texts, ids.repeat_interleave(m), ids, scale), expected)


def test_a_caption_encoded_several_times_counts_once(batch):
    images, texts, scale = batch
    once = image_text_loss(images, texts, IMAGE_IDS, TEXT_IDS, scale)
    rows = torch.tensor([2, 0, 1, 1, 3, 0, 1])
    repeated = image_text_loss(images, texts[rows], IMAGE_IDS, TEXT_IDS[rows], scale, tile=2)
    torch.testing.assert_close(repeated, once)
    torch.testing.assert_close(torch.autograd.grad(repeated, batch), torch.autograd.grad(once, batch))


def test_order_does_not_matter(batch, generator):
    images, texts, scale = batch
    rows, columns = torch.randperm(9, generator=generator), torch.randperm(4, generator=generator)
    loss = image_text_loss(images, texts, IMAGE_IDS, TEXT_IDS, scale, tile=3)
    shuffled = image_text_loss(images[rows], texts[columns], IMAGE_IDS[rows], TEXT_IDS[columns], scale, tile=3)
    torch.testing.assert_close(shuffled, loss)
    torch.testing.assert_close(torch.autograd.grad(shuffled, batch), torch.autograd.grad(loss, batch))


def test_nothing_in_common_gives_zero(batch):
    images, texts, scale = batch
    loss = image_text_loss(images, texts, IMAGE_IDS, -TEXT_IDS, scale)
    assert loss.item() == 0.0
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in torch.autograd.grad(loss, batch))


@pytest.mark.parametrize("shape", [(0, 4), (9, 0), (0, 0)])
def test_an_empty_side_gives_zero(batch, shape):
    images, texts = batch[0][: shape[0]], batch[1][: shape[1]]
    loss = image_text_loss(images, texts, IMAGE_IDS[: shape[0]], TEXT_IDS[: shape[1]], batch[2])
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_at_the_largest_scale(dtype, generator):
    """The release computes these logits, up to 100, and their softmax in float16; here they are float32."""
    images = (300 * torch.randn(32, 16, generator=generator)).to(dtype).requires_grad_()
    texts = torch.randn(8, 16, generator=generator).to(dtype).requires_grad_()
    scale = torch.tensor(math.log(100), requires_grad=True)
    arguments = (torch.arange(32) // 4, torch.arange(8), scale)
    expected = image_text_loss(images.float(), texts.float(), *arguments)
    with torch.autocast("cpu", dtype=dtype):
        loss = ImageTextContrastiveLoss()(images, texts, *arguments)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    for tensor in (images, texts, scale):
        assert tensor.grad.dtype == tensor.dtype
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_no_matrix_of_all_pairs_is_made(generator, largest_tensor):
    images = torch.randn(1000, 8, generator=generator, requires_grad=True)
    texts = torch.randn(500, 8, generator=generator, requires_grad=True)
    ids, scale = torch.arange(500), torch.tensor(2.0)
    loss = lambda: image_text_loss(images, texts, ids.repeat(2), ids, scale, tile=64)  # noqa: E731
    assert largest_tensor(loss) <= 1500 * 8


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text_embeds": torch.zeros(4, 6)}, "of the same D"),
        ({"image_embeds": torch.zeros(9)}, "image_embeds is torch.float32"),
        ({"image_caption_ids": TEXT_IDS}, "image_caption_ids is torch.int64 of shape"),
        ({"text_caption_ids": TEXT_IDS.float()}, "text_caption_ids is torch.float32"),
        ({"logit_scale": torch.zeros(2)}, r"logit_scale has shape \(2,\)"),
    ],
)
def test_what_cannot_work_is_refused(change, sentence):
    arguments = {
        "image_embeds": torch.zeros(9, 5),
        "text_embeds": torch.zeros(4, 5),
        "image_caption_ids": IMAGE_IDS,
        "text_caption_ids": TEXT_IDS,
        "logit_scale": torch.tensor(0.0),
    }
    with pytest.raises(ValueError, match=sentence):
        image_text_loss(**{**arguments, **change})
