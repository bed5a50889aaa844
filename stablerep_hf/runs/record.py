"""What a training leaves about itself in its folder, so that the same command goes on and another is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, refuse_other_settings

if TYPE_CHECKING:
    from ..training.arguments import ImageTrainingArguments
    from ..training.image_trainer import ImageTrainer


RECORD = "training.json"
_MEASURED_LAST = ("test_split", "slice_columns")  # settings that matter once the training is over
_SOURCES = ("data", "probe_data", "init_from", "tokenizer", "encoder")  # settings that may name a folder


def place_training(arguments: ImageTrainingArguments, output: str) -> None:
    """Put the checkpoints below the output folder, and name the repository after it unless it has a name.

    Raises:
        InputError: The arguments say otherwise.
    """
    if arguments.output_dir != "trainer_output":  # transformers' name if none is given
        raise InputError("--output_dir is made below --output: give --output alone.")
    arguments.output_dir = str(Path(output) / "checkpoints")
    arguments.hub_model_id = arguments.hub_model_id or Path(output).resolve().name


@contextmanager
def making_trainer(output: Path, data: str) -> Iterator[None]:
    """One sentence for whatever a trainer's arguments, its folder or its data have against it.

    Raises:
        InputError: Any of them.
    """
    from ..files.atomic import explaining
    from .content import reading

    try:
        with explaining(output), reading(data):
            yield
    except InputError:
        raise
    except RuntimeError as error:
        if "to be installed" not in str(error):  # which the trackers of transformers say
            raise
        raise InputError(
            f"A tracker that --report_to names is missing ({str(error).split('. ')[0].rstrip('.')}): install it, "
            "tensorboard and trackio by pip install 'stablerep_hf[tracking]', or leave it out."
        ) from error
    except (ValueError, ImportError) as error:  # transformers and accelerate refuse arguments so
        raise InputError(f"The training arguments cannot work: {str(error).strip().splitlines()[0]}") from error


def settings_of(command: Any, arguments: ImageTrainingArguments) -> dict[str, Any]:
    """What a training is told from others by, and its licence: the command's flags and the recipe of its arguments."""
    from ..training.arguments import recipe_of

    free = ("output", "keep_concepts")  # they change nothing that is learned
    return {name: value for name, value in asdict(command).items() if name not in free} | recipe_of(arguments)


def identity_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they would be on another machine, without the licence."""
    from .content import content_of

    return {
        name: content_of(value) if name in _SOURCES and isinstance(value, str) else value
        for name, value in _learned(settings).items()
    }


def read_record(output: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Read what a training wrote about itself into its folder; {} if there is none.

    Raises:
        InputError: The folder holds a training with other settings, or other files without a record, or the file is
            no record; the licence may differ, and before the end what is measured there.
    """
    from ..files.places import check_owned

    check_owned(output, name, settings["data"])
    path = output / name
    if not path.exists():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        theirs = dict(record["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the record of a training, so nothing says whose folder this is: choose another --output."
        ) from error
    if not record.get("finished"):
        theirs |= {name: settings[name] for name in _MEASURED_LAST if name in settings}
    refuse_other_settings(
        f"{output} holds a training",
        _learned(theirs),
        _learned(settings),
        "choose another --output, or give that training's settings to go on with it.",
    )
    return record


def _learned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the licence, which changes nothing that is learned."""
    return {name: value for name, value in settings.items() if name != "license"}


def write_record(path: Path, record: Any) -> None:
    """Write it whole or not at all."""
    from ..files.atomic import replacing

    with replacing(path) as file:
        file.write(f"{json.dumps(record, indent=2)}\n".encode())


def train_to_end(trainer: ImageTrainer, path: Path, settings: dict[str, Any]) -> float | None:
    """Train, from the newest checkpoint if there is one; first the record says whose folder it is.

    Args:
        trainer: What trains.
        path: Where the record stands.
        settings: What the training is told from others by.

    Returns:
        Seconds; None if it went on from a checkpoint, since the time before that is not known.

    Raises:
        InputError: See `checkpoint_to_resume`.
    """
    from ..training.checkpoints import checkpoint_to_resume

    checkpoint = checkpoint_to_resume(trainer)
    if trainer.is_world_process_zero():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, {"settings": settings, "finished": False})
    result = trainer.train(resume_from_checkpoint=checkpoint)
    return None if checkpoint else round(result.metrics["train_runtime"], 1)


def push_finished(folder: Path, record: dict[str, Any], path: Path, arguments: ImageTrainingArguments) -> None:
    """Push what a training made, with `--push_to_hub`, and note it in its record: what is there is not pushed again.

    Args:
        folder: Of the model and its card.
        record: Of the finished training.
        path: Where the record stands.
        arguments: Of the training.

    Raises:
        InputError: The Hub cannot be reached or refuses; the same command tries again and trains no more.
    """
    from ..hub.publishing import explaining_refusals
    from ..training.hub_push import push_folder

    place = {"repository": arguments.hub_model_id, "revision": arguments.hub_revision}
    if not arguments.push_to_hub or arguments.process_index != 0 or record.get("pushed") == place:
        return
    repository = str(arguments.hub_model_id)
    with explaining_refusals(repository, OSError, RuntimeError):
        push_folder(
            folder,
            repository,
            token=arguments.hub_token,
            revision=arguments.hub_revision,
            private=arguments.hub_private_repo,
        )
    record["pushed"] = place
    write_record(path, record)


def device_name(arguments: ImageTrainingArguments) -> str:
    """What it trains on, in words."""
    import torch

    if arguments.device.type == "cuda":
        return torch.cuda.get_device_name(arguments.device)
    threads = torch.get_num_threads()
    return f"{arguments.device.type}, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory(arguments: ImageTrainingArguments) -> int:
    """Most bytes that were taken at once: of the accelerator's memory, or by this process since it started."""
    import resource
    import sys

    import torch

    if arguments.device.type == "cuda":
        return torch.cuda.max_memory_allocated(arguments.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
