"""A pipeline or LoRA by name: found or downloaded, pinned to its content, and checked before anything is loaded."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..assets import EMBEDDED, generator_path
from ..errors import InputError, first_line, refusing

INDEX = "model_index.json"
CARD = "README.md"
# Cards and their pictures.
_UNREAD_SUFFIXES = (".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".csv", ".pdf")
# Sampling in a few steps needs weights that were distilled for it, which no configuration tells: they do not stand
# among any scheduler's compatible ones, yet are swapped in wherever a Karras-style scheduler is.
_FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")


def find_pipeline(name: str, revision: str | None) -> tuple[Path, str, str]:
    """The folder of a pipeline, the name that rows give it (never a path) and its revision, or `InputError`."""
    if name == EMBEDDED:
        folder = Path(generator_path())
        return folder, EMBEDDED, content_digest(folder)
    folder = Path(name)
    if (folder / INDEX).is_file():
        return folder, folder.resolve().name, content_digest(folder)
    if folder.exists():
        raise InputError(f"The generator {name!r} has no {INDEX}, so it is no diffusers pipeline; name its folder.")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise InputError(f"The generator {name!r} is neither a folder nor of the form owner/name; check the path.")
    return _download(name, revision)


def license_of(folder: Path) -> str | None:
    """The licence that a pipeline's card names (its name where the Hub has no id for it); None if it names none."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        metadata = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data
    except (OSError, ValueError, yaml.YAMLError):  # no card, or one that cannot be read
        return None
    found = metadata.get("license")
    if found == "other":
        found = metadata.get("license_name") or found
    return ", ".join(map(str, found)) if isinstance(found, list) else found


