"""Any text-to-image pipeline of diffusers, by Hub id or folder."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError

EMBEDDED = "embedded"
_INDEX = "model_index.json"
_UNREAD_SUFFIXES = (
    ".md",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
    ".svg",
    ".csv",
    ".pdf",
)  # cards and their pictures


class DiffusersGenerator:
    """Draws with a diffusers pipeline; an `ImageGenerator`.

    Making one finds the pipeline (on the Hub: downloads it) and pins its revision; the weights are loaded when the
    first image is drawn, so a run that has nothing left to draw loads none. Frames that the pipeline's own safety
    checker flags come back as None.
    """

    def __init__(
        self,
        name: str | Path = EMBEDDED,
        revision: str | None = None,
        *,
        guidance_scale: float = 2.0,
        num_inference_steps: int = 50,
        scheduler: str | None = None,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        """Find the pipeline.

        Args:
            name: Id of a Hub repository, a folder in diffusers format, or "embedded" for the small pipeline that comes
                with this package.
            revision: Branch, tag or commit of a Hub repository. Its commit is what the plan records; of a folder it is
                the digest of its content.
            guidance_scale: Classifier-free guidance. 2.0 is the README's of the original release: the less guidance,
                the more the siblings differ.
            num_inference_steps: Denoising steps; 50 as in the original release.
            scheduler: Class name of a scheduler of diffusers to use in place of the pipeline's own.
            negative_prompt: What the images should not show.
            height: Pixels, together with the width; by default the pipeline's own size.
            width: Pixels, together with the height.
            dtype: "float32", "float16" or "bfloat16"; by default float16 on CUDA, else float32.
            device: Where to draw, such as "cuda:1"; by default CUDA, else MPS, else the CPU. Not part of the plan.

        Raises:
            InputError: If there is no such pipeline or scheduler, or a number is impossible.
        """
        if num_inference_steps < 1:
            raise InputError(
                f"num_inference_steps is {num_inference_steps}, which draws nothing; set it to 1 or more."
            )
        if (height is None) != (width is None):  # Stable Diffusion would silently ignore the one that was given
            raise InputError(f"Of the size only {height or width} pixels one way are given; give height and width.")
        self.folder, self.name, self.revision = _find_pipeline(str(name), revision)
        self.guidance_scale = float(guidance_scale)
        self.num_inference_steps = num_inference_steps
        self.negative_prompt = negative_prompt
        self.height = height
        self.width = width
        self.device, self.dtype = _device_and_dtype(device, dtype)
        self._index = _read_json(self.folder / _INDEX)
        self._scheduler_override = scheduler
        self.scheduler = scheduler or _own_scheduler(self.folder)
        if scheduler is not None:
            _check_scheduler(self.folder, self.name, scheduler)

    def describe(self) -> dict[str, object]:
        """Everything that changes an image; see `ImageGenerator.describe`."""
        pipeline = self._index["_class_name"]
        return {
            "name": self.name,
            "revision": self.revision,
            "pipeline": pipeline if isinstance(pipeline, str) else pipeline[-1],
            "scheduler": self.scheduler,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "negative_prompt": self.negative_prompt,
            "height": self.height,
            "width": self.width,
            "dtype": self.dtype,
        }

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        """Draw one image a prompt; see `ImageGenerator`.

        Every image has a generator of random numbers of its own, on the CPU whatever the device, so it is the same
        drawn alone or in a batch (uint8 equal up to rounding).
        """
        import torch

        settings: dict[str, Any] = {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "output_type": "pil",
        }
        if self.negative_prompt is not None:
            settings["negative_prompt"] = [self.negative_prompt] * len(prompts)
        if self.height is not None:
            settings["height"] = self.height
        if self.width is not None:
            settings["width"] = self.width
        pipeline = self.pipeline
        parameters = inspect.signature(pipeline.__call__).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if unknown := [key for key in settings if not takes_all and key not in parameters]:
            raise InputError(
                f"The pipeline {self.name!r} is a {type(pipeline).__name__}, which takes no "
                f"{' and no '.join(unknown)}; give another pipeline, or leave that out."
            )
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        try:
            output = pipeline(prompt=list(prompts), generator=generators, **settings)
        except ValueError as error:  # pipelines check their arguments so, for instance that sizes are divisible
            raise InputError(
                f"The pipeline {self.name!r} refuses its settings ({_first_line(error)}); change them."
            ) from error
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(prompts)
        return [None if flagged else image for image, flagged in zip(output.images, flags, strict=True)]

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
        except (OSError, ValueError) as error:
            raise InputError(
                f"The pipeline {self.name!r} cannot be loaded ({_first_line(error)}); download or save it again."
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
        return pipeline.to(self.device)


def _find_pipeline(name: str, revision: str | None) -> tuple[Path, str, str]:
    """The folder of a pipeline, the name that rows give it (never a path) and its revision."""
    if name == EMBEDDED:
        from ..assets import generator_path

        folder = Path(generator_path())
        return folder, EMBEDDED, content_digest(folder)
    folder = Path(name)
    if (folder / _INDEX).is_file():
        return folder, folder.resolve().name, content_digest(folder)
    if folder.exists():
        raise InputError(f"The generator {name!r} has no {_INDEX}, so it is no diffusers pipeline; name its folder.")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise InputError(f"The generator {name!r} is neither a folder nor of the form owner/name; check the path.")
    return _download(name, revision)


def _download(repository: str, revision: str | None) -> tuple[Path, str, str]:
    import diffusers
    from huggingface_hub.errors import HFValidationError

    # OSError covers what the Hub's client raises: no such repository or revision, no access, no network and no cache.
    try:
        folder = Path(diffusers.DiffusionPipeline.download(repository, revision=revision))
    except (OSError, HFValidationError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise InputError(
            f"The generator {repository!r}{at} is no folder here and could not be had from the Hub "
            f"({_first_line(error.__cause__ or error)}); check the name and the connection, or give a folder."
        ) from error
    return folder, repository, folder.name  # the cache names a snapshot by its commit


def content_digest(folder: Path) -> str:
    """32 hex digits of the names and bytes of a pipeline's files; hidden files, cards and pictures do not count."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or path.suffix.lower() in _UNREAD_SUFFIXES:
            continue
        if path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{relative.as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


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


def _own_scheduler(folder: Path) -> str | None:
    config = folder / "scheduler" / "scheduler_config.json"
    return str(_read_json(config)["_class_name"]) if config.is_file() else None


def _check_scheduler(folder: Path, name: str, scheduler: str) -> None:
    import diffusers

    own = _own_scheduler(folder)
    if own is None:
        raise InputError(
            f"The pipeline {name!r} has no scheduler that could be {scheduler!r}; leave the scheduler out."
        )
    compatible = getattr(diffusers, own).from_pretrained(folder, subfolder="scheduler").compatibles
    names = sorted({own, *(kind.__name__ for kind in compatible)})
    if scheduler not in names:
        raise InputError(f"The scheduler {scheduler!r} does not fit {name!r}; use one of {', '.join(names)}.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path.name} of the generator is not valid JSON ({error}); save the pipeline again."
        ) from error
    return content


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
