from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import Columns, evaluate_encoder, extract_features, load_encoder, pixel_encoder
from stablerep_hf.evaluation.columns import column_values


def encode_one_by_one(model, image_processor, images) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        outputs = [model(**image_processor(images=image.convert("RGB"), return_tensors="pt")) for image in images]
    return torch.cat([output.last_hidden_state[:, 0] for output in outputs]).numpy()


def dataset_of(stored: list[dict | None], **columns) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), **{name: datasets.Value("string") for name in columns}})
    return datasets.Dataset.from_dict({"image": stored, **columns}, features=features)


def encoded(colour: str, mode: str = "RGB", **save) -> dict:
    buffer = io.BytesIO()
    Image.new(mode, (8, 12), colour).save(buffer, format="PNG", **save)
    return {"bytes": buffer.getvalue(), "path": None}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_features_are_those_of_the_images_one_by_one_in_their_order(vit, image_processor, train_world, batch_size):
    found = extract_features(
        vit,
        train_world,
        image_processor=image_processor,
        columns=["label", "concept"],
        batch_size=batch_size,
        progress=False,
    )
    assert found.features.dtype == np.float32
    expected = encode_one_by_one(vit, image_processor, train_world["image"])
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    np.testing.assert_array_equal(found.rows, np.arange(len(train_world)))
    np.testing.assert_array_equal(found.columns["concept"], train_world["concept"][:])
    np.testing.assert_array_equal(found.columns["label"], train_world["label"][:])


def test_workers_change_nothing(vit, image_processor, test_world):
    alone = extract_features(vit, test_world, image_processor=image_processor, progress=False)
    helped = extract_features(
        vit, test_world, image_processor=image_processor, num_workers=2, batch_size=5, progress=False
    )
    np.testing.assert_allclose(helped.features, alone.features, atol=1e-5)


def test_every_module_comes_back_in_its_own_mode(vit, image_processor, test_world):
    vit.train()
    vit.embeddings.eval()  # as a frozen part of a model in training
    before = {name: module.training for name, module in vit.named_modules()}
    first = extract_features(vit, test_world, image_processor=image_processor, progress=False)
    assert {name: module.training for name, module in vit.named_modules()} == before
    second = extract_features(vit, test_world, image_processor=image_processor, progress=False)
    np.testing.assert_array_equal(first.features, second.features)  # dropout was off
    assert all(parameter.grad is None for parameter in vit.parameters())
    vit(pixel_values=torch.zeros(1, 3, 16, 16)).last_hidden_state.sum().backward()  # and still trainable


def test_modes_come_back_after_a_failure_too(vit, image_processor):
    vit.train()
    with pytest.raises(InputError):
        extract_features(vit, dataset_of([{"bytes": b"none", "path": None}]), image_processor=image_processor)
    assert vit.training


def test_a_format_or_augmentation_set_on_the_data_is_not_applied(vit, image_processor, test_world):
    plain = extract_features(vit, test_world, image_processor=image_processor, columns=["label"], progress=False)
    for view in (test_world.with_transform(lambda rows: {"image": [0] * len(rows)}), test_world.with_format("torch")):
        found = extract_features(vit, view, image_processor=image_processor, columns=["label"], progress=False)
        np.testing.assert_array_equal(found.features, plain.features)
        np.testing.assert_array_equal(found.columns["label"], plain.columns["label"])


def test_images_of_any_mode_and_size_become_rgb(vit, image_processor):
    stored = [
        encoded("red"),
        encoded("white", "L"),
        encoded("blue", "RGBA"),
        encoded("black", "1"),
        encoded("red", "P"),
    ]
    assert extract_features(
        vit, dataset_of(stored), image_processor=image_processor, progress=False
    ).features.shape == (5, 16)


