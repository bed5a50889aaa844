"""ONNX files compute what the model does, at any batch size and length, and say so where they do not."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_stablerep import pixels, tiny_model

from stablerep_hf.models import encode_images, onnx_export
from stablerep_hf.models.onnx_export import export_onnx


def run(file, **inputs):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, values, strict=True))


def test_an_encoder_and_its_8_bit_form(tmp_path):
    model = tiny_model()
    made = export_onnx(model, tmp_path, int8=True)
    files = {name: file.path for name, file in made.items()}
    assert made["model"].similarity > 0.99999 > made["model_quantized"].similarity > 0.95
    assert model.training  # as it was
    expected = encode_images(model.eval().vision_model, pixels(7))
    found = run(files["model"], pixel_values=pixels(7))
    np.testing.assert_allclose(found["pooler_output"], expected.pooler_output.detach(), atol=1e-4)
    np.testing.assert_allclose(found["last_hidden_state"], expected.last_hidden_state.detach(), atol=1e-4)
    small = run(files["model_quantized"], pixel_values=pixels(7))["pooler_output"]
    assert 0 < np.abs(small - found["pooler_output"]).max() < 0.5
    assert files["model_quantized"].stat().st_size < 0.8 * files["model"].stat().st_size
    part = onnx_export._Encoder(model.vision_model)
    onnx_export._compare(part, {"pixel_values": pixels(2)}, files["model"])
    torch.nn.init.normal_(model.vision_model.layernorm.bias)
    with pytest.raises(RuntimeError, match="with a difference of"):
        onnx_export._compare(part, {"pixel_values": pixels(2)}, files["model"])


def test_a_model_in_half_precision_is_written_in_float32(tmp_path):
    model = tiny_model().eval().to(torch.bfloat16)
    found = run(export_onnx(model, tmp_path)["model"].path, pixel_values=pixels(3))["pooler_output"]
    assert model.dtype == torch.bfloat16 and found.dtype == np.float32
    expected = encode_images(model.float().vision_model, pixels(3)).pooler_output.detach()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_both_towers(tmp_path):
    model = tiny_model(text=True).eval()
    files = {name: file.path for name, file in export_onnx(model, tmp_path).items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text_model.onnx", "vision_model.onnx"]
    images = run(files["vision_model"], pixel_values=pixels(3))
    np.testing.assert_allclose(
        images["image_embeds"], model.get_image_features(pixels(3)).pooler_output.detach(), atol=1e-4
    )
    ids = torch.tensor([[98, 5, 99, 0, 0], [98, 7, 8, 9, 99]])  # the first is padded after its end of text
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    texts = run(files["text_model"], input_ids=ids, attention_mask=mask)["text_embeds"]
    np.testing.assert_allclose(texts, model.get_text_features(ids, mask).pooler_output.detach(), atol=1e-4)
