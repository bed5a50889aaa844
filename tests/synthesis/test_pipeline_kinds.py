"""SDXL, SD 3, FLUX.1, PixArt and latent consistency, tiny, of random weights: the promises are Stable Diffusion's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import PIPELINES

from stablerep_hf.captions import CaptionSet
from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import DiffusersGenerator, SynthesisPlan, synthesize

PROMPTS = ["a red ball", "a dog", "a dog", "a very long house by the sea"]
SEEDS = [3, 2**63 - 1, 5, 0]
SIZE = {"height": 16, "width": 16}


def pixels(images: list[Image.Image | None]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kinds")
    for name, save in PIPELINES.items():
        save(root / name)
    return {name: root / name for name in PIPELINES}


@pytest.mark.parametrize("kind", PIPELINES)
def test_every_kind_draws_what_a_plain_call_draws_alone_and_in_a_batch(saved: dict[str, Path], kind: str) -> None:
    import diffusers

    generator = DiffusersGenerator(saved[kind], num_inference_steps=2, **SIZE)
    assert (generator.guidance_scale is None) == (kind == "flux-schnell")
    guidance = {} if generator.guidance_scale is None else {"guidance_scale": generator.guidance_scale}
    plain = diffusers.DiffusionPipeline.from_pretrained(saved[kind])
    plain.set_progress_bar_config(disable=True)
    drawn = [
        plain(prompt, generator=torch.Generator().manual_seed(seed), num_inference_steps=2, **guidance, **SIZE).images[
            0
        ]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    texts: list[int] = []
    generator.pipeline.text_encoder.register_forward_hook(lambda module, given, output: texts.append(len(output[0])))
    together = pixels(generator(PROMPTS, SEEDS))
    alone = np.concatenate([pixels(generator([p], [s])) for p, s in zip(PROMPTS, SEEDS, strict=True)])
    assert together.shape == (4, 16, 16, 3)
    assert np.abs(together - pixels(drawn)).max() <= 1
    assert np.abs(together - alone).max() <= 1
    assert np.abs(together[1] - together[2]).max() > 20  # one prompt, two seeds
    encodes_nothing_too = kind in ("stable-diffusion-3", "pixart")  # SDXL takes zeros for the empty prompt
    assert sum(texts) == 3 + encodes_nothing_too  # three prompts, however often they are drawn


@pytest.mark.parametrize("kind", ["stable-diffusion-xl", "flux-schnell"])
def test_every_kind_resumes_where_it_was(saved: dict[str, Path], kind: str, tmp_path: Path) -> None:
    generator = DiffusersGenerator(saved[kind], num_inference_steps=1, **SIZE)
    captions = CaptionSet.from_texts(["a dog", "a cat", "a tree", "a house"])
    plan = SynthesisPlan(captions, generator.describe(), images_per_caption=2, captions_per_shard=1)
    synthesize(plan, generator, tmp_path / "whole", progress=False)
    synthesize(plan, generator, tmp_path / "parts", rank=1, world_size=2, progress=False)
    again = DiffusersGenerator(saved[kind], num_inference_steps=1, **SIZE)
    assert synthesize(plan, again, tmp_path / "parts", progress=False).num_shards_drawn == 2
    files = [sorted((tmp_path / name / "data").iterdir()) for name in ("whole", "parts")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("flux-schnell", {"guidance_scale": 3.5}, "a FluxPipeline without guidance, which would ignore it"),
        ("flux-dev", {"negative_prompt": "a cat"}, "guided without one and would ignore it"),
        ("latent-consistency", {"negative_prompt": "a cat"}, "guided without one and would ignore it"),
        ("stable-diffusion-xl", {"negative_prompt": "a cat", "guidance_scale": 0.0}, "no effect at guidance_scale 0"),
        ("stable-diffusion-xl", {"height": 20, "width": 16}, "20 x 16 does not suit .* divisible by 8"),
        ("flux-schnell", {"height": 17, "width": 16}, "17 x 16 does not suit"),
        ("stable-diffusion-3", {"scheduler": "DDIMScheduler"}, "'DDIMScheduler' does not fit"),
    ],
)
def test_what_a_kind_would_ignore_or_cannot_do_is_refused_before_it_loads(
    saved: dict[str, Path], kind: str, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        DiffusersGenerator(saved[kind], **settings)  # type: ignore[arg-type]


def test_turbo_is_sdxl_drawn_in_one_step_without_guidance(saved: dict[str, Path]) -> None:
    generator = DiffusersGenerator(
        saved["stable-diffusion-xl"],
        num_inference_steps=1,
        guidance_scale=0.0,
        scheduler="EulerAncestralDiscreteScheduler",
    )
    together = pixels(generator(PROMPTS, SEEDS))
    assert np.abs(together[:1] - pixels(generator(PROMPTS[:1], SEEDS[:1]))).max() <= 1


def test_the_encoder_that_reads_most_decides_what_is_too_long(saved: dict[str, Path]) -> None:
    prompts = ["a" * 20, "a" * 31, "a" * 70]  # CLIP takes 32 tokens here, T5 64
    assert DiffusersGenerator(saved["stable-diffusion-xl"]).too_long(prompts) == [False, True, True]
    assert DiffusersGenerator(saved["stable-diffusion-3"]).too_long(prompts) == [False, False, True]


def test_a_lora_is_merged_into_sdxl(saved: dict[str, Path], tmp_path: Path) -> None:
    import diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    folder = saved["stable-diffusion-xl"]
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    diffusers.StableDiffusionXLPipeline.save_lora_weights(
        tmp_path / "lora", unet_lora_layers=get_peft_model_state_dict(pipeline.unet)
    )
    plain, nothing, merged = (
        pixels(DiffusersGenerator(folder, num_inference_steps=2, **settings)(PROMPTS, SEEDS))
        for settings in ({}, {"lora": tmp_path / "lora", "lora_scale": 0.0}, {"lora": tmp_path / "lora"})
    )
    assert np.abs(nothing - plain).max() <= 1
    assert np.abs(merged - plain).max() > 1
