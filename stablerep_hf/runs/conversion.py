"""Checkpoints of the release, of timm and of transformers, converted into one another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from ..files.locks import LOCK, lock_folder
from ..setting import setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..hub import Form
    from ..models import StableRepModel

Format = Literal["transformers", "timm", "sentence-transformers", "onnx"]

_FORMS: dict[Format, Form] = {
    "transformers": "encoder",
    "timm": "timm",
    "sentence-transformers": "sentence-transformers",
    "onnx": "encoder",
}
_UNFINISHED = ".unfinished-conversion"
_NOT_OURS = {"lost+found", LOCK}


@dataclass
class ConversionSettings:
    """What `convert` writes, and how it reads what it converts."""

    format: Format = setting(
        "transformers",
        "Whose checkpoint to write: the encoder in transformers' own class, timm's, or both towers of a model with "
        "text as a dual encoder that sentence-transformers and transformers load; onnx adds to these (both towers "
        "where there is text) files for ONNX Runtime in the folder onnx/.",
    )
    int8: bool = setting(False, "With --format onnx: also with weights as 8-bit integers, and say how near they come.")
    tokenizer: str | None = setting(
        None, "Tokenizer of the text tower, if it is not beside the checkpoint: a folder or Hub id."
    )
    trust_remote_code: bool = setting(False, "Run the code that the checkpoint's folder or repository brings.")


def convert(source: str, output: str | Path, settings: ConversionSettings | None = None) -> dict[str, float]:
    """Write the checkpoint and its card and, of a checkpoint of the release, `pretraining/` with head and text tower.

    The folder is there whole, or not at all: what a killed conversion left in it is replaced.

    Args:
        source: A `.pth` of the release, a folder or Hub id of transformers or timm, or a name of `assets.ENCODERS`.
        output: Folder to write; it may exist if it is empty.
        settings: What to write; a checkpoint of transformers if not given.

    Returns:
        Of each ONNX file, by its name, the lowest cosine similarity between its features and the model's; {} of other
        formats.

    Raises:
        InputError: The checkpoint cannot be read or lacks what the format needs, the folder holds files, or another
            process writes to it.
    """
    from .. import assets
    from ..extras import require
    from ..files.atomic import readable_disk_errors
    from ..models import export_dual_encoder, export_encoder, export_onnx
    from . import cards

    settings = settings or ConversionSettings()
    output = Path(output)
    if settings.format == "onnx":
        require("format=onnx", "onnx", "onnx", "onnxruntime", "onnxscript")
    elif settings.int8:
        raise InputError(f"`int8` goes with format=onnx and not with format={settings.format}: leave it out.")
    source = assets.find_encoder(source)
    refuse_other_files(output)
    similarities: dict[str, float] = {}
    try:
        model, processor = _load(source, settings)
        whole: Any = model if hasattr(model, "projection_head") else None
        with readable_disk_errors(output), lock_folder(output), filling(output) as folder:
            has_text = whole is not None and whole.config.text_config is not None
            dual = settings.format == "sentence-transformers" or (settings.format == "onnx" and has_text)
            if dual:
                # without a text tower no tokenizer would help, which is said where it is missed
                tokenizer = _load_tokenizer(settings.tokenizer or source, settings) if has_text else None
                export_dual_encoder(whole, folder, tokenizer)
            else:
                layout: Any = "timm" if settings.format == "timm" else "transformers"
                export_encoder(model, folder, processor, format=layout)
            if settings.format == "onnx":
                files = export_onnx(model, folder / "onnx", int8=settings.int8)
                similarities = {file.path.name: file.similarity for file in files.values()}
            form = "sentence-transformers" if dual else _FORMS[settings.format]
            cards.write_converted_card(folder, source, form, name=output.resolve().name)
            if Path(source).is_file() and whole is not None:
                whole.save_pretrained(folder / "pretraining")
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    return similarities


def refuse_other_files(output: Path) -> None:
    """Refuse a folder that is not empty, unless by what a disk has at its root or a killed conversion left."""
    if output.is_dir():
        names = {path.name for path in output.iterdir()}
        if _UNFINISHED in names or not names - _NOT_OURS:
            return
    if output.exists():
        raise InputError(f"{output} exists and is not an empty folder: choose another.")


@contextmanager
def filling(output: Path) -> Iterator[Path]:
    """A hidden folder in `output`, on the same disk, whose content moves up when the block ends well.

    The configuration, without which nothing loads the rest, moves last.
    """
    refuse_other_files(output)
    folder = output / _UNFINISHED
    if folder.is_dir():
        for left in output.iterdir():
            if left.name not in _NOT_OURS:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    folder.mkdir(parents=True)
    done = False
    try:
        yield folder
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
            path.rename(output / path.name)
        folder.rmdir()
        done = True
    finally:
        if not done:
            shutil.rmtree(folder, ignore_errors=True)


def _load(source: str, settings: ConversionSettings) -> tuple[StableRepModel | PreTrainedModel, Any | None]:
    """The model with its head and, if it has one, text tower where that is wanted and there; else the encoder alone.

    And the image processor of an encoder alone.
    """
    from transformers import AutoConfig

    from ..models import StableRepConfig, StableRepModel, convert_official_checkpoint, load_backbone
    from ..models.export import encoder_image_processor
    from ..models.timm_layout import vit_of_timm

    if Path(source).is_file():
        return convert_official_checkpoint(source), None
    trusted: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.format in ("sentence-transformers", "onnx"):
        try:
            model_type = AutoConfig.from_pretrained(source, **trusted).model_type
        except (OSError, ValueError):
            model_type = None  # a checkpoint of timm, or none at all, which is said where encoders are loaded
        if model_type == "stablerep":
            return StableRepModel.from_pretrained(source, use_safetensors=True, **trusted), None
        if model_type is not None and settings.format == "sentence-transformers":
            raise InputError(
                f"{source} holds a model of type {model_type!r}, which has no text tower of ours: give the folder "
                "`pretraining` of a training run with objective=stablerep+ or objective=clip."
            )
    tower, mean, std = load_backbone(source, **trusted)
    if tower.config.model_type == "timm_wrapper" and settings.format != "timm":
        with suppress(ValueError):  # one of another architecture stays timm's, which transformers loads with timm
            tower = vit_of_timm(tower)
    processor = encoder_image_processor(StableRepConfig(vision_config=tower.config, image_mean=mean, image_std=std))
    return tower, processor


def _load_tokenizer(source: str, settings: ConversionSettings) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(f"{source} brings no tokenizer: name that of the text tower with `tokenizer`.") from error