def _download(repository: str, revision: str | None) -> tuple[Path, str, str]:
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
            f"The generator {repository!r}{at} is no folder here and could not be loaded from the Hub "
            f"({first_line(error.__cause__ or error)}); check the name and the connection, or give a folder."
        ) from error
    if not (folder / CARD).exists():  # diffusers leaves it out; it names the licence
        with suppress(OSError):
            hf_hub_download(repository, CARD, revision=folder.name)
    return folder, repository, folder.name  # the cache names a snapshot by its commit


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
            f"The LoRA {name!r} is no safetensors file, no folder with one and not of the form owner/name; check the "
            "path."
        )
    else:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        with refusing(
            f"The LoRA {name!r} is no folder here and could not be loaded from the Hub",
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


def own_scheduler(folder: Path) -> str | None:
    """Class name of the scheduler that a pipeline was saved with."""
    config = folder / "scheduler" / "scheduler_config.json"
    return _class_name(config) if config.is_file() else None


def check_scheduler(folder: Path, name: str, scheduler: str) -> None:
    """Refuse (`InputError`) a scheduler that is unknown or cannot take the place of the pipeline's own."""
    import diffusers

    own = own_scheduler(folder)
    if own is None:
        raise InputError(
            f"The pipeline {name!r} has no scheduler that could be {scheduler!r}; leave the scheduler out."
        )
    compatible = {
        kind.__name__ for kind in getattr(diffusers, own).from_pretrained(folder, subfolder="scheduler").compatibles
    }
    few_step = _FEW_STEP_SCHEDULERS if "DDIMScheduler" in {own, *compatible} else ()
    names = sorted({own, *compatible, *few_step})
    if scheduler not in names:
        raise InputError(f"The scheduler {scheduler!r} does not fit {name!r}; use one of {', '.join(names)}.")


def call_parameters(folder: Path) -> Mapping[str, inspect.Parameter]:
    """What the class of a pipeline takes in a call; nothing if diffusers has no such class."""
    import diffusers

    kind = getattr(diffusers, pipeline_class_name(folder), None)
    return inspect.signature(kind.__call__).parameters if kind is not None else {}


def most_tokens(folder: Path) -> int:
    """How many tokens of a prompt a pipeline takes, whatever its tokenizers could: `max_sequence_length` of a call."""
    parameter = call_parameters(folder).get("max_sequence_length")
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else sys.maxsize


def takes_guidance(folder: Path) -> bool:
    """Whether guidance changes what a pipeline draws, as far as its class and configuration say.

    It does not where the pipeline takes no `guidance_scale`, or where its transformer was distilled without guidance
    (FLUX.1 schnell and its kin). That SDXL Turbo is to be drawn at 0 stands in its card alone.
    """
    config = folder / "transformer" / "config.json"
    distilled = config.is_file() and read_json(config).get("guidance_embeds") is False
    return not distilled and _takes(folder, "guidance_scale")


def check_guidance(folder: Path, name: str, guidance_scale: float | None, negative_prompt: str | None) -> None:
    """Refuse (`InputError`) guidance, or a negative prompt, that the model would ignore."""
    kind = pipeline_class_name(folder)
    if guidance_scale is not None and guidance_scale > 1 and not takes_guidance(folder):
        raise InputError(
            f"The guidance_scale {guidance_scale:g} was given for {name!r}, a {kind} without guidance, which would "
            "ignore it; leave it out or set it to 1."
        )
    if negative_prompt is None:
        return
    if not _takes(folder, "negative_prompt") or "true_cfg_scale" in call_parameters(folder):  # Flux and its kin
        raise InputError(
            f"The negative prompt {negative_prompt!r} was given for {name!r}, a {kind}, which is guided without one "
            "and would ignore it; leave it out."
        )
    if guidance_scale is not None and guidance_scale <= 1:
        raise InputError(
            f"The negative prompt {negative_prompt!r} has no effect at guidance_scale {guidance_scale:g}; leave it "
            "out or raise the guidance above 1."
        )


def _takes(folder: Path, argument: str) -> bool:
    """Whether a call of the pipeline takes an argument; yes if its class does not say what it takes."""
    parameters = call_parameters(folder)
    return "prompt" not in parameters or argument in parameters


def check_size(folder: Path, name: str, height: int, width: int) -> None:
    """Refuse (`InputError`) a size that the autoencoder cannot make.

    Sides are multiples of its factor: 8 for Stable Diffusion; whole pixels of the latent image times the patch of a
    transformer.
    """
    factor = image_factor(folder)
    if min(height, width) < 1 or height % factor or width % factor:
        raise InputError(
            f"The size {height} x {width} does not suit {name!r}: its images have sides divisible by {factor}; change "
            "height and width."
        )


def image_factor(folder: Path) -> int:
    """What the sides of an image must be divisible by, as far as the configuration says; else 1."""
    transformer = folder / "transformer" / "config.json"
    patch = read_json(transformer).get("patch_size", 1) if transformer.is_file() else 1
    factor = _autoencoder_factor(folder) * (patch if isinstance(patch, int) else 1)
    # The pipelines of Stable Diffusion ask for multiples of 8 whatever the autoencoder.
    return max(8, factor) if (folder / "unet").is_dir() else factor


def own_size(folder: Path) -> int:
    """Side of the images that a pipeline draws by itself, pixels; 1024, as FLUX.1, where its parts do not say."""
    return stated_size(folder) or 1024


def stated_size(folder: Path) -> int | None:
    """The same; None where its parts do not say."""
    for part in ("unet", "transformer"):
        config = folder / part / "config.json"
        size = read_json(config).get("sample_size") if config.is_file() else None
        if isinstance(size, int):
            return size * _autoencoder_factor(folder)
    return None


def _autoencoder_factor(folder: Path) -> int:
    config = folder / "vae" / "config.json"
    settings = read_json(config) if config.is_file() else {}
    # Each block but one halves the image; the second is of AutoencoderDC (SANA), the third of Qwen-Image's and Wan's.
    for key in ("block_out_channels", "encoder_block_out_channels", "dim_mult"):
        blocks = settings.get(key)
        if isinstance(blocks, list) and blocks:
            return 1 << len(blocks) - 1
    return 1


def pipeline_class_name(folder: Path) -> str:
    """The class that a pipeline was saved with."""
    return _class_name(folder / INDEX)


def check_class(name: str, kind: str) -> None:
    """Refuse (`InputError`) a pipeline whose class diffusers does not have: it could not be loaded."""
    import diffusers

    if not hasattr(diffusers, kind):
        raise InputError(
            f"The pipeline {name!r} is a {kind}, which diffusers {diffusers.__version__} does not have; upgrade that, "
            "or give another pipeline."
        )


def load_encoders(folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    """The parts of a pipeline that are models of transformers, which fills weights that are missing at random.

    `settings` are those of `from_pretrained`. Raises `InputError` if a part lacks weights.
    """
    import diffusers
    import transformers

    parts: dict[str, Any] = {}
    for part, names in read_json(folder / INDEX).items():
        library, kind = names if isinstance(names, list) and len(names) == 2 else (None, None)
        module = transformers if library == "transformers" else getattr(diffusers.pipelines, str(library), None)
        found: Any = getattr(module, str(kind), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            loaded: Any = found.from_pretrained(folder / part, output_loading_info=True, **settings)
            parts[part], report = loaded
            refuse_missing_weights(name, part, sorted(report["missing_keys"]))
    return parts


def refuse_missing_weights(name: str, part: str, missing: list[str]) -> None:
    """Raise `InputError` if weights of a part of a pipeline are missing."""
    if missing:
        raise InputError(
            f"The pipeline {name!r} lacks {len(missing)} weights of its {part} (such as {missing[0]}), so what it "
            "draws would be left to chance: download or save it again."
        )


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
    """Read a configuration; `InputError` if it is no JSON object."""
    with refusing(f"{path.name} of the generator is not valid JSON", "save the pipeline again", ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path.name} of the generator is no JSON object; save the pipeline again.")
    return content
