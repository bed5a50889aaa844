"""Adapters, frozen layers and learning rates by layer on every type of backbone."""

import pytest
import torch
from peft import get_peft_model
from test_fine_tuning import NAMES
from tiny_backbones import FIELDS, MAIN, model_on, pictures, saved, tiny_tower

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import load_classifier, load_encoder
from stablerep_hf.models import StableRepForImageClassification, encode_images
from stablerep_hf.models.modeling_classification import _UNCLASSIFIED
from stablerep_hf.training import add_adapters, lora_config, save_adapter
from stablerep_hf.training.layers import freeze_layers, layers_of

CONVOLUTIONAL = ("convnext", "convnextv2", "dinov3_convnext")
ADAPTABLE = sorted(set(FIELDS) - {"resnet"})
# linear layers in a block of each type: of queries, keys, values and their output, and of the MLP
LAYERS = dict.fromkeys(CONVOLUTIONAL, 2) | {"timm_wrapper": 4}


def adapted_names(model):
    return {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}


def disturb(model):
    """Adapters begin as nought: give them weights as if they had learned something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


@pytest.mark.parametrize("kind", ADAPTABLE)
def test_adapters_go_on_the_projections_of_each_type(kind):
    if kind in CONVOLUTIONAL:
        with pytest.raises(
            InputError, match="no layer for adapters with adapter_targets=attention: give adapter_targ"
        ):
            add_adapters(model_on(kind), rank=2)
    else:
        names = adapted_names(add_adapters(model_on(kind), rank=2))
        last = {name.rpartition(".")[2] for name in names}
        assert last in ({"q_proj", "v_proj"}, {"query", "value"}, {"qkv"})
        assert len(names) == 2 * len(last), "in each of the two blocks"
    model = model_on(kind)
    before = encode_images(model.vision_model.eval(), pictures(2)).pooler_output
    adapters = add_adapters(model, rank=2, adapter_targets="all")
    assert len(adapted_names(adapters)) == 2 * LAYERS.get(kind, 6)
    torch.testing.assert_close(encode_images(model.vision_model, pictures(2)).pooler_output, before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained if name.startswith("vision_model."))
    assert "projection_head.fc1.weight" in trained


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in ADAPTABLE if kind in MAIN])
def test_adapters_of_an_encoder_go_on_the_stock_one_and_are_merged_into_it(kind, dora, tmp_path):
    from peft import PeftModel
    from transformers import AutoModel

    saved(tiny_tower(kind).eval(), tmp_path / "base")
    model = model_on(kind).eval()
    untouched = encode_images(model.vision_model, pictures(2)).pooler_output
    adapters = add_adapters(model, rank=2, adapter_targets="all", dora=dora)
    disturb(model)
    model.eval()
    expected = encode_images(model.vision_model, pictures(2)).pooler_output
    assert float((expected - untouched).abs().max().detach()) > 1e-3
    save_adapter(adapters, tmp_path / "adapter", str(tmp_path / "base"))
    stock = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter")).eval()
    found = encode_images(stock.get_base_model(), pictures(2)).pooler_output
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    vision = load_encoder(tmp_path / "adapter")
    torch.testing.assert_close(vision.encode(pictures(2))[0], expected.detach(), rtol=1e-4, atol=1e-5)
    merged = adapters.merge_and_unload()
    assert merged is model.vision_model and type(merged) is type(tiny_tower(kind))
    torch.testing.assert_close(encode_images(merged, pictures(2)).pooler_output, expected, rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == tiny_tower(kind).state_dict().keys()


@pytest.mark.parametrize("kind", [kind for kind in ADAPTABLE if kind not in _UNCLASSIFIED])
def test_adapters_of_a_classifier_go_on_the_stock_one(kind, tmp_path):
    saved(tiny_tower(kind).eval(), tmp_path / "base")
    classifier = StableRepForImageClassification.from_encoder(tiny_tower(kind), NAMES)
    model = get_peft_model(classifier, lora_config(classifier, rank=2, adapter_targets="all"))
    disturb(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_()
        expected = model.eval()(pictures(2)).logits
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    loaded = load_classifier(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.eval()(pictures(2)), expected, rtol=1e-4, atol=1e-5)


def test_adapters_of_another_base_are_refused(tmp_path):
    model = model_on("dinov2")
    save_adapter(add_adapters(model, rank=2), tmp_path / "adapter", str(saved(tiny_tower("vit"), tmp_path / "vit")))
    with pytest.raises(InputError, match=r"do not fit .*vit'.*: they were trained on another encoder"):
        load_encoder(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"ResNetModel has no layer for adapters .*: train it whole"):
        add_adapters(model_on("resnet"), rank=2)


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_layers_are_counted_from_the_embeddings_on(kind):
    model = model_on(kind)
    layers, blocks = layers_of(model)
    assert blocks >= 2 and set(layers.values()) == set(range(blocks + 1)) - (
        {0} if kind == "dinov3_convnext" else set()
    )
    order = [layers[name] for name, _ in model.named_parameters() if name in layers]
    assert order == sorted(order)
    rest = {name for name, _ in model.named_parameters() if name not in layers}
    assert all(name.startswith("projection_head.") or "norm" in name or ".head." in name for name in rest)
    freeze_layers(model, 1)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name, layer in layers.items() if layer <= 1} == frozen | {
        name for name in layers if "mask_token" in name
    }
    features = encode_images(model.vision_model, pictures(4)).pooler_output
    features.square().sum().backward()
    with pytest.raises(InputError, match=f"freeze_layers={blocks + 1} .* has {blocks} blocks"):
        freeze_layers(model, blocks + 1)
