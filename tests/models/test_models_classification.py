"""A classifier on the encoder: what it takes over, what it computes, and that others load it without this package."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from stranger import run_as_stranger
from tiny_backbones import FIELDS, pictures, tiny_tower
from tiny_stablerep import pixels, tiny_model
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModelForImageClassification

from stablerep_hf.models import StableRepForImageClassification, export_classifier
from stablerep_hf.models.modeling_classification import _UNCLASSIFIED

LABELS = ["apple", "boat", "cat"]

STRANGER = """
import sys
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline

pixels = load_file("pixels.safetensors")["pixels"]
model = AutoModelForImageClassification.from_pretrained("own", trust_remote_code=True)
plain = AutoModelForImageClassification.from_pretrained("stock")
assert type(plain).__name__ == "ViTForImageClassification", type(plain)
answers = pipeline("image-classification", "stock")(Image.new("RGB", (30, 20), (255, 0, 0)))
assert {answer["label"] for answer in answers} == {"apple", "boat", "cat"}, answers
save_file({"remote": model(pixels).logits, "stock": plain(pixels).logits}, "logits.safetensors")
"""


def classifier(multi_label: bool = False) -> StableRepForImageClassification:
    model = StableRepForImageClassification.from_encoder(tiny_model().vision_model, LABELS, multi_label=multi_label)
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def test_it_takes_the_encoder_and_starts_the_classifier_anew():
    encoder = tiny_model().vision_model
    model = StableRepForImageClassification.from_encoder(encoder, LABELS)
    torch.testing.assert_close(dict(model.vision_model.state_dict()), dict(encoder.state_dict()), rtol=0, atol=0)
    assert model.config.label2id == {"apple": 0, "boat": 1, "cat": 2}
    assert not model(pixels(2)).logits.any()


def test_from_pretrained_of_a_pre_training_model_takes_its_encoder(tmp_path):
    whole = tiny_model(text=True)
    whole.save_pretrained(tmp_path)
    model, report = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5, output_loading_info=True)
    assert isinstance(model, StableRepForImageClassification)
    torch.testing.assert_close(
        dict(model.vision_model.state_dict()), dict(whole.vision_model.state_dict()), rtol=0, atol=0
    )
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not report["unexpected_keys"]


def test_the_loss_of_classes_of_distributions_and_of_several_labels():
    model, images = classifier(), pixels(4)
    logits = model(images).logits
    labels = torch.tensor([0, 2, 1, 2])
    torch.testing.assert_close(model(images, labels).loss, cross_entropy(logits, labels))
    soft = torch.softmax(torch.randn(4, 3), 1)
    torch.testing.assert_close(model(images, soft).loss, -(soft * logits.log_softmax(1)).sum(1).mean())
    several = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    expected = binary_cross_entropy_with_logits(logits, several.float())
    torch.testing.assert_close(classifier(multi_label=True)(images, several).loss, expected)


@pytest.mark.parametrize("multi_label", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path, multi_label):
    model = classifier(multi_label)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(pixels(3)).logits, model(pixels(3)).logits)
    assert loaded.config.problem_type == model.config.problem_type


def test_others_load_it_as_remote_code_and_as_a_stock_classifier(tmp_path):
    model, images = classifier(), pixels(3)
    model.save_pretrained(tmp_path / "own")
    export_classifier(model, tmp_path / "stock")
    save_file({"pixels": images}, tmp_path / "pixels.safetensors")
    run_as_stranger(STRANGER, folder=tmp_path)
    logits = load_file(tmp_path / "logits.safetensors")
    expected = model(images).logits
    torch.testing.assert_close(logits["remote"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits["stock"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_each_type_is_exported_as_its_stock_classifier_or_refused(kind, tmp_path):
    if kind in _UNCLASSIFIED:
        with pytest.raises(ValueError, match=f"no classifier for the type '{kind}' that reads its feature"):
            StableRepForImageClassification.from_encoder(tiny_tower(kind), LABELS)
        return
    model = StableRepForImageClassification.from_encoder(tiny_tower(kind), LABELS).eval()
    torch.nn.init.normal_(model.classifier.weight)
    export_classifier(model, tmp_path)
    stock, told = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    assert type(stock).__module__.startswith("transformers.models.")
    assert stock.config.id2label == {0: "apple", 1: "boat", 2: "cat"}
    with torch.no_grad():
        expected = model(pictures(2)).logits
        torch.testing.assert_close(stock.eval()(pictures(2)).logits, expected, rtol=1e-4, atol=1e-5)