def test_transparent_parts_are_white_whatever_colour_lies_below(vit, image_processor):
    def icon(below):
        pixels = np.zeros((16, 16, 4), np.uint8)
        pixels[..., :3] = below
        pixels[4:9, 4:12] = (0, 0, 0, 255)
        return {"bytes": png(Image.fromarray(pixels)), "path": None}

    on_white = Image.new("RGB", (16, 16), "white")
    on_white.paste((0, 0, 0), (4, 4, 12, 9))
    data = dataset_of([icon(0), icon(200), {"bytes": png(on_white), "path": None}])
    found = extract_features(vit, data, image_processor=image_processor, progress=False).features
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_picture_whose_exif_is_damaged_is_skipped_like_any_other(vit, image_processor):
    """Pillow cannot write the orientation back and raises struct.error, which is no error of images."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01=\0\x02\0\0\0\x04abc\0\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, "JPEG", exif=exif)
    data = dataset_of([encoded("red"), {"bytes": stream.getvalue(), "path": None}])
    found = extract_features(vit, data, image_processor=image_processor, max_bad_images=1, progress=False)
    assert found.skipped == ("row 1",)


def test_bad_images_are_skipped_counted_and_named_up_to_the_limit(vit, image_processor, caplog):
    whole = encoded("red")
    torn = {"bytes": whole["bytes"][:40], "path": None}
    data = dataset_of([whole, torn, encoded("blue"), None, encoded("lime")], name=["a", "b", "c", "d", "e"])
    arguments = {"image_processor": image_processor, "columns": ["name"], "key_column": "name", "progress": False}
    found = extract_features(vit, data, max_bad_images=2, batch_size=2, **arguments)
    assert found.skipped == ("b", "d")
    assert "2 images could not be decoded" in caplog.text
    np.testing.assert_array_equal(found.rows, [0, 2, 4])
    np.testing.assert_array_equal(found.columns["name"], ["a", "c", "e"])
    expected = extract_features(vit, data.select([0, 2, 4]), **arguments).features
    np.testing.assert_allclose(found.features, expected, atol=1e-6)
    with pytest.raises(InputError, match=r"^2 of the images in column 'image' cannot be decoded, the last being d "):
        extract_features(vit, data, max_bad_images=1, **arguments)
    with pytest.raises(InputError, match=r"the last being row 1 .*at most 0 may be skipped"):
        extract_features(vit, data, image_processor=image_processor, progress=False)
    with pytest.raises(InputError, match="None of the 2 images"):
        extract_features(vit, data.select([1, 3]), max_bad_images=9, **arguments)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (dataset_of([]), {}, "0 rows"),
        (dataset_of([encoded("red")]), {"image_column": "img"}, "no column 'img', it has 'image'"),
        (dataset_of([encoded("red")], name=["a"]), {"image_column": "name"}, "holds Value and no images"),
        (dataset_of([encoded("red")]), {"columns": ["label"]}, "no column 'label'"),
    ],
)
def test_data_without_what_is_asked_for_is_refused(vit, image_processor, data, arguments, message):
    with pytest.raises(InputError, match=message):
        extract_features(vit, data, image_processor=image_processor, **arguments)


def test_features_are_read_as_each_type_reads_them(image_processor, test_world):
    torch.manual_seed(0)
    pooling = ViTModel(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        )
    )
    convolutional = ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    )
    for model, width in ((pooling, 16), (convolutional, 12)):
        found = extract_features(model, test_world, image_processor=image_processor, progress=False)
        pixels = image_processor(images=list(test_world["image"]), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            outputs = model.eval()(pixel_values=pixels)
        # a ViT's pooler is random in most checkpoints
        expected = outputs.last_hidden_state[:, 0] if model is pooling else outputs.pooler_output.flatten(1)
        assert found.features.shape == (len(test_world), width)
        np.testing.assert_allclose(found.features, expected.numpy(), atol=1e-5)


def test_a_dual_encoder_is_measured_by_its_vision_tower(image_processor, test_world):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    clip = CLIPModel(
        CLIPConfig(text_config={**small, "vocab_size": 50}, vision_config={**small, "image_size": 16, "patch_size": 8})
    )
    found = extract_features(clip, test_world, image_processor=image_processor, progress=False)
    tower = extract_features(clip.vision_model, test_world, image_processor=image_processor, progress=False)
    np.testing.assert_array_equal(found.features, tower.features)


def test_a_folder_gives_the_features_of_the_model_it_was_saved_from(vit, image_processor, test_world, tmp_path):
    vit.save_pretrained(tmp_path / "my-encoder")
    image_processor.save_pretrained(tmp_path / "my-encoder")
    loaded = load_encoder(tmp_path / "my-encoder", device="cpu")
    assert loaded.name == "my-encoder"
    found = extract_features(loaded, test_world, progress=False)
    expected = extract_features(vit, test_world, image_processor=image_processor, progress=False)
    # the checkpoint has no pooler: transformers' stock class makes one up and squashes features by random weights
    np.testing.assert_allclose(found.features, expected.features, atol=1e-6)


def test_a_checkpoint_that_lacks_weights_is_refused(vit, image_processor, tmp_path):
    from safetensors.torch import load_file, save_file

    vit.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if "layernorm_before" in name)
    save_file(
        {name: value for name, value in weights.items() if name != gone},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(InputError, match=r"lacks weights for 1 tensors .* would be random"):
        load_encoder(tmp_path)


def test_what_is_no_encoder_is_refused(vit, tmp_path):
    with pytest.raises(InputError, match="without an image processor"):
        load_encoder(vit)
    with pytest.raises(InputError, match=r"'./nowhere' cannot be loaded"):
        load_encoder("./nowhere")
    vit.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no image processor that transformers can read"):
        load_encoder(tmp_path)
    text = BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    )
    with pytest.raises(InputError, match="takes 'input_ids' and no image"):
        load_encoder(text, image_processor=lambda **_: {})


def test_the_pixel_baseline_is_the_shrunken_picture(train_world, test_world):
    encoder = pixel_encoder(4)
    found = extract_features(encoder, test_world, progress=False)
    assert found.features.shape == (len(test_world), 48)
    assert encoder.name == "4 x 4 pixels"
    for row in (0, 5):
        small = np.asarray(test_world[row]["image"].resize((4, 4), Image.Resampling.BILINEAR), dtype=np.float32)
        expected = (small / 127.5 - 1).transpose(2, 0, 1).ravel()
        np.testing.assert_allclose(found.features[row], expected, atol=0.02)  # uint8 rounding on either way
    # the toy world is made of colour fields, so its known answer is 1
    columns = Columns(label="label", group="concept", artist="artist")
    results = evaluate_encoder(encoder, train_world, test_world, columns=columns, progress=False)
    assert [result.value for result in results] == pytest.approx([1.0] * 5, abs=0.06)


def test_half_precision_weights_get_pixels_of_their_type_and_give_float32(vit, image_processor, test_world):
    found = extract_features(vit.bfloat16(), test_world, image_processor=image_processor, progress=False)
    assert found.features.dtype == np.float32
    expected = extract_features(vit.float(), test_world, image_processor=image_processor, progress=False).features
    np.testing.assert_allclose(found.features, expected, atol=0.2)


def test_a_text_of_a_book_s_length_does_not_widen_all_the_rest():
    texts = ["a dog", "x" * 9_999 + "a", "x" * 9_999 + "b", "x" * 9_999 + "a"]
    values = column_values(datasets.Dataset.from_dict({"caption": texts}), "caption")
    assert values[0] == "a dog" and values[1] == values[3] != values[2]
    assert values.nbytes < 4 * 4 * 2_100
