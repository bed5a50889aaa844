"""The release's checkpoints in, timm's in and out: the same features to rounding, and nothing lost in silence."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
from collections import OrderedDict
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from stranger import run_as_stranger
from tiny_stablerep import pixels, tiny_model
from torch import nn
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from stablerep_hf.models import convert_official_checkpoint, encode_images, export_encoder, load_backbone
from stablerep_hf.models.backbones import image_shape
from stablerep_hf.models.timm_layout import from_timm, to_timm, vit_of_timm


class OfficialBlock(nn.Module):
    """A block of CLIP's text tower, after the description in the paper, under the release's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=nn.Identity(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (L, C, width)
        y, length = self.ln_1(x), len(x)
        causal = torch.full((length, length), -torch.inf).triu(1)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=causal)[0]
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class Official(nn.Module):
    """The release's model in small: timm's ViT, the head called once a sibling, and optionally the text tower."""

    def __init__(self, text: bool) -> None:
        super().__init__()
        self.visual = timm.models.VisionTransformer(
            img_size=16, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=0,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )  # fmt: skip
        self.image_mlp = nn.ModuleDict(
            {
                "layer1": nn.Linear(128, 40), "bn1": nn.BatchNorm1d(40), "layer2": nn.Linear(40, 40),
                "bn2": nn.BatchNorm1d(40), "layer3": nn.Linear(40, 16),
            }
        )  # fmt: skip
        if text:
            self.token_embedding = nn.Embedding(30, 64)
            self.positional_embedding = nn.Parameter(torch.randn(9, 64))
            self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(OfficialBlock(64), OfficialBlock(64))})
            self.ln_final = nn.LayerNorm(64)
            self.image_projection = nn.Parameter(torch.randn(128, 12))
            self.text_projection = nn.Parameter(torch.randn(64, 12))
            self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        head, x = self.image_mlp, self.visual(images)
        x = torch.relu(head["bn1"](head["layer1"](x)))
        return head["layer3"](torch.relu(head["bn2"](head["layer2"](x))))

    def embed_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer["resblocks"](x.transpose(0, 1)).transpose(0, 1))
        return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ self.text_projection


def official(text: bool) -> Official:
    torch.manual_seed(0)
    model = Official(text)
    for parameter in model.parameters():  # no weight left at 0 or 1, where a mix-up would not show
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.embed_images(torch.randn(16, 3, 16, 16))  # running statistics of its own
    return model.eval()


def save(model: nn.Module, path, **extra) -> None:
    content = {"model": model.state_dict(), "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 14}
    torch.save({**content, "scaler": {"scale": 65536.0}, "args": argparse.Namespace(lr=1e-3), **extra}, path)


@pytest.mark.parametrize("text", [False, True])
def test_a_checkpoint_of_the_release_gives_the_same_features_and_embeddings(tmp_path, text):
    theirs = official(text)
    save(theirs, tmp_path / "official.pth")
    ours = convert_official_checkpoint(tmp_path / "official.pth")
    tokens = torch.tensor([[28, 3, 5, 29, 0, 0], [28, 7, 8, 9, 10, 29]])
    outputs = ours(pixels(5), tokens if text else None)
    torch.testing.assert_close(outputs.pooler_output, theirs.visual(pixels(5)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.image_embeds, theirs.embed_images(pixels(5)), rtol=1e-5, atol=1e-5)
    if text:
        torch.testing.assert_close(outputs.text_embeds, theirs.embed_texts(tokens), rtol=1e-5, atol=1e-5)
        images = theirs.visual(pixels(5)) @ theirs.image_projection
        torch.testing.assert_close(outputs.image_text_embeds, images, rtol=1e-5, atol=1e-5)
        assert outputs.logit_scale == theirs.logit_scale
    assert ours.config.head_norm == "batch_per_sibling"
    assert not ours.training


def test_bare_weights_and_weights_of_parallel_training_are_read_too(tmp_path):
    model = official(False)
    torch.save({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "bare.pth")
    converted = convert_official_checkpoint(tmp_path / "bare.pth")
    torch.testing.assert_close(converted(pixels(2)).pooler_output, model.visual(pixels(2)), rtol=1e-5, atol=1e-5)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil_was_here",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(official(False), tmp_path / "official.pth", args=Evil())
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        convert_official_checkpoint(tmp_path / "official.pth")
    assert not (tmp_path / "evil_was_here").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("image_mlp.bn2.running_var"), "lacks .*norm2.running_var"),
        (lambda w: w.update({"predictor.weight": torch.ones(3)}), "has .*predictor.weight"),
        (lambda w: w.update({"visual.dist_token": torch.ones(3)}), "dist_token"),
        (lambda w: w.pop("visual.blocks.1.mlp.fc2.bias"), "blocks.1.mlp.fc2.bias"),
        (lambda w: w.clear(), "lack"),
        (lambda w: w.update({"image_mlp.layer2.bias": torch.ones(3)}), r"do not fit each other .*fc2.bias"),
    ],
)
def test_weights_too_many_or_too_few_are_listed(tmp_path, change, sentence):
    weights = official(False).state_dict()
    change(weights)
    torch.save({"model": weights}, tmp_path / "official.pth")
    with pytest.raises(ValueError, match=sentence):
        convert_official_checkpoint(tmp_path / "official.pth")


