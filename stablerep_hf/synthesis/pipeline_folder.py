"""A pipeline or LoRA by name: found or downloaded, pinned to its content, and checked before anything is loaded."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..assets import EMBEDDED, generator_path
from ..errors import InputError, first_line, refusing

INDEX = "model_index.json"
CARD = "README.md"
# Cards and their pictures.
_UNREAD_SUFFIXES = (".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".csv", ".pdf")
# Sampling in a few steps needs weights that were distilled for it, which no configuration tells: they are not
# among any scheduler's compatible ones, yet can replace every Karras-style scheduler.
_FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline of diffusers on this machine, and what its configuration says.

    Attributes:
        path: Its folder.
        name: What rows call it, never a path.
        revision: The commit, or of a folder the digest of its content.
    """

    path: Path
    name: str
    revision: str

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> PipelineFolder:
        """Find a pipeline by folder, Hub id (it is downloaded) or "embedded"; `InputError` if there is none."""
        folder = generator_path() if name == EMBEDDED else Path(name)
        if (folder / INDEX).is_file():
            return cls(folder, EMBEDDED if name == EMBEDDED else folder.resolve().name, content_digest(folder))
        if folder.exists():
            raise InputError(
                f"The generator {name!r} has no {INDEX}, so it is not a diffusers pipeline; name its folder."
            )
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
            raise InputError(f"The generator {name!r} is neither a folder nor of the form owner/name; check the path.")
        folder = _download(name, revision)
        return cls(folder, name, folder.name)  # the cache names a snapshot by its commit

    @cached_property
    def kind(self) -> str:
        """The class that it was saved with."""
        return _class_name(self.path / INDEX)

    @cached_property
    def scheduler(self) -> str | None:
        """Class name of the scheduler that it was saved with."""
        config = self.path / "scheduler" / "scheduler_config.json"
        return _class_name(config) if config.is_file() else None

    @cached_property
    def license(self) -> str | None:
        """The licence that its card names (its name where the Hub has no id for it); None if it names none."""
        import yaml
        from huggingface_hub import ModelCard

        try:
            metadata = ModelCard.load(self.path / CARD, ignore_metadata_errors=True).data
        except (OSError, ValueError, yaml.YAMLError):  # no card, or one that cannot be read
            return None
        found = metadata.get("license")
        if found == "other":
            found = metadata.get("license_name") or found
        return ", ".join(map(str, found)) if isinstance(found, list) else found

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What its class takes in a call; nothing if diffusers has no such class."""
        import diffusers

        found = getattr(diffusers, self.kind, None)
        return inspect.signature(found.__call__).parameters if found is not None else {}

    @property
    def most_tokens(self) -> int:
        """How many tokens of a prompt it takes, whatever its tokenizers could: `max_sequence_length` of a call."""
        parameter = self.parameters.get("max_sequence_length")
        return parameter.default if parameter is not None and isinstance(parameter.default, int) else sys.maxsize

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance changes what it draws, as far as its class and configuration say.

        It does not where the pipeline takes no `guidance_scale`, or where its transformer was distilled without
        guidance (FLUX.1 schnell and its kin). Only its card says that SDXL Turbo is drawn at 0.
        """
        return self._config("transformer").get("guidance_embeds") is not False and self._takes("guidance_scale")

    @property
    def image_factor(self) -> int:
        """What the sides of an image must be divisible by, as far as the configuration says; else 1."""
        patch = self._config("transformer").get("patch_size", 1)
        factor = self._autoencoder_factor * (patch if isinstance(patch, int) else 1)
        # The pipelines of Stable Diffusion ask for multiples of 8 whatever the autoencoder.
        return max(8, factor) if (self.path / "unet").is_dir() else factor

    @property
    def stated_size(self) -> int | None:
        """Side of the images that it draws by itself, pixels; None where its parts do not say."""
        for part in ("unet", "transformer"):
            if isinstance(size := self._config(part).get("sample_size"), int):
                return size * self._autoencoder_factor
        return None

    @property
    def own_size(self) -> int:
        """The same; 1024, as FLUX.1, where its parts do not say."""
        return self.stated_size or 1024

    @property
    def _autoencoder_factor(self) -> int:
        settings = self._config("vae")
        # Each block but one halves the image; the second is of AutoencoderDC (SANA), the third of Qwen-Image's, Wan's.
        for key in ("block_out_channels", "encoder_block_out_channels", "dim_mult"):
            blocks = settings.get(key)
            if isinstance(blocks, list) and blocks:
                return 1 << len(blocks) - 1
        return 1

    def _config(self, part: str) -> dict[str, Any]:
        config = self.path / part / "config.json"
        return read_json(config) if config.is_file() else {}

    def _takes(self, argument: str) -> bool:
        """Whether a call takes an argument; yes if the class does not say what it takes."""
        return "prompt" not in self.parameters or argument in self.parameters

    def check_class(self) -> None:
        """Refuse (`InputError`) a pipeline whose class diffusers does not have: it could not be loaded."""
        import diffusers

        if not hasattr(diffusers, self.kind):
            raise InputError(
                f"The pipeline {self.name!r} is a {self.kind}, which diffusers {diffusers.__version__} does not have; "
                "upgrade that, or give another pipeline."
            )

    def check_scheduler(self, scheduler: str) -> None:
        """Refuse (`InputError`) a scheduler that is unknown or cannot take the place of the pipeline's own."""
        import diffusers

        if self.scheduler is None:
            raise InputError(
                f"The pipeline {self.name!r} has no scheduler that could be {scheduler!r}; leave the scheduler out."
            )
        own = getattr(diffusers, self.scheduler).from_pretrained(self.path, subfolder="scheduler")
        known = {self.scheduler, *(kind.__name__ for kind in own.compatibles)}
        names = sorted({*known, *(_FEW_STEP_SCHEDULERS if "DDIMScheduler" in known else ())})
        if scheduler not in names:
            raise InputError(f"The scheduler {scheduler!r} does not fit {self.name!r}; use one of {', '.join(names)}.")

    def check_guidance(self, guidance_scale: float | None, negative_prompt: str | None) -> None:
        """Refuse (`InputError`) guidance, or a negative prompt, that the model would ignore."""
        if guidance_scale is not None and guidance_scale > 1 and not self.takes_guidance:
            raise InputError(
                f"The guidance_scale {guidance_scale:g} was given for {self.name!r}, a {self.kind} without guidance, "
                "which would ignore it; leave it out or set it to 1."
            )
        if negative_prompt is None:
            return
        if not self._takes("negative_prompt") or "true_cfg_scale" in self.parameters:  # Flux and its kin
            raise InputError(
                f"The negative prompt {negative_prompt!r} was given for {self.name!r}, a {self.kind}, which is guided "
                "without one and would ignore it; leave it out."
            )
        if guidance_scale is not None and guidance_scale <= 1:
            raise InputError(
                f"The negative prompt {negative_prompt!r} has no effect at guidance_scale {guidance_scale:g}; leave "
                "it out or raise the guidance above 1."
            )

    def check_size(self, height: int, width: int) -> None:
        """Refuse (`InputError`) a size that the autoencoder cannot make.

        Sides are multiples of its factor: 8 for Stable Diffusion; whole pixels of the latent image times the patch of
        a transformer.
        """
        factor = self.image_factor
        if min(height, width) < 1 or height % factor or width % factor:
            raise InputError(
                f"The size {height} x {width} does not suit {self.name!r}: its images have sides divisible by "
                f"{factor}; change height and width."
            )

    def load_encoders(self, **settings: Any) -> dict[str, Any]:
        """The parts that are models of transformers, which fills weights that are missing at random.

        `settings` are those of `from_pretrained`. Raises `InputError` if a part lacks weights.
        """
        import diffusers
        import transformers

        parts: dict[str, Any] = {}
        for part, names in read_json(self.path / INDEX).items():
            library, kind = names if isinstance(names, list) and len(names) == 2 else (None, None)
            module = transformers if library == "transformers" else getattr(diffusers.pipelines, str(library), None)
            found: Any = getattr(module, str(kind), None)
            if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
                loaded: Any = found.from_pretrained(self.path / part, output_loading_info=True, **settings)
                parts[part], report = loaded
                self.refuse_missing_weights(part, sorted(report["missing_keys"]))
        return parts

    def refuse_missing_weights(self, part: str, missing: list[str]) -> None:
        """Raise `InputError` if weights of a part are missing."""
        if missing:
            raise InputError(
                f"The pipeline {self.name!r} lacks {len(missing)} weights of its {part} (such as {missing[0]}), so "
                "what it draws would be left to chance: download or save it again."
            )


