"""What a training leaves about itself in its folder, so that the same command goes on and another is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, refuse_other_settings

if TYPE_CHECKING:
    from ..training.arguments import ImageTrainingArguments


_SOURCES = ("data", "probe_data", "init_from", "tokenizer", "encoder")  # settings that may name a folder


def place_training(arguments: ImageTrainingArguments, output: str, flags: Sequence[str]) -> None:
    """Put the checkpoints below the output folder, and name the repository after it unless it has a name.

    Raises:
        InputError: The flags say otherwise.
    """
    if any(flag.partition("=")[0] in ("--output_dir", "--output-dir") for flag in flags):
        raise InputError("--output_dir is made below --output: give --output alone.")
    arguments.output_dir = str(Path(output) / "checkpoints")
    arguments.hub_model_id = arguments.hub_model_id or Path(output).resolve().name


@contextmanager
def making_trainer(output: Path, arguments: ImageTrainingArguments) -> Iterator[None]:
    """One sentence for whatever a trainer's arguments, its folder or its repository on the Hub have against it.

    Raises:
        InputError: Any of them.
    """
    from ..hub.publishing import explaining_refusals
    from ..synthesis.atomic import explaining

    try:
        with explaining(output), explaining_refusals(str(arguments.hub_model_id)):
            yield
    except InputError:
        raise
    except ValueError as error:  # transformers and accelerate refuse arguments so
        raise InputError(f"The training arguments cannot work: {str(error).strip().splitlines()[0]}") from error


def settings_of(command: Any, arguments: ImageTrainingArguments) -> dict[str, Any]:
    """What a training is told from others by: the command's flags and the recipe of its arguments."""
    from ..training.arguments import recipe_of

    free = ("output", "keep_concepts")  # they change nothing that is learned
    return {name: value for name, value in asdict(command).items() if name not in free} | recipe_of(arguments)


def identity_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they would be on another machine."""
    from .loading import content_of

    return {
        name: content_of(value) if name in _SOURCES and isinstance(value, str) else value
        for name, value in settings.items()
    }


def read_record(output: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Read what a training wrote about itself into its folder; {} if there is none.

    Raises:
        InputError: The folder holds a training with other settings.
    """
    path = output / name
    if not path.exists():
        return {}
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    refuse_other_settings(
        f"{output} holds a training",
        record["settings"],
        settings,
        "choose another --output, or give that training's settings to go on with it.",
    )
    return record


def write_record(path: Path, record: Any) -> None:
    """Write it whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    temporary.replace(path)


def device_name(arguments: ImageTrainingArguments) -> str:
    """What it trains on, in words."""
    import torch

    if arguments.device.type == "cuda":
        return torch.cuda.get_device_name(arguments.device)
    return f"{arguments.device.type}, {torch.get_num_threads()} threads"


def peak_memory(arguments: ImageTrainingArguments) -> int:
    """Most bytes that were taken at once: of the accelerator's memory, or by this process since it started."""
    import resource
    import sys

    import torch

    if arguments.device.type == "cuda":
        return torch.cuda.max_memory_allocated(arguments.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
