"""A text-to-image pipeline and a few captioned images to a LoRA of their domain, with its card."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Image

from ..assets import EMBEDDED
from ..errors import InputError, refusing
from ..evaluation.decoding import decode_image
from ..evaluation.images import load_images
from ..extras import require
from ..files.atomic import readable_disk_errors
from ..files.locks import lock_folder
from ..files.places import check_apart
from ..hub import LicensedPart, ModelFacts, TrainingData, write_model_card
from ..synthesis.adaptation_settings import AdaptationInputs, AdaptationSettings
from ..synthesis.pipeline_folder import PipelineFolder
from ..synthesis.workers import rank_and_world_size
from .cards import check_license, embedded_parts
from .content import content_revision

if TYPE_CHECKING:
    import datasets
    import PIL.Image


def adapt(
    inputs: AdaptationInputs, settings: AdaptationSettings | None = None, *, progress: bool = True
) -> list[float]:
    """Train the adapters and write their card. The same call goes on after an interruption.

    Args:
        inputs: Images, generator and output.
        settings: Of the training.
        progress: Whether to show a bar.

    Returns:
        The loss of each step of this call.

    Raises:
        InputError: Data, pipeline or settings cannot serve, or another process writes to the output.
    """
    settings = settings or AdaptationSettings()
    require("A LoRA", "lora", "peft")
    check_license(inputs.license)
    if "{caption}" not in inputs.prompt_template:
        raise InputError(
            f"prompt_template={inputs.prompt_template!r} leaves the caption out: write {{caption}} where it goes."
        )
    check_apart(inputs.output, inputs.data)
    dataset = load_images(inputs.data, inputs.split)
    for column in (inputs.image_column, inputs.caption_column):
        if column not in dataset.column_names:
            raise InputError(
                f"data={inputs.data} has the columns {dataset.column_names} but no {column!r}: name them with "
                "`image_column` and `caption_column`."
            )
    if isinstance(dataset.features[inputs.image_column], Image):  # bytes, to be read as everywhere
        dataset = dataset.cast_column(inputs.image_column, Image(decode=False))
    images = [
        _read(content, f"row {row} of data={inputs.data}")
        for row, content in enumerate(_column(inputs, dataset, "image_column", dict, "picture"))
    ]
    captions = _column(inputs, dataset, "caption_column", str, "caption")
    from ..synthesis.adaptation import adapt_generator  # which takes seconds

    is_first = rank_and_world_size()[0] == 0
    with readable_disk_errors(Path(inputs.output)), lock_folder(inputs.output) if is_first else nullcontext():
        losses = adapt_generator(
            inputs.generator,
            images,
            [inputs.prompt_template.replace("{caption}", caption) for caption in captions],
            inputs.output,
            settings,
            revision=inputs.revision,
            size=inputs.size,
            mixed_precision=inputs.mixed_precision,
            progress=progress,
        )
        if losses or not (Path(inputs.output) / "README.md").exists():
            _write_card(inputs, settings, dataset)
    return losses


def _column(inputs: AdaptationInputs, dataset: datasets.Dataset, name: str, kind: type, what: str) -> list[Any]:
    """The values of the column that a setting names.

    Raises:
        InputError: Some are missing, or they are of another kind.
    """
    column = getattr(inputs, name)
    values: list[Any] = dataset[column][:]
    if missing := sum(value is None or value == "" for value in values):
        raise InputError(f"{missing} of {len(values)} rows have no {what}: complete them or leave them out.")
    if values and not isinstance(values[0], kind):
        raise InputError(
            f"The column {column!r} of data={inputs.data} holds {values[0]!r:.40}, no {what}: name another by "
            f"`{name}`."
        )
    return values


def _read(content: dict[str, Any], where: str) -> PIL.Image.Image:
    with refusing(f"The picture of {where} cannot be read", "replace it or leave it out"):  # Pillow raises anything
        return decode_image(content)


def _write_card(inputs: AdaptationInputs, settings: AdaptationSettings, dataset: datasets.Dataset) -> None:
    """Write the card of a LoRA of a generator into its folder."""
    source = PipelineFolder.find(inputs.generator, inputs.revision)
    local = Path(inputs.data)
    license = source.license or "unknown"
    facts = ModelFacts(
        name=Path(inputs.output).resolve().name,
        license=inputs.license,
        form="lora",
        base_model=source.name,
        data=TrainingData(
            name=local.resolve().name if local.exists() else inputs.data,
            num_captions=len(set(dataset[inputs.caption_column][:])),
            num_images=len(dataset),
            revision=content_revision(inputs.data, dataset),
            hub_id="" if local.exists() else inputs.data,
        ),
        training={
            "prompt_template": inputs.prompt_template,
            "revision of the pipeline": inputs.revision,
            "size": inputs.size,
            **{name: value for name, value in asdict(settings).items() if name != "save_every"},
        },
        licensed_parts=(
            LicensedPart(name=source.name, role="the pipeline that it adapts", license=license),
            *(embedded_parts() if source.name == EMBEDDED else ()),
        ),
        versions={package: version(package) for package in ("stablerep_hf", "diffusers", "peft", "torch")},
    )
    write_model_card(inputs.output, facts)