def _download(repository: str, revision: str | None) -> Path:
    import diffusers
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    # OSError covers what the Hub's client raises: no such repository or revision, no access, no network and no cache.
    try:
        folder = Path(
            diffusers.DiffusionPipeline.download(
                repository, revision=revision, use_safetensors=True, trust_remote_code=False
            )
        )
    except (OSError, HFValidationError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise InputError(
            f"The generator {repository!r}{at} is not a folder here and could not be loaded from the Hub "
            f"({first_line(error.__cause__ or error)}); check the name and the connection, or give a folder."
        ) from error
    if not (folder / CARD).exists():  # diffusers leaves it out; it names the licence
        with suppress(OSError):
            hf_hub_download(repository, CARD, revision=folder.name)
    return folder


def find_lora(name: str) -> tuple[Path, str, str]:
    """The safetensors file of a LoRA, the name that plans give it (never a path) and its revision.

    Args:
        name: A safetensors file, a folder with one in it, or the id of a Hub repository with one in it, perhaps with
            its branch, tag or commit after an @.

    Raises:
        InputError: There is none, or not exactly one file.
    """
    path = Path(name)
    if path.is_file() and path.suffix == ".safetensors":
        with path.open("rb") as file:
            return path, path.name, hashlib.file_digest(file, "sha256").hexdigest()[:32]
    if path.is_dir():
        revision = content_digest(path)
    elif path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise InputError(
            f"The LoRA {name!r} is not a safetensors file, a folder with one, or of the form owner/name; check the "
            "path."
        )
    else:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        with refusing(
            f"The LoRA {name!r} is not a folder here and could not be loaded from the Hub",
            "check the name and the connection, or give a file",
            (OSError, HFValidationError),
        ):
            repository, _, revision = name.partition("@")
            path = Path(
                snapshot_download(repository, revision=revision or None, allow_patterns=["*.safetensors", "*.json"])
            )
        name, revision = repository, path.name
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise InputError(
            f"The LoRA {name!r} holds {len(files)} safetensors files, so which one to load is not said; give the file."
        )
    return files[0], Path(name).name if Path(name).exists() else name, revision


def content_digest(folder: Path) -> str:
    """32 hex digits of the names and bytes of a folder's files; hidden files, cards and pictures do not count."""
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


def _class_name(config: Path) -> str:
    name = read_json(config).get("_class_name")
    if isinstance(name, list):  # a module beside it, and a class in that
        raise InputError(
            f"{config.name} of the generator names code of its own ({name}), which is not run: give another."
        )
    if not isinstance(name, str):
        raise InputError(f"{config.name} of the generator names no class (_class_name); save the pipeline again.")
    return name


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration; `InputError` if it is not a JSON object."""
    with refusing(f"{path.name} of the generator is not valid JSON", "save the pipeline again", ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path.name} of the generator is not a JSON object; save the pipeline again.")
    return content
