"""Any text-to-image pipeline of diffusers, by Hub id or folder."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image

from ..assets import EMBEDDED, drawing_defaults
from ..errors import InputError, first_line, refusing
from .guidance_interval import GuidanceInterval
from .pipeline_folder import PipelineFolder, find_lora
from .precision import default_dtype
from .prompt_embeddings import PromptEmbeddings
from .settings import GeneratorSettings
from .tokenizers import PROBES, load_tokenizer
from .workers import find_device

_AUTOENCODER_OPTIONS = ("slicing", "tiling")
_DTYPES = ("float32", "float16", "bfloat16")
# StableRep/README.md, data generation: --scale 2.0, 50 DDIM steps, the caption alone as the prompt.
DEFAULT_GUIDANCE = 2.0
DEFAULT_STEPS = 50
_LARGEST_BATCH = 64


@dataclass(eq=False)
class DiffusersGenerator(GeneratorSettings):
    """Draws with a diffusers pipeline; an `ImageGenerator`. Its arguments are the fields of `GeneratorSettings`.

    Making one finds the pipeline (on the Hub: downloads it), pins its revision and checks what its configuration can
    tell; the weights are loaded when the first image is drawn, so a run that has nothing left to draw loads none.
    Weights are read from safetensors alone, and no code of a pipeline's own is run. Frames that the pipeline's own
    safety checker flags come back as None.

    `device`, `attention`, `offload`, `compile` and the autoencoder's "slicing" change an image by rounding only and
    are no part of a plan; everything else is.

    Attributes:
        name: What rows call the pipeline, never a path.
        source: Where it is, and what its configuration says.
        prompt_templates: How it is best asked, see `SynthesisPlan`.
        license: Of the pipeline.

    Raises:
        InputError: If there is no such pipeline, LoRA or scheduler, the model would ignore the guidance, or a number
            or size is impossible.
    """

    name: str = field(init=False)
    source: PipelineFolder = field(init=False)
    prompt_templates: tuple[str, ...] = field(init=False)
    license: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._check_numbers()
        self.device = device = find_device(self.device)
        self._attention = _checked_attention(self.attention, device)
        self._autoencoder = _checked_autoencoder(self.autoencoder, device)
        if self.offload and not device.startswith("cuda"):
            raise InputError(f"offload=True was given on device={self.device}, but it serves GPUs: leave it out.")
        self.source = source = PipelineFolder.find(str(self.generator), self.revision)
        self.name, self.revision = source.name, source.revision
        own = drawing_defaults() if self.generator == EMBEDDED else {}
        self.prompt_templates = tuple(own.get("prompt_templates", ("{caption}",)))
        if self.num_inference_steps is None:
            self.num_inference_steps = int(own.get("num_inference_steps", DEFAULT_STEPS))
        if self.guidance_scale is None and source.takes_guidance:
            self.guidance_scale = own.get("guidance_scale", DEFAULT_GUIDANCE)
        if self.guidance_scale is not None:
            self.guidance_scale = float(self.guidance_scale)
        source.check_class()
        self.dtype = self.dtype or default_dtype(source.path, source.kind, device)  # type: ignore[assignment]
        self.license = self.generator_license or source.license
        self._scheduler_override = None if self.scheduler == source.scheduler else self.scheduler
        self.scheduler = self.scheduler or source.scheduler
        if self._scheduler_override is not None:
            source.check_scheduler(self._scheduler_override)
        source.check_guidance(self.guidance_scale, self.negative_prompt)
        self._interval = None if self.guidance_interval is None else GuidanceInterval(self.guidance_interval)
        if self._interval is not None:
            self._interval.check(self.name, source.kind, self.guidance_scale, self.compile)
        if self.height is not None and self.width is not None:
            source.check_size(self.height, self.width)
        self._lora = None if self.lora is None else find_lora(str(self.lora))

    def _check_numbers(self) -> None:
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise InputError(f"num_inference_steps={self.num_inference_steps} draws nothing: give 1 or more.")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale < math.inf:
            raise InputError(
                f"guidance_scale={self.guidance_scale} would drive images away from their captions: give 0 or more."
            )
        if not math.isfinite(self.lora_scale):
            raise InputError(f"lora_scale={self.lora_scale} is not a weight: give a number, such as 1.0.")
        if (self.height is None) != (self.width is None):  # Stable Diffusion would silently ignore the one given
            raise InputError(
                f"Of the size only {self.height or self.width} pixels one way are given: give `height` and `width`."
            )
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise InputError(
                f"dtype={self.dtype} is not a type that a pipeline can be loaded in: use {' or '.join(_DTYPES)}."
            )

    def describe(self) -> dict[str, object]:
        """Everything that changes an image; see `ImageGenerator.describe`."""
        lora = None
        if self._lora is not None:
            lora = {"name": self._lora[1], "revision": self._lora[2], "scale": float(self.lora_scale)}
        interval = self._interval
        return {
            "name": self.name,
            "revision": self.revision,
            "pipeline": self.source.kind,
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
            **({} if interval is None else {"guidance_interval": [interval.low, interval.high]}),
        }

    @property
    def default_batch_size(self) -> int:
        """Images that fit the device at once, by a rule of thumb: 1 GiB each at 512 x 512 and half precision.

        Ours: on a GPU half of its memory is left to weights and decoder; elsewhere 4 GiB are taken. At most 64.
        """
        import torch

        gib = 8.0
        if str(self.device).startswith("cuda"):
            gib = torch.cuda.get_device_properties(self.device).total_memory / 2**30
        side = self.source.own_size
        pixels = (self.height or side) * (self.width or side)
        scale = 512 * 512 / pixels * (0.5 if self.dtype == "float32" else 1.0)
        return max(1, min(_LARGEST_BATCH, int(gib / 2 * scale)))

    @cached_property
    def _tokenizers(self) -> list[tuple[Any, int]]:
        """Each tokenizer of the pipeline, and how many tokens its text encoder is given; see `load_tokenizer`."""
        folders = sorted(path for path in self.source.path.glob("tokenizer*") if path.is_dir())
        found = [load_tokenizer(folder, f"The {folder.name} of {self.name!r}") for folder in folders]
        most = self.source.most_tokens
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
            if self._interval is None:
                output = pipeline(generator=generators, **settings)
            else:
                output = self._interval.call(len(prompts), generator=generators, **settings)
        except InputError:
            raise
        except ValueError as error:  # pipelines check their arguments so
            raise InputError(
                f"The pipeline {self.name!r} refuses its settings, such as scheduler={self.scheduler} with "
                f"num_inference_steps={self.num_inference_steps} ({first_line(error)}); change them."
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
            InputError: If it cannot be loaded, does not draw images from text alone, or cannot tell prompts apart.
        """
        import diffusers
        import torch
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled

        if are_progress_bars_disabled():  # in a command; diffusers has no variable of its own for this
            diffusers.utils.logging.disable_progress_bar()
        settings = {
            "dtype": getattr(torch, str(self.dtype)),
            "use_safetensors": True,
            "local_files_only": True,
            "trust_remote_code": False,
        }
        as_text_to_image: Any = diffusers.AutoPipelineForText2Image
        as_saved: Any = diffusers.DiffusionPipeline
        with refusing(f"The pipeline {self.name!r} cannot be loaded", "download or save it again"):
            settings |= self.source.load_encoders(**settings)
            try:  # an image-to-image or inpainting repository serves too: the parts are the same
                pipeline = as_text_to_image.from_pretrained(self.source.path, **settings)
            except ValueError:  # a class that the automatic choice does not know
                pipeline = as_saved.from_pretrained(self.source.path, **settings)
        for part, model in pipeline.components.items():
            if isinstance(model, torch.nn.Module):
                unset = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
                self.source.refuse_missing_weights(part, unset)
        parameters = inspect.signature(pipeline.__call__).parameters
        required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
        if "prompt" not in parameters or required - {"prompt", "args", "kwargs"}:
            raise InputError(
                f"The pipeline {self.name!r} is a {type(pipeline).__name__}, which does not draw from text alone; "
                "give a text-to-image pipeline."
            )
        if self._scheduler_override is not None:
            kind = getattr(diffusers, self._scheduler_override)
            with refusing(
                f"scheduler={self._scheduler_override} cannot be made", "choose another", (ImportError, ValueError)
            ):
                pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        if self._lora is not None:
            self._merge_lora(pipeline)
        pipeline = self._prepare(pipeline)
        if self._interval is not None:
            self._interval.attach(pipeline, self.name)
        if PromptEmbeddings.supports(pipeline):
            one, other = PromptEmbeddings(pipeline, 1.0, None)(PROBES)["prompt_embeds"]
            if torch.equal(one, other) or not (torch.isfinite(one).all() and torch.isfinite(other).all()):
                raise InputError(
                    f"The text encoder of {self.name!r} in dtype={self.dtype} gives different prompts the same "
                    "embedding, or one that is not a number, so no image would show its caption: download or save the "
                    "pipeline again, or try dtype=float32."
                )
        return pipeline

    def _merge_lora(self, pipeline: Any) -> None:
        assert self._lora is not None
        file, name, _ = self._lora
        with refusing(
            f"The LoRA {name!r} cannot be merged into {self.name!r}",
            "give one that was trained for this kind of pipeline, and install stablerep_hf[lora]",
            (ValueError, KeyError, AttributeError, RuntimeError, ImportError),
        ):
            pipeline.load_lora_weights(file.parent, weight_name=file.name)
            if not pipeline.get_list_adapters():  # diffusers only logs that nothing fitted
                raise ValueError("it holds no weights for any of its parts")
            pipeline.fuse_lora(lora_scale=float(self.lora_scale))
            pipeline.unload_lora_weights()

    def _prepare(self, pipeline: Any) -> Any:
        """Move it to its device with the options for memory and speed."""
        import torch

        denoiser: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        decoder = getattr(pipeline, "vae", None)
        for option in self._autoencoder:
            if hasattr(decoder, f"enable_{option}"):
                getattr(decoder, f"enable_{option}")()
        with refusing(
            f"The attention {self._attention!r} is not available here",
            "choose another or leave it out",
            (ValueError, RuntimeError, ImportError, AttributeError, NotImplementedError),
        ):
            if self._attention == "slicing":
                pipeline.enable_attention_slicing()
            elif self._attention is not None:
                denoiser.set_attention_backend(self._attention)
        if self.offload:
            pipeline.enable_model_cpu_offload(device=self.device)
        else:
            pipeline = pipeline.to(self.device)
        if str(self.device).startswith("cuda") and getattr(pipeline, "unet", None) is not None:
            # What cuDNN's convolutions in half precision work in; else it transposes before and after each of them.
            pipeline.unet.to(memory_format=torch.channels_last)
        if self.compile and denoiser is not None:
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
