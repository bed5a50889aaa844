from __future__ import annotations

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tiny_stablerep import tiny_config
from transformers import AutoConfig, BertConfig, CLIPTextConfig, GPT2Config, ViTConfig

from stablerep_hf.models import StableRepConfig


def test_defaults_are_those_of_the_release():
    config = StableRepConfig()
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size) == (768, 12, 16, 224)
    assert vision.layer_norm_eps == 1e-6
    assert (config.projection_dim, config.projection_hidden_dim, config.head_norm) == (256, 4096, "batch_per_sibling")
    assert config.text_config is None


def test_layer_norm_eps_is_timm_s_unless_said():
    assert (
        StableRepConfig(vision_config={"hidden_size": 384, "num_attention_heads": 6}).vision_config.layer_norm_eps
        == 1e-6
    )
    assert StableRepConfig(vision_config={"layer_norm_eps": 1e-12}).vision_config.layer_norm_eps == 1e-12
    assert StableRepConfig(vision_config=ViTConfig()).vision_config.layer_norm_eps == 1e-12


@pytest.mark.parametrize("text", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path, text):
    config = tiny_config(text, head_norm="layer")
    config.vision_config.layer_norm_eps = 1e-12  # ViTConfig's default must not come back as ours
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, StableRepConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.vision_config.layer_norm_eps == 1e-12
    assert isinstance(loaded.vision_config, ViTConfig)
    assert isinstance(loaded.text_config, CLIPTextConfig) == text


@pytest.mark.parametrize(
    ("size", "shape"),
    [("tiny", (192, 12, 3)), ("small", (384, 12, 6)), ("base", (768, 12, 12)), ("large", (1024, 24, 16))],
)
def test_sizes(size, shape):
    config = StableRepConfig.from_size(size, image_size=64, patch_size=8, text=True, projection_dim=8)
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == shape
    assert (vision.intermediate_size, vision.image_size, vision.patch_size) == (4 * shape[0], 64, 8)
    assert (config.projection_dim, config.text_config.hidden_size) == (8, 512)


def test_openai_s_wrong_end_of_text_token_is_mended():
    assert StableRepConfig(text_config={"eos_token_id": 2}).text_config.eos_token_id == 49407
    kept = StableRepConfig(text_config={"eos_token_id": 2, "bos_token_id": 1, "vocab_size": 100}).text_config
    assert kept.eos_token_id == 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"vision_config": {"hidden_size": 50, "num_attention_heads": 3}},
            "hidden_size 50 cannot be shared out among 3",
        ),
        ({"vision_config": {"image_size": 50}}, "image_size 50 cannot be cut into patches of 16"),
        ({"vision_config": {"image_size": [32, 40]}}, "cannot be cut into patches"),
        ({"vision_config": {"patch_size": 0}}, "cannot be cut into patches of 0"),
        ({"vision_config": {"image_size": 16, "patch_size": -8}}, "cannot be cut into patches of -8"),
        ({"vision_config": {"num_hidden_layers": 0}}, "num_hidden_layers is 0 in vision_config"),
        ({"text_config": {"num_hidden_layers": 0}}, "num_hidden_layers is 0 in text_config"),
        ({"text_config": {"max_position_embeddings": 0}}, "max_position_embeddings is 0 in text_config"),
        ({"vision_config": BertConfig()}, "'bert'"),
        ({"text_config": GPT2Config()}, "'gpt2'"),
        ({"text_config": {"eos_token_id": 99999}}, "eos_token_id is 99999 with a vocabulary of 49408"),
        ({"text_config": {"eos_token_id": None}}, "eos_token_id is None"),
        ({"projection_dim": 0}, "projection_dim is 0"),
        ({"image_text_dim": -1}, "image_text_dim is -1"),
    ],
)
def test_what_does_not_fit_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        StableRepConfig(**fields)


def test_unknown_size_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        StableRepConfig.from_size("huge")


@pytest.mark.parametrize("fields", [{"head_norm": "group"}, {"projection_dim": "256"}, {"vision_config": 3}])
def test_wrong_types_are_refused(fields):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(fields))):
        StableRepConfig(**fields)
