"""`stablerep adapt-generator`: a text-to-image pipeline and a few captioned images to a LoRA of their domain."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..assets import EMBEDDED
from ..errors import InputError

if TYPE_CHECKING:
    import datasets

    from ..synthesis.adaptation_settings import AdaptationSettings


@dataclass
class AdaptCommand:
    """Flags of `stablerep adapt-generator`, beside those of `AdaptationSettings`."""

    data: str = field(default="captioned-images", metadata={"help": "Captioned images: a folder or a Hub id."})
    split: str = field(default="train", metadata={"help": "Split of the data set."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    caption_column: str = field(default="caption", metadata={"help": "Column of the captions, one an image."})
    prompt_template: str = field(
        default="{caption}",
        metadata={"help": "What is asked for an image, such as '{caption}, my style'; ask so afterwards."},
    )
    generator: str = field(
        default=EMBEDDED, metadata={"help": "Hub id or folder of a Stable Diffusion pipeline (1, 2, XL, 3)."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a generator on the Hub."})
    size: int | None = field(default=None, metadata={"help": "Edge of the images in pixels; the pipeline's own."})
    mixed_precision: Literal["no", "fp16", "bf16"] = field(
        default="no", metadata={"help": "Precision of the frozen weights and the forward pass; bf16 for a GPU."}
    )
    output: str = field(default="lora", metadata={"help": "Folder of the LoRA; the same command goes on with it."})
    license: str = field(default="unknown", metadata={"help": "Licence of the LoRA, for its card: a Hub licence id."})


def run(command: AdaptCommand, settings: AdaptationSettings) -> list[float]:
    """Train the adapters and write their card.

    Returns:
        The loss of each step.

    Raises:
        InputError: Data, pipeline or settings cannot serve.
    """
    from PIL import Image

    from ..evaluation.images import load_images
    from ..extras import require
    from ..files.atomic import explaining
    from ..synthesis.adaptation import adapt_generator
    from .cards import check_license

    require("A LoRA", "lora", "peft")
    check_license(command.license)
    if "{caption}" not in command.prompt_template:
        raise InputError(
            f"--prompt_template {command.prompt_template!r} leaves the caption out: write {{caption}} where it goes."
        )
    dataset = load_images(command.data, command.split)
    for column in (command.image_column, command.caption_column):
        if column not in dataset.column_names:
            raise InputError(
                f"--data {command.data} has the columns {dataset.column_names} but no {column!r}: name them with "
                "--image_column and --caption_column."
            )
    images, captions = dataset[command.image_column][:], dataset[command.caption_column][:]
    for column, flag, values, kind, what in (
        (command.image_column, "--image_column", images, Image.Image, "picture"),
        (command.caption_column, "--caption_column", captions, str, "caption"),
    ):
        if missing := sum(value is None or value == "" for value in values):
            raise InputError(f"{missing} of {len(values)} rows have no {what}: complete them or leave them out.")
        if values and not isinstance(values[0], kind):
            raise InputError(
                f"The column {column!r} of --data {command.data} holds {values[0]!r:.40}, no {what}: name another by "
                f"{flag}."
            )
    with explaining(Path(command.output)):
        losses = adapt_generator(
            command.generator,
            images,
            [command.prompt_template.replace("{caption}", caption) for caption in captions],
            command.output,
            settings,
            revision=command.revision,
            size=command.size,
            mixed_precision=command.mixed_precision,
        )
        if losses or not (Path(command.output) / "README.md").exists():
            _write_card(command, settings, dataset)
    return losses


def _write_card(command: AdaptCommand, settings: AdaptationSettings, dataset: datasets.Dataset) -> None:
    """Write the card of a LoRA of a generator into its folder."""
    from ..hub import LicensedPart, ModelFacts, TrainingData, write_model_card
    from ..synthesis.pipeline_folder import find_pipeline, license_of
    from . import cards
    from .content import content_revision

    folder, generator, _ = find_pipeline(command.generator, command.revision)
    local = Path(command.data)
    license = license_of(folder) or "unknown"
    facts = ModelFacts(
        name=Path(command.output).resolve().name,
        license=command.license,
        form="lora",
        base_model=generator,
        data=TrainingData(
            name=local.resolve().name if local.exists() else command.data,
            num_captions=len(set(dataset[command.caption_column][:])),
            num_images=len(dataset),
            revision=content_revision(command.data, dataset),
            hub_id="" if local.exists() else command.data,
        ),
        training={
            "prompt_template": command.prompt_template,
            "revision of the pipeline": command.revision,
            "size": command.size,
            **{name: value for name, value in asdict(settings).items() if name != "save_every"},
        },
        licensed_parts=(
            LicensedPart(name=generator, role="the pipeline that it adapts", license=license),
            *(cards.embedded_parts() if generator == EMBEDDED else ()),
        ),
        versions={package: version(package) for package in ("stablerep_hf", "diffusers", "peft", "torch")},
    )
    write_model_card(command.output, facts)
