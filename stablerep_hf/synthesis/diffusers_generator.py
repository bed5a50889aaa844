"""Any text-to-image pipeline of diffusers, by Hub id or folder."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError
from .pipeline_folder import (
    EMBEDDED,
    check_class,
    check_guidance,
    check_scheduler,
    check_size,
    find_lora,
    find_pipeline,
    first_line,
    license_of,
    most_tokens,
    own_scheduler,
    own_size,
    pipeline_class_name,
    takes_guidance,
)
from .prompt_embeddings import PromptEmbeddings

_AUTOENCODER_OPTIONS = ("slicing", "tiling")
DEFAULT_GUIDANCE = 2.0
_LARGEST_BATCH = 64


class DiffusersGenerator:
    """Draws with a diffusers pipeline; an `ImageGenerator`.

    Making one finds the pipeline (on the Hub: downloads it), pins its revision and checks what its configuration can
    tell; the weights are loaded when the first image is drawn, so a run that has nothing left to draw loads none.
    Frames that the pipeline's own safety checker flags come back as None.
    """

    def __init__(
        self,
        name: str | Path = EMBEDDED,
        revision: str | None = None,
        *,
        guidance_scale: float | None = None,
        num_inference_steps: int = 50,
        scheduler: str | None = None,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        lora: str | Path | None = None,
        lora_scale: float = 1.0,
        dtype: str | None = None,
        device: str | None = None,
        attention: str | None = None,
        autoencoder: Sequence[str] | None = None,
        offload: bool = False,
        compile: bool = False,
        license: str | None = None,
    ) -> None:
        """Find the pipeline.

        Args:
            name: Id of a Hub repository, a folder in diffusers format, or "embedded" for the small pipeline that comes
                with this package.
            revision: Branch, tag or commit of a Hub repository. Its commit is what the plan records; of a folder it is
                the digest of its content.
            guidance_scale: Classifier-free guidance; by default 2.0, the README's of the original release (the less
                guidance, the more the siblings differ), and none for models without guidance.
            num_inference_steps: Denoising steps; 50 as in the original release.
            scheduler: Class name of a scheduler of diffusers to use in place of the pipeline's own.
            negative_prompt: What the images should not show.
            height: Pixels, together with the width; by default the pipeline's own size.
            width: Pixels, together with the height.
            lora: Safetensors file, folder or Hub repository ("owner/name" or "owner/name@revision") of a LoRA that is
                merged into the weights.
            lora_scale: Its weight.
            dtype: "float32", "float16" or "bfloat16"; by default float16 on CUDA, else float32.
            device: Where to draw, such as "cuda:1"; by default CUDA, else MPS, else the CPU. Not part of the plan, and
                neither are the following, which change an image by rounding only ("tiling" changes more, and is).
            attention: "slicing" (least memory) or an attention backend of diffusers, such as "native" or "flash"; by
                default torch's own, sliced on MPS.
            autoencoder: "slicing" decodes one image at a time, "tiling" one tile; by default slicing; not on a CPU.
            offload: Keep on the GPU only the part that is at work.
            compile: Compile the denoiser (`torch.compile`): minutes at the start, faster afterwards.
            license: Of the pipeline, for the rows; by default what its card says.

        Raises:
            InputError: If there is no such pipeline, LoRA or scheduler, the model would ignore the guidance, or a
                number or size is impossible.
        """
        if num_inference_steps < 1:
            raise InputError(
                f"num_inference_steps is {num_inference_steps}, which draws nothing; set it to 1 or more."
            )
        if (height is None) != (width is None):  # Stable Diffusion would silently ignore the one that was given
            raise InputError(f"Of the size only {height or width} pixels one way are given; give height and width.")
        self.device, self.dtype = _device_and_dtype(device, dtype)
        self._attention = _checked_attention(attention, self.device)
        self._autoencoder = _checked_autoencoder(autoencoder, self.device)
        if offload and not self.device.startswith("cuda"):
            raise InputError(f"Offloading was asked for on {self.device!r}, but it serves GPUs; leave it out.")
        self._offload, self._compile = offload, compile
        self.folder, self.name, self.revision = find_pipeline(str(name), revision)
        if guidance_scale is None and takes_guidance(self.folder):
            guidance_scale = DEFAULT_GUIDANCE
        self.guidance_scale = None if guidance_scale is None else float(guidance_scale)
        self.num_inference_steps = num_inference_steps
        self.negative_prompt = negative_prompt
        self.height = height
        self.width = width
        self.pipeline_class = pipeline_class_name(self.folder)
        check_class(self.name, self.pipeline_class)
        self.license = license or license_of(self.folder)
        own = own_scheduler(self.folder)
        self.scheduler = scheduler or own
        self._scheduler_override = None if scheduler == own else scheduler
        if self._scheduler_override is not None:
            check_scheduler(self.folder, self.name, self._scheduler_override)
        check_guidance(self.folder, self.name, self.guidance_scale, negative_prompt)
        if height is not None and width is not None:
            check_size(self.folder, self.name, height, width)
        self._lora = None if lora is None else find_lora(str(lora))
        self._lora_scale = float(lora_scale)

    def describe(self) -> dict[str, object]:
        """Everything that changes an image; see `ImageGenerator.describe`."""
        lora = None
        if self._lora is not None:
            lora = {"name": self._lora[1], "revision": self._lora[2], "scale": self._lora_scale}
        return {
            "name": self.name,
            "revision": self.revision,
            "pipeline": self.pipeline_class,
            "scheduler": self.scheduler,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "negative_prompt": self.negative_prompt,
            "height": self.height,
            "width": self.width,
            "lora": lora,
            "tiled": "tiling" in self._autoencoder,
            "dtype": self.dtype,
            "license": self.license,
        }

    @property
    def default_batch_size(self) -> int:
        """Images that fit the device at once, by a rule of thumb: 1 GiB each at 512 x 512 and half precision.

        Ours: on a GPU half of its memory is left to weights and decoder; elsewhere 4 GiB are taken. At most 64.
        """
        import torch

        gib = 8.0
        if self.device.startswith("cuda"):
            gib = torch.cuda.get_device_properties(self.device).total_memory / 2**30
        side = own_size(self.folder)
        pixels = (self.height or side) * (self.width or side)
        scale = 512 * 512 / pixels * (0.5 if self.dtype == "float32" else 1.0)
        return max(1, min(_LARGEST_BATCH, int(gib / 2 * scale)))

    @cached_property
    def _tokenizers(self) -> list[tuple[Any, int]]:
        """Each tokenizer of the pipeline, and how many tokens its text encoder is given."""
        from transformers import AutoTokenizer

        found = [AutoTokenizer.from_pretrained(folder) for folder in sorted(self.folder.glob("tokenizer*"))]
        most = most_tokens(self.folder)
        return [(tokenizer, min(tokenizer.model_max_length, most)) for tokenizer in found]

    @property
    def max_prompt_tokens(self) -> int | None:
        """What the text encoder that reads most reads; see `TokenizingGenerator`."""
        return max((limit for _, limit in self._tokenizers), default=None)

    def too_long(self, prompts: Sequence[str]) -> list[bool]:
        """Say which prompts no text encoder would read to the end; see `TokenizingGenerator`.

        Of pipelines with several encoders (SDXL, SD 3, Flux) the one that reads most counts.
        """
        cut = [bool(self._tokenizers)] * len(prompts)
        for tokenizer, limit in self._tokenizers:
            # A token is a byte or more, and two mark the ends: most prompts need no tokenizer.
            places = [place for place, prompt in enumerate(prompts) if cut[place] and len(prompt.encode()) + 3 > limit]
            cut = [False] * len(prompts)
            if places:
                tokens = tokenizer([prompts[place] for place in places], truncation=False).input_ids
                for place, ids in zip(places, tokens, strict=True):
                    cut[place] = len(ids) > limit
        return cut

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        """Draw one image a prompt; see `ImageGenerator`.

        Every image has a generator of random numbers of its own, on the CPU whatever the device, so it is the same
        drawn alone or in a batch (uint8 equal up to rounding).
        """
        import torch

        settings: dict[str, Any] = {"num_inference_steps": self.num_inference_steps, "output_type": "pil"}
        for key in ("guidance_scale", "height", "width"):
            if getattr(self, key) is not None:
                settings[key] = getattr(self, key)
        pipeline = self.pipeline
        if self._embeddings is None:
            settings["prompt"] = list(prompts)
            if self.negative_prompt is not None:
                settings["negative_prompt"] = [self.negative_prompt] * len(prompts)
        parameters = inspect.signature(pipeline.__call__).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if unknown := [key for key in settings if not takes_all and key not in parameters]:
            raise InputError(
                f"The pipeline {self.name!r} is a {type(pipeline).__name__}, which takes no "
                f"{' and no '.join(unknown)}; give another pipeline, or leave that out."
            )
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        try:
            if self._embeddings is not None:
                settings |= self._embeddings(prompts)
            output = pipeline(generator=generators, **settings)
        except ValueError as error:  # pipelines check their arguments so
            raise InputError(
                f"The pipeline {self.name!r} refuses its settings ({first_line(error)}); change them."
            ) from error
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"A batch of {len(prompts)} images does not fit {self.device!r} ({first_line(error)}); lower the "
                "batch size: it changes no image."
            ) from error
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(prompts)
        return [None if flagged else image for image, flagged in zip(output.images, flags, strict=True)]

    @cached_property
    def _embeddings(self) -> PromptEmbeddings | None:
        """Prompts encoded once, where the pipeline is of a kind whose encoder is known."""
        if not PromptEmbeddings.supports(self.pipeline):
            return None
        return PromptEmbeddings(self.pipeline, self.guidance_scale, self.negative_prompt)

    @cached_property
    def pipeline(self) -> Any:
        """The loaded `DiffusionPipeline`, on its device.

        Raises:
            InputError: If it cannot be loaded, or does not draw images from text alone.
        """
        import diffusers
        import torch

        settings = {"dtype": getattr(torch, self.dtype)}
        as_text_to_image: Any = diffusers.AutoPipelineForText2Image
        as_saved: Any = diffusers.DiffusionPipeline
        try:
            try:  # an image-to-image or inpainting repository serves too: the parts are the same
                pipeline = as_text_to_image.from_pretrained(self.folder, **settings)
            except ValueError:  # a class that the automatic choice does not know
                pipeline = as_saved.from_pretrained(self.folder, **settings)
        except (OSError, ValueError, TypeError, AttributeError) as error:  # also of configurations that were damaged
            raise InputError(
                f"The pipeline {self.name!r} cannot be loaded ({first_line(error)}); download or save it again."
            ) from error
        parameters = inspect.signature(pipeline.__call__).parameters
        required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
        if "prompt" not in parameters or required - {"prompt", "args", "kwargs"}:
            raise InputError(
                f"The pipeline {self.name!r} is a {type(pipeline).__name__}, which does not draw from text alone; "
                "give a text-to-image pipeline."
            )
        if self._scheduler_override is not None:
            pipeline.scheduler = getattr(diffusers, self._scheduler_override).from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        if self._lora is not None:
            self._merge_lora(pipeline)
        return self._prepare(pipeline)

    def _merge_lora(self, pipeline: Any) -> None:
        assert self._lora is not None
        file, name, _ = self._lora
        try:
            pipeline.load_lora_weights(file.parent, weight_name=file.name)
            if not pipeline.get_list_adapters():  # diffusers only logs that nothing fitted
                raise ValueError("it holds no weights for any of its parts")
            pipeline.fuse_lora(lora_scale=self._lora_scale)
            pipeline.unload_lora_weights()
        except (ValueError, KeyError, AttributeError, RuntimeError, ImportError) as error:
            raise InputError(
                f"The LoRA {name!r} cannot be merged into {self.name!r} ({first_line(error)}); give one that was "
                "trained for this kind of pipeline, and install stablerep_hf[lora]."
            ) from error

    def _prepare(self, pipeline: Any) -> Any:
        """Move it to its device with the options for memory and speed."""
        denoiser: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        decoder = getattr(pipeline, "vae", None)
        for option in self._autoencoder:
            if hasattr(decoder, f"enable_{option}"):
                getattr(decoder, f"enable_{option}")()
        try:
            if self._attention == "slicing":
                pipeline.enable_attention_slicing()
            elif self._attention is not None:
                denoiser.set_attention_backend(self._attention)
        except (ValueError, RuntimeError, ImportError, AttributeError, NotImplementedError) as error:
            raise InputError(
                f"The attention {self._attention!r} cannot be had here ({first_line(error)}); choose another or leave "
                "it out."
            ) from error
        if self._offload:
            pipeline.enable_model_cpu_offload(device=self.device)
        else:
            pipeline = pipeline.to(self.device)
        if self._compile and denoiser is not None:
            denoiser.compile()
        return pipeline


def _checked_attention(attention: str | None, device: str) -> str | None:
    if attention is None:
        return "slicing" if device.startswith("mps") else None
    from diffusers.models.attention_dispatch import AttentionBackendName

    known = ["slicing", *(backend.value for backend in AttentionBackendName)]
    if attention not in known:
        raise InputError(f"The attention {attention!r} is unknown; use one of {', '.join(known)}.")
    return attention


def _checked_autoencoder(options: Sequence[str] | None, device: str) -> tuple[str, ...]:
    if options is None:
        return () if device.startswith("cpu") else ("slicing",)
    if unknown := [option for option in options if option not in _AUTOENCODER_OPTIONS]:
        raise InputError(f"The autoencoder option {unknown[0]!r} is unknown; use {' or '.join(_AUTOENCODER_OPTIONS)}.")
    return tuple(options)


def _device_and_dtype(device: str | None, dtype: str | None) -> tuple[str, str]:
    import torch

    if device is not None:
        try:
            kind = torch.device(device).type
        except RuntimeError as error:
            raise InputError(f"The device {device!r} is unknown; use one such as cuda, cuda:1, mps or cpu.") from error
        if kind == "cuda" and not torch.cuda.is_available():
            raise InputError(f"The device {device!r} was asked for, but there is no CUDA GPU here; use cpu.")
    else:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    known = ("float32", "float16", "bfloat16")
    if dtype is not None and dtype not in known:
        raise InputError(
            f"The dtype {dtype!r} is none that a pipeline can be loaded in; use one of {', '.join(known)}."
        )
    return device, dtype or ("float16" if device.startswith("cuda") else "float32")
