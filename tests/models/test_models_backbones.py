"""Every type of backbone: how it is pooled, that it is saved whole, that it starts from pretrained weights."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_backbones import FIELDS, TIMM_VIT, TYPES, backbone_config, model_on, pictures, saved, tiny_tower
from torchvision.transforms.functional import to_pil_image
from transformers import AutoImageProcessor, AutoModel, ViTMAEConfig, pipeline

from stablerep_hf.models import BACKBONES, StableRepConfig, StableRepModel, encode_images, export_encoder
from stablerep_hf.models.backbones import freeze_unused, image_shape
from stablerep_hf.models.pretrained import load_backbone, resize


def by_hand(tower, pixel_values):
    """The feature of an image as the papers and the codes of the releases read it; not by what is tested."""
    kind = tower.config.model_type
    if kind == "timm_wrapper":
        return tower.timm_model(pixel_values)
    if kind == "siglip2_vision_model":
        from transformers import Siglip2ImageProcessor

        unnormalised = Siglip2ImageProcessor(patch_size=8, max_num_patches=16, do_resize=False, do_normalize=False)
        inputs = unnormalised(images=list(pixel_values), return_tensors="pt", do_rescale=False)
        hidden = tower(**inputs).last_hidden_state
        return tower.head(hidden, inputs["pixel_attention_mask"])
    outputs = tower(pixel_values)
    hidden = outputs.last_hidden_state
    if kind in ("convnext", "convnextv2"):
        return tower.layernorm(hidden.mean((2, 3)))
    if kind == "resnet":
        return hidden.mean((2, 3))
    if kind in ("swin", "swinv2"):
        return hidden.mean(1)
    if kind == "siglip_vision_model":
        return tower.head(hidden)
    if kind == "clip_vision_model":
        return tower.post_layernorm(hidden[:, 0])
    return hidden[:, 0]


def test_every_type_is_tried_here():
    assert set(FIELDS) == set(BACKBONES)


@pytest.mark.parametrize("kind", TYPES)
def test_the_feature_is_what_its_authors_read(kind):
    tower = tiny_tower(kind).eval()
    with torch.no_grad():
        outputs = encode_images(tower, pictures(3))
        torch.testing.assert_close(outputs.pooler_output, by_hand(tower, pictures(3)), rtol=1e-5, atol=1e-6)
        assert outputs.pooler_output.shape == (3, 32 if kind not in ("dinov3_convnext", "resnet") else 16) or kind in (
            "convnext", "convnextv2", "swin", "swinv2",
        )  # fmt: skip
        none = encode_images(tower, pictures(3)[:0])
    assert none.pooler_output.shape == (0, outputs.pooler_output.shape[1])


@pytest.mark.parametrize("kind", TYPES)
def test_each_weight_that_is_not_frozen_has_a_gradient(kind):
    """DistributedDataParallel would wait for the others forever."""
    tower = tiny_tower(kind)
    freeze_unused(tower)
    weights = torch.randn(16 if kind in ("dinov3_convnext", "resnet") else 32)
    features = encode_images(tower, pictures(4)).pooler_output
    (features @ weights[: features.shape[1]]).sum().backward()
    assert [n for n, p in tower.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in tower.parameters() if not p.requires_grad)


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_saved_resumes_and_loads_to_the_bit(kind, tmp_path):
    """Trainer's resume reads the file as it is, with strict=False; `from_pretrained` renames keys as it reads."""
    model = model_on(kind)
    model.save_pretrained(tmp_path)
    other = model_on(kind)
    for parameter in other.parameters():
        parameter.data.add_(1.0)
    lost = other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert (lost.missing_keys, lost.unexpected_keys) == ([], [])
    loaded, told = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    for copy in (other, loaded):
        torch.testing.assert_close(dict(copy.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert type(loaded.config.vision_config) is type(model.config.vision_config)


@pytest.mark.parametrize("kind", TYPES)
def test_it_is_exported_in_its_stock_class(kind, tmp_path):
    model = model_on(kind, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).eval()
    before = model.config.to_dict()
    export_encoder(model, tmp_path)
    assert model.config.to_dict() == before
    stock, told = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    assert type(stock).__module__.startswith("transformers.models.")
    assert type(stock) is type(model.vision_model)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    said = processor.data_config if kind == "timm_wrapper" else processor.to_dict()
    assert list(said["mean" if kind == "timm_wrapper" else "image_mean"]) == [0.1, 0.2, 0.3]
    assert list(said["std" if kind == "timm_wrapper" else "image_std"]) == [0.4, 0.5, 0.6]
    stock.eval()
    with torch.no_grad():
        expected = encode_images(model.vision_model, pictures(2)).pooler_output
        torch.testing.assert_close(encode_images(stock, pictures(2)).pooler_output, expected, rtol=1e-5, atol=1e-5)
        picture = to_pil_image(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8))
        inputs = processor(picture, return_tensors="pt")
        pooled = stock(**inputs).pooler_output.flatten(1)
    extractor = pipeline("image-feature-extraction", model=stock, image_processor=processor)
    extracted = torch.tensor(extractor(picture, pool=True)).flatten(1)
    torch.testing.assert_close(extracted, pooled, rtol=1e-4, atol=1e-5)
    if kind == "timm_wrapper":
        import timm

        loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
        torch.testing.assert_close(loaded(pictures(2)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "resnet"])
def test_sentence_transformers_load_it(kind, tmp_path):
    import sentence_transformers

    model = model_on(kind).eval()
    export_encoder(model, tmp_path)
    picture = to_pil_image(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8))
    found = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode([picture])
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")
    with torch.no_grad():
        stock = AutoModel.from_pretrained(tmp_path).eval()
        expected = stock(**inputs).pooler_output.flatten(1)
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
def test_it_starts_from_pretrained_weights(kind, tmp_path):
    tower = tiny_tower(kind).eval()
    saved(tower, tmp_path)
    model = StableRepModel.from_backbone(str(tmp_path), projection_dim=16, projection_hidden_dim=24).eval()
    assert list(model.config.image_mean) == pytest.approx([0.4] * 3)
    assert list(model.config.image_std) == pytest.approx([0.3] * 3)
    assert image_shape(model.config.vision_config) == (3, 32, 32)
    with torch.no_grad():
        expected = encode_images(tower, pictures(2)).pooler_output
        torch.testing.assert_close(model(pictures(2)).pooler_output, expected, rtol=1e-5, atol=1e-5)
        assert model(pictures(2)).image_embeds.shape == (2, 16)
    assert not any("mask_token" in n for n, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("resnet",)])
