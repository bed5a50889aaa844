"""`stablerep convert`: checkpoints of the release, of timm and of transformers into one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import InputError


@dataclass
class ConvertCommand:
    """Flags of `stablerep convert`, after the checkpoint and the folder to write."""

    format: Literal["transformers", "timm"] = field(
        default="transformers", metadata={"help": "Whose encoder to write: a plain ViTModel, or timm's."}
    )


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    from .parsing import parse_command

    if len(argv) >= 2 and not argv[0].startswith("-") and not argv[1].startswith("-"):
        source, output, *argv = argv
    elif not {"-h", "--help"} & set(argv):
        raise InputError(
            "Name the checkpoint and the folder to write: stablerep convert CHECKPOINT DIR; the checkpoint is a .pth "
            "of the release, or a folder or Hub id of a transformers or timm Vision Transformer."
        )
    (command,) = parse_command(
        [ConvertCommand],
        argv,
        name="convert CHECKPOINT DIR",
        description="Convert a checkpoint of the release (.pth), of transformers or of timm to an encoder folder.",
    )
    run(source, Path(output), command.format)


def run(source: str, output: Path, format: Literal["transformers", "timm"]) -> None:
    """Write the encoder and, of a checkpoint of the release, `pretraining/` with its head and text tower.

    Raises:
        InputError: The checkpoint cannot be read, or the folder holds files.
    """
    from ..models import convert_official_checkpoint, export_encoder, load_vision_encoder
    from ..synthesis.atomic import explaining

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder: choose another.")
    try:
        if Path(source).is_file():
            model = convert_official_checkpoint(source)
            encoder = model.vision_model
        else:
            model, encoder = None, load_vision_encoder(source)
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    with explaining(output):
        export_encoder(encoder, output, format=format)
        if model is not None:
            model.save_pretrained(output / "pretraining")
    if format == "timm":
        print(f"The encoder stands in {output}: timm.create_model('local-dir:{output}', pretrained=True)")
    else:
        print(f"The encoder stands in {output}: transformers.AutoModel.from_pretrained({str(output)!r})")