def saved(content) -> bytes:
    torch.save(content, stream := io.BytesIO())
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no checkpoint",
        pickle.dumps([1, 2]),
        # takes something from the pickler's memory that is not there
        b"\x80\x02h\x07.",
        saved({"model": {1: torch.ones(2)}}),
        saved([torch.ones(2)]),
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "official.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read|holds no weights"):
        convert_official_checkpoint(tmp_path / "official.pth")


def test_the_layouts_are_inverse_to_each_other():
    weights = dict(tiny_model().vision_model.state_dict())
    torch.testing.assert_close(from_timm(to_timm(weights)), weights, rtol=0, atol=0)


PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.4] * 3, image_std=[0.3] * 3)


def test_a_timm_vit_becomes_one_of_transformers(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0).eval()
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True, model_args={"img_size": 32, "depth": 2})
    images = torch.randn(2, 3, 32, 32)
    for source in (f"local-dir:{tmp_path}", str(tmp_path)):
        tower, mean, std = load_backbone(source)
        torch.testing.assert_close(encode_images(tower, images).pooler_output, theirs(images), rtol=1e-5, atol=1e-5)
        assert (mean, std) == ([0.5] * 3, [0.5] * 3)
        ours = vit_of_timm(tower)
        torch.testing.assert_close(encode_images(ours, images).pooler_output, theirs(images), rtol=1e-5, atol=1e-5)
    assert ours.config.layer_norm_eps == 1e-6


def test_a_transformers_checkpoint_starts_an_encoder(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16,
                       patch_size=8)  # fmt: skip
    theirs = ViTModel(config).eval()
    theirs.save_pretrained(tmp_path / "stock")
    ours, mean, _ = load_backbone(str(tmp_path / "stock"), image_processor=PROCESSOR)
    assert mean == [0.4] * 3
    expected = theirs(pixels(3)).last_hidden_state
    torch.testing.assert_close(ours(pixels(3)).last_hidden_state, expected)
    config.image_size, config.patch_size = [16, 16], [8, 8]
    ViTModel(config).save_pretrained(tmp_path / "pairs")
    assert image_shape(load_backbone(str(tmp_path / "pairs"), image_processor=PROCESSOR)[0].config) == (3, 16, 16)
    model = tiny_model(image_mean=[0.1] * 3).eval()
    model.save_pretrained(tmp_path / "whole")
    again, mean, _ = load_backbone(str(tmp_path / "whole"))
    assert mean == [0.1] * 3
    torch.testing.assert_close(encode_images(again, pixels(3)).pooler_output, model(pixels(3)).pooler_output)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reg_tokens": 4}, "reg_token"),
        ({"no_embed_class": True}, "4 position embeddings"),
        ({"act_layer": "quick_gelu"}, "Quick"),
        ({"global_pool": "avg", "fc_norm": False}, "pools by 'avg'"),
    ],
)
def test_other_architectures_of_timm_are_no_vit_of_transformers(tmp_path, settings, sentence):
    settings = {"img_size": 32, "depth": 1, **settings}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **settings).eval()
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True, model_args=settings)
    tower, _, _ = load_backbone(str(tmp_path))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encode_images(tower, images).pooler_output, theirs(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=sentence):
        vit_of_timm(tower)


