"""`stablerep train`: a caption-grouped data set to an encoder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from ..models import StableRepModel
    from ..training import StableRepTrainingArguments

RECORD = "training.json"
# Where a run goes and what it tells on the way change nothing that it learns; a resumed run may differ in these. None
# of them is recorded: the record and the card are published, and `hub_token` is a secret.
_FREE = re.compile(
    "output_dir|logging_.*|save_.*|report_to|run_name|project|disable_tqdm|dataloader_.*|per_device_.*|ddp_.*"
    "|accelerator_config|remove_unused_columns|max_bad_images|local_rank|push_to_hub|hub_.*"
)
# Said of every training, also where the value is transformers' default.
_ALWAYS = ("learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "seed")


@dataclass
class TrainCommand:
    """Flags of `stablerep train`, beside those of `StableRepTrainingArguments`."""

    data: str = field(default="synthetic-images", metadata={"help": "Data set: a folder or a Hub id."})
    split: str = field(default="train", metadata={"help": "Of the data set."})
    output: str = field(default="encoder", metadata={"help": "Folder of the encoder; checkpoints go below it."})
    size: Literal["micro", "tiny", "small", "base", "large"] = field(
        default="base", metadata={"help": "Vision Transformer."}
    )
    image_size: int = field(default=224, metadata={"help": "Edge of a training crop, in pixels."})
    patch_size: int = field(default=16, metadata={"help": "Edge of a patch, in pixels."})
    projection_hidden_dim: int = field(default=4096, metadata={"help": "Width of the projection head."})
    projection_dim: int = field(default=256, metadata={"help": "Of the space the image loss compares in."})
    head_norm: Literal["batch_per_sibling", "batch", "layer"] = field(
        default="batch_per_sibling", metadata={"help": "Normalisation in the projection head; the paper's by default."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Of the text tower, for stablerep+ and clip: a Hub id or folder."}
    )
    text_width: int = field(default=512, metadata={"help": "Of the text tower; CLIP's by default."})
    text_layers: int = field(default=12, metadata={"help": "Of the text tower; CLIP's by default."})
    license: str = field(default="unknown", metadata={"help": "Of the weights, for the card: a Hub licence id."})


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    command, arguments = parse(argv)
    run(command, arguments)
    print(f"The encoder stands in {command.output}: transformers.AutoModel.from_pretrained({command.output!r})")


def parse(argv: Sequence[str]) -> tuple[TrainCommand, StableRepTrainingArguments]:
    """Flags to the command and the arguments of its training.

    Raises:
        InputError: A flag is unknown or cannot work.
    """
    from ..training import StableRepTrainingArguments
    from .parsing import parse_command

    command, arguments = parse_command(
        [TrainCommand, StableRepTrainingArguments],
        argv,
        name="train",
        description="Train an encoder on caption-grouped images. The same command goes on after an interruption.",
    )
    if any(flag.partition("=")[0] in ("--output_dir", "--output-dir") for flag in argv):
        raise InputError("--output_dir is made below --output: give --output alone.")
    arguments.output_dir = str(Path(command.output) / "checkpoints")
    return command, arguments


def run(command: TrainCommand, arguments: StableRepTrainingArguments) -> dict[str, Any]:
    """Train, go on with, or find finished, the training that the output folder is for.

    The folder then holds the encoder as a plain `ViTModel`, `pretraining/` with the whole model and its head,
    `checkpoints/`, a card, and `training.json` with the settings and the course of the loss.

    Returns:
        The record in `training.json`.

    Raises:
        InputError: The flags do not fit together, or the folder holds another training.
    """
    from ..models import export_encoder
    from ..synthesis.atomic import explaining
    from ..training import StableRepTrainer
    from ..training.checkpoints import latest_checkpoint
    from . import facts
    from .loading import load_images

    output = Path(command.output)
    settings = _settings(command, arguments)
    record = _read_record(output, settings)
    if record.get("finished"):
        return record
    dataset = load_images(command.data, command.split)
    model, tokenizer = build_model(command, arguments.seed)
    try:
        with explaining(output):
            trainer = StableRepTrainer(model, arguments, dataset, tokenizer)
    except InputError:
        raise
    except ValueError as error:  # transformers and accelerate refuse arguments so
        raise InputError(f"The training arguments cannot work: {str(error).strip().splitlines()[0]}") from error
    checkpoint = latest_checkpoint(str(arguments.output_dir))
    with explaining(output):
        if trainer.is_world_process_zero():
            output.mkdir(parents=True, exist_ok=True)
            _write_record(output, {"settings": settings, "finished": False})
        result = trainer.train(resume_from_checkpoint=checkpoint)
        record = {
            "settings": settings,
            "finished": True,
            "steps": trainer.state.global_step,
            "views_seen": trainer.state.global_step * trainer.views_per_batch,
            "parameters": sum(parameter.numel() for parameter in model.vision_model.parameters()),
            # The time before an interruption is not known.
            "seconds": None if checkpoint else round(result.metrics["train_runtime"], 1),
            "processes": arguments.world_size,
            "device": _device_name(arguments),
            "data": asdict(facts.training_data(command.data, dataset)),
            "versions": facts.training_versions(),
            "log": trainer.state.log_history,
        }
        if trainer.is_world_process_zero():
            model.save_pretrained(output / "pretraining")
            export_encoder(model, output)
            # beside the whole model too, so that it can be measured, its texts included, as it stands
            shutil.copy(output / "preprocessor_config.json", output / "pretraining")
            if tokenizer is not None:
                tokenizer.save_pretrained(output / "pretraining")
            facts.write_encoder_card(output, record, output.resolve().name)
            _write_record(output, record)
    return record


def build_model(command: TrainCommand, seed: int) -> tuple[StableRepModel, Any | None]:
    """Make the model that a training with this seed starts from, and the tokenizer of its text tower.

    Raises:
        InputError: Sizes that do not fit each other, or no such tokenizer.
    """
    import transformers

    from ..models import StableRepConfig, StableRepModel

    tokenizer = None
    text: dict[str, Any] = {}
    if command.tokenizer is not None:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(command.tokenizer)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--tokenizer {command.tokenizer} is neither a folder nor a repository within reach: check the name."
            ) from error
        text["text_config"] = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            hidden_size=command.text_width,
            intermediate_size=4 * command.text_width,
            num_hidden_layers=command.text_layers,
            num_attention_heads=max(1, command.text_width // 64),
        )
    transformers.set_seed(seed)
    try:
        config = StableRepConfig.from_size(
            command.size,
            image_size=command.image_size,
            patch_size=command.patch_size,
            projection_hidden_dim=command.projection_hidden_dim,
            projection_dim=command.projection_dim,
            head_norm=command.head_norm,
            **text,
        )
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    return StableRepModel(config), tokenizer


def _settings(command: TrainCommand, arguments: StableRepTrainingArguments) -> dict[str, Any]:
    """What was chosen and what the recipe is made of, as JSON values."""
    own = set(type(arguments).__annotations__) | set(_ALWAYS)
    chosen = {
        field.name: value
        for field in fields(arguments)
        if field.init
        and not _FREE.fullmatch(field.name)
        and ((value := getattr(arguments, field.name)) != field.default or field.name in own)
    }
    settings = {**{name: value for name, value in asdict(command).items() if name != "output"}, **chosen}
    return {name: value.value if isinstance(value, Enum) else value for name, value in settings.items()}


def _read_record(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    path = output / RECORD
    if not path.exists():
        return {}
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    theirs = record["settings"]
    for name in sorted(settings.keys() | theirs.keys()):
        if settings.get(name) != theirs.get(name):
            raise InputError(
                f"{output} holds a training with {name}={theirs.get(name)}, not {settings.get(name)}: choose another "
                "--output, or give that training's settings to go on with it."
            )
    return record


def _write_record(output: Path, record: dict[str, Any]) -> None:
    temporary = output / f".{RECORD}.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    temporary.replace(output / RECORD)


def _device_name(arguments: StableRepTrainingArguments) -> str:
    import torch

    if arguments.device.type == "cuda":
        return torch.cuda.get_device_name(arguments.device)
    return f"{arguments.device.type}, {torch.get_num_threads()} threads"
