"""Adapting a generator: the loss is the pipeline's own, interruption changes nothing, the result draws otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tiny_pipelines import save_flux, save_stable_diffusion, save_stable_diffusion_3, save_stable_diffusion_xl

from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import DiffusersGenerator, adaptation
from stablerep_hf.synthesis.adaptation import AdaptationSettings, adapt_generator

WEIGHTS = "pytorch_lora_weights.safetensors"
SETTINGS = AdaptationSettings(steps=6, batch_size=4, learning_rate=1e-2, rank=2, save_every=2)
PROMPTS = ["a red thing", "a blue thing"]
PICTURES = [Image.new("RGB", (24, 20), color) for color in ("red", "blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    save_stable_diffusion(folder)
    return folder


def adapt(folder: Path, output: Path, settings: AdaptationSettings = SETTINGS) -> list[float]:
    return adapt_generator(folder, PICTURES, PROMPTS, output, settings, progress=False)


def test_what_comes_out_draws_otherwise(folder: Path, tmp_path: Path) -> None:
    learned, still = (  # the same noise, images and captions at every step
        adapt(folder, tmp_path / name, AdaptationSettings(steps=30, batch_size=8, learning_rate=rate, rank=4))
        for name, rate in (("learned", 2e-2), ("still", 1e-12))
    )
    assert np.mean(learned[-10:]) < np.mean(still[-10:]) - 0.005
    drawn = {
        lora: DiffusersGenerator(folder, num_inference_steps=2, lora=lora)(PROMPTS, [1, 2])[0]
        for lora in (None, tmp_path / "learned")
    }
    plain, adapted = (np.asarray(image, dtype=np.float32) for image in drawn.values())
    assert np.abs(plain - adapted).max() > 0


@pytest.mark.parametrize("save", [save_stable_diffusion_xl, save_stable_diffusion_3])
def test_other_families_are_adapted_and_drawn_with(save: Callable[[Path], None], tmp_path: Path) -> None:
    save(tmp_path / "pipeline")
    losses = adapt(tmp_path / "pipeline", tmp_path / "lora")
    assert len(losses) == SETTINGS.steps and np.isfinite(losses).all()
    for lora in (None, tmp_path / "lora"):
        images = DiffusersGenerator(tmp_path / "pipeline", num_inference_steps=2, lora=lora)(PROMPTS, [1, 2])
        assert all(image is not None for image in images)


def test_interrupted_it_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapt(folder, tmp_path / "whole")
    draw, calls = adaptation._draw_batch, []

    def cut_off(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return draw(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "_draw_batch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            adapt(folder, tmp_path / "cut")
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    assert adapt(folder, tmp_path / "cut") == whole[4:]  # a state was kept after four steps
    ours, theirs = (load_file(tmp_path / name / WEIGHTS) for name in ("cut", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(InputError, match="holds an adaptation with rank=2, not 3"):
        adapt(folder, tmp_path / "whole", AdaptationSettings(rank=3, batch_size=4, learning_rate=1e-2))
    with pytest.raises(InputError, match="holds an adaptation of 6 steps, more than steps=2: give at least 6"):
        adapt(folder, tmp_path / "whole", replace(SETTINGS, steps=2))
    AcceleratorState._reset_state(reset_partial_state=True)  # as a process of its own would begin
    try:
        with pytest.raises(InputError, match="holds an adaptation with mixed_precision=no, not bf16"):
            adapt_generator(folder, PICTURES, PROMPTS, tmp_path / "whole", SETTINGS, mixed_precision="bf16")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_the_scale_of_an_fp16_loss_is_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers = []

    class Scaling(Accelerator):  # as with fp16, which a CPU has not
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
            scalers.append(self.scaler)

    monkeypatch.setattr("accelerate.Accelerator", Scaling)
    adapt(folder, tmp_path, replace(SETTINGS, steps=3))
    adapt(folder, tmp_path, replace(SETTINGS, steps=4))
    assert scalers[0].get_scale() == 16.0
    assert scalers[1].get_scale() == 32.0


@pytest.mark.parametrize("number", range(4))
def test_killed_at_any_of_its_writes_it_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Killed(BaseException):
        pass

    settings = AdaptationSettings(steps=2, batch_size=2, rank=2, save_every=1)
    rename, calls = Path.replace, []

    def kill(self: Path, target: Path) -> Path:
        calls.append(target.name)
        if len(calls) == number + 1:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process cleans nothing up
        with pytest.raises(Killed):
            adapt(folder, tmp_path / "lora", settings)
    assert calls == [adaptation.SETTINGS, "state.pt", adaptation.SETTINGS, "state.pt"][: number + 1]
    assert len(adapt(folder, tmp_path / "lora", settings)) == (2 if number < 2 else 1)
    names = {path.name for path in (tmp_path / "lora").rglob("*")}
    assert names == {adaptation.SETTINGS, "checkpoints", "state.pt", WEIGHTS}


def test_settings_that_are_damaged_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / adaptation.SETTINGS).write_text('{"rank": ')
    with pytest.raises(InputError, match=r"adaptation\.json is damaged"):
        adapt(folder, tmp_path)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_min_snr_of_what_the_pipeline_predicts(folder: Path, prediction: str) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, prediction_type=prediction)
    rng = torch.Generator().manual_seed(0)
    shape = (3, pipeline.vae.config.latent_channels, 4, 4)
    batch = {
        "latents": torch.randn(shape, generator=rng), "noise": torch.randn(shape, generator=rng),
        "level": torch.tensor([0.05, 0.5, 0.95]), "prompts": ["", "", ""],
    }  # fmt: skip
    width = pipeline.unet.config.cross_attention_dim
    texts = {"": {"prompt_embeds": torch.zeros(1, 3, width)}}
    seen: list[torch.Tensor] = []

    def nothing(noisy: torch.Tensor, *_arguments: object, **_others: object) -> tuple[torch.Tensor]:
        seen.append(noisy)
        return (torch.zeros_like(noisy),)

    loss = adaptation._objective(pipeline, SETTINGS)(nothing, batch, texts, "cpu")
    latents, by_hand = batch["latents"] * pipeline.vae.config.scaling_factor, 0.0
    for row, level in enumerate(batch["level"]):
        signal = float(pipeline.scheduler.alphas_cumprod[int(level * pipeline.scheduler.config.num_train_timesteps)])
        x, noise = latents[row], batch["noise"][row]
        torch.testing.assert_close(seen[0][row], signal**0.5 * x + (1 - signal) ** 0.5 * noise)
        snr = signal / (1 - signal)
        if prediction == "epsilon":
            by_hand += float((noise**2).mean()) * min(snr, 5.0) / snr / 3
        else:
            velocity = signal**0.5 * noise - (1 - signal) ** 0.5 * x
            by_hand += float((velocity**2).mean()) * min(snr, 5.0) / (snr + 1) / 3
    assert float(loss) == pytest.approx(by_hand, rel=1e-4)


def test_random_numbers_are_a_function_of_the_step(folder: Path) -> None:
    latents = torch.zeros(5, 2, 1, 2, 2)
    latents[:, 0] = torch.arange(5.0).view(5, 1, 1, 1)
    settings = AdaptationSettings(batch_size=400, caption_dropout=0.25)
    first, again, other = (
        adaptation._draw_batch(torch.Generator().manual_seed(seed), latents, list("abcde"), settings)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first["noise"], again["noise"]) and not torch.equal(first["noise"], other["noise"])
    share = first["prompts"].count("") / 400
    assert 0.15 < share < 0.35
    for value, prompt in zip(first["latents"][:, 0, 0, 0].tolist(), first["prompts"], strict=True):
        assert prompt in ("", "abcde"[int(value)])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"steps": 0}, "steps=0"), ({"learning_rate": 0.0}, "learning_rate=0.0"), ({"snr_gamma": 0.0}, "snr_gamma=0.0")],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        AdaptationSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 0}, "The size 0 x 0 does not suit"),
        ({"size": -8}, "The size -8 x -8 does not suit"),
        ({"size": 13}, "The size 13 x 13 does not suit"),
        ({"mixed_precision": "fp16"}, "'fp16', in which a CPU cannot train"),
    ],
)
def test_sizes_and_precisions_that_cannot_be_are_refused(
    folder: Path, tmp_path: Path, options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(InputError, match=sentence):
        adapt_generator(folder, PICTURES, PROMPTS, tmp_path / "out", SETTINGS, progress=False, **options)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_adapted_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 images came with 1 prompts"):
        adapt_generator(folder, PICTURES, ["one"], tmp_path / "out")
    with pytest.raises(InputError, match="is neither a folder"):
        adapt_generator(tmp_path / "missing", PICTURES, PROMPTS, tmp_path / "out")
    save_flux(tmp_path / "flux")
    with pytest.raises(InputError, match="only pipelines of the Stable Diffusion family"):
        adapt_generator(tmp_path / "flux", PICTURES, PROMPTS, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files of something else"):
        adapt(folder, tmp_path / "full")


def test_the_device_holds_the_denoiser_alone_while_it_learns(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    moves: list[tuple[str, str]] = []
    move = torch.nn.Module.to

    def to(module: Any, *places: Any, **settings: Any) -> Any:
        if places and isinstance(places[0], (str, torch.device)):
            moves.append((type(module).__name__, str(places[0])))
        return move(module, *places, **settings)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(adaptation, "_add_adapters", lambda *_: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        adapt(folder, tmp_path / "lora")
    names = [name for name, _ in moves]
    assert moves[names.index("AutoencoderKL")][0] == "AutoencoderKL"
    assert names[-1] == "UNet2DConditionModel"  # last of all, after the others were moved away
    assert names.count("CLIPTextModel") == names.count("AutoencoderKL") >= 2


def test_gradient_checkpointing_changes_no_number(folder: Path, tmp_path: Path) -> None:
    plain = adapt(folder, tmp_path / "plain")
    frugal = adapt(folder, tmp_path / "frugal", replace(SETTINGS, gradient_checkpointing=True))
    assert plain == pytest.approx(frugal, abs=1e-6)


def test_a_step_that_does_not_fit_is_one_sentence(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def objective(*_: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

        return fail

    monkeypatch.setattr(adaptation, "_objective", objective)
    with pytest.raises(InputError, match=r"A step of batch_size=4 at size=16 does not fit .*`gradient_checkpointing`"):
        adapt(folder, tmp_path / "lora")


def test_no_weight_that_is_no_number_is_saved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lower learning_rate=1e\+308"):
        adapt(folder, tmp_path / "lora", replace(SETTINGS, steps=1, learning_rate=1e308))
    assert not (tmp_path / "lora" / WEIGHTS).exists() and not (tmp_path / "lora" / "checkpoints").exists()


def test_a_damaged_state_and_transparent_parts(folder: Path, tmp_path: Path) -> None:
    adapt(folder, tmp_path / "lora")
    (tmp_path / "lora" / "checkpoints" / "state.pt").write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read"):
        adapt(folder, tmp_path / "lora")
    clear = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
    white = Image.new("RGB", (24, 24), "white")
    pipeline = DiffusionPipeline.from_pretrained(folder)
    one, other = (adaptation._encode(pipeline, [picture], 16, False) for picture in (clear, white))
    assert torch.equal(one, other)
