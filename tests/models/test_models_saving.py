from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stranger import run_as_stranger
from tiny_stablerep import pixels, tiny_model
from transformers import AutoImageProcessor, AutoModel, ViTImageProcessor, ViTModel
from transformers.trainer_utils import set_seed

from stablerep_hf.models import StableRepModel, export_encoder

CHILD = """
import json, sys, warnings
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline
from PIL import Image

warnings.simplefilter("error")
folder, encoder_folder, out = sys.argv[1:]
pixels = load_file(out + "/pixels.safetensors")["pixels"]
model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
mismatch = model.load_state_dict(load_file(folder + "/model.safetensors"), strict=False)
outputs = model(pixels)
model.save_pretrained(out + "/again")
encoder, encoder_info = AutoModel.from_pretrained(encoder_folder, output_loading_info=True)
processor = AutoImageProcessor.from_pretrained(encoder_folder)
extractor = pipeline("image-feature-extraction", model=encoder, image_processor=processor)
picture = Image.new("RGB", (20, 30), (255, 0, 0))
features = encoder(pixels)
save_file(
    {
        "image_embeds": outputs.image_embeds,
        "pooler_output": outputs.pooler_output,
        "encoder_pooler_output": features.pooler_output,
        "encoder_last_hidden_state": features.last_hidden_state,
    },
    out + "/outputs.safetensors",
)
json.dump(
    {
        "model": type(model).__module__,
        "config": type(model.config).__name__,
        "missing": [list(info[k]) for k in ("missing_keys", "unexpected_keys", "mismatched_keys")],
        "mismatch": [mismatch.missing_keys, mismatch.unexpected_keys],
        "encoder": f"{type(encoder).__module__}.{type(encoder).__name__}",
        "encoder_missing": [list(encoder_info[k]) for k in ("missing_keys", "unexpected_keys", "mismatched_keys")],
        "processor": type(processor).__name__,
        "extracted": len(extractor(picture, pool=True)[0]),
    },
    open(out + "/report.json", "w"),
)
"""


def keys_on_disk(folder: Path) -> set[str]:
    return set(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("text", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path, text):
    model = tiny_model(text)
    model(pixels(6))  # running statistics that are not the initial ones
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, StableRepModel)
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert torch.equal(loaded(pixels(3)).image_embeds, model(pixels(3)).image_embeds)


@pytest.mark.parametrize("text", [False, True])
def test_keys_on_disk_are_those_in_memory(tmp_path, text):
    """Trainer resumes with load_state_dict of the file as it is: a nested stock ViTModel is lost that way."""
    model = tiny_model(text)
    model.save_pretrained(tmp_path)
    assert keys_on_disk(tmp_path) == set(model.state_dict())
    other = tiny_model(text)
    for parameter in other.parameters():
        parameter.data.add_(1.0)
    result = other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    torch.testing.assert_close(dict(other.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_missing_weights_are_initialised_and_the_rest_kept(tmp_path):
    model = tiny_model(text=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("logit_scale", "image_projection.weight", "projection_head.norm1.running_var"):
        weights.pop(name)
    weights["projection_head.norm1.weight"].fill_(7.0)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    set_seed(0)
    loaded = StableRepModel.from_pretrained(tmp_path)
    assert loaded.logit_scale.item() == pytest.approx(2.6592)
    assert loaded.image_projection.weight.std().item() == pytest.approx(32**-0.5, rel=0.2)
    assert torch.equal(loaded.projection_head.norm1.running_var, torch.ones(40))
    assert torch.equal(loaded.projection_head.norm1.weight, torch.full((40,), 7.0))


def test_statistics_and_scale_survive_bfloat16(tmp_path):
    """A bfloat16 checkpoint loads as bfloat16 by default, and would round the batch norm's memory away."""
    model = tiny_model(text=True)
    model(pixels(6))
    model.save_pretrained(tmp_path / "full")
    half = StableRepModel.from_pretrained(tmp_path / "full", dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    for loaded in (half, StableRepModel.from_pretrained(tmp_path / "half")):
        for name in ("norm1", "norm2"):
            expected = dict(getattr(model.projection_head, name).state_dict())
            actual = dict(getattr(loaded.projection_head, name).state_dict())
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        assert torch.equal(loaded.logit_scale, model.logit_scale)
    assert half.vision_model.dtype == half.projection_head.fc1.weight.dtype == torch.bfloat16
    for mode in (half.train(), half.eval()):
        assert mode(pixels(6)).image_embeds.isfinite().all()
    full = StableRepModel.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert {parameter.dtype for parameter in full.parameters()} == {torch.float32}


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """What a Python without this package makes of a saved model and of an exported encoder, copied elsewhere."""
    out = tmp_path_factory.mktemp("child")
    model = tiny_model()
    model(pixels(6))
    model.eval().save_pretrained(out / "here" / "model")
    export_encoder(model, out / "here" / "encoder")
    shutil.copytree(out / "here", out / "away")
    shutil.rmtree(out / "here")
    save_file({"pixels": pixels(3)}, out / "pixels.safetensors")
    said = run_as_stranger(CHILD, out / "away/model", out / "away/encoder", out, folder=out)
    return (
        model,
        json.loads((out / "report.json").read_text()),
        load_file(out / "outputs.safetensors"),
        out,
        said,
    )


def test_saved_model_brings_its_code(child):
    model, report, outputs, out, _ = child
    assert report["model"].startswith("transformers_modules.")
    assert report["config"] == "StableRepConfig"
    assert report["missing"] == [[], [], []]
    assert report["mismatch"] == [[], []]
    assert torch.equal(outputs["image_embeds"], model(pixels(3)).image_embeds)
    assert keys_on_disk(out / "again") == set(model.state_dict())
    files = {path.name for path in (out / "away/model").iterdir()}
    assert {"configuration_stablerep.py", "modeling_stablerep.py", "sibling_batch_norm.py"} <= files
    assert files == {path.name for path in (out / "again").iterdir()}


def test_exported_encoder_needs_no_code_of_ours(child):
    model, report, outputs, out, stderr = child
    assert report["encoder"] == "transformers.models.vit.modeling_vit.ViTModel"
    assert report["encoder_missing"] == [[], [], []]
    assert report["processor"].startswith("ViTImageProcessor")
    assert report["extracted"] == 32
    expected = model(pixels(3))
    assert torch.equal(outputs["encoder_pooler_output"], expected.pooler_output)
    assert torch.equal(outputs["encoder_last_hidden_state"], expected.last_hidden_state)
    assert not list((out / "away/encoder").glob("*.py"))
    assert "newly initialized" not in stderr
    assert "MISSING" not in stderr


def test_export_leaves_the_model_as_it_was(tmp_path):
    model = tiny_model(text=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    processor = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    assert export_encoder(model, tmp_path / "deep" / "folder", processor) == tmp_path / "deep" / "folder"
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert model.config.to_dict() == config
    assert list(AutoImageProcessor.from_pretrained(tmp_path / "deep" / "folder").image_std) == [0.25] * 3


def test_export_keeps_size_and_precision(tmp_path):
    model = tiny_model(text=True).to(torch.bfloat16)
    export_encoder(model, tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert isinstance(encoder, ViTModel)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    size = processor.size
    assert (size["height"], size["width"]) == (16, 16)
    assert processor(torch.zeros(3, 40, 50, dtype=torch.uint8), return_tensors="pt").pixel_values.shape == (
        1,
        3,
        16,
        16,
    )
