from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stablerep_hf import assets
from stablerep_hf.synthesis.pipeline_folder import PipelineFolder
from stablerep_hf.synthesis.precision import default_dtype, saved_dtype
from stablerep_hf.synthesis.prompt_embeddings import _KEPT_BYTES, PromptEmbeddings


def pipeline(folder: Path, part: str, dtype: torch.dtype | None) -> Path:
    (folder / part).mkdir(parents=True)
    if dtype is not None:
        tensors = {"large": torch.zeros(64, dtype=dtype), "small": torch.zeros(2, dtype=torch.float32)}
        save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("kind", "part", "saved", "has_bfloat16", "expected"),
    [
        ("StableDiffusionPipeline", "unet", torch.float16, True, "float16"),
        ("StableDiffusionPipeline", "unet", torch.float32, True, "bfloat16"),
        ("StableDiffusionPipeline", "unet", torch.float32, False, "float16"),
        ("StableDiffusion3Pipeline", "transformer", torch.bfloat16, True, "bfloat16"),
        ("StableDiffusion3Pipeline", "transformer", torch.bfloat16, False, "float32"),
        ("FluxPipeline", "transformer", torch.float16, True, "bfloat16"),
        ("FluxPipeline", "transformer", torch.float16, False, "float32"),
        ("SanaPipeline", "transformer", torch.float32, True, "bfloat16"),
        ("ZImagePipeline", "transformer", None, True, "bfloat16"),
        ("SomePipeline", "unet", None, True, "bfloat16"),
    ],
)
def test_the_dtype_follows_the_saved_weights_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, part: str, saved: torch.dtype | None,
    has_bfloat16: bool, expected: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    folder = pipeline(tmp_path, part, saved)
    assert default_dtype(folder, kind, "cuda:1") == expected
    assert default_dtype(folder, kind, "cpu") == default_dtype(folder, kind, "mps") == "float32"


def test_weights_in_several_files_and_damaged_ones(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, "transformer", torch.float32) / "transformer"
    save_file({"a": torch.zeros(4, dtype=torch.bfloat16)}, folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert saved_dtype(tmp_path) == "BF16"
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"\xff" * 8 + b"{")
    assert saved_dtype(tmp_path) is None
    assert saved_dtype(assets.generator_path()) == "F16"


@pytest.mark.parametrize(
    ("vae", "sample_size", "size", "factor"),
    [
        ({"encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024]}, 32, 1024, 32),  # SANA
        ({"block_out_channels": [128, 256, 512, 512]}, 128, 1024, 8),
        ({"dim_mult": [1, 2, 4, 4]}, None, 1024, 8),  # Qwen-Image
    ],
)
def test_the_size_of_a_pipeline_follows_its_autoencoder(
    tmp_path: Path, vae: dict[str, object], sample_size: int | None, size: int, factor: int
) -> None:
    for part, config in (("vae", vae), ("transformer", {"sample_size": sample_size, "patch_size": 1})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    source = PipelineFolder(tmp_path, "x", "")
    assert (source.own_size, source.image_factor) == (size, factor)
    source.check_size(2 * factor, factor)


def test_embeddings_that_are_kept_are_bounded_by_their_bytes() -> None:
    class StableDiffusionPipeline:
        _execution_device = "cpu"

        def __call__(self, prompt=None, guidance_scale=1.0, prompt_embeds=None, negative_prompt_embeds=None):  # type: ignore[no-untyped-def]
            pass

        def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance):  # type: ignore[no-untyped-def]
            return torch.zeros(len(prompt), _KEPT_BYTES // 16), None  # a quarter of what is kept, float32

    embeddings = PromptEmbeddings(StableDiffusionPipeline(), 1.0, None)
    for number in range(9):
        embeddings([f"prompt {number}"])
    assert list(embeddings._known) == ["prompt 5", "prompt 6", "prompt 7", "prompt 8"]
    assert embeddings([f"new {number}" for number in range(6)])["prompt_embeds"].shape[0] == 6
    assert len(embeddings._known) == 6  # those of one batch stay