def spoil(folder, **changes):
    file = folder / "model.safetensors"
    weights = load_file(file)
    for part, value in changes.items():
        named = [name for name in weights if part in name]
        assert named
        weights |= dict.fromkeys(named, value)
    save_file({name: value for name, value in weights.items() if value is not None}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("stock", [True, False])
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, stock):
    model = tiny_model()
    export_encoder(model, tmp_path) if stock else model.save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path))[0].config.num_hidden_layers == 2
    if not stock:  # what is not of the encoder may be missing
        spoil(tmp_path, projection_head=None)
        load_backbone(str(tmp_path))
    spoil(tmp_path, layernorm_before=None)
    with pytest.raises(ValueError, match=r"lacks 4 weights .*layernorm_before"):
        load_backbone(str(tmp_path))
    spoil(tmp_path, cls_token=torch.zeros(3))
    with pytest.raises(ValueError, match=r"lacks 5 weights .* in another shape .*cls_token"):
        load_backbone(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="no weights that can be read"):
        load_backbone(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights that can be read"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text("{torn")
    with pytest.raises(ValueError, match=r"neither a folder .*JSON"):
        load_backbone(str(tmp_path))


CHILD = """
import json, sys
import timm, torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel
folder, out = sys.argv[1:]
pixels = load_file(out + "/pixels.safetensors")["pixels"]
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
wrapped, info = AutoModel.from_pretrained(folder, output_loading_info=True)
data = timm.data.resolve_model_data_config(model)
outputs = {"timm": model(pixels), "wrapper": wrapped.eval()(pixels).pooler_output}
save_file({name: features.contiguous() for name, features in outputs.items()}, out + "/outputs.safetensors")
processor = type(AutoImageProcessor.from_pretrained(folder)).__name__
json.dump(
    {"data": data, "lost": [sorted(info[k]) for k in ("missing_keys", "unexpected_keys")], "processor": processor,
     "wrapper": type(wrapped).__name__},
    open(out + "/report.json", "w"),
)
"""


@pytest.mark.parametrize("size", ["tiny", "micro"])
def test_an_encoder_exported_for_timm_needs_no_code_of_ours(tmp_path, size):
    from stablerep_hf.models import StableRepConfig, StableRepModel

    torch.manual_seed(0)
    model = StableRepModel(
        StableRepConfig.from_size(size, image_size=32, patch_size=8, projection_hidden_dim=8)
    ).eval()
    images = torch.randn(3, 3, 32, 32)
    export_encoder(model, tmp_path / "timm", format="timm")
    save_file({"pixels": images}, tmp_path / "pixels.safetensors")
    run_as_stranger(CHILD, tmp_path / "timm", tmp_path, folder=tmp_path)
    outputs, report = load_file(tmp_path / "outputs.safetensors"), json.loads((tmp_path / "report.json").read_text())
    expected = model(images).pooler_output
    torch.testing.assert_close(outputs["timm"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs["wrapper"], expected, rtol=1e-5, atol=1e-5)
    assert report["lost"] == [[], []] and report["wrapper"] == "TimmWrapperModel"
    assert (report["data"]["input_size"], report["data"]["crop_pct"]) == ([3, 32, 32], 1.0)
    assert report["data"]["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    "other", [{"layer_norm_eps": 1e-5}, {"hidden_act": "gelu_fast"}, {"num_channels": 1}, {"qkv_bias": False}]
)
def test_an_encoder_that_timm_would_compute_otherwise_is_not_exported_for_it(tmp_path, other):
    config = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "layer_norm_eps": 1e-6} | other
    model = ViTModel(ViTConfig(**config), add_pooling_layer=False)
    with pytest.raises(ValueError, match=r"timm's Vision Transformer has .*, this encoder .*write it in the format"):
        export_encoder(model, tmp_path / "timm", format="timm")
    assert not (tmp_path / "timm").exists()
