"""`stablerep convert`: checkpoints of the release, of timm and of transformers into one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from ..hub import Form
    from ..models import StableRepModel

Format = Literal["transformers", "timm", "sentence-transformers", "onnx"]


_FORMS: dict[Format, Form] = {
    "transformers": "encoder",
    "timm": "timm",
    "sentence-transformers": "sentence-transformers",
    "onnx": "encoder",
}


_LOADED_BY: dict[Format, str] = {
    "transformers": "transformers.AutoModel.from_pretrained('{}')",
    "timm": "timm.create_model('local-dir:{}', pretrained=True)",
    "sentence-transformers": "sentence_transformers.SentenceTransformer('{}')",
    "onnx": "onnxruntime.InferenceSession of a file in '{}/onnx'",
}


@dataclass
class ConvertCommand:
    """Flags of `stablerep convert`, after the checkpoint and the folder to write."""

    format: Format = field(
        default="transformers",
        metadata={
            "help": "Whose checkpoint to write: a plain ViTModel, timm's, or both towers of a model with text as a "
            "dual encoder that sentence-transformers and transformers load; onnx adds to these (both towers where "
            "there is text) files for ONNX Runtime in the folder onnx/."
        },
    )
    int8: bool = field(default=False, metadata={"help": "With --format onnx: also with weights as 8-bit integers."})
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokenizer of the text tower, if it is not beside the checkpoint: a folder or Hub id."},
    )


def run(source: str, output: Path, command: ConvertCommand) -> None:
    """Write the checkpoint and its card and, of a checkpoint of the release, `pretraining/` with head and text tower.

    The folder is there whole, or not at all.

    Raises:
        InputError: The checkpoint cannot be read or has not what the format needs, or the folder holds files.
    """
    from .. import assets
    from ..extras import require
    from ..files.atomic import explaining
    from ..models import export_dual_encoder, export_encoder, export_onnx, load_vision_encoder
    from . import cards

    if command.format == "onnx":
        require("--format onnx", "onnx", "onnx", "onnxruntime", "onnxscript")
    source = assets.find_encoder(source)
    if command.int8 and command.format != "onnx":
        raise InputError(f"--int8 goes with --format onnx and not with {command.format}: leave it out.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder: choose another.")
    try:
        model = _load_whole(source, command.format)
        encoder = load_vision_encoder(source) if model is None else model.vision_model
        with explaining(output), _replacing(output) as folder:
            has_text = model is not None and model.config.text_config is not None
            dual = command.format == "sentence-transformers" or (command.format == "onnx" and has_text)
            if dual:
                assert model is not None
                # without a text tower no tokenizer would help, which is said where it is missed
                tokenizer = _load_tokenizer(command.tokenizer or source) if has_text else None
                export_dual_encoder(model, folder, tokenizer)
            else:
                export_encoder(encoder, folder, format="timm" if command.format == "timm" else "transformers")
            if command.format == "onnx":
                export_onnx(model if model is not None else encoder, folder / "onnx", int8=command.int8)
            cards.write_converted_card(folder, source, "sentence-transformers" if dual else _FORMS[command.format])
            if Path(source).is_file() and model is not None:
                model.save_pretrained(folder / "pretraining")
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    print(f"The checkpoint stands in {output}: {_LOADED_BY[command.format].format(output)}")


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A folder of the same name that takes the place of `output`, which is empty, when the block ends well."""
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary) / output.name
        folder.mkdir()
        yield folder
        if not output.exists():
            folder.rename(output)
            return
        for path in folder.iterdir():  # somebody may stand in the empty folder
            path.rename(output / path.name)


def _load_whole(source: str, format: Format) -> StableRepModel | None:
    """The model with its head and, if it has one, text tower; None where the encoder alone is wanted or there."""
    from transformers import AutoConfig

    from ..models import StableRepModel, convert_official_checkpoint

    if Path(source).is_file():
        return convert_official_checkpoint(source)
    if format not in ("sentence-transformers", "onnx"):
        return None
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        if format == "onnx":
            return None  # a checkpoint of timm, or none at all, which is said where encoders are loaded
        raise InputError(f"{source} is neither a folder nor a repository within reach with a model in it.") from error
    if config.model_type != "stablerep" and format == "onnx":
        return None
    if config.model_type != "stablerep":
        raise InputError(
            f"{source} holds a model of type {config.model_type!r}, which has no text tower of ours: give the folder "
            "`pretraining` of a training with --objective stablerep+ or clip."
        )
    return StableRepModel.from_pretrained(source)


def _load_tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(f"{source} brings no tokenizer: name that of the text tower with --tokenizer.") from error
