"""Low-rank adaptation of a text-to-image pipeline to a user's captioned images, so that it draws their domain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import InputError, refuse_other_settings, refusing
from ..evaluation.decoding import to_rgb
from ..files.atomic import remove_leftovers, replacing
from ..progress import Progress
from .adaptation_settings import AdaptationSettings
from .pipeline_folder import PipelineFolder
from .prompt_embeddings import PromptEmbeddings

SETTINGS = "adaptation.json"
_STATE = "state.pt"
# Attention of UNets and of transformers alike; what diffusers' own LoRA training scripts adapt.
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
# Settings that may change when an adaptation goes on.
_FREE = ("steps", "save_every", "gradient_checkpointing")


def adapt_generator(
    name: str | Path,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    output: str | Path,
    settings: AdaptationSettings | None = None,
    *,
    revision: str | None = None,
    size: int | None = None,
    mixed_precision: str = "no",
    progress: bool = True,
) -> list[float]:
    """Train low-rank adapters on the denoiser of a pipeline, and write them for `DiffusersGenerator(lora=output)`.

    Text encoders and the autoencoder stay as they are. The loss is the pipeline's own: of the noise or the velocity
    for diffusion (as its scheduler's `prediction_type` says), of the flow for flow matching. Interrupted, the same
    call goes on; on several processes (accelerate) each takes its share of the batch.

    Args:
        name: Hub id or folder of a pipeline of the Stable Diffusion family (1, 2, XL, 3), or "embedded".
        images: What it should learn to draw; cropped to a square and resized.
        prompts: One an image, as the pipeline is going to be asked: template included.
        output: Folder for `pytorch_lora_weights.safetensors`, diffusers' own format.
        settings: Of the training.
        revision: Of a Hub repository.
        size: Edge in pixels to train at; the pipeline's own if not given.
        mixed_precision: "no", "fp16" or "bf16": of the frozen weights too; adapters are float32.
        progress: Show it on stderr.

    Returns:
        The loss of each step of this run.

    Raises:
        InputError: No such pipeline, one of another family, no images, an impossible size or precision, or the folder
            holds another adaptation or one of more steps.
    """
    import diffusers
    from accelerate import Accelerator

    settings = settings or AdaptationSettings()
    if len(images) != len(prompts) or not images:
        raise InputError(f"{len(images)} images came with {len(prompts)} prompts: give one prompt an image.")
    if mixed_precision == "fp16" and not torch.accelerator.is_available():
        raise InputError("mixed_precision is 'fp16', in which a CPU cannot train: choose 'bf16' or 'no'.")
    source = PipelineFolder.find(str(name), revision)
    output = Path(output)
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=not torch.accelerator.is_available())
    if settings.batch_size % accelerator.num_processes:
        raise InputError(
            f"batch_size={settings.batch_size} cannot be divided among {accelerator.num_processes} processes: choose "
            f"a multiple of {accelerator.num_processes}."
        )
    edge = source.own_size if size is None else size
    source.check_size(edge, edge)
    record = {"generator": source.revision, "size": edge, "mixed_precision": mixed_precision}
    record["images"] = _digest(images, prompts)
    record |= {key: value for key, value in asdict(settings).items() if key not in _FREE}
    _check_folder(output, record)
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[mixed_precision]
    pipeline = _load(diffusers.DiffusionPipeline, source.path, str(name), dtype)
    denoiser: Any = _denoiser(pipeline, str(name))
    others = [part for part in pipeline.components.values() if isinstance(part, nn.Module) and part is not denoiser]
    for part in others:
        part.to(accelerator.device)
    latents = _encode(pipeline, images, edge, settings.flip)
    embedded = PromptEmbeddings(pipeline, 1.0, None)
    texts = {prompt: {key: part.cpu() for key, part in embedded([prompt]).items() if part is not None}
             for prompt in dict.fromkeys([*prompts, ""])}  # fmt: skip
    for part in others:  # what they made is kept, so the device is the denoiser's alone
        part.to("cpu")
    del embedded
    denoiser.to(accelerator.device)
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    _add_adapters(denoiser, settings)
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=1e-2)
    denoiser, optimizer = accelerator.prepare(denoiser, optimizer)
    done = _load_state(output, trained, optimizer, accelerator)
    if done > settings.steps:
        raise InputError(
            f"{output} holds an adaptation of {done} steps, more than steps={settings.steps}: give at least {done} "
            "or choose another folder."
        )
    objective = _objective(pipeline, settings)
    losses = []
    own = slice(accelerator.process_index, None, accelerator.num_processes)
    shown = progress and accelerator.is_main_process
    with Progress("adapting", settings.steps, unit="step", done=done, shown=shown) as bar:
        for step in range(done, settings.steps):
            rng = torch.Generator().manual_seed(_step_seed(settings.seed, step))
            batch = _draw_batch(rng, latents, prompts, settings)
            with refusing(
                f"A step of batch_size={settings.batch_size} at size={edge} does not fit {accelerator.device}",
                "lower `batch_size` or `size`, or set `gradient_checkpointing`; what was saved is kept",
                torch.OutOfMemoryError,
            ):
                own_batch = {
                    key: part[own] if isinstance(part, Tensor) else part[own.start :: own.step]
                    for key, part in batch.items()
                }
                with accelerator.autocast():
                    loss = objective(denoiser, own_batch, texts, accelerator.device)
                accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(accelerator.reduce(loss.detach(), "mean")))
            if not losses[-1] < float("inf") or not all(bool(torch.isfinite(part).all()) for part in trained):
                raise InputError(
                    f"The loss is {losses[-1]} at step {step + 1} and the adapters may not be finite: lower "
                    f"learning_rate={settings.learning_rate}, or use mixed_precision=bf16."
                )
            bar.advance(loss=losses[-1])
            if accelerator.is_main_process and ((step + 1) % settings.save_every == 0 or step + 1 == settings.steps):
                _save_state(output, record, trained, optimizer, accelerator, step + 1)
    if accelerator.is_main_process:
        _save_adapters(pipeline, accelerator.unwrap_model(denoiser), output)
    accelerator.wait_for_everyone()
    return losses


def _load(kind: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
    with refusing(f"The pipeline {name!r} cannot be loaded", "download or save it again"):
        return kind.from_pretrained(
            folder, local_files_only=True, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )


def _denoiser(pipeline: Any, name: str) -> nn.Module:
    kind = type(pipeline).__name__
    if not kind.startswith("StableDiffusion") or not PromptEmbeddings.supports(pipeline):
        raise InputError(
            f"The generator {name!r} is a {kind}, and only pipelines of the Stable Diffusion family (1, 2, XL, 3) are "
            "adapted here: use diffusers' own training script for it, and `stablerep generate --lora`."
        )
    denoiser: nn.Module = pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    return denoiser


def _add_adapters(denoiser: Any, settings: AdaptationSettings) -> None:
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    torch.manual_seed(settings.seed)
    denoiser.add_adapter(
        LoraConfig(
            r=settings.rank, lora_alpha=settings.rank, init_lora_weights="gaussian", target_modules=list(_TARGETS)
        )
    )
    cast_training_params(denoiser)
    denoiser.train()


@torch.no_grad()
def _encode(pipeline: Any, images: Sequence[Image.Image], edge: int, flip: bool) -> Tensor:
    """(N or 2 N, 2, C, H, W) mean and deviation of the latents of the images (then of their mirror images)."""
    from torchvision.transforms.v2 import functional as F

    squares = []
    for image in images:
        image = to_rgb(image)
        side = min(image.size)
        square = F.center_crop(image, [side, side]).resize((edge, edge), Image.Resampling.BICUBIC)
        squares.append(F.pil_to_tensor(square))
    pixels = torch.stack(squares)
    if flip:
        pixels = torch.cat([pixels, pixels.flip(-1)])
    vae = pipeline.vae.float()  # SDXL's makes no numbers in float16
    parts = []
    for part in torch.split(pixels, 8):
        found = vae.encode(part.to(vae.device) / 127.5 - 1).latent_dist
        parts.append(torch.stack([found.mean, found.std], 1).cpu())
    return torch.cat(parts)


def _draw_batch(
    rng: torch.Generator, latents: Tensor, prompts: Sequence[str], settings: AdaptationSettings
) -> dict[str, Any]:
    """Everything random about a step, on the CPU: the same on every machine and for every number of processes."""
    chosen = torch.randint(len(latents), (settings.batch_size,), generator=rng)
    mean, deviation = latents[chosen].unbind(1)
    dropped = torch.rand(settings.batch_size, generator=rng) < settings.caption_dropout
    return {
        "latents": mean + deviation * torch.randn(mean.shape, generator=rng),
        "noise": torch.randn(mean.shape, generator=rng),
        "level": torch.rand(settings.batch_size, generator=rng),
        "prompts": [
            "" if drop else prompts[row % len(prompts)]
            for row, drop in zip(chosen.tolist(), dropped.tolist(), strict=True)
        ],
    }


def _objective(pipeline: Any, settings: AdaptationSettings) -> Any:
    """(denoiser, batch, embedded prompts, device) -> loss, as the pipeline was trained."""
    scaling = pipeline.vae.config.scaling_factor
    shift = getattr(pipeline.vae.config, "shift_factor", None) or 0.0

    def inputs(batch: dict[str, Any], texts: dict[str, Any], device: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        latents = ((batch["latents"] - shift) * scaling).to(device)
        rows = [texts[prompt] for prompt in batch["prompts"]]
        return latents, batch["noise"].to(device), {
            key: torch.cat([row[key] for row in rows]).to(device) for key in rows[0]
        }  # fmt: skip

    def flow(denoiser: nn.Module, batch: dict[str, Any], texts: dict[str, Any], device: Any) -> Tensor:
        """Flow matching with noise levels of a logit-normal distribution (Stable Diffusion 3, section 3.1)."""
        latents, noise, text = inputs(batch, texts, device)
        sigma = torch.sigmoid(torch.special.ndtri(batch["level"].clamp(1e-6, 1 - 1e-6))).to(device).view(-1, 1, 1, 1)
        found = denoiser(
            hidden_states=(1 - sigma) * latents + sigma * noise,
            timestep=sigma.flatten() * pipeline.scheduler.config.num_train_timesteps,
            encoder_hidden_states=text["prompt_embeds"],
            pooled_projections=text["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        return nn.functional.mse_loss(found.float(), noise - latents)

    if "FlowMatch" in type(pipeline.scheduler).__name__:
        return flow

    import diffusers
    from diffusers import training_utils

    ddpm: Any = diffusers.DDPMScheduler
    compute_snr: Any = training_utils.compute_snr
    scheduler = ddpm.from_config(pipeline.scheduler.config)
    velocity = scheduler.config.prediction_type == "v_prediction"

    def diffusion(denoiser: nn.Module, batch: dict[str, Any], texts: dict[str, Any], device: Any) -> Tensor:
        latents, noise, text = inputs(batch, texts, device)
        steps = (batch["level"] * scheduler.config.num_train_timesteps).long().to(device)
        conditions: dict[str, Any] = {}
        if "pooled_prompt_embeds" in text:  # XL also takes the size of the picture, here never cropped
            edge = float(latents.shape[-1] * pipeline.vae_scale_factor)
            place = torch.tensor([[edge, edge, 0.0, 0.0, edge, edge]], device=device).expand(len(latents), -1)
            conditions = {"added_cond_kwargs": {"text_embeds": text["pooled_prompt_embeds"], "time_ids": place}}
        found = denoiser(
            scheduler.add_noise(latents, noise, steps), steps, text["prompt_embeds"], return_dict=False, **conditions
        )[0].float()
        target = scheduler.get_velocity(latents, noise, steps) if velocity else noise
        losses = nn.functional.mse_loss(found, target, reduction="none").mean(dim=(1, 2, 3))
        if settings.snr_gamma is None:
            return losses.mean()
        snr = compute_snr(scheduler, steps)
        weights = snr.clamp(max=settings.snr_gamma) / (snr + 1 if velocity else snr.clamp(min=1e-8))
        weighted: Tensor = (losses * weights).mean()
        return weighted

    return diffusion


def _digest(images: Sequence[Image.Image], prompts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for image, prompt in zip(images, prompts, strict=True):
        digest.update(f"{image.mode} {image.size} {prompt}\0".encode() + image.tobytes())
    return digest.hexdigest()


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest(), "big") >> 1


def _check_folder(output: Path, record: dict[str, Any]) -> None:
    file = output / SETTINGS
    if not file.is_file():
        if output.exists() and any(not path.name.startswith(".") for path in output.iterdir()):
            raise InputError(f"{output} holds files of something else: choose another folder.")
        return
    with refusing(f"{file} is damaged", "choose another folder", ValueError):
        theirs = json.loads(file.read_text("utf-8"))
    refuse_other_settings(
        f"{output} holds an adaptation",
        theirs,
        record,
        "choose another folder, or give that one's settings to go on with it.",
    )


def _save_state(
    output: Path, record: dict[str, Any], trained: list[nn.Parameter], optimizer: Any, accelerator: Any, step: int
) -> None:
    folder = output / "checkpoints"
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / SETTINGS) as file:  # first: by it the folder is known for an adaptation's
        file.write((json.dumps(record, indent=2) + "\n").encode())
    folder.mkdir(exist_ok=True)
    for place in (output, folder):
        remove_leftovers(place, even_fresh=True)  # of earlier runs: one process alone writes here
    state = {"step": step, "adapters": [p.detach().cpu() for p in trained], "optimizer": optimizer.state_dict()}
    if accelerator.scaler is not None:  # with fp16: the scale of the loss, found by trial
        state["scaler"] = accelerator.scaler.state_dict()
    num_bytes = 3 * sum(parameter.numel() * parameter.element_size() for parameter in trained)  # Adam keeps two more
    with replacing(folder / _STATE, num_bytes) as file:
        torch.save(state, file)


def _load_state(output: Path, trained: list[nn.Parameter], optimizer: Any, accelerator: Any) -> int:
    file = output / "checkpoints" / _STATE
    if not file.is_file():
        return 0
    with refusing(f"The state {str(file)!r} cannot be read", "remove it to begin again, or choose another folder"):
        state = torch.load(file, map_location=accelerator.device, weights_only=True)
    with torch.no_grad():
        for parameter, value in zip(trained, state["adapters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    return int(state["step"])


def _save_adapters(pipeline: Any, denoiser: nn.Module, output: Path) -> None:
    from diffusers.utils import state_dict_utils
    from peft.utils import get_peft_model_state_dict

    convert: Any = state_dict_utils.convert_state_dict_to_diffusers
    weights = convert(get_peft_model_state_dict(denoiser))
    part = "transformer_lora_layers" if hasattr(pipeline, "transformer") else "unet_lora_layers"
    type(pipeline).save_lora_weights(output, **{part: weights}, safe_serialization=True)
