"""Losses, colours and every type of backbone compute on a device what they compute on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, fake_gpu, values, waits
from tiny_backbones import FIELDS, model_on, pictures

from stablerep_hf.losses import image_text_loss, multi_positive_loss
from stablerep_hf.training.augmentation import RECIPES, draw_view
from stablerep_hf.training.color import ColorAugmentation, blur_radius, gaussian_blur

pytestmark = pytest.mark.fake_gpu
IDS = torch.arange(24) // 4

# The host waits for sizes that only the ids know: how many captions there are, and how many siblings at each norm.
LOSS = {"losses/multi_positive.py _group_sums": 1}
IMAGE_TEXT = {"losses/image_text.py _both_directions": 1}
# transformers reads the numbers of patches that SigLIP 2 is told in a tensor, and whether its mask hides any.
SIGLIP_2 = {"models/backbones.py encode_images": 4, "models/backbones.py tower_inputs": 1}
HEAD = {"models/sibling_batch_norm.py _group": 2}


def embeddings(seed: int) -> torch.Tensor:
    return torch.randn(24, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.1, 0.01])  # both ways of the streamed sum
def test_a_loss_and_its_gradient(temperature):
    found = []
    for device in ("cpu", DEVICE):
        with fake_gpu():
            embeds = embeddings(0).to(device).requires_grad_()
            loss = multi_positive_loss(embeds, IDS.to(device), temperature, tile=5)
            loss.backward()
            assert waits == ({} if device == "cpu" else LOSS)
        found.append((values(loss.detach()), values(embeds.grad)))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_the_loss_of_images_and_texts():
    found = []
    for device in ("cpu", DEVICE):
        with fake_gpu():
            images, texts = (embeddings(seed).to(device).requires_grad_() for seed in (0, 1))
            scale = torch.tensor(2.0).to(device).requires_grad_()
            ids = IDS.to(device)
            image_text_loss(images, texts, ids, ids, scale).backward()
            assert waits == ({} if device == "cpu" else IMAGE_TEXT)
        found.append([values(tensor.grad) for tensor in (images, texts, scale)])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_tensors_of_two_devices_do_not_mix():
    with fake_gpu(), pytest.raises(RuntimeError, match="same device"):
        multi_positive_loss(embeddings(0).to(DEVICE), IDS, 0.1)


def test_colours(monkeypatch):
    monkeypatch.setattr("stablerep_hf.training.color.cv2", None)
    rng = np.random.default_rng(0)
    color = np.stack([draw_view(rng, 32, 32, RECIPES["strong"], 224).color for _ in range(24)])
    pixels = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = ColorAugmentation()(pixels, color)
    with fake_gpu():
        on_device = pixels.to(DEVICE)
        found = ColorAugmentation()(on_device, color)
        assert found.device == DEVICE
        assert not waits, "the host must run ahead of the device"
    torch.testing.assert_close(values(found), expected, rtol=0, atol=0)


@pytest.mark.parametrize("sigma", [[0.1], [0.5, 2.0, 9.0]])  # the last reaches beyond the picture
def test_blur_kernels_made_on_the_device_are_those_of_the_host(sigma):
    sigmas = torch.tensor(sigma)
    images = torch.rand(len(sigma), 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = gaussian_blur(images, sigmas)
    for row, value in enumerate(sigma):  # each image alone, by a convolution over a picture with repeated edges
        reach = blur_radius(value)
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / value) ** 2)
        padded = np.pad(images[row].double().numpy(), ((0, 0), (reach, reach), (reach, reach)), "edge")
        for axis in (1, 2):
            padded = np.apply_along_axis(np.convolve, axis, padded, taps / taps.sum(), "valid")
        np.testing.assert_allclose(expected[row], padded, atol=2e-6)
    with fake_gpu():
        found = gaussian_blur(images.to(DEVICE), sigmas)
        assert not waits, "the host must run ahead of the device"
    torch.testing.assert_close(values(found), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_a_step_of_every_backbone(kind):
    """Forward, backward and optimiser, in chunks where the backbone can be cut."""
    siblings = torch.arange(8) % 2
    images = torch.cat([pictures(4), pictures(4).flip(0)])
    found = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = model_on(kind).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with fake_gpu():
            model.to(device)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            # Python backends of PyTorch 2.14 abort where chunks of SigLIP 2 run a backward pass within another.
            chunks = None if kind in ("resnet", "siglip2_vision_model") else 3
            outputs = model(images.to(device), sibling_index=siblings.to(device), forward_chunk_size=chunks)
            multi_positive_loss(outputs.image_embeds, siblings.to(device), 0.1).backward()
            optimizer.step()
            of_the_tower = SIGLIP_2 if kind == "siglip2_vision_model" else {}
            assert waits == ({} if device == "cpu" else LOSS | HEAD | of_the_tower)
        assert {parameter.device.type for parameter in model.parameters()} == {torch.device(device).type}
        found.append({name: values(parameter.detach()) for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)  # sums come in another order
