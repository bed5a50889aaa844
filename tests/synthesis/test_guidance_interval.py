"""Guidance at some noise levels only: what hand-written loops draw, for every kind that can leave it out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import PIPELINES

from stablerep_hf.assets import generator_path
from stablerep_hf.captions import CaptionSet
from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import DiffusersGenerator, SynthesisPlan, generator_of, synthesize
from stablerep_hf.synthesis.comparison import compare_folders
from stablerep_hf.synthesis.guidance_interval import noise_level

PROMPTS, SEEDS = ["a red ball", "a dog", "a house by the sea"], [3, 5, 2**62]
SIZE = {"height": 16, "width": 16}


def pixels(images: list[Image.Image | None]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def predictor(pipeline: Any, prompts: list[str]) -> Callable[[Any, Any, bool], Any]:
    """The network's output for latents at a timestep, seeing the prompts or nothing."""
    kind = type(pipeline).__name__
    encoded = pipeline.encode_prompt(
        prompts,
        **({"prompt_2": None, "prompt_3": None} if "Diffusion3" in kind else {}),
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )

    def predict(latents: Any, t: Any, sees: bool) -> Any:
        every = t.expand(len(latents))
        if "XL" in kind:
            text, pooled = encoded[0 if sees else 1], encoded[2 if sees else 3]
            sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(len(latents), 6)
            added = {"text_embeds": pooled, "time_ids": sizes}
            return pipeline.unet(latents, t, text, added_cond_kwargs=added).sample
        if "Diffusion3" in kind:
            text, pooled = encoded[0 if sees else 1], encoded[2 if sees else 3]
            return pipeline.transformer(latents, text, pooled, every).sample
        if "PixArt" in kind:
            text, mask = encoded[0 if sees else 2], encoded[1 if sees else 3]
            added = {"resolution": None, "aspect_ratio": None}
            output = pipeline.transformer(
                latents, text, timestep=every, encoder_attention_mask=mask, added_cond_kwargs=added
            ).sample
            return output.chunk(2, dim=1)[0]
        return pipeline.unet(latents, t, encoded[0 if sees else 1]).sample

    return predict


@torch.no_grad()
def by_hand(pipeline: Any, scale: float, steps: int, is_guided: Callable[[int], bool], size: int) -> np.ndarray:
    """Every step written out: where it is not guided, the network sees the prompts alone."""
    pipeline.scheduler.set_timesteps(steps)
    config = (pipeline.unet if getattr(pipeline, "unet", None) else pipeline.transformer).config
    latents = torch.cat(
        [
            torch.randn((1, config.in_channels, size, size), generator=torch.Generator().manual_seed(seed))
            for seed in SEEDS
        ]
    ) * getattr(pipeline.scheduler, "init_noise_sigma", 1.0)
    predict = predictor(pipeline, PROMPTS)
    for place, t in enumerate(pipeline.scheduler.timesteps):
        scaled = latents
        if hasattr(pipeline.scheduler, "scale_model_input"):
            scaled = pipeline.scheduler.scale_model_input(latents, t)
        output = predict(scaled, t, True)
        if is_guided(place):
            nothing = predict(scaled, t, False)
            output = nothing + scale * (output - nothing)
        latents = pipeline.scheduler.step(output, t, latents, return_dict=False)[0]
    shift = getattr(pipeline.vae.config, "shift_factor", None) or 0.0
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor + shift).sample
    return pixels(pipeline.image_processor.postprocess(decoded, output_type="pil"))


