"""Encoders of other libraries and of two towers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from transformers import SiglipConfig, SiglipModel

from stablerep_hf import assets
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import extract_features, load_classifier, load_encoder, pixel_encoder
from stablerep_hf.evaluation.image_transforms import CropAndFlip, Placement


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=7).eval()
    folder = tmp_path_factory.mktemp("timm") / "encoder"
    save_for_hf(model, folder, model_args={"img_size": 32, "patch_size": 8, "depth": 2}, safe_serialization=True)
    return folder, model


def test_the_encoders_that_ship_are_loaded_by_name():
    plus, alone = load_encoder("embedded"), load_encoder("embedded-stablerep")
    assert (plus.name, alone.name) == ("embedded", "embedded-stablerep")
    assert plus.dual is not None and plus.tokenizer is not None and alone.dual is None
    with pytest.raises(InputError, match="is not a trained classifier"):
        load_classifier("embedded")


def test_a_timm_folder_gives_what_its_classifier_would_read(timm_folder, test_world):
    folder, model = timm_folder
    found = extract_features(load_encoder(folder), test_world, progress=False)
    config = {**timm.data.resolve_model_data_config(model), "input_size": (3, 32, 32)}
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.no_grad():
        pixels = torch.stack([transform(image.convert("RGB")) for image in test_world["image"]])
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
    np.testing.assert_allclose(found.features, expected.numpy(), atol=1e-4)
    assert found.embeds is None
    assert load_encoder(f"local-dir:{folder}").name.endswith("encoder")


def test_timm_weights_that_are_not_there_are_one_sentence(tmp_path, timm_folder):
    for source in ("timm/no-such-model.none", "hf-hub:no/such", f"local-dir:{tmp_path}"):
        with pytest.raises(InputError, match=r"timm cannot load the encoder .*: give the id of a Hub repository"):
            load_encoder(source)


def test_a_dual_encoder_gives_both_towers_outputs_in_one_pass(clip_folder, test_world):
    vision = load_encoder(clip_folder)
    calls = []
    vision.model.register_forward_hook(lambda *call: calls.append(len(call[-1].pooler_output)))
    found = extract_features(vision, test_world, batch_size=20, progress=False)
    assert calls == [20, 16]
    pixels = vision.image_processor(
        images=[image.convert("RGB") for image in test_world["image"]], return_tensors="pt"
    )
    with torch.no_grad():
        tower = vision.model(**pixels).pooler_output
        shared = vision.dual.get_image_features(**pixels).pooler_output
    np.testing.assert_allclose(found.features, tower.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.embeds, shared.numpy(), atol=1e-5)
    assert found.features.shape[1] != found.embeds.shape[1]


def test_texts_do_not_depend_on_the_batch_they_are_in(clip_folder):
    vision = load_encoder(clip_folder)
    texts = ["a cat", "a very long text about a cat and everything that it saw on its way", "dog"]
    together = vision.embed_texts(texts)
    alone = torch.cat([vision.embed_texts([text], batch_size=1) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        tokens = vision.tokenizer(texts[:1], return_tensors="pt")
        expected = vision.dual.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(together[:1], expected, atol=1e-5, rtol=1e-4)


def test_siglip_reads_texts_as_it_learned_them(clip_folder, test_world):
    tokenizer = load_encoder(clip_folder).tokenizer
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = SiglipModel(
        SiglipConfig(
            text_config={"vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 16, **sizes},
            vision_config={"image_size": 16, "patch_size": 8, **sizes},
        )
    )
    model.save_pretrained(clip_folder)
    vision = load_encoder(clip_folder)
    found = extract_features(vision, test_world, progress=False)
    np.testing.assert_allclose(found.embeds, found.features, atol=1e-6)  # SigLIP has no projection
    with torch.no_grad():
        padded = tokenizer("a cat", padding="max_length", max_length=24, return_tensors="pt")["input_ids"]
        expected = model.eval().get_text_features(input_ids=padded).pooler_output
    torch.testing.assert_close(vision.embed_texts(["a cat"]), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_without_texts_says_so(vit, image_processor, clip_folder):
    with pytest.raises(InputError, match="'ViTModel' has no text tower"):
        load_encoder(vit, image_processor).embed_texts(["a"])
    for name in clip_folder.glob("tokenizer*"):
        name.unlink()
    with pytest.raises(InputError, match="came without a tokenizer"):
        load_encoder(clip_folder).embed_texts(["a"])


@pytest.mark.parametrize("load", [load_encoder, load_classifier])
def test_weights_that_are_cut_off_are_one_sentence(vit, image_processor, tmp_path, load):
    vit.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cannot be loaded \(.*deserializing"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "weights", "reason"),
    [
        ("{", b"", "JSONDecodeError"),
        ("{}", b"", "KeyError: 'base_model_name_or_path'"),
        ('{"base_model_name_or_path": "x"}', None, "No such file"),
        ('{"base_model_name_or_path": "x"}', b"torn", "deserializing"),
    ],
)
def test_adapters_that_are_damaged_are_one_sentence(tmp_path, config, weights, reason):
    (tmp_path / "adapter_config.json").write_text(config)
    if weights is not None:
        (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=f"cannot be read .*{reason}"):
        load_classifier(tmp_path)


def test_a_device_that_is_not_there_is_one_sentence(vit, image_processor, tmp_path):
    vit.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="The device 'abacus' cannot be used"):
        load_encoder(tmp_path, device="abacus")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": -4}, {"num_workers": -1}])
def test_a_batch_of_nothing_and_negative_workers_are_refused(test_world, wrong):
    with pytest.raises(InputError, match=r"encode nothing; give at least 1 image a batch"):
        extract_features(pixel_encoder(), test_world, progress=False, **wrong)


def test_a_placed_picture_is_whole_and_lies_elsewhere_on_light_paper():
    picture = Image.new("RGB", (40, 30), "white")
    picture.paste((10, 20, 30), (0, 0, 40, 2))  # ink at the top edge must survive
    picture.paste((200, 0, 0), (10, 10, 30, 20))
    placed = Placement(seed=0)
    places, papers = set(), set()
    for row in range(20):
        result = np.asarray(placed(picture, row)).astype(int)
        assert result.shape == (30, 40, 3)
        np.testing.assert_array_equal(result, np.asarray(placed(picture, row)))
        red = (result[..., 0] > 140) & (result[..., 1:] < 60).all(2)
        assert 0.15 * 200 < red.sum() < 1.2 * 200  # its area, shrunk to a quarter at most, less blurred edges
        assert (result.sum(2) < 150).any(), "the line at the edge"
        places.add(tuple(np.argwhere(red)[0]))
        paper, counts = np.unique(result.reshape(-1, 3), axis=0, return_counts=True)
        assert counts.max() > 0.35 * 1200 and paper[counts.argmax()].min() >= 192
        papers.add(tuple(paper[counts.argmax()]))
    assert len(places) > 10 and len(papers) == 20
    assert (np.asarray(Placement(seed=1)(picture, 0)) != np.asarray(placed(picture, 0))).any()


def test_crops_have_the_inputs_size_and_differ_from_epoch_to_epoch():
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 255, (60, 90, 3), dtype=np.uint8))
    crops = [np.asarray(CropAndFlip(24, 32, epoch=epoch, seed=2)(picture, 5)) for epoch in (0, 0, 1)]
    assert crops[0].shape == (24, 32, 3)
    np.testing.assert_array_equal(crops[0], crops[1])
    assert (crops[0] != crops[2]).any()
    thin = Image.new("RGB", (200, 3))
    assert CropAndFlip(8, 8)(thin, 0).size == (8, 8)


class ReadsAnotherPart(torch.nn.Module):
    """As a masked autoencoder: of each image some pixels, drawn anew at each call."""

    def forward(self, pixel_values):
        return pixel_values.flatten(1)[:, torch.randperm(pixel_values[0].numel())[:100]]


def test_an_encoder_whose_features_change_from_call_to_call_is_refused():
    pixels = pixel_encoder()
    with pytest.raises(InputError, match=r"ReadsAnotherPart.*differ by .* from call to call"):
        load_encoder(ReadsAnotherPart(), pixels.image_processor)
    assert load_encoder(pixels.model, pixels.image_processor).model is pixels.model, "one that repeats itself is taken"


def test_weights_of_other_shapes_than_the_configuration_says_are_one_sentence(tmp_path):
    folder = shutil.copytree(assets.find_encoder("embedded-stablerep"), tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"embedding_size": 56}))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(folder)