def test_another_size_computes_what_the_stock_class_interpolates(kind, tmp_path):
    tower = tiny_tower(kind).eval()
    larger = resize(tower, 64).eval()
    assert image_shape(larger.config) == (3, 64, 64)
    export_encoder(larger, tmp_path)
    reread, _, _ = load_backbone(str(tmp_path))
    takes = kind in ("vit", "siglip_vision_model", "clip_vision_model", "deit")
    with torch.no_grad():
        ours = encode_images(larger, pictures(2, 64)).pooler_output
        torch.testing.assert_close(encode_images(reread, pictures(2, 64)).pooler_output, ours, rtol=1e-5, atol=1e-5)
        if kind == "timm_wrapper":
            import timm

            args = {**TIMM_VIT, "init_values": 1e-2, "reg_tokens": 2}
            same = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args, dynamic_img_size=True).eval()
            same.load_state_dict(tiny_tower(kind).timm_model.state_dict())
            theirs = same(pictures(2, 64))
        else:
            theirs = encode_images(
                tower, pictures(2, 64), **({"interpolate_pos_encoding": True} if takes else {})
            ).pooler_output
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_dual_encoders_vision_tower_is_taken(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig

    text = CLIPTextConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9
    )
    torch.manual_seed(0)
    whole = CLIPModel(CLIPConfig(vision_config=FIELDS["clip_vision_model"], text_config=text.to_dict())).eval()
    whole.save_pretrained(tmp_path)
    processor = CLIPImageProcessor(crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    tower, mean, _ = load_backbone(str(tmp_path))
    assert type(tower).__name__ == "CLIPVisionModel"
    assert mean == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    with torch.no_grad():
        expected = whole.vision_model(pictures(2)).pooler_output
        torch.testing.assert_close(encode_images(tower, pictures(2)).pooler_output, expected, rtol=1e-5, atol=1e-5)


def test_the_resolution_is_that_of_the_processor(tmp_path):
    """DINOv2 is configured for 518 pixels, and its processor prepares 224: here 64 and 32."""
    saved(tiny_tower("dinov2", image_size=64), tmp_path)
    assert image_shape(StableRepModel.from_backbone(str(tmp_path)).config.vision_config) == (3, 32, 32)
    assert image_shape(StableRepModel.from_backbone(str(tmp_path), image_size=48).config.vision_config) == (3, 48, 48)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "vit_mae"}, "type 'vit_mae'"),
        ({"model_type": "bert"}, "type 'bert'"),
        ({"model_type": "nothing"}, "knows no model of type 'nothing'"),
        ({"model_type": "dinov2", "image_size": 30, "patch_size": 8}, "image_size 30 cannot be cut into patches of 8"),
        ({"model_type": "siglip_vision_model", "vision_use_head": False}, "vision_use_head=False"),
        ({"model_type": "siglip2_vision_model", "num_patches": 15}, "num_patches 15"),
        ({"model_type": "dinov3_vit", "num_channels": 0}, "num_channels is 0"),
    ],
)
def test_what_is_no_backbone_is_one_sentence(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        StableRepConfig(vision_config=fields)
    assert "\n" not in str(error.value)


def test_what_is_no_pretrained_backbone_is_one_sentence(tmp_path):
    from transformers import ViTMAEModel

    ViTMAEModel(ViTMAEConfig(**FIELDS["vit"])).save_pretrained(tmp_path / "mae")
    saved(tiny_tower("vit"), tmp_path / "vit")
    weights = load_file(tmp_path / "vit" / "model.safetensors")
    tiny_tower("dinov2").save_pretrained(tmp_path / "bare")
    for source, words, settings in (
        ("mae", "type 'vit_mae'", {}),
        ("nowhere", "neither a folder nor a repository", {}),
        ("vit", "image_size=30 cannot be cut into the patches of 8", {"image_size": 30}),
        ("bare", "no image processor", {}),
    ):
        with pytest.raises(ValueError, match=words) as error:
            StableRepModel.from_backbone(str(tmp_path / source), **settings)
        assert "\n" not in str(error.value)
    from safetensors.torch import save_file

    name = next(name for name in weights if "query.weight" in name)
    weights.pop(name)
    save_file(weights, tmp_path / "vit" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of its ViTModel"):
        StableRepModel.from_backbone(str(tmp_path / "vit"))


REMOTE = """
from transformers import PreTrainedConfig, ViTModel
class EvilConfig(PreTrainedConfig):
    model_type = "evil"
open({trace!r}, "w").write("ran")
"""


def test_code_of_others_is_not_run_even_if_somebody_says_yes(tmp_path):
    trace = tmp_path / "trace"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "evil.py").write_text(REMOTE.format(trace=str(trace)))
    (folder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}')
    code = f"from stablerep_hf.models import StableRepModel; StableRepModel.from_backbone({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], input="y\n" * 9, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "trust_remote_code" in done.stderr.splitlines()[-1]
    assert not trace.exists()


def test_batch_norm_is_not_cut_into_chunks():
    model = model_on("resnet")
    with pytest.raises(ValueError, match="ResNetModel has batch normalisation"):
        model(pictures(4), forward_chunk_size=2)
    model_on("convnextv2")(pictures(4), forward_chunk_size=2)


def test_fields_say_of_which_type_they_are():
    config = StableRepConfig(vision_config={"model_type": "dinov2", **FIELDS["dinov2"]})
    assert type(config.vision_config) is type(backbone_config("dinov2"))
    assert StableRepConfig(vision_config=dict(FIELDS["vit"])).vision_config.model_type == "vit"