@pytest.fixture(scope="module")
def folders(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kinds")
    for name, save in PIPELINES.items():
        save(root / name)
    return {name: root / name for name in PIPELINES} | {
        "stable-diffusion": tiny_pipeline,
        "embedded": Path(generator_path()),
    }


@pytest.mark.parametrize(
    ("kind", "scheduler", "steps", "interval", "guided"),
    [
        ("embedded", None, 6, [0.3, 2.0], {2, 3, 4}),
        ("embedded", "EulerDiscreteScheduler", 6, [0.3, 2.0], {2, 3, 4}),
        ("stable-diffusion", None, 5, [0.0, 0.3], {3, 4}),
        ("stable-diffusion", "DPMSolverMultistepScheduler", 5, [0.3, 9.0], {0, 1, 2}),
        ("stable-diffusion", "PNDMScheduler", 5, [0.4, 0.6], {1, 2, 3, 4}),
        ("stable-diffusion-xl", None, 5, [0.2, 0.5], {1, 2}),
        ("stable-diffusion-3", None, 4, [0.5, 3.5], {1, 2}),
        ("pixart", None, 4, [1.0, 20.0], {1, 2}),
    ],
)
def test_it_draws_what_the_loop_written_by_hand_draws(
    folders: dict[str, Path],
    kind: str,
    scheduler: str | None,
    steps: int,
    interval: list[float],
    guided: set[int],
) -> None:
    size = {} if kind == "embedded" else {"height": 256, "width": 256} if kind == "pixart" else SIZE
    settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": 7.0, "scheduler": scheduler, **size}
    generator = DiffusersGenerator(folders[kind], guidance_interval=interval, **settings)
    drawn = pixels(generator(PROMPTS, SEEDS))
    plain = DiffusersGenerator(folders[kind], **settings)
    pipeline = plain.pipeline
    pipeline.scheduler.set_timesteps(steps)
    levels = [noise_level(pipeline.scheduler, float(t)) for t in pipeline.scheduler.timesteps]
    assert {place for place, level in enumerate(levels) if interval[0] < level <= interval[1]} == guided, levels
    latent = (size.get("height", 32) if size else 32) // pipeline.vae_scale_factor
    expected = by_hand(pipeline, 7.0, steps, lambda place: place in guided, latent)
    assert np.abs(drawn - expected).max() <= 1
    constant = pixels(plain(PROMPTS, SEEDS))
    assert np.abs(drawn - constant).max() > 1
    alone = np.concatenate([pixels(generator([p], [s])) for p, s in zip(PROMPTS, SEEDS, strict=True)])
    assert np.abs(drawn - alone).max() <= 1


def test_noise_levels_are_those_of_the_schedulers(tiny_pipeline: Path) -> None:
    import diffusers

    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        for settings in ({}, {"use_karras_sigmas": True}):
            scheduler = getattr(diffusers, name).from_pretrained(tiny_pipeline, subfolder="scheduler", **settings)
            scheduler.set_timesteps(7)
            found = [noise_level(scheduler, float(t)) for t in scheduler.timesteps]
            # Multistep schedulers round the timesteps of Karras to whole ones.
            assert found == pytest.approx(scheduler.sigmas[:7].tolist(), rel=1e-4 if "Euler" in name else 0.1)
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(4)
    found = [noise_level(flow, float(t)) for t in flow.timesteps]
    assert found == pytest.approx([float(s / (1 - s)) for s in flow.sigmas[:4]], rel=1e-4)
    with pytest.raises(InputError, match="given with a EDMEulerScheduler, which has no noise levels"):
        noise_level(diffusers.EDMEulerScheduler(), 1.0)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("stable-diffusion", {"guidance_interval": [2.0, 2.0]}, "guidance_interval=2.0 2.0 holds no noise level"),
        ("stable-diffusion", {"guidance_interval": [5.0, 0.3]}, "guidance_interval=5.0 0.3 holds no noise level"),
        ("stable-diffusion", {"guidance_interval": [5.0]}, "guidance_interval=5.0 holds no noise level"),
        ("stable-diffusion", {"guidance_interval": [-1.0, float("nan")]}, "holds no noise level"),
        ("stable-diffusion", {"guidance_scale": 1.0}, "has no effect at guidance_scale=1.0"),
        ("stable-diffusion", {"compile": True}, "compile=True do not go together"),
        ("flux-dev", {}, "a FluxPipeline, whose guidance cannot be turned off"),
        ("latent-consistency", {}, "a LatentConsistencyModelPipeline, whose guidance"),
    ],
)
def test_where_it_cannot_be_exact_it_is_refused(
    folders: dict[str, Path], kind: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        DiffusersGenerator(folders[kind], **{"guidance_interval": [0.3, 5.0], "guidance_scale": 2.0, **settings})


def test_an_interval_between_the_steps_is_refused_at_the_first_batch(tiny_pipeline: Path, tmp_path: Path) -> None:
    generator = DiffusersGenerator(tiny_pipeline, num_inference_steps=5, guidance_interval=[5.0, 9.0])
    plan = SynthesisPlan(CaptionSet.from_texts(["a dog"]), generator, images_per_caption=2)
    with pytest.raises(InputError, match=r"5 9 holds none of the 5 noise levels .* from 0.644 to 0.0418: give"):
        synthesize(plan, generator, tmp_path, progress=False)
    whole = DiffusersGenerator(tiny_pipeline, num_inference_steps=5, guidance_interval=[0.0, 9.0])
    plan = SynthesisPlan(CaptionSet.from_texts(["a dog"]), whole, images_per_caption=2)
    assert synthesize(plan, whole, tmp_path, progress=False).num_images == 2  # nothing was in the way
    assert compare_folders([tmp_path])[0].settings.endswith("5 steps, guidance 2.0 from 0 to 9")
    constant = DiffusersGenerator(tiny_pipeline, num_inference_steps=5)
    assert (pixels(whole(PROMPTS, SEEDS)) == pixels(constant(PROMPTS, SEEDS))).all()
    # It is part of the plan, and of what draws an image again.
    assert generator_of(plan, tiny_pipeline).guidance_interval == [0.0, 9.0]
    other = SynthesisPlan(CaptionSet.from_texts(["a dog"]), constant, images_per_caption=2)
    with pytest.raises(
        InputError, match=r"guidance_interval is \[0.0, 9.0\] there and null here; give guidance_inter"
    ):
        synthesize(other, constant, tmp_path, progress=False)


def test_a_pipeline_that_does_not_guide_by_halves_is_refused(tiny_pipeline: Path) -> None:
    generator = DiffusersGenerator(tiny_pipeline, num_inference_steps=2, guidance_interval=[0.0, 9.0])
    interval, pipeline = generator._interval, generator.pipeline
    assert interval is not None
    with pytest.raises(InputError, match=r"does not guide by a batch of two halves \(1 rows for 1 images\)"):
        interval.call(1, prompt="a dog", guidance_scale=1.0, num_inference_steps=2)
    assert pipeline is generator.pipeline
